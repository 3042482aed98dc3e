"""Rows of Python values as Arrow, a column at a time, losing nothing of any of them."""

from __future__ import annotations

import datetime as dt
import decimal
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ixflow.dialects.moments import checked_moments, is_moments
from ixflow.dialects.types import cast_column
from ixflow.errors import ColumnMismatch, ValueDoesNotFit
from ixflow.ingestion.odd_values import plainer, without_missing
from ixflow.ingestion.plain_values import plain_array
from ixflow.ingestion.texts import encoder
from ixflow.values import Column

__all__ = ["NO_ROWS", "Binder", "checked_rows", "columns_to_arrow", "rows_to_arrow"]

NO_ROWS = (str, bytes, bytearray, memoryview, set, frozenset)
"""What can be iterated over and is no row of values."""
_NOT_ITS = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What converting a value raises when it is not one of the type."""

Binder = Callable[[Any], Any]


def rows_to_arrow(
    rows: Sequence[Any],
    columns: Sequence[Column],
    *,
    table: str,
    first_row: int = 0,
    binders: Mapping[str, Binder] | None = None,
) -> pa.RecordBatch:
    """Turn tuples (in the order of the columns) or mappings (by name) into one Arrow batch.

    ``binders`` are functions by column name that every value goes through first.

    Raises:
        ColumnMismatch: a row has too many or too few values, or is a text.
        ValueDoesNotFit: naming table, column, row and value.

    """
    values = list(zip(*checked_rows(rows, columns, table, first_row), strict=True))
    return columns_to_arrow(values, columns, table, first_row, binders or {})


def checked_rows(
    rows: Sequence[Any], columns: Sequence[Column], table: str, first_row: int
) -> Sequence[Sequence[Any]]:
    """See that every row has a value for every column, and give them in their order.

    Raises:
        ColumnMismatch: a row has too many or too few values, or is a text.

    """
    if set(map(type, rows)) <= {tuple, list} and set(map(len, rows)) <= {len(columns)}:
        return rows
    names = [column.name for column in columns]
    return [_values(row, names, table, first_row + number) for number, row in enumerate(rows)]


def columns_to_arrow(
    values: Sequence[Sequence[Any]],
    columns: Sequence[Column],
    table: str,
    first_row: int,
    binders: Mapping[str, Binder],
) -> pa.RecordBatch:
    """Turn the values of each column into one Arrow batch.

    Raises:
        ValueDoesNotFit: naming table, column, row and value.

    """
    arrays = [
        _array(_bound(given, column, binders, table), column, table, first_row)
        for given, column in zip(values, columns, strict=True)
    ]
    return pa.RecordBatch.from_arrays(arrays, names=[column.name for column in columns])


def _bound(
    values: Sequence[Any], column: Column, binders: Mapping[str, Binder], table: str
) -> Sequence[Any]:
    bind = binders.get(column.name)
    if bind is None:
        return values
    try:
        return [bind(value) for value in values]
    except (LookupError, TypeError, ValueError) as error:
        msg = f"{table}.{column.name}: the column's type refuses a value: {error}"
        raise ValueDoesNotFit(msg, table=table, column=column.name) from error


def _values(row: Any, names: Sequence[str], table: str, number: int) -> Sequence[Any]:
    if isinstance(row, Mapping):
        surplus, missing = sorted(set(row) - set(names)), sorted(set(names) - set(row))
        if surplus or missing:
            msg = f"row {number} for {table}: surplus keys {surplus}, missing keys {missing}"
            raise ColumnMismatch(msg, table=table, row=number, surplus=surplus, missing=missing)
        return [row[name] for name in names]
    if isinstance(row, NO_ROWS):
        what = "a set, which has no order" if isinstance(row, (set, frozenset)) else "a text"
        msg = f"row {number} for {table} is {what}, not a sequence of {len(names)} values"
        raise ColumnMismatch(msg, table=table, row=number)
    try:
        values = row if isinstance(row, (tuple, list)) else tuple(row)
    except TypeError:
        msg = f"row {number} for {table} is {row!r:.60}, not a sequence of {len(names)} values"
        raise ColumnMismatch(msg, table=table, row=number) from None
    if len(values) != len(names):
        msg = f"row {number} for {table} has {len(values)} values for {len(names)} columns {names}"
        raise ColumnMismatch(msg, table=table, row=number)
    return values


def _array(values: Sequence[Any], column: Column, table: str, first_row: int) -> pa.Array:
    encode = encoder(column)
    plain = plain_array(values, column.type) if encode is None else None
    if plain is not None:
        return plain
    values = without_missing(values)
    if is_moments(column.type) and any(_is_infinite(value) for value in values):
        return _infinite_moments(values, column, table, first_row)
    prepare = encode or plainer(values, column)
    if prepare is not None:
        values = _each(values, prepare, column, table, first_row)
    try:
        if pa.types.is_temporal(column.type):
            _refuse_mixed_zones(values, column, table, first_row)
            found = _moments(values)
        elif pa.types.is_integer(column.type) or pa.types.is_float32(column.type):
            # Told the type, Arrow would cut 1.5 to 1 and make 1e300 infinite.
            found = _numbers(values)
        else:
            found = pa.array(values, column.type)
        return cast_column(found, column, table=table, first_row=first_row)
    except (pa.ArrowException, OverflowError, TypeError, ValueError):
        return _array_by_inference(values, column, table, first_row)


def _is_infinite(value: Any) -> bool:
    return isinstance(value, str) and value.strip().lower() in ("infinity", "-infinity")


def _infinite_moments(
    values: Sequence[Any], column: Column, table: str, first_row: int
) -> pa.Array:
    """Convert moments some of which are infinite, which only texts can say."""
    texts = pa.array([v if isinstance(v, str) else None for v in values], pa.string())
    others = _array([None if isinstance(v, str) else v for v in values], column, table, first_row)
    written = checked_moments(texts, column, table=table, first_row=first_row)
    return pc.coalesce(written, others.cast(pa.string()))


def _each(
    values: Sequence[Any], how: Callable[[Any], Any], column: Column, table: str, first_row: int
) -> list[Any]:
    """Convert the values one by one; name the one that cannot be."""
    made = []
    for number, value in enumerate(values):
        try:
            made.append(None if value is None else how(value))
        except _NOT_ITS as error:
            raise _misfit(value, column, table, first_row + number, error) from error
    return made


def _misfit(value: Any, column: Column, table: str, row: int, why: object) -> ValueDoesNotFit:
    shown = repr(value)[:60]
    msg = f"{table}.{column.name} in row {row} (value {shown}) is not {column.sql_type}: {why}"
    return ValueDoesNotFit(msg, table=table, column=column.name, row=row, value=shown)


def _refuse_mixed_zones(values: Sequence[Any], column: Column, table: str, first_row: int) -> None:
    """Refuse timestamps with and without a zone in one column: Arrow would make them alike."""
    moments = [isinstance(v, dt.datetime) and (v.tzinfo is not None) + 1 for v in values]
    if 1 in moments and 2 in moments:  # noqa: PLR2004 - without a zone, and with one
        row = moments.index(1 if getattr(column.type, "tz", None) else 2)
        why = "some of the timestamps have a zone and some have none"
        raise _misfit(values[row], column, table, first_row + row, why)


def _moments(values: Sequence[Any]) -> pa.Array:
    """Infer dates and times, since Arrow would drop a zone or make one up when told the type."""
    found = next((v for v in values if isinstance(v, dt.datetime)), None)
    if found is not None:
        return pa.array(values, pa.timestamp("us", None if found.tzinfo is None else "UTC"))
    return pa.array(values)


def _numbers(values: Sequence[Any]) -> pa.Array:
    found = pa.array(values)
    types = pa.types
    if not (types.is_integer(found.type) or types.is_floating(found.type)):
        msg = f"{found.type} is not a number"
        raise TypeError(msg)
    return found


def _array_by_inference(
    values: Sequence[Any], column: Column, table: str, first_row: int
) -> pa.Array:
    """Convert one value at a time where that loses nothing, else let Arrow see what they are."""
    coerce = next((how for test, how in _COERCIONS if test(column.type)), None)
    try:
        if coerce is not None:
            return pa.array([None if v is None else coerce(v) for v in values], column.type)
        found = pa.array(values)
    except (pa.ArrowException, ArithmeticError, TypeError, ValueError) as error:
        row, value = _odd_one_out(values, column, coerce)
        raise _misfit(value, column, table, first_row + row, error) from None
    return cast_column(found, column, table=table, first_row=first_row)


def _integer(value: Any) -> int:
    if isinstance(value, (str, bool)):
        return int(value)
    number = int(value)
    if number != value:
        msg = "not a whole number"
        raise ValueError(msg)
    return number


def _floating(value: Any) -> float:
    found = float(value)
    if isinstance(value, int) and int(found) != value:
        msg = "no float is this number"
        raise ValueError(msg)
    return found


_COERCIONS: tuple[tuple[Callable[[pa.DataType], bool], Callable[[Any], Any]], ...] = (
    (pa.types.is_integer, _integer),
    (pa.types.is_decimal, lambda value: decimal.Decimal(str(value))),
    (pa.types.is_floating, _floating),
    (pa.types.is_string, str),
)


def _odd_one_out(
    values: Sequence[Any], column: Column, coerce: Callable[[Any], Any] | None
) -> tuple[int, Any]:
    for row, value in enumerate(values):
        try:
            pa.array([value if coerce is None or value is None else coerce(value)], column.type)
        except (pa.ArrowException, ArithmeticError, TypeError, ValueError):
            return row, value
    return 0, values[0]
