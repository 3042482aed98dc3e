"""Reading DuckDB to Arrow, which it streams itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from ixflow.dialects.types import arrow_schema, cast_column
from ixflow.errors import ValueDoesNotFit
from ixflow.values import Column

__all__ = ["DuckDBReader"]

# Batches of tables with long values stay small, since DuckDB counts a batch in rows, not bytes.
_ROWS, _ROWS_OF_LONG_VALUES = 65_536, 256
_DAY_MICROSECONDS = 86_400_000_000


class DuckDBReader:
    """One DuckDB connection in a transaction, which reads one snapshot."""

    def __init__(self, raw: Any) -> None:
        """Take an open DuckDB connection whose transaction has begun."""
        self._raw = raw

    def read(self, sql: str, columns: Sequence[Column]) -> pa.RecordBatchReader:
        """Run a query made by `Dialect.select` and stream its rows with the columns' types."""
        long = any(pa.types.is_string(c.type) or pa.types.is_binary(c.type) for c in columns)
        source = self._raw.execute(sql).to_arrow_reader(_ROWS_OF_LONG_VALUES if long else _ROWS)
        schema = arrow_schema(columns)
        batches = _exact_batches(source, columns, schema)
        return pa.RecordBatchReader.from_batches(schema, batches)


def _exact_batches(
    source: pa.RecordBatchReader, columns: Sequence[Column], schema: pa.Schema
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
