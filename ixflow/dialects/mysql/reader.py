"""Reading MySQL to Arrow: one consistent snapshot, rows streamed from the server."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ixflow.dialects.connect import connected, hang_up
from ixflow.dialects.facts import run
from ixflow.dialects.mysql.fate import ask_fate, thread_of
from ixflow.dialects.mysql.row_stream import RowStream
from ixflow.dialects.mysql.text_rows import Malformed, decode
from ixflow.dialects.mysql.visit import limit_settings
from ixflow.dialects.types import arrow_schema
from ixflow.errors import ColumnMismatch
from ixflow.values import Column

if TYPE_CHECKING:
    import sqlalchemy as sa

__all__ = ["MySQLReader", "is_transient", "open_reader"]

# The server gives up on a client that does not take rows for this many seconds.
_PATIENCE = 3600
_DAY = 86_400

_CHARSET = "utf8mb4"
_SETTINGS = (
    "SET SESSION time_zone = '+00:00'",
    f"SET SESSION net_write_timeout = {_PATIENCE}",
    "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ",
    # A reader that waits for its turn must not be taken for a forgotten one.
    f"SET SESSION wait_timeout = {_DAY}",
    # MariaDB alone runs what is in this comment.
    "/*M!100300 SET SESSION idle_transaction_timeout = 0, idle_readonly_transaction_timeout = 0 */",
)
_BEGIN = "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY"

# Gone away, lost, shutdown, killed, and the client's own "not connected".
_TRANSIENT = (0, 1053, 1927, 2006, 2013, 2055)


class MySQLReader:
    """One connection in a read-only transaction."""

    def __init__(self, engine: sa.Engine, raw: Any) -> None:
        """Take a connection whose transaction is set up, and the engine to make another."""
        self._engine, self._raw = engine, raw
        self._stream: RowStream | None = None
        self._thread = thread_of(raw)

    def begin(self, tables: Sequence[str] = ()) -> None:
        """Take the snapshot; tables of these quoted names keep their definition from then on."""
        self._raw.query(_BEGIN)
        for table in tables:
            self._raw.query(f"SELECT 1 FROM {table} LIMIT 0")

    def alive(self) -> bool:
        """Say whether the connection, and so its snapshot, is still there; it is not made anew."""
        if self._stream is not None:
            self._leave(self._stream)
        # The first answer may be that of a `cancel` which came too late for its query.
        return self._answers() or self._answers()

    def _answers(self) -> bool:
        try:
            self._raw.query("SELECT 1")
        except Exception:  # noqa: BLE001 - whatever is wrong with the connection, it reads no more
            return False
        return True

    def read(self, sql: str, columns: Sequence[Column]) -> pa.RecordBatchReader:
        """Run a query made by `Dialect.select` and stream its rows with the columns' types.

        What is not read yet of the query before is given up.
        """
        schema = arrow_schema(columns)
        if self._stream is not None:
            self._leave(self._stream)
        self._raw.query(sql, unbuffered=True)
        self._stream = stream = RowStream(self._raw)
        if stream.width != len(columns):
            self._leave(stream)
            msg = f"the query gives {stream.width} columns, not {[c.name for c in columns]}"
            raise ColumnMismatch(msg, columns=[c.name for c in columns])
        return pa.RecordBatchReader.from_batches(schema, self._batches(stream, columns, schema))

    def _batches(
        self, stream: RowStream, columns: Sequence[Column], schema: pa.Schema
    ) -> Iterator[pa.RecordBatch]:
        first_row = 0
        try:
            for rows in stream:
                try:
                    arrays = decode(rows, columns, first_row)
                except Malformed as error:
                    stream.broken(str(error))
                first_row += len(rows.starts) - 1
                yield pa.RecordBatch.from_arrays(arrays, schema=schema)
        finally:
            self._leave(stream)

    def _leave(self, stream: RowStream) -> None:
        """Take the rows that nobody wants off the connection."""
        if not stream.ended:
            self.cancel()
            with contextlib.suppress(Exception):
                stream.discard()

    def cancel(self) -> None:
        """Stop the running query from another thread."""
        with contextlib.suppress(Exception), self._engine.connect() as conn:
            run(conn, f"KILL QUERY {int(self._raw.thread_id())}")

    def received(self) -> int:
        """Count the bytes of rows that came for the running query."""
        return 0 if self._stream is None else self._stream.received

    def fate(self) -> str | None:
        """Ask the server what became of this session."""
        return None if self._thread is None else ask_fate(self._engine, self._thread)

    def cut(self) -> bool:
        """End the wait for what will not come."""
        hang_up(self._raw)
        return True


@contextlib.contextmanager
def open_reader(engine: sa.Engine, *, begin: bool = True) -> Iterator[MySQLReader]:
    """Open a connection in a snapshot of its own; all text comes as UTF-8.

    Without ``begin`` the snapshot is taken by `MySQLReader.begin`.
    """
    with connected(engine) as conn:
        raw: Any = conn.connection.driver_connection
        if raw.charset != _CHARSET:
            raw.set_character_set(_CHARSET)
        for setting in (*_SETTINGS, *limit_settings()):
            run(conn, setting)
        reader = MySQLReader(engine, raw)
        if begin:
            reader.begin()
        try:
            yield reader
        finally:
            conn.invalidate()


def is_transient(error: BaseException) -> bool:
    """Say whether a failed read can succeed on a new connection."""
    cause: BaseException | None = getattr(error, "orig", None) or error
    code = cause.args[0] if cause is not None and cause.args else None
    driver = type(cause).__module__.startswith("pymysql")
    return driver and code in _TRANSIENT
