"""DBAPI rows as Arrow batches, for databases without an Arrow driver.

Rows are fetched in pieces, turned into columns by `zip`, and each column becomes an Arrow array in
one call. The number of rows of a piece follows the bytes of the piece before it, so that memory
stays near `BATCH_BYTES` whatever the width of a row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa

from ixflow.dialects.types import arrow_schema, cast_column
from ixflow.errors import ValueDoesNotFit
from ixflow.values import Column

__all__ = ["BATCH_BYTES", "rows_reader"]

BATCH_BYTES = 8 << 20
_FIRST_ROWS, _MOST_ROWS = 1, 65_536

ToArray = Callable[[Sequence[Any], Column], pa.Array]


def rows_reader(
    fetch: Callable[[int], Sequence[Sequence[Any]]],
    columns: Sequence[Column],
    to_array: ToArray,
    *,
    close: Callable[[], None],
) -> pa.RecordBatchReader:
    """Make a reader from a cursor's ``fetchmany``; ``close`` runs when the rows are at their end.

    ``to_array`` makes the array of one column, of any type that casts exactly to the column's.
    """
    schema = arrow_schema(columns)
    batches = _batches(fetch, columns, schema, to_array, close)
    return pa.RecordBatchReader.from_batches(schema, batches)


def _batches(
    fetch: Callable[[int], Sequence[Sequence[Any]]],
    columns: Sequence[Column],
    schema: pa.Schema,
    to_array: ToArray,
    close: Callable[[], None],
) -> Iterator[pa.RecordBatch]:
    first_row, count = 0, _FIRST_ROWS
    try:
        while rows := fetch(count):
            arrays = [
                cast_column(
                    _array(values, column, to_array, first_row),
                    column,
                    table="query",
                    first_row=first_row,
                )
                for values, column in zip(zip(*rows, strict=True), columns, strict=True)
            ]
            batch = pa.RecordBatch.from_arrays(arrays, schema=schema)
            yield batch
            first_row += len(rows)
            bytes_per_row = batch.get_total_buffer_size() / len(rows)
            count = int(min(_MOST_ROWS, max(1, BATCH_BYTES / max(1, bytes_per_row)), count * 16))
    finally:
        close()


def _array(values: Sequence[Any], column: Column, to_array: ToArray, first_row: int) -> pa.Array:
    try:
        return to_array(values, column)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, ValueError, TypeError) as error:
        row = _first_bad(values, column, to_array)
        shown = "" if row is None else f" in row {first_row + row} (value {values[row]!r:.60})"
        msg = f"{column.name}{shown} is not {column.sql_type} (Arrow {column.type}): {error}"
        place = None if row is None else first_row + row
        raise ValueDoesNotFit(msg, column=column.name, row=place) from None


def _first_bad(values: Sequence[Any], column: Column, to_array: ToArray) -> int | None:
    for row, value in enumerate(values):
        try:
            to_array([value], column)
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, ValueError, TypeError):
            return row
    return None
