"""What every database must be able to tell and do; one subclass a database, facts first.

A dialect never decides what to do, it knows how: quoting, the catalogue, the type map of both
edges (source to Arrow, Arrow to target), reading to Arrow, and loading inside the caller's
transaction. Writing methods take a SQLAlchemy connection that is in a transaction and never commit.
"""

from __future__ import annotations

import contextlib
import functools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import sqlalchemy as sa

from ixflow.dialects.checksums import Checksums
from ixflow.dialects.connect import connected
from ixflow.dialects.details import NO_DETAILS
from ixflow.dialects.facts import Cancellable, Held, MergeCounts, Reader, SourceFacts, run
from ixflow.dialects.queries import Queries
from ixflow.dialects.writing import NOTHING_ASIDE, Writing
from ixflow.errors import (
    IxflowError,
    SnapshotUnavailable,
    SourceUnavailable,
    TableNotFound,
    UnsupportedType,
)
from ixflow.values import Column, TableName, TablePart

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "NOTHING_ASIDE",
    "Cancellable",
    "Dialect",
    "Held",
    "MergeCounts",
    "Reader",
    "SourceFacts",
    "run",
]


class Dialect(Queries, Checksums, Writing, ABC):
    """One kind of database."""

    name: ClassVar[str]
    """SQLAlchemy's name of the dialect, also the ``source_type`` of an intent."""
    kind: ClassVar[str]
    """The name of Dagster's kind icon."""
    driver: ClassVar[str]
    """The driver name of every URL this dialect makes."""
    default_port: ClassVar[int | None] = None
    one_process: ClassVar[bool] = False
    """While a process has the database open to write, no other can open it."""
    row_copies: ClassVar[int] = 6
    """In how many places a long row is at most: as sent, as Arrow, in a page, and so on."""
    shares_snapshot: ClassVar[bool] = False
    """Several connections can read one exported snapshot."""
    snapshot_advice: ClassVar[str] = "some rows live outside of this database"
    """Why one snapshot cannot be had where it cannot, and which setting of the server helps."""
    settles: ClassVar[bool] = False
    """The database tells when its open transactions began."""
    spare_connections: ClassVar[int] = 0
    """How many connections more than workers wait in a moment that no new one could join."""
    moves_tables: ClassVar[bool] = False
    """A table can change its schema within a transaction, without copying."""
    adds_keys: ClassVar[bool] = True
    """A primary key can be added to a table that has rows."""
    overriding: ClassVar[str] = ""
    """What an INSERT says to give values to columns that number themselves."""
    temporary_schema: ClassVar[str | None] = None
    """Where temporary tables live."""
    infinite_moments: ClassVar[bool] = False
    """Dates and timestamps may be infinite; `load` then takes texts for such columns too."""
    any_text: ClassVar[bool] = False
    """`load` takes texts and bytes in all of their Arrow types."""
    rows_at_once: ClassVar[int] = 64_000
    """How many rows of a frame are best made ready for `load` together."""
    bounds_statements: ClassVar[bool] = False
    """The server ends a statement that takes longer than it was told it may."""
    table_prefixes: ClassVar[tuple[str, ...]] = ()
    """Words between CREATE and TABLE that a lasting table can be declared with."""
    moments_are_texts: ClassVar[bool] = False
    """Dates and timestamps are compared as the texts that they are stored as."""
    row_place: ClassVar[str] = "rowid"
    """What tells one row of a table from all others within a statement."""
    renames_indexed: ClassVar[bool] = True
    """A table with indexes can be renamed in the transaction that made it."""

    table_options: ClassVar[Mapping[str, type]] = NO_DETAILS
    """The options that a table can be made with (`making_with`), and their types."""

    # -- connections ----------------------------------------------------------------------------

    @abstractmethod
    def url(self, config: Mapping[str, Any]) -> sa.URL:
        """Make the URL of a ``source_config`` (host, port, database, user, password, ...)."""

    @abstractmethod
    def engine(self, url: str | sa.URL) -> sa.Engine:
        """Make an engine set up the way this dialect needs it."""

    @abstractmethod
    def reader(
        self, url: sa.URL, *, snapshot: str | None = None
    ) -> contextlib.AbstractContextManager[Reader]:
        """Open a connection that reads one snapshot: the given one, or its own."""

    @contextlib.contextmanager
    def hold(self, url: sa.URL, tables: Sequence[TableName], *, workers: int = 1) -> Iterator[Held]:
        """Hold tables still on a connection of its own, as far as this database can.

        Where `shares_snapshot`, the tables keep their definition and their pages for the block.
        Where `Held.shared`, all readers that `Held.open_reader` opens, up to ``workers`` at a time,
        read one moment.

        Raises:
            SourceUnavailable: the database cannot be reached or refuses us.
            LockNotAvailable: another session is changing the table's definition.

        """
        del tables, workers
        engine = self.read_engine(url)
        try:
            with connected(engine) as conn:
                yield Held(conn, None, functools.partial(self.reader, url))
        finally:
            engine.dispose()

    def join(
        self, url: sa.URL, tables: Sequence[TableName], *, snapshot: str
    ) -> contextlib.AbstractContextManager[Held]:
        """Hold tables in a moment that another session holds, also after that one has ended.

        Raises:
            SnapshotUnavailable: the snapshot is gone, or sessions here cannot share one.

        """
        del url, tables
        msg = f"{self.name} has no snapshots that another process could join: {snapshot!r}"
        raise SnapshotUnavailable(msg, snapshot=snapshot)

    def source_tables(self, conn: sa.Connection, schema: str | None) -> tuple[str, ...]:
        """List the tables of a schema, of the connection's own with None, in order.

        What is only a part of another table is left out.
        """
        return tuple(sorted(sa.inspect(conn).get_table_names(schema=schema)))

    def moment(self, conn: sa.Connection) -> str | None:
        """Name the moment that a connection's transaction reads: equal names mean equal rows.

        None: this database cannot tell, so that only a moment which is still held is the same.
        """
        del conn
        return None

    def read_engine(self, url: sa.URL) -> sa.Engine:
        """Make an engine for reading, which never makes the database it should read.

        Raises:
            SourceUnavailable: there is no such database file.

        """
        path = url.database
        if self.default_port is None and path and path != ":memory:" and not Path(path).exists():
            msg = f"there is no {self.name} database file {path}; check the path"
            raise SourceUnavailable(msg, database=path)
        return self.engine(url)

    def is_transient(self, error: BaseException) -> bool:
        """Say whether reading again on a new connection can help."""
        del error
        return False

    def is_cancelled_by_replay(self, error: BaseException) -> bool:
        """Say whether a replica ended the query, which a shorter one may escape."""
        del error
        return False

    def explained(self, error: BaseException, table: str) -> IxflowError | None:
        """Say what an error of a read means and what to do about it; None: nothing to add."""
        del error, table
        return None

    # -- catalogue ------------------------------------------------------------------------------

    @abstractmethod
    def exists(self, conn: sa.Connection, table: TableName) -> bool:
        """Say whether a table or view of exactly this name is there."""

    @abstractmethod
    def read_columns(self, conn: sa.Connection, table: TableName) -> tuple[Column, ...]:
        """Read the columns from the catalogue, in order; none if there is no such table."""

    def columns(self, conn: sa.Connection, table: TableName) -> tuple[Column, ...]:
        """Read the columns from the catalogue, in order.

        Raises:
            TableNotFound: there is no such table, or the role may not see it.

        """
        found = self.read_columns(conn, table)
        if not found:
            msg = (
                f"there is no table {table} in this {self.name} database, or the role may not see "
                f"it; names are compared exactly, capitals included"
            )
            raise TableNotFound(msg, table=str(table))
        return found

    def count(self, conn: sa.Connection, table: TableName) -> int:
        """Count the rows of a table."""
        return int(run(conn, f"SELECT count(*) FROM {self.qualified(table)}").scalar_one())

    @abstractmethod
    def source_facts(self, conn: sa.Connection, table: TableName) -> SourceFacts:
        """Read the statistics of a table."""

    @abstractmethod
    def indexes(self, conn: sa.Connection, table: TableName) -> frozenset[str]:
        """Describe the table's indexes and unique constraints, without names and without the key.

        Two tables have the same indexes exactly when these sets are equal.
        """

    def column_details(
        self, conn: sa.Connection, table: TableName
    ) -> Mapping[str, Mapping[str, str]]:
        """Say by column what its type leaves out: collation, computed value, identity.

        What does not apply is an empty text. Empty where the database does not tell.
        """
        del conn, table
        return {}

    def set_identity(
        self, conn: sa.Connection, table: TableName, column: str, options: Mapping[str, int | bool]
    ) -> None:
        """Give an identity these options (start, increment, minvalue, ...), keeping its others."""
        del conn, table, column, options

    def parts(self, conn: sa.Connection, table: TableName) -> tuple[TablePart, ...]:
        """List the parts that together are the table, each row in exactly one of them."""
        del conn
        return (TablePart(table),)

    def key_bounds(self, conn: sa.Connection, table: TableName, column: str) -> tuple[float, ...]:
        """Give values that cut a numeric column in equally many rows, if statistics know them."""
        del conn, table, column
        return ()

    @abstractmethod
    def comment(self, conn: sa.Connection, table: TableName) -> str | None:
        """Read the table's comment."""

    @abstractmethod
    def set_comment(self, conn: sa.Connection, table: TableName, comment: str | None) -> None:
        """Set the table's comment."""

    # -- types ----------------------------------------------------------------------------------

    @abstractmethod
    def sql_type(self, type_: pa.DataType) -> str:
        """Name the column type that holds every value of an Arrow type.

        Raises:
            UnsupportedType: no column type holds it exactly.

        """

    def no_sql_type(self, type_: pa.DataType) -> UnsupportedType:
        """Make the error for an Arrow type without a column type."""
        msg = f"{self.name} has no column type that holds Arrow's {type_} exactly; cast it first"
        return UnsupportedType(msg, type=str(type_), database=self.name)

    def check_ingests(self, conn: sa.Connection) -> None:
        """See that rows and watermark can be written in one transaction on this connection.

        Raises:
            UnsupportedDatabase: saying what is missing.

        """
        del conn
