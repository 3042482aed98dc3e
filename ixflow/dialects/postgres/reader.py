"""Reading PostgreSQL to Arrow: binary COPY on a connection of its own, in one snapshot.

A connection without encryption is read by `copy_socket` and `copy_read`, at half the cost of ADBC,
which reads all others.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote, urlencode

import pyarrow as pa
import pyarrow.compute as pc

from ixflow.dialects.connect import answered_within, done_within, hang_up, unavailable
from ixflow.dialects.guest import guest
from ixflow.dialects.postgres.copy_read import decode
from ixflow.dialects.postgres.copy_socket import copied_rows, described, is_plain
from ixflow.dialects.postgres.fate import Backend, ask_fate, backend_of
from ixflow.dialects.postgres.hold import is_transient
from ixflow.dialects.postgres.visit import connect_options, limit_settings
from ixflow.dialects.types import arrow_schema, cast_column
from ixflow.errors import SnapshotUnavailable, ValueDoesNotFit
from ixflow.values import Column

if TYPE_CHECKING:
    import psycopg
    import sqlalchemy as sa

__all__ = ["PostgresReader", "open_reader"]

# Bytes that are decoded at a time: larger batches are slower, because they leave the cache.
_BATCH_BYTES = 1 << 20
_SETUP_SECONDS, _CANCEL_SECONDS = 30.0, 5.0

# So that what the server writes as text reads the same for everybody.
_SETTINGS = (
    "SET LOCAL TimeZone = 'UTC'",
    "SET LOCAL idle_in_transaction_session_timeout = 0",
    "SET LOCAL DateStyle = 'ISO, YMD'",
    "SET LOCAL IntervalStyle = 'postgres'",
    "SET LOCAL extra_float_digits = 1",
    "SET LOCAL bytea_output = 'hex'",
)

# The earliest values PostgreSQL has (4714-11-24 BC). ADBC lets infinity and what lies past
# Arrow's range wrap around to values before it: that is how they are recognised.
_FIRST_DAY = -2_440_588
_FIRST_MICROSECOND = _FIRST_DAY * 86_400_000_000
_DAY_MICROSECONDS = 86_400_000_000


class _Source(Protocol):
    """A connection in a transaction that is set up for reading."""

    def arrays(self, sql: str, columns: Sequence[Column]) -> Iterator[list[pa.Array]]:
        """Run a query; give its rows by columns, some at a time, as they travel."""

    def cancel(self) -> None:
        """Stop the running query from another thread."""

    def received(self) -> int | None:
        """Count the bytes that came; None: they cannot be seen."""

    def cut(self) -> bool:
        """End the wait for the server, if there is a way."""


class PostgresReader:
    """One connection in a read-only REPEATABLE READ transaction."""

    def __init__(self, source: _Source, url: sa.URL, backend: Backend) -> None:
        """Take an open connection whose transaction is set up, and the session that it is."""
        self._source, self._url, self._backend = source, url, backend

    def read(self, sql: str, columns: Sequence[Column]) -> pa.RecordBatchReader:
        """Run a query made by `Dialect.select` and stream its rows with the columns' types."""
        schema = arrow_schema(columns)
        batches = _batches(self._source.arrays(sql, columns), columns, schema)
        return pa.RecordBatchReader.from_batches(schema, batches)

    def cancel(self) -> None:
        """Stop the running query from another thread."""
        self._source.cancel()

    def received(self) -> int:
        """Count the bytes that came, as far as they can be seen."""
        return self._source.received() or 0

    def fate(self) -> str | None:
        """Ask the server what became of this session."""
        counts = self._source.received() is not None
        return ask_fate(_libpq_uri(self._url), self._url, self._backend, counts=counts)

    def cut(self) -> bool:
        """End the wait for what will not come."""
        return self._source.cut()


class _Adbc:
    """Any connection, through ADBC."""

    def __init__(self, conn: Any) -> None:
        self._conn = conn

    def arrays(self, sql: str, columns: Sequence[Column]) -> Iterator[list[pa.Array]]:
        del columns
        cursor = self._conn.cursor()
        hint = {"adbc.postgresql.batch_size_hint_bytes": _batch_bytes()}
        cursor.adbc_statement.set_options(**hint)
        cursor.execute(f"{sql}\n")  # ADBC puts it in parentheses, and it may end with a comment
        return self._fetched(cursor)

    @staticmethod
    def _fetched(cursor: Any) -> Iterator[list[pa.Array]]:
        with cursor:
            for batch in cursor.fetch_record_batch():
                yield batch.columns

    def cancel(self) -> None:
        self._conn.adbc_cancel()

    def received(self) -> None:
        """Have no count: ADBC keeps its socket to itself."""

    def cut(self) -> bool:
        return False


class _Socket:
    """A connection of psycopg that is not encrypted, through its socket."""

    def __init__(self, conn: psycopg.Connection[Any]) -> None:
        self._conn = conn
        self._running: Generator[list[pa.Array]] | None = None
        self._received = 0

    def arrays(self, sql: str, columns: Sequence[Column]) -> Iterator[list[pa.Array]]:
        del columns
        self.close()  # closes the connection if an earlier query was not read to its end
        self._running = self._decoded(sql, described(self._conn, sql))
        return self._running

    def _decoded(self, sql: str, types: list[pa.DataType]) -> Generator[list[pa.Array]]:
        copied = copied_rows(self._conn, sql, len(types), _batch_bytes(), self._hear)
        with contextlib.closing(copied):
            for block, rows in copied:
                yield decode(block, rows, types)

    def cancel(self) -> None:
        with contextlib.suppress(Exception):
            self._conn.cancel_safe(timeout=_CANCEL_SECONDS)
        hang_up(self._conn)

    def _hear(self, size: int) -> None:
        self._received += size

    def received(self) -> int:
        return self._received

    def cut(self) -> bool:
        hang_up(self._conn)
        return True

    def close(self) -> None:
        """Let go of the socket, also when somebody still holds a reader that was not read out."""
        if self._running is not None:
            self._running.close()


def _batch_bytes() -> int:
    return min(_BATCH_BYTES, guest().batch_bytes)


def _batches(
    found: Iterator[list[pa.Array]], columns: Sequence[Column], schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    first_row = 0
    for arrays in found:
        exact = [
            _exact(array, column, first_row) for array, column in zip(arrays, columns, strict=True)
        ]
        batch = pa.RecordBatch.from_arrays(exact, schema=schema)
        yield batch
        first_row += batch.num_rows


def _exact(array: pa.Array, column: Column, first_row: int) -> pa.Array:
    cast = cast_column(array, column, table="query", first_row=first_row)
    if pa.types.is_date32(cast.type):
        _refuse_wrapped(cast.view(pa.int32()), _FIRST_DAY, column)
    elif pa.types.is_timestamp(cast.type):
        _refuse_wrapped(cast.view(pa.int64()), _FIRST_MICROSECOND, column)
    elif pa.types.is_time64(cast.type):
        _refuse_midnight(cast.view(pa.int64()), column)
    return cast


def _refuse_wrapped(numbers: pa.Array, first: int, column: Column) -> None:
    least = pc.min(numbers).as_py()
    if least is not None and least < first:
        msg = (
            f"{column.name} ({column.sql_type}) holds infinity or a moment beyond Arrow's range "
            f"(year 294246 for timestamps); read this column as text"
        )
        row = pc.index(numbers, least).as_py()
        raise ValueDoesNotFit(msg, column=column.name, sql_type=column.sql_type, row=row)


def _refuse_midnight(numbers: pa.Array, column: Column) -> None:
    most = pc.max(numbers).as_py()
    if most is not None and most >= _DAY_MICROSECONDS:
        msg = f"{column.name} holds 24:00:00, which Arrow's time cannot; read this column as text"
        raise ValueDoesNotFit(msg, column=column.name, sql_type=column.sql_type)


@contextlib.contextmanager
def open_reader(url: sa.URL, *, snapshot: str | None = None) -> Iterator[PostgresReader]:
    """Open a connection in a read-only transaction, in the given snapshot or its own.

    Raises:
        SourceUnavailable: the server cannot be reached or refuses us.
        SnapshotUnavailable: the session that exported the snapshot has ended.

    """
    with _plain_connection(url) as plain:
        if plain is not None:
            import psycopg

            with answered_within(_SETUP_SECONDS, plain):
                _begin(plain, snapshot, psycopg.Error)
                backend = backend_of(plain)
            with contextlib.closing(_Socket(plain)) as source:
                yield PostgresReader(source, url, backend)
            return
    with _adbc_connection(url, snapshot) as (conn, backend):
        yield PostgresReader(_Adbc(conn), url, backend)


@contextlib.contextmanager
def _plain_connection(url: sa.URL) -> Iterator[psycopg.Connection[Any] | None]:
    """Open a connection of psycopg; None: it would be encrypted."""
    import psycopg

    options: dict[str, Any] = {"client_encoding": "utf8", "autocommit": True}
    options |= {key: value for key, value in connect_options().items() if key not in url.query}
    try:
        conn = psycopg.connect(_libpq_uri(url), **options)
    except psycopg.Error as error:
        raise unavailable(url, error) from None
    with contextlib.closing(conn):
        with answered_within(_SETUP_SECONDS, conn):
            plain = is_plain(conn)
            if plain:
                conn.execute("BEGIN")
        if plain:
            yield conn
            return
    yield None


@contextlib.contextmanager
def _adbc_connection(url: sa.URL, snapshot: str | None) -> Iterator[tuple[Any, Backend]]:
    """Open a connection of ADBC in the snapshot; nobody can cut it while it waits."""
    options = {key: str(value) for key, value in connect_options().items()}
    uri = _libpq_uri(url.set(query={**options, **url.query}))

    def undo(late: tuple[Any, Backend]) -> None:
        late[0].close()

    try:
        found = done_within(_SETUP_SECONDS, lambda: _adbc_begun(uri, url, snapshot), undo)
    except TimeoutError as error:
        raise unavailable(url, error) from None
    with contextlib.closing(found[0]):
        yield found


def _adbc_begun(uri: str, url: sa.URL, snapshot: str | None) -> tuple[Any, Backend]:
    """Connect and set up the transaction, which ADBC begins itself."""
    import adbc_driver_manager as manager
    from adbc_driver_postgresql import dbapi

    try:
        conn = dbapi.connect(uri)
    except manager.Error as error:
        raise unavailable(url, error) from None
    try:
        with conn.cursor() as cursor:
            _begin(cursor, snapshot, manager.Error)
            return conn, backend_of(cursor)
    except BaseException:
        conn.close()
        raise


def _begin(cursor: Any, snapshot: str | None, error_type: type[Exception]) -> None:
    """Set up the transaction; psycopg and ADBC run a statement alike."""
    cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
    if snapshot is not None:
        _import_snapshot(cursor, snapshot, error_type)
    for setting in (*_SETTINGS, *limit_settings()):
        cursor.execute(setting)


def _import_snapshot(cursor: Any, snapshot: str, error_type: type[Exception]) -> None:
    literal = snapshot.replace("'", "''")
    try:
        cursor.execute(f"SET TRANSACTION SNAPSHOT '{literal}'")
    except error_type as error:
        if is_transient(error):
            raise
        msg = f"the snapshot {snapshot} is gone: the session that exported it has ended ({error})"
        raise SnapshotUnavailable(msg, snapshot=snapshot) from None


def _libpq_uri(url: sa.URL) -> str:
    """Write the URL as libpq reads it: a space is %20, a plus is a plus."""
    bare = url.set(drivername="postgresql", query={}).render_as_string(hide_password=False)
    query = urlencode(dict(url.query), doseq=True, quote_via=quote)
    return bare.replace(" ", "%20") + (f"?{query}" if query else "")
