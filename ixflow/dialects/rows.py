"""DBAPI rows as Arrow batches, for databases without an Arrow driver.

Rows are fetched in pieces, turned into columns by `zip`, and each column becomes an Arrow array in
one call. Where values can be long, rows are fetched one by one until their values have the bytes of
a batch, so that memory stays near it even if a wide row follows many narrow ones. Elsewhere the
number of rows follows the bytes of the piece before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa

from ixflow.dialects.guest import guest
from ixflow.dialects.types import arrow_schema, cast_column
from ixflow.errors import ValueDoesNotFit
from ixflow.values import Column

__all__ = ["rows_reader"]

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
    first_row, count, most = 0, _FIRST_ROWS, guest().batch_bytes
    long = [place for place, column in enumerate(columns) if _is_long(column.type)]
    try:
        while rows := _until_full(fetch, count, long, most) if long else fetch(count):
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
            count = int(min(_MOST_ROWS, max(1, most / max(1, bytes_per_row)), count * 16))
    finally:
        close()


def _until_full(
    fetch: Callable[[int], Sequence[Sequence[Any]]], count: int, long: Sequence[int], most: int
) -> list[Sequence[Any]]:
    """Fetch rows until their long values have the bytes of a batch, and at most so many."""
    found: list[Sequence[Any]] = []
    size = 0
    while len(found) < count and size < most and (rows := fetch(1)):
        found += rows
        for place in long:
            value = rows[0][place]
            size += len(value) if isinstance(value, (str, bytes)) else 8
    return found


def _is_long(type_: pa.DataType) -> bool:
    return bool(pa.types.is_string(type_) or pa.types.is_binary(type_))


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
