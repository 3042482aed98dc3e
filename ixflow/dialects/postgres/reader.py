"""Reading PostgreSQL to Arrow: ADBC's binary COPY on a connection of its own, in one snapshot."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

import numpy as np
import pyarrow as pa

from ixflow.dialects.connect import unavailable
from ixflow.dialects.postgres.hold import is_transient
from ixflow.dialects.types import arrow_schema, cast_column
from ixflow.errors import SnapshotUnavailable, ValueDoesNotFit
from ixflow.values import Column

if TYPE_CHECKING:
    import sqlalchemy as sa

__all__ = ["PostgresReader", "open_reader"]

# Bytes of one batch that ADBC gathers before it hands it over.
_BATCH_BYTES = 8 << 20

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


class PostgresReader:
    """One ADBC connection in a read-only REPEATABLE READ transaction."""

    def __init__(self, conn: Any) -> None:
        """Take an open ADBC connection whose transaction is set up."""
        self._conn = conn

    def read(self, sql: str, columns: Sequence[Column]) -> pa.RecordBatchReader:
        """Run a query made by `Dialect.select` and stream its rows with the columns' types."""
        cursor = self._conn.cursor()
        cursor.adbc_statement.set_options(**{"adbc.postgresql.batch_size_hint_bytes": _BATCH_BYTES})
        cursor.execute(sql)
        schema = arrow_schema(columns)
        batches = _batches(cursor, columns, schema)
        return pa.RecordBatchReader.from_batches(schema, batches)

    def cancel(self) -> None:
        """Stop the running query from another thread."""
        self._conn.adbc_cancel()


def _batches(cursor: Any, columns: Sequence[Column], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    with cursor:
        first_row = 0
        for batch in cursor.fetch_record_batch():
            arrays = [
                _exact(array, column, first_row)
                for array, column in zip(batch.columns, columns, strict=True)
            ]
            yield pa.RecordBatch.from_arrays(arrays, schema=schema)
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
    values = numbers.fill_null(0).to_numpy(zero_copy_only=False)
    if len(values) and int(values.min()) < first:
        msg = (
            f"{column.name} ({column.sql_type}) holds infinity or a moment beyond Arrow's range "
            f"(year 294246 for timestamps); read this column as text"
        )
        row = int(np.argmin(values))
        raise ValueDoesNotFit(msg, column=column.name, sql_type=column.sql_type, row=row)


def _refuse_midnight(numbers: pa.Array, column: Column) -> None:
    values = numbers.fill_null(0).to_numpy(zero_copy_only=False)
    if len(values) and int(values.max()) >= _DAY_MICROSECONDS:
        msg = f"{column.name} holds 24:00:00, which Arrow's time cannot; read this column as text"
        raise ValueDoesNotFit(msg, column=column.name, sql_type=column.sql_type)


@contextlib.contextmanager
def open_reader(url: sa.URL, *, snapshot: str | None = None) -> Iterator[PostgresReader]:
    """Open an ADBC connection in a read-only transaction, in the given snapshot or its own.

    Raises:
        SourceUnavailable: the server cannot be reached or refuses us.
        SnapshotUnavailable: the session that exported the snapshot has ended.

    """
    import adbc_driver_manager as manager
    from adbc_driver_postgresql import dbapi

    try:
        conn = dbapi.connect(_libpq_uri(url))
    except manager.Error as error:
        raise unavailable(url, error) from None
    try:
        with conn.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            if snapshot is not None:
                _import_snapshot(cursor, snapshot, manager.Error)
            for setting in _SETTINGS:
                cursor.execute(setting)
        yield PostgresReader(conn)
    finally:
        conn.close()


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
