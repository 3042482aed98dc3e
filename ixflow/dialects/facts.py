"""What dialects hand out: facts, counts, readers; and running SQL exactly as it is written."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import sqlalchemy as sa

from ixflow.values import Column

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "Cancellable",
    "Held",
    "MergeCounts",
    "Reader",
    "SourceFacts",
    "Traceable",
    "only_reader",
    "run",
    "sqlalchemy_error",
]


def run(conn: sa.Connection, sql: str) -> sa.CursorResult[*tuple[Any, ...]]:
    """Run SQL exactly as it is written: no ``:name`` and no ``%`` in it means anything."""
    return conn.exec_driver_sql(sql, execution_options={"no_parameters": True})


def sqlalchemy_error(conn: sa.Connection, statement: str, error: Exception) -> sa.exc.DBAPIError:
    """Wrap a driver's error as SQLAlchemy does when it runs the statement itself."""
    base: Any = conn.dialect.loaded_dbapi.Error
    made: Any = sa.exc.DBAPIError.instance(statement, None, error, base, dialect=conn.dialect)
    wrapped: sa.exc.DBAPIError = made
    return wrapped


@dataclass(frozen=True, slots=True)
class MergeCounts:
    """How many rows a merge inserted, changed, and found equal already."""

    inserted: int
    updated: int
    unchanged: int


@dataclass(frozen=True, slots=True)
class SourceFacts:
    """What the statistics say about a table, without reading it.

    ``rows`` is an estimate (-1: unknown), ``size_bytes`` the stored size, ``pages`` the number of
    physical pages where the database has them. ``max_connections``/``active_connections`` are the
    server's; 1/0 where there is no server. ``shares_snapshot`` says whether this role can have
    several connections read this table in one snapshot (None: as this kind of database does).
    """

    rows: int
    size_bytes: int
    pages: int | None = None
    max_connections: int = 1
    active_connections: int = 0
    shares_snapshot: bool | None = None


@dataclass(frozen=True, slots=True)
class Held:
    """A connection that looks at the tables, and the way to open readers of their rows.

    ``snapshot`` is the database's id of the moment that every reader reads, held open by the
    connection; None: the database has no such id. ``shared`` says that every reader reads the same
    moment, also one that replaces a lost one; otherwise each has a moment of its own, as a rule.
    ``lock`` is there where the readers use the connection itself: whoever uses it takes the lock.
    """

    conn: sa.Connection
    snapshot: str | None
    open_reader: Callable[[], AbstractContextManager[Reader]]
    shared: bool = False
    lock: AbstractContextManager[Any] | None = None


class Reader(Protocol):
    """One open connection that reads queries to Arrow, all in one snapshot of its own or shared."""

    def read(self, sql: str, columns: Sequence[Column]) -> pa.RecordBatchReader:
        """Run a query made by `Dialect.select` and stream its rows with the columns' types."""
        ...


@runtime_checkable
class WholeReader(Protocol):
    """A reader that is faster where all rows are wanted in memory anyway."""

    def read_whole(self, sql: str, columns: Sequence[Column]) -> pa.Table:
        """Run a query as `Reader.read` does, and give all rows."""
        ...


@runtime_checkable
class Cancellable(Protocol):
    """A reader whose running query another thread can stop."""

    def cancel(self) -> None:
        """Let the running `read` fail soon."""
        ...


@runtime_checkable
class Traceable(Protocol):
    """A reader whose server another thread can ask, elsewhere, what became of a silent query."""

    def received(self) -> int:
        """Count the bytes that have come for the running query, as far as they can be seen."""
        ...

    def fate(self) -> str | None:
        """Ask the server; say why nothing will come any more, or None: it still works on it.

        Raises:
            SourceUnavailable: no server answers.

        """
        ...

    def cut(self) -> bool:
        """End the wait for what will not come; False: there is no way to."""
        ...


def only_reader(conn: sa.Connection, reader: Reader) -> Held:
    """Hold the moment of a connection whose transaction everything is read in, one at a time."""
    lock = threading.RLock()

    @contextlib.contextmanager
    def opened() -> Iterator[Reader]:
        with lock:
            yield reader

    return Held(conn, None, opened, shared=True, lock=lock)
