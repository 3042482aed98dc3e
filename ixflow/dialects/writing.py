"""What every database must be able to do to tables that are written.

All of it happens on a connection that is in a transaction, which is the caller's to commit.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar

from ixflow.dialects.facts import MergeCounts, run
from ixflow.dialects.masks import Masks
from ixflow.dialects.session_locks import SessionLocks
from ixflow.errors import UnsupportedDatabase
from ixflow.values import Column, TableName

if TYPE_CHECKING:
    import pyarrow as pa
    import sqlalchemy as sa

    from ixflow.dialects.later import Later

__all__ = ["NOTHING_ASIDE", "Writing"]

NOTHING_ASIDE: Mapping[TableName, TableName] = MappingProxyType({})
"""No table that is replaced is kept."""


class Writing(Masks, ABC):
    """Making, filling, replacing and publishing tables."""

    name: ClassVar[str]

    def create_database(self, url: sa.URL) -> bool:
        """Create the database of a URL; False if it is there already or needs no creating."""
        del url
        return False

    @abstractmethod
    def create_schema(self, conn: sa.Connection, schema: str) -> None:
        """Create the schema unless it is there; needs no right to create when it is."""

    def schema_exists(self, conn: sa.Connection, schema: str) -> bool:
        """Say whether a schema is there."""
        query = "SELECT 1 FROM information_schema.schemata WHERE schema_name = "
        return run(conn, query + self.text_literal(schema)).first() is not None

    def create_table(
        self,
        conn: sa.Connection,
        table: TableName,
        columns: Sequence[Column],
        *,
        temporary: bool = False,
    ) -> None:
        """Create a table with these columns and their primary key."""
        lines = [
            f"{self.quote(c.name)} {c.sql_type}{'' if c.nullable else ' NOT NULL'}" for c in columns
        ]
        key = sorted((c for c in columns if c.key_position), key=lambda c: c.key_position or 0)
        if key:
            lines.append(f"PRIMARY KEY ({self.column_list(c.name for c in key)})")
        kind = "TEMPORARY TABLE" if temporary else self.table_kind()
        run(conn, f"CREATE {kind} {self.qualified(table)} ({', '.join(lines)})")

    def table_kind(self) -> str:
        """Say what stands between CREATE and the name of a table that is to stay."""
        return "TABLE"

    def add_columns(self, conn: sa.Connection, table: TableName, columns: Sequence[Column]) -> None:
        """Add columns, which are NULL in the rows that are there.

        Raises:
            LockNotAvailable: other sessions held the table for too long.

        """
        for column in columns:
            line = f"{self.quote(column.name)} {column.sql_type}"
            run(conn, f"ALTER TABLE {self.qualified(table)} ADD COLUMN {line}")

    def drop_table(self, conn: sa.Connection, table: TableName) -> None:
        """Drop a table that must be there and that nothing may depend on."""
        run(conn, f"DROP TABLE {self.qualified(table)}")

    @abstractmethod
    def load(
        self,
        conn: sa.Connection,
        table: TableName,
        columns: Sequence[Column],
        reader: pa.RecordBatchReader,
    ) -> int:
        """Append the reader's rows, whose schema is exactly the columns' types; count them.

        Columns of the table that are not named get their defaults.
        """

    def load_ahead(
        self,
        conn: sa.Connection,
        table: TableName,
        columns: Sequence[Column],
        reader: pa.RecordBatchReader,
        later: Later,
    ) -> int:
        """Load as `load` does, but end perhaps later, and wait for the load before perhaps late.

        The connection can be used meanwhile, as if the load had ended.
        """
        later.settle()
        return self.load(conn, table, columns, reader)

    def takes_first_rows(self, conn: sa.Connection, table: TableName) -> bool:
        """Say whether rows may be loaded straight into a table with a key, since it has none yet.

        A row that must not be there is then refused at once, and nothing but a key needs a look.
        """
        del conn, table
        return False

    @abstractmethod
    def merge(
        self,
        conn: sa.Connection,
        source: TableName,
        target: TableName,
        columns: Sequence[Column],
        key: Sequence[str],
    ) -> MergeCounts:
        """Upsert the rows of one table into another by key.

        Of several source rows with one key the last loaded wins; a row that would not change is
        not written.
        """

    def comparable(self, column: Column, expression: str) -> str:
        """Write a value so that it equals another exactly where both are the same."""
        del column
        return expression

    def refuse_rounding(
        self, conn: sa.Connection, stage: TableName, columns: Sequence[Column], table: TableName
    ) -> None:
        """Refuse values that wait as text for columns which would round them.

        Raises:
            ValueDoesNotFit: naming table, column, row and value.

        """
        del conn, stage, columns, table

    def resolved(self, conn: sa.Connection, table: TableName) -> TableName:
        """Find the schema of a name without one, where names are searched for."""
        del conn
        return table

    def lock_writers(self, conn: sa.Connection, table: TableName) -> None:
        """Keep others from writing to a table until the transaction ends, where it is needed."""

    def bound_waits(self, conn: sa.Connection, timeout_seconds: float = 60) -> None:
        """Let no statement of the transaction wait for a lock without end, where it could."""

    def transaction_mark(self, conn: sa.Connection) -> str:
        """Give what tells the transaction from later ones of the session; empty: nothing does."""
        del conn
        return ""

    def staged(self, columns: Sequence[Column]) -> tuple[Column, ...]:
        """Say as which columns rows wait in a temporary table for their merge."""
        return tuple(columns)

    def delete_duplicates(self, conn: sa.Connection, table: TableName, key: Sequence[str]) -> int:
        """Delete all rows of a key but the one loaded last; count the deleted ones."""
        del conn, key
        msg = f"{self.name} keeps keys while it loads; {table} cannot hold duplicates"
        raise UnsupportedDatabase(msg, table=str(table), database=self.name)

    def set_apart(self, conn: sa.Connection, table: TableName, name: str) -> None:
        """Rename a table to stand beside others like it, which may have indexes like its own."""
        run(conn, f"ALTER TABLE {self.qualified(table)} RENAME TO {self.quote(name)}")

    def rename_parts(self, conn: sa.Connection, table: TableName, prefix: str) -> None:
        """Name constraints and sequences after the table where they begin with its old name."""
        del conn, table, prefix

    def name_key(self, conn: sa.Connection, table: TableName, wanted: str) -> None:
        """Give the primary key of a table this name, unless something else has it."""
        del conn, table, wanted

    def rename_constraint(self, conn: sa.Connection, table: TableName, old: str, new: str) -> None:
        """Rename a constraint of the table; where names do not clash there is nothing to do."""
        del conn, table, old, new

    def continue_sequences(
        self, conn: sa.Connection, table: TableName, old: TableName | None
    ) -> None:
        """Let self-numbering columns count on behind the table's rows and behind the old table."""
        del conn, table, old

    def rename_index(self, conn: sa.Connection, table: TableName, old: str, new: str) -> None:
        """Rename an index of the table."""
        del conn, table
        msg = f"{self.name} cannot rename the index {old} to {new}"
        raise UnsupportedDatabase(msg, database=self.name)

    @abstractmethod
    def swap(
        self,
        conn: sa.Connection,
        moves: Sequence[tuple[TableName, TableName]],
        *,
        drops: Sequence[TableName] = (),
        timeout_seconds: float = 60,
    ) -> None:
        """Put each new table in the place of the old one, and drop some, all in one step.

        ``moves`` are pairs (new, place); the place may be empty. Everything that hangs on the old
        tables is kept. Runs in the caller's transaction, which alone makes it visible.

        Raises:
            ReplacementRefused: something would be lost; nothing was touched.
            LockNotAvailable: other sessions held the tables for longer than the timeout.

        """

    @abstractmethod
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
        """Let new tables appear in the published schema, all at once.

        ``moves`` are pairs (new, place), where new is in another schema: that of a transaction, or
        one that an earlier call has set tables aside in. ``drops`` are published tables that
        disappear. A published table that is named in ``aside`` is put there, not dropped, whether
        it is replaced or disappears. All schemas are there. Runs in the caller's transaction.
        ``keeps_schemas`` says that a schema which is empty afterwards is not ours to drop, without
        ``keeps_options`` a new table is stored as it was made, however the old one was.
        """

    @abstractmethod
    def drop_schema(
        self,
        conn: sa.Connection,
        schema: str,
        *,
        prefix: str | None = None,
        dependents: bool = True,
    ) -> None:
        """Drop a transaction schema with the tables in it that are not published, if it is there.

        What a published table still needs stays. With a ``prefix`` only tables are dropped whose
        names begin so, and the schema stays. Without ``dependents`` nothing is dropped that views
        of others are made from: that is an error of the database.
        """

    @abstractmethod
    def tables_in(self, conn: sa.Connection, schema: str) -> tuple[str, ...]:
        """List the names of tables and views of a schema; empty when there is no such schema."""

    def needs_in(self, conn: sa.Connection, schema: str) -> tuple[str, ...]:
        """Describe what else of a schema its tables need, and would lose or change without it."""
        del conn, schema
        return ()

    def assigned_type(self, sql_type: str) -> str:
        """Name the type to cast to before assigning to a column, which must not cut values off."""
        return sql_type

    #: Named locks that last as long as a connection; None where the database has none.
    session_locks: ClassVar[SessionLocks | None] = None

    @contextlib.contextmanager
    def advisory_lock(
        self, conn: sa.Connection, name: str, *, shared: bool = False
    ) -> Iterator[None]:
        """Hold a named lock until the transaction ends, where there can be other processes.

        Those who hold it ``shared`` do not keep each other out.
        """
        del conn, name, shared
        yield
