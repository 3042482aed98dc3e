"""How PostgreSQL makes, fills, replaces and publishes tables."""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import sqlalchemy as sa

from ixflow.dialects.base import NOTHING_ASIDE, Dialect, MergeCounts, run
from ixflow.dialects.details import details
from ixflow.dialects.later import Later
from ixflow.dialects.postgres import (
    blame,
    catalog,
    locks,
    names,
    needs,
    swap,
    types,
)
from ixflow.dialects.postgres.aside import rename_parts_apart
from ixflow.dialects.postgres.database import create_database
from ixflow.dialects.postgres.load import is_copied, load
from ixflow.dialects.postgres.merge import comparable, merge, takes_first_rows
from ixflow.errors import UnsupportedDatabase, ValidationError
from ixflow.values import Column, TableName

__all__ = ["PostgresWriting"]

_IDLE = 0
"""What libpq, and with it both drivers, call a connection outside a transaction."""


class PostgresWriting(Dialect):
    """The half of `PostgresDialect` that writes."""

    def check_ingests(self, conn: sa.Connection) -> None:
        """See that the driver can COPY inside the transaction."""
        if conn.dialect.driver not in ("psycopg", "psycopg2"):
            msg = (
                f"the driver {conn.dialect.driver} cannot COPY inside the transaction; "
                f"use postgresql+psycopg or postgresql+psycopg2"
            )
            raise UnsupportedDatabase(msg, driver=conn.dialect.driver)
        driver: Any = conn.connection.driver_connection
        if driver.autocommit:
            msg = "the connection is in AUTOCOMMIT mode, where no batch would be one transaction"
            raise ValidationError(msg)
        if driver.info.transaction_status != _IDLE:
            msg = (
                "the driver's connection is in a transaction that SQLAlchemy knows nothing of; "
                "commit it or roll it back, so that a batch does not commit it"
            )
            raise ValidationError(msg)

    def create_database(self, url: sa.URL) -> bool:
        """Create the database, over a connection to the one that every server has."""
        name = str(url.database or url.username)
        return create_database(self.engine(url.set(database="postgres")), name, self.quote(name))

    def create_schema(self, conn: sa.Connection, schema: str) -> None:
        """Create the schema unless it is there; needs no right to create when it is."""
        query = sa.text("SELECT 1 FROM pg_namespace WHERE nspname = :name")
        if conn.execute(query, {"name": schema}).first() is None:
            # Whoever makes it at the same time commits first; IF NOT EXISTS does not see that.
            made = f"CREATE SCHEMA IF NOT EXISTS {self.quote(schema)}"
            body = f"BEGIN {made}; EXCEPTION WHEN unique_violation THEN NULL; END"
            run(conn, f"DO {self.text_literal(body)}")

    def table_kind(self) -> str:
        """Say TABLE, or UNLOGGED TABLE."""
        return "UNLOGGED TABLE" if details().get("unlogged") else "TABLE"

    def load(
        self,
        conn: sa.Connection,
        table: TableName,
        columns: Sequence[Column],
        reader: pa.RecordBatchReader,
    ) -> int:
        """Append the reader's rows by binary COPY; types it does not write go through text."""
        return load(self, conn, table, columns, reader)

    def load_ahead(
        self,
        conn: sa.Connection,
        table: TableName,
        columns: Sequence[Column],
        reader: pa.RecordBatchReader,
        later: Later,
    ) -> int:
        """Append the reader's rows; the COPY may end in a thread, with psycopg 3."""
        return load(self, conn, table, columns, reader, later)

    def takes_first_rows(self, conn: sa.Connection, table: TableName) -> bool:
        """Say whether rows may go straight into a table with a key, since it has none yet."""
        return takes_first_rows(conn, self.qualified(table))

    def merge(
        self,
        conn: sa.Connection,
        source: TableName,
        target: TableName,
        columns: Sequence[Column],
        key: Sequence[str],
    ) -> MergeCounts:
        """Upsert with ON CONFLICT; rows that would not change are not written."""
        return merge(self, conn, source, target, columns, key)

    def comparable(self, column: Column, expression: str) -> str:
        """Compare texts byte by byte, and by their texts what has no equality of its own."""
        return comparable(expression, column)

    def refuse_rounding(
        self, conn: sa.Connection, stage: TableName, columns: Sequence[Column], table: TableName
    ) -> None:
        """Compare each waiting text in its type without digits with that in the column's own."""
        waiting = [column for column in columns if not is_copied(column)]
        blame.refuse_rounded(self, conn, stage, waiting, table)

    def add_columns(self, conn: sa.Connection, table: TableName, columns: Sequence[Column]) -> None:
        """Add columns when no reader is in the way, so that none queues behind us."""
        add = functools.partial(super().add_columns, conn, table, columns)
        locks.until_locked(conn, add, {table: self.qualified(table)}, 60)

    def resolved(self, conn: sa.Connection, table: TableName) -> TableName:
        """Find the schema of a name without one, as search_path finds it."""
        return table if table.schema is not None else catalog.resolved(conn, self, table)

    def lock_writers(self, conn: sa.Connection, table: TableName) -> None:
        """Keep others from writing to a table until the transaction ends."""
        swap.lock_writers(self, conn, table)

    def bound_waits(self, conn: sa.Connection, timeout_seconds: float = 60) -> None:
        """Set the transaction's lock_timeout, unless the user has set one."""
        locks.bound_waits(conn, timeout_seconds)

    def transaction_mark(self, conn: sa.Connection) -> str:
        """Give the moment at which it began: other than its number, it costs nothing to ask for."""
        return str(run(conn, "SELECT transaction_timestamp()::text").scalar_one())

    def staged(self, columns: Sequence[Column]) -> tuple[Column, ...]:
        """Say how rows wait for a merge: as text where COPY cannot write the type."""
        return tuple(
            column
            if is_copied(column)
            else replace(column, sql_type="text", type=pa.string(), as_text=False)
            for column in columns
        )

    def delete_duplicates(self, conn: sa.Connection, table: TableName, key: Sequence[str]) -> int:
        """Delete all rows of a key but the one with the greatest ctid.

        That is the order of loading in a table that this transaction made and filled by COPY
        alone; any other way of writing may fill earlier pages.
        """
        keys = self.column_list(key)
        same = " AND ".join(f"t.{self.quote(k)} = d.{self.quote(k)}" for k in key)
        name = self.qualified(table)
        return run(
            conn,
            f"DELETE FROM {name} t USING (SELECT {keys}, max(ctid) AS last FROM {name} "
            f"GROUP BY {keys} HAVING count(*) > 1) d WHERE {same} AND t.ctid <> d.last",
        ).rowcount

    def set_apart(self, conn: sa.Connection, table: TableName, name: str) -> None:
        """Rename the indexes and sequences too, whose names are the schema's."""
        rename_parts_apart(conn, self.qualified(table), name)
        super().set_apart(conn, table, name)

    def rename_parts(self, conn: sa.Connection, table: TableName, prefix: str) -> None:
        """Name constraints and sequences after the table where they begin with its old name."""
        names.name_parts(self, conn, table, prefix)

    def name_key(self, conn: sa.Connection, table: TableName, wanted: str) -> None:
        """Rename the key's constraint, and its index with it."""
        names.name_key(self, conn, table, wanted)

    def assigned_type(self, sql_type: str) -> str:
        """Leave the length out: the assignment refuses what a cast would cut off."""
        return types.assigned_type(sql_type)

    def rename_constraint(self, conn: sa.Connection, table: TableName, old: str, new: str) -> None:
        """Rename a constraint of the table."""
        place = self.qualified(table)
        run(conn, f"ALTER TABLE {place} RENAME CONSTRAINT {self.quote(old)} TO {self.quote(new)}")

    def continue_sequences(
        self, conn: sa.Connection, table: TableName, old: TableName | None
    ) -> None:
        """Let serial and identity columns count on behind the rows and behind the old table."""
        before = None if old is None else self.qualified(old)
        catalog.continue_sequences(conn, self.qualified(table), before)

    def rename_index(self, conn: sa.Connection, table: TableName, old: str, new: str) -> None:
        """Rename an index of the table."""
        index = self.qualified(TableName(old, table.schema))
        run(conn, f"ALTER INDEX {index} RENAME TO {self.quote(new)}")

    def swap(
        self,
        conn: sa.Connection,
        moves: Sequence[tuple[TableName, TableName]],
        *,
        drops: Sequence[TableName] = (),
        timeout_seconds: float = 60,
    ) -> None:
        """Replace tables, keeping grants, owner, comments and dependent views."""
        swap.swap(self, conn, moves, drops=drops, timeout_seconds=timeout_seconds)

    def publish(
        self,
        conn: sa.Connection,
        moves: Sequence[tuple[TableName, TableName]],
        *,
        drops: Sequence[TableName] = (),
        aside: Mapping[TableName, TableName] = NOTHING_ASIDE,
        timeout_seconds: float = 60,
        keeps_schemas: bool = False,
        keeps_options: bool = True,
    ) -> None:
        """Move the tables into the published schema, and those to keep out of it."""
        del keeps_schemas
        swap.swap(
            self,
            conn,
            moves,
            drops=drops,
            aside=aside,
            timeout_seconds=timeout_seconds,
            keeps_options=keeps_options,
        )

    def drop_schema(
        self,
        conn: sa.Connection,
        schema: str,
        *,
        prefix: str | None = None,
        dependents: bool = True,
    ) -> None:
        """Drop a transaction schema with everything in it, if it is there and nobody reads it."""
        # Whoever drops it holds a lock that publications wait for; the next one will drop it too.
        run(conn, "SET LOCAL lock_timeout = '2s'")
        cascade = " CASCADE" if dependents else ""
        if prefix is not None or not dependents:
            for name in self.tables_in(conn, schema):
                if name.startswith(prefix or ""):
                    run(conn, f"DROP TABLE {self.qualified(TableName(name, schema))}{cascade}")
        if prefix is None:
            run(conn, f"DROP SCHEMA IF EXISTS {self.quote(schema)}{cascade}")

    def tables_in(self, conn: sa.Connection, schema: str) -> tuple[str, ...]:
        """List the names of tables and views of a schema."""
        return catalog.tables_in(conn, schema)

    def needs_in(self, conn: sa.Connection, schema: str) -> tuple[str, ...]:
        """Describe the types, functions and sequences of a schema that its tables need."""
        return needs.needs_in(conn, schema)

    @contextlib.contextmanager
    def advisory_lock(
        self, conn: sa.Connection, name: str, *, shared: bool = False
    ) -> Iterator[None]:
        """Hold a transaction-level advisory lock, keyed by the name's hash.

        The transaction becomes READ COMMITTED, whatever the engine's default: what others
        committed while we waited for the lock must be seen behind it. So this comes first in it.
        """
        run(conn, "SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
        digest = hashlib.sha256(f"ixflow:{name}".encode()).digest()
        key = int.from_bytes(digest[:8], "big", signed=True)
        # to_regclass() answers from a cache of the session, which learns what others have made
        # when a relation is locked: not by waiting for this lock.
        take = "pg_advisory_xact_lock_shared" if shared else "pg_advisory_xact_lock"
        run(conn, f"SELECT {take}({key}); SELECT FROM pg_catalog.pg_class LIMIT 0")
        yield
