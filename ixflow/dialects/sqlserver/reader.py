"""Reading SQL Server to Arrow with Microsoft's driver, in one transaction of one connection.

The driver makes the batches itself. How many rows one has follows from the declared widths; where
a column can be long, from the longest rows so far, and few rows are asked for at a time.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ixflow.dialects.connect import connected
from ixflow.dialects.facts import run
from ixflow.dialects.guest import guest
from ixflow.dialects.sqlserver.catalog import Isolation, read_isolation
from ixflow.dialects.sqlserver.types import is_long, row_bytes
from ixflow.dialects.types import arrow_schema, cast_column
from ixflow.errors import SourceUnavailable, ValueDoesNotFit
from ixflow.values import Column

if TYPE_CHECKING:
    import sqlalchemy as sa

__all__ = [
    "SETTINGS",
    "SQLServerReader",
    "begin_statements",
    "open_reader",
    "open_session",
    "session_settings",
]

_MOST_ROWS, _GROWTH = 65_536, 2
# Bytes of a batch for each row of it where values can be long: how long, one knows only afterwards.
_BYTES_PER_LONG_ROW = 1 << 21
# SQLSTATEs: everything about lost connections; "string data, right truncation".
_LOST, _TRUNCATED = "08", "01004"

SETTINGS = (
    # First, since it sets the format of dates too.
    "SET LANGUAGE us_english",
    "SET DATEFORMAT ymd",
    # A size that a login or a driver has set is where long values are cut.
    "SET TEXTSIZE -1",
    "SET ROWCOUNT 0",
    "SET NOCOUNT ON",
    "SET DEADLOCK_PRIORITY LOW",
    # What computed columns and the methods of XML and spatial values need.
    "SET ANSI_NULLS ON",
    "SET ANSI_PADDING ON",
    "SET ANSI_WARNINGS ON",
    "SET ARITHABORT ON",
    "SET CONCAT_NULL_YIELDS_NULL ON",
    "SET QUOTED_IDENTIFIER ON",
    "SET NUMERIC_ROUNDABORT OFF",
    "SET XACT_ABORT ON",
)
"""What every session says first, so that the server's and the login's defaults do not matter."""


def session_settings() -> tuple[str, ...]:
    """Give all that a session says first, also how long it waits for what others have locked."""
    return (*SETTINGS, f"SET LOCK_TIMEOUT {max(1, int(guest().lock_seconds * 1000))}")


def begin_statements(isolation: Isolation) -> tuple[str, ...]:
    """Give the statements after which every query of the connection reads one moment, if it can.

    >>> begin_statements(Isolation(allowed=True))[0]
    'SET TRANSACTION ISOLATION LEVEL SNAPSHOT'
    """
    if isolation.frozen or not isolation.holds:
        # Without a transaction, so that no lock outlives its row.
        return ("SET TRANSACTION ISOLATION LEVEL READ COMMITTED",)
    # A secondary maps every level to SNAPSHOT, but refuses its name where the option is off.
    level = "SNAPSHOT" if isolation.allowed else "READ COMMITTED"
    return (f"SET TRANSACTION ISOLATION LEVEL {level}", "BEGIN TRANSACTION")


class SQLServerReader:
    """One connection of the driver, which reads what its transaction sees."""

    def __init__(self, raw: Any) -> None:
        """Take a connection whose transaction is set up."""
        self._raw = raw
        self._cursor: Any = None
        self._lock = threading.Lock()

    def read(self, sql: str, columns: Sequence[Column]) -> pa.RecordBatchReader:
        """Run a query made by `Dialect.select` and stream its rows with the columns' types."""
        if self._cursor is not None:
            # The rows of the query before this one were not all wanted.
            self._close(self._cursor)
        cursor = self._raw.cursor()
        with self._lock:
            self._cursor = cursor
        try:
            cursor.execute(sql)
        except BaseException:
            self._close(cursor)
            raise
        schema = arrow_schema(columns)
        return pa.RecordBatchReader.from_batches(schema, self._batches(cursor, columns, schema))

    def cancel(self) -> None:
        """Stop the running query from another thread."""
        with self._lock, contextlib.suppress(Exception):
            if self._cursor is not None:
                # The driver cancels in public only what its own reader reads, whose batches are
                # counted in rows alone.
                self._cursor.hstmt._cancel()  # noqa: SLF001 - DBAPI has no cancel

    def _batches(
        self, cursor: Any, columns: Sequence[Column], schema: pa.Schema
    ) -> Iterator[pa.RecordBatch]:
        long, room = any(is_long(column) for column in columns), guest().batch_bytes
        count, most = _first_rows(columns, long=long)
        first_row, longest = 0, 1
        try:
            while (batch := cursor.arrow_batch(count)).num_rows:
                arrays = [
                    cast_column(array, column, table="query", first_row=first_row)
                    for array, column in zip(batch.columns, columns, strict=True)
                ]
                yield pa.RecordBatch.from_arrays(arrays, schema=schema)
                first_row += batch.num_rows
                longest = max(longest, batch.get_total_buffer_size() // batch.num_rows)
                if long:
                    count = max(1, min(most, room // longest, count * _GROWTH))
            self._verify(cursor, first_row)
        finally:
            self._close(cursor)

    def _verify(self, cursor: Any, arrived: int) -> None:
        """See that all rows have arrived, which the driver does not.

        Where the server closes the connection between two rows, the driver ends the result as if
        that were all, and notes the loss in ``messages``. A connection that is lost cannot answer.
        """
        said = [(state.lstrip("["), text) for state, text in cursor.messages]
        if lost := [text for state, text in said if state.startswith(_LOST)]:
            msg = f"the connection was lost after {arrived} rows arrived: {lost[-1]}"
            raise SourceUnavailable(msg, rows=arrived)
        if any(state.startswith(_TRUNCATED) for state, _ in said):
            raise ValueDoesNotFit("the driver has cut a value that was longer than its buffer")
        self._close(cursor)
        with self._raw.cursor() as asking:
            sent = int(asking.execute("SELECT ROWCOUNT_BIG()").fetchone()[0])
        if sent != arrived:
            msg = f"the server sent {sent} rows, but only {arrived} rows arrived"
            raise SourceUnavailable(msg, rows=arrived)

    def _close(self, cursor: Any) -> None:
        with self._lock:
            if self._cursor is cursor:
                self._cursor = None
            with contextlib.suppress(Exception):
                cursor.close()


def _first_rows(columns: Sequence[Column], *, long: bool) -> tuple[int, int]:
    """Give the rows of the first batch and the most of any batch."""
    room = guest().batch_bytes
    if long:
        return 1, max(1, room // _BYTES_PER_LONG_ROW)
    width = sum(row_bytes(column) for column in columns) or 1
    count = max(1, min(_MOST_ROWS, room // width))
    return count, count


@contextlib.contextmanager
def open_reader(engine: sa.Engine, isolation: Isolation | None = None) -> Iterator[SQLServerReader]:
    """Open a connection in a snapshot of its own, where the database allows one."""
    with open_session(engine, isolation) as (_, reader):
        yield reader


@contextlib.contextmanager
def open_session(
    engine: sa.Engine, isolation: Isolation | None = None
) -> Iterator[tuple[sa.Connection, SQLServerReader]]:
    """Open a connection as `open_reader` does, to be asked and to be read from, one at a time.

    ``isolation`` is what was found before; None: the database is asked.
    """
    with connected(engine) as opened:
        conn = opened.execution_options(isolation_level="AUTOCOMMIT")
        raw: Any = conn.connection.driver_connection
        try:
            for statement in begin_statements(isolation or read_isolation(conn)):
                run(conn, statement)
            yield conn, SQLServerReader(raw)
        finally:
            # One that is lost already has nothing to say about its end.
            with contextlib.suppress(Exception):
                raw.close()
            conn.invalidate()
