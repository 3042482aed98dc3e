"""Reading DuckDB to Arrow, which it streams itself; long values a few rows at a time."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from ixflow.dialects.duckdb.windows import RowsQuery, Window, windows
from ixflow.dialects.guest import guest
from ixflow.dialects.types import arrow_schema, cast_column
from ixflow.errors import SourceLimitReached, ValueDoesNotFit
from ixflow.values import Column

__all__ = ["DuckDBReader"]

# Batches of tables with long values stay small, since DuckDB counts a batch in rows, not bytes.
_ROWS, _ROWS_OF_LONG_VALUES = 65_536, 256
# In few batches, since who reads all of it joins them.
_ROWS_OF_WHOLE = 1_000_000
_DAY_MICROSECONDS = 86_400_000_000

_LEAST_MEMORY, _BYTES_OF_A_THREAD = 32 << 20, 64 << 20
_IS_READ_ONLY = """
    SELECT readonly FROM duckdb_databases() WHERE database_name = current_database()
"""


class DuckDBReader:
    """One DuckDB connection in a transaction, which reads one snapshot."""

    def __init__(self, raw: Any) -> None:
        """Take an open DuckDB connection whose transaction has begun."""
        self._raw = raw
        self._guarded = _bound_memory(raw)

    def read(self, sql: str, columns: Sequence[Column]) -> pa.RecordBatchReader:
        """Run a query made by `Dialect.select_part` and stream its rows with the columns' types."""
        schema = arrow_schema(columns)
        batches = _exact_batches(self._batches(sql, columns), columns, schema)
        return pa.RecordBatchReader.from_batches(schema, batches)

    def read_whole(self, sql: str, columns: Sequence[Column]) -> pa.Table:
        """Run a query and give all of its rows, which DuckDB then finds on all its threads."""
        import duckdb

        schema = arrow_schema(columns)
        try:
            found = self._whole(sql)
        except duckdb.OutOfMemoryException as error:
            raise _too_little_memory(error) from None
        batches = _exact_batches(iter(found.to_batches()), columns, schema)
        return pa.Table.from_batches(batches, schema)

    def _whole(self, sql: str) -> pa.Table:
        import duckdb

        try:
            return self._raw.execute(sql).to_arrow_table(_ROWS_OF_WHOLE)
        except duckdb.InvalidInputException as error:
            # Arrow's texts of one batch can be 2 GB.
            if "total string size" not in str(error):
                raise
            return self._raw.execute(sql).to_arrow_table(_ROWS)

    def cancel(self) -> None:
        """Stop the running query from another thread."""
        self._raw.interrupt()

    def _batches(self, sql: str, columns: Sequence[Column]) -> Iterator[pa.RecordBatch]:
        long = any(_is_long(column.type) for column in columns)
        ranges: list[Window] = []
        if long and isinstance(sql, RowsQuery):
            ranges = windows(self._raw, sql.table, guest().batch_bytes, guarded=self._guarded)
        if not isinstance(sql, RowsQuery) or all(window.rows is None for window in ranges):
            yield from _streamed(self._raw, sql, _ROWS_OF_LONG_VALUES if long else _ROWS)
            return
        for window in ranges:
            if window.rows is None:
                query = sql.of_rows(window.condition)
                yield from _streamed(self._raw, query, _ROWS_OF_LONG_VALUES)
            else:
                yield from self._few_at_a_time(sql, window, window.rows)

    def _few_at_a_time(self, sql: RowsQuery, window: Window, rows: int) -> Iterator[pa.RecordBatch]:
        import duckdb

        end = self._end(sql.table) if window.end is None else window.end
        first = window.first
        while first < end:
            piece = Window(first, min(first + rows, end), None)
            try:
                # All of it before any is given away, so that it can be asked for again.
                found = list(self._raw.execute(sql.of_rows(piece.condition)).to_arrow_reader(rows))
            except duckdb.OutOfMemoryException as error:
                if rows == 1:
                    raise _too_little_memory(error) from None
                rows //= 2
                continue
            yield from found
            first += rows

    def _end(self, table: str) -> int:
        last = self._raw.execute(f"SELECT max(rowid) FROM {table}").fetchone()[0]
        return 0 if last is None else int(last) + 1


def _streamed(raw: Any, sql: str, rows: int) -> Iterator[pa.RecordBatch]:
    import duckdb

    try:
        yield from raw.execute(sql).to_arrow_reader(rows)
    except duckdb.OutOfMemoryException as error:
        raise _too_little_memory(error) from None


def _too_little_memory(error: Exception) -> SourceLimitReached:
    said = str(error).split("\n", 1)[0]
    msg = f"DuckDB needs more than its third of the memory budget ({said}); raise memory_budget"
    return SourceLimitReached(msg, setting="memory_budget")


def _bound_memory(raw: Any) -> bool:
    """Let a database that only we read keep to a third of the budget; say whether it does."""
    budget = guest().memory_bytes
    if budget is None or not raw.execute(_IS_READ_ONLY).fetchone()[0]:
        return False
    raw.execute(f"SET memory_limit = '{max(_LEAST_MEMORY, budget // 3)}B'")
    # Each thread has vectors of its own, which the limit does not count.
    threads = int(raw.execute("SELECT current_setting('threads')").fetchone()[0])
    raw.execute(f"SET threads = {max(1, min(threads, budget // _BYTES_OF_A_THREAD))}")
    # What a query cannot hold goes to the machine's own place for such, not beside the source.
    place = Path(tempfile.gettempdir(), f"ixflow-duckdb-{os.getpid()}")
    with contextlib.suppress(Exception):  # already in use
        raw.execute(f"SET temp_directory = '{_escaped(place)}'")
    return True


def _escaped(place: Path) -> str:
    return str(place).replace("'", "''")


def _is_long(type_: pa.DataType) -> bool:
    return bool(pa.types.is_string(type_) or pa.types.is_binary(type_))


def _exact_batches(
    source: Iterator[pa.RecordBatch], columns: Sequence[Column], schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    first_row = 0
    for batch in source:
        arrays = []
        for array, column in zip(batch.columns, columns, strict=True):
            _refuse_beyond_arrow(array, column)
            arrays.append(cast_column(array, column, table="query", first_row=first_row))
        yield pa.RecordBatch.from_arrays(arrays, schema=schema)
        first_row += batch.num_rows


def _refuse_beyond_arrow(array: pa.Array, column: Column) -> None:
    """Refuse infinity, which DuckDB writes as the ends of the integer range, and 24:00:00."""
    types = pa.types
    if types.is_date32(array.type):
        limits, what = (-(2**31) + 1, 2**31 - 1), "infinity"
        numbers = array.view(pa.int32())
    elif types.is_timestamp(array.type):
        limits, what = (-(2**63) + 1, 2**63 - 1), "infinity"
        numbers = array.view(pa.int64())
    elif types.is_time64(array.type):
        limits, what = (-1, _DAY_MICROSECONDS), "24:00:00"
        numbers = array.view(pa.int64())
    else:
        return
    values = numbers.fill_null(0).to_numpy(zero_copy_only=False)
    if len(values) and not limits[0] < values.min() <= values.max() < limits[1]:
        msg = f"{column.name} ({column.sql_type}) holds {what}; read this column as text"
        raise ValueDoesNotFit(msg, column=column.name, sql_type=column.sql_type)
