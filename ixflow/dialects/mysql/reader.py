"""Reading MySQL to Arrow: one consistent snapshot, rows streamed from the server."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ixflow.dialects.connect import connected
from ixflow.dialects.facts import run
from ixflow.dialects.mysql.types import to_array
from ixflow.dialects.rows import rows_reader
from ixflow.values import Column

if TYPE_CHECKING:
    import pyarrow as pa
    import sqlalchemy as sa

__all__ = ["MySQLReader", "is_transient", "open_reader", "undecoded"]

# The server gives up on a client that does not take rows for this many seconds.
_PATIENCE = 3600

_SETTINGS = (
    "SET SESSION time_zone = '+00:00'",
    f"SET SESSION net_write_timeout = {_PATIENCE}",
    "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ",
    "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY",
)

# Gone away, lost, shutdown, killed, and the client's own "not connected".
_TRANSIENT = (0, 1053, 1927, 2006, 2013, 2055)


class MySQLReader:
    """One connection in a read-only transaction."""

    def __init__(self, engine: sa.Engine, raw: Any) -> None:
        """Take a connection whose transaction is set up, and the engine to make another."""
        self._engine, self._raw = engine, raw

    def read(self, sql: str, columns: Sequence[Column]) -> pa.RecordBatchReader:
        """Run a query made by `Dialect.select` and stream its rows with the columns' types."""
        from pymysql.cursors import SSCursor

        cursor = SSCursor(self._raw)
        cursor.execute(sql)
        ended = False

        def fetch(count: int) -> Sequence[Sequence[Any]]:
            nonlocal ended
            rows: Sequence[Sequence[Any]] = cursor.fetchmany(count)
            ended = not rows
            return rows

        def close() -> None:
            if not ended:
                # The driver would read all other rows first.
                self.cancel()
            with contextlib.suppress(Exception):
                cursor.close()

        return rows_reader(fetch, columns, to_array, close=close)

    def cancel(self) -> None:
        """Stop the running query from another thread."""
        with contextlib.suppress(Exception), self._engine.connect() as conn:
            run(conn, f"KILL QUERY {int(self._raw.thread_id())}")


@contextlib.contextmanager
def open_reader(engine: sa.Engine) -> Iterator[MySQLReader]:
    """Open a connection in a snapshot of its own; dates and decimals come as text, undecoded."""
    with connected(engine) as conn:
        raw: Any = conn.connection.driver_connection
        for setting in _SETTINGS:
            run(conn, setting)
        try:
            yield MySQLReader(engine, raw)
        finally:
            conn.invalidate()


def undecoded() -> dict[Any, Any]:
    """Give PyMySQL's conversions without those that Arrow does faster and exactly."""
    from pymysql.constants import FIELD_TYPE as TYPE
    from pymysql.converters import conversions

    ours = {TYPE.DATE, TYPE.DATETIME, TYPE.TIMESTAMP, TYPE.TIME, TYPE.DECIMAL, TYPE.NEWDECIMAL}
    return {key: convert for key, convert in conversions.items() if key not in ours}


def is_transient(error: BaseException) -> bool:
    """Say whether a failed read can succeed on a new connection."""
    cause: BaseException | None = getattr(error, "orig", None) or error
    code = cause.args[0] if cause is not None and cause.args else None
    driver = type(cause).__module__.startswith("pymysql")
    return driver and code in _TRANSIENT
