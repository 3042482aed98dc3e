"""PostgreSQL: its facts, and the statements behind every method of `Dialect`."""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import pyarrow as pa
import sqlalchemy as sa

from ixflow.dialects.base import NOTHING_ASIDE, Dialect, Held, MergeCounts, SourceFacts, run
from ixflow.dialects.config import server_url
from ixflow.dialects.details import details
from ixflow.dialects.fragments import Lexicon
from ixflow.dialects.postgres import (
    advice,
    blame,
    catalog,
    locks,
    names,
    queries,
    sequences,
    split,
    swap,
    transactions,
    types,
)
from ixflow.dialects.postgres.aside import rename_parts_apart
from ixflow.dialects.postgres.checksums import PostgresChecksums
from ixflow.dialects.postgres.database import create_database
from ixflow.dialects.postgres.hold import hold_tables, is_transient, moment
from ixflow.dialects.postgres.keys import estimated_rows, probing, split_keys
from ixflow.dialects.postgres.load import is_copied, load
from ixflow.dialects.postgres.merge import _comparable, merge, takes_first_rows
from ixflow.dialects.postgres.reader import PostgresReader, open_reader
from ixflow.dialects.postgres.session_locks import PostgresSessionLocks
from ixflow.dialects.postgres.visit import connect_options
from ixflow.dialects.ranges import SplitKey
from ixflow.dialects.transactions import Ended
from ixflow.errors import IxflowError, UnsupportedDatabase, ValidationError
from ixflow.values import Column, KeyRange, PageRange, TableName, TablePart

__all__ = ["PostgresDialect"]

_IDLE = 0
"""What libpq, and with it both drivers, call a connection outside a transaction."""


class PostgresDialect(PostgresChecksums, Dialect):
    """PostgreSQL 14 and newer, through psycopg 3 (or psycopg2) and ADBC."""

    name = "postgresql"
    kind = "postgres"
    driver = "postgresql+psycopg"
    default_port = 5432
    shares_snapshot = True
    settles = True
    bounds_statements = True
    infinite_moments = True
    row_place = "ctid"
    table_prefixes = ("UNLOGGED",)
    moves_tables = True
    temporary_schema = "pg_temp"
    row_values = True
    table_options: ClassVar[Mapping[str, type]] = {"unlogged": bool}
    session_locks = PostgresSessionLocks()
    overriding = "OVERRIDING SYSTEM VALUE "
    lexicon = Lexicon(escapes=True, dollars=True)

    def url(self, config: Mapping[str, Any]) -> sa.URL:
        """Make the URL of a ``source_config``."""
        made = server_url(config, driver=self.driver, default_port=5432)
        if made.get_driver_name() not in ("psycopg", "psycopg2"):
            msg = (
                f"the driver {made.get_driver_name()} is not used for reading; write "
                f"postgresql://..., postgresql+psycopg:// or postgresql+psycopg2://"
            )
            raise ValidationError(msg, driver=made.get_driver_name())
        return made

    def engine(self, url: str | sa.URL) -> sa.Engine:
        """Make an engine; a URL without a driver gets psycopg 3."""
        made = sa.make_url(url)
        if "+" not in made.drivername:
            made = made.set(drivername=self.driver)
        engine = sa.create_engine(made, pool_pre_ping=True)
        sa.event.listen(engine, "do_connect", _with_a_limit)
        return engine

    @contextlib.contextmanager
    def reader(self, url: sa.URL, *, snapshot: str | None = None) -> Iterator[PostgresReader]:
        """Open a connection that reads one snapshot."""
        with open_reader(url, snapshot=snapshot) as reader:
            yield reader

    @contextlib.contextmanager
    def hold(self, url: sa.URL, tables: Sequence[TableName], *, workers: int = 1) -> Iterator[Held]:
        """Lock the tables against DDL, and export the snapshot that all readers import."""
        del workers
        engine = self.engine(url)
        try:
            with hold_tables(engine, [self.qualified(table) for table in tables]) as (conn, held):
                opening = functools.partial(self.reader, url, snapshot=held)
                yield Held(conn, held, opening, shared=True)
        finally:
            engine.dispose()

    @contextlib.contextmanager
    def join(self, url: sa.URL, tables: Sequence[TableName], *, snapshot: str) -> Iterator[Held]:
        """Lock the tables and import the snapshot, then export it anew for all readers."""
        engine = self.engine(url)
        names_ = [self.qualified(table) for table in tables]
        try:
            with hold_tables(engine, names_, snapshot=snapshot) as (conn, held):
                opening = functools.partial(self.reader, url, snapshot=held)
                yield Held(conn, held, opening, shared=True)
        finally:
            engine.dispose()

    def moment(self, conn: sa.Connection) -> str | None:
        """Name the transactions that the snapshot sees, of this start of this server."""
        return moment(conn)

    def is_transient(self, error: BaseException) -> bool:
        """Say whether reading again on a new connection can help."""
        return is_transient(error)

    def is_cancelled_by_replay(self, error: BaseException) -> bool:
        """Say whether a replica ended the query, which a shorter one may escape."""
        return advice.is_cancelled_by_replay(error)

    def explained(self, error: BaseException, table: str) -> IxflowError | None:
        """Name the setting or the right that an error is about."""
        return advice.advised(error, table)

    def exists(self, conn: sa.Connection, table: TableName) -> bool:
        """Say whether a table or view of exactly this name is there."""
        return catalog.regclass(conn, self.qualified(table)) is not None

    def read_columns(self, conn: sa.Connection, table: TableName) -> tuple[Column, ...]:
        """Read the columns from the catalogue, in order; none if there is no such table."""
        return catalog.columns(conn, self.qualified(table))

    def source_facts(self, conn: sa.Connection, table: TableName) -> SourceFacts:
        """Read the statistics of a table, its partitions included."""
        return catalog.source_facts(conn, self.qualified(table))

    def indexes(self, conn: sa.Connection, table: TableName) -> frozenset[str]:
        """Describe the indexes by what follows the table's name in their definitions."""
        return catalog.indexes(conn, self.qualified(table))

    def column_details(
        self, conn: sa.Connection, table: TableName
    ) -> Mapping[str, Mapping[str, str]]:
        """Read collation, computed value and identity of each column."""
        return catalog.column_details(conn, self.qualified(table))

    def set_identity(
        self, conn: sa.Connection, table: TableName, column: str, options: Mapping[str, int | bool]
    ) -> None:
        """Alter the options that are given, and where the next number lies if it must."""
        sequences.set_identity(conn, self.qualified(table), column, options)

    def parts(self, conn: sa.Connection, table: TableName) -> tuple[TablePart, ...]:
        """List the partitions, or the table itself."""
        return split.parts(conn, self.qualified(table)) or super().parts(conn, table)

    def key_bounds(self, conn: sa.Connection, table: TableName, column: str) -> tuple[float, ...]:
        """Give the histogram bounds that ANALYZE left."""
        return split.key_bounds(conn, self.qualified(table), column)

    def split_keys(self, conn: sa.Connection, part: TablePart) -> tuple[SplitKey, ...]:
        """List the indexes that can cut a table."""
        return split_keys(conn, self.qualified(part.table)) if part.in_snapshot else ()

    def estimated_rows(
        self, conn: sa.Connection, part: TablePart, key: SplitKey, keys: KeyRange
    ) -> float | None:
        """Ask the optimizer."""
        del key
        return estimated_rows(conn, self.part_relation(part), self.keys_condition(keys))

    @contextlib.contextmanager
    def probing(self, conn: sa.Connection) -> Iterator[None]:
        """Bound the time of a probe."""
        with probing(conn):
            yield

    def comment(self, conn: sa.Connection, table: TableName) -> str | None:
        """Read the table's comment."""
        query = sa.text("SELECT obj_description(to_regclass(:name), 'pg_class')")
        found = conn.execute(query, {"name": self.qualified(table)}).scalar_one()
        return None if found is None else str(found)

    def set_comment(self, conn: sa.Connection, table: TableName, comment: str | None) -> None:
        """Set the table's comment."""
        literal = "NULL" if comment is None else catalog.literal(comment)
        run(conn, f"COMMENT ON TABLE {self.qualified(table)} IS {literal}")

    def sql_type(self, type_: pa.DataType) -> str:
        """Name the column type that holds every value of an Arrow type."""
        found = types.sql_type(type_)
        if found is None:
            raise self.no_sql_type(type_)
        return found

    def part_relation(self, part: TablePart) -> str:
        """Leave out the tables that inherit from a part, which are parts of their own."""
        return f"{'ONLY ' if part.only else ''}{self.qualified(part.table)}"

    def pages_condition(self, part: TablePart, pages: PageRange) -> str:
        """Write the condition on ctid."""
        del part
        return split.pages_condition(pages)

    def literal(self, text: str, sql_type: str) -> str:
        """Write a bound of a key."""
        return f"{catalog.literal(text)}::{sql_type}"

    def read_form(self, column: Column, expression: str) -> str:
        """Write the expression that reads a value, by a cast where ADBC would not be exact."""
        base = types.base_type(column.sql_type)
        cast = "text" if column.as_text else types.READ_AS.get(base)
        return f"{expression}::{cast}" if cast else expression

    def text_literal(self, value: str) -> str:
        """Write a text as a literal that means the same under every setting."""
        return catalog.literal(value)

    def describe(self, conn: sa.Connection, query: str) -> tuple[Column, ...]:
        """Find the columns of a query without running it."""
        return queries.describe(conn, query)

    def query_part(self, conn: sa.Connection, table: TableName, query: str) -> TablePart:
        """Estimate a query, and say whether its rows are all in one snapshot."""
        return queries.query_part(conn, table, query)

    def has_index(self, conn: sa.Connection, table: TableName, column: str) -> bool:
        """Say whether the greatest value of a column is found without a scan."""
        return queries.has_index(conn, self.qualified(table), column)

    def settled_before(self, conn: sa.Connection, table: TableName | None) -> str:
        """Give the beginning of the oldest transaction that is open."""
        return queries.settled_before(conn, None if table is None else self.qualified(table))

    def marks_rows(self, conn: sa.Connection, table: TableName) -> bool:
        """Say whether every row of a table carries its xmin."""
        return transactions.marks_rows(conn, self.qualified(table))

    def ended(self, conn: sa.Connection) -> Ended:
        """Ask the snapshot of a connection's transaction."""
        return transactions.ended(conn)

    def made_by(self, first: int, end: int) -> str:
        """Write the condition on xmin."""
        return transactions.made_by(first, end)

    def hash_form(self, text: str) -> str:
        """Write the SHA-256 of a text in UTF-8, in hexadecimal digits."""
        return f"encode(sha256(convert_to({text}, 'UTF8')), 'hex')"

    def year_form(self, column: Column, expression: str) -> str:
        """Write the first moment of the year, in UTC where the type has a zone."""
        if types.base_type(column.sql_type) == "timestamp with time zone":
            utc = f"{expression} AT TIME ZONE 'UTC'"
            return f"date_trunc('year', {utc}) AT TIME ZONE 'UTC'"
        return f"date_trunc('year', {expression}::timestamp)::{column.sql_type}"

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
            run(conn, f"CREATE SCHEMA IF NOT EXISTS {self.quote(schema)}")

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
        return _comparable(expression, column)

    def refuse_rounding(
        self, conn: sa.Connection, stage: TableName, columns: Sequence[Column], table: TableName
    ) -> None:
        """Compare each waiting text in its type without digits with that in the column's own."""
        waiting = [column for column in columns if not is_copied(column)]
        blame.refuse_rounded(self, conn, stage, waiting, table)

    def resolved(self, conn: sa.Connection, table: TableName) -> TableName:
        """Find the schema of a name without one, as search_path finds it."""
        return table if table.schema is not None else catalog.resolved(conn, self, table)

    def lock_writers(self, conn: sa.Connection, table: TableName) -> None:
        """Keep others from writing to a table until the transaction ends."""
        swap.lock_writers(self, conn, table)

    def bound_waits(self, conn: sa.Connection, timeout_seconds: float = 60) -> None:
        """Set the transaction's lock_timeout, unless the user has set one."""
        locks.bound_waits(conn, timeout_seconds)

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

    @contextlib.contextmanager
    def advisory_lock(self, conn: sa.Connection, name: str) -> Iterator[None]:
        """Hold a transaction-level advisory lock, keyed by the name's hash.

        The transaction becomes READ COMMITTED, whatever the engine's default: what others
        committed while we waited for the lock must be seen behind it. So this comes first in it.
        """
        run(conn, "SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
        digest = hashlib.sha256(f"ixflow:{name}".encode()).digest()
        key = int.from_bytes(digest[:8], "big", signed=True)
        # to_regclass() answers from a cache of the session, which learns what others have made
        # when a relation is locked: not by waiting for this lock.
        run(conn, f"SELECT pg_advisory_xact_lock({key}); SELECT FROM pg_catalog.pg_class LIMIT 0")
        yield


def _with_a_limit(dialect: Any, record: Any, arguments: Any, options: dict[str, Any]) -> None:
    del dialect, record, arguments
    for key, value in connect_options().items():
        options.setdefault(key, value)
