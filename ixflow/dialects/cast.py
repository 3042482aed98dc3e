"""Casting Arrow arrays to a column's type: exactly, or refused with row and value.

Arrow's own safe casts are the base. They let pass what changes a value without overflow (2 as a
boolean, a timestamp as a date, a count as a point in time), so those pairs of types are listed
here. The one tolerance: a number becomes the nearest float, as it would in SQL, but neither
infinity nor zero.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ixflow.errors import UnsupportedType, ValueDoesNotFit
from ixflow.values import Column

__all__ = ["cast_column", "counted_from", "decoded", "whole_numbers"]

_SHOWN = 60
_REFUSALS = (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError)


def cast_column(array: pa.Array, column: Column, *, table: str, first_row: int = 0) -> pa.Array:
    """Cast an array to the column's type, exactly.

    Raises:
        ValueDoesNotFit: naming table, column, row (from 0, counted from first_row) and value.
        UnsupportedType: no value of the array's type becomes one of the column's.

    """
    if array.type == column.type:
        return array
    array = _plain(array)
    try:
        return _cast(array, column.type)
    except _REFUSALS as error:
        if _fails(array[:0], column.type):
            raise _unsupported(array, column, table) from None
        raise _does_not_fit(array, column, table, first_row, error) from None


def whole_numbers(values: Sequence[Any]) -> pa.Array:
    """Make an array of Python integers; told the type, Arrow would cut 1.5 to 1."""
    found = pa.array(values)
    if not (pa.types.is_integer(found.type) or pa.types.is_null(found.type)):
        raise pa.ArrowInvalid(f"{found.type} is not a whole number")
    return found


def counted_from(error: ValueDoesNotFit, first_row: int) -> ValueDoesNotFit:
    """Restate an error about a piece of the data with the row it has in all of them."""
    row = error.fields.get("row")
    if row is None or first_row == 0:
        return error
    message = error.message.replace(f"in row {row} ", f"in row {first_row + row} ", 1)
    return ValueDoesNotFit(message, **{**error.fields, "row": first_row + row})


def _plain(array: pa.Array) -> pa.Array:
    """Take off dictionary encoding and extension types, which casts do not always know."""
    if pa.types.is_dictionary(array.type):
        array = decoded(array)
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    return array


def decoded(array: pa.DictionaryArray) -> pa.Array:
    """Take off dictionary encoding, which Arrow cannot for the views that polars makes."""
    values = array.dictionary
    if pa.types.is_string_view(values.type):
        values = values.cast(pa.large_string())
    elif pa.types.is_binary_view(values.type):
        values = values.cast(pa.large_binary())
    return values.take(array.indices)


def _cast(array: pa.Array, type_: pa.DataType) -> pa.Array:
    if array.type == type_:
        return array
    how = next((how for a, b, how in _CAREFULLY if a(array.type) and b(type_)), None)
    return pc.cast(array, type_, safe=True) if how is None else how(array, type_)


def _number_to_float(array: pa.Array, type_: pa.DataType) -> pa.Array:
    found = pc.cast(array, type_, safe=True)
    wide = pc.cast(array, pa.float64())
    infinite = pc.and_(pc.is_inf(found), pc.invert(pc.is_inf(wide)))
    vanished = pc.and_(pc.equal(found, pa.scalar(0, type_)), pc.not_equal(wide, 0.0))
    if pc.any(pc.or_(infinite, vanished)).as_py():
        raise pa.ArrowInvalid("the value is beyond the range of the type")
    return found


def _float_to_decimal(array: pa.Array, type_: pa.DataType) -> pa.Array:
    """Go through the shortest text of each float, so that 0.1 is 0.1 and 0.125 is refused in .2."""
    return pc.cast(pc.cast(array, pa.string()), type_)


def _integer_to_decimal(array: pa.Array, type_: pa.DataType) -> pa.Array:
    # Arrow wants room for every int64 before it looks at the values.
    exact = pc.cast(array, pa.uint8()) if pa.types.is_boolean(array.type) else array
    wide = pc.cast(pc.cast(exact, pa.decimal128(20, 0)), pa.decimal256(76, type_.scale))
    return pc.cast(wide, type_)


def _number_to_boolean(array: pa.Array, type_: pa.DataType) -> pa.Array:
    number = pc.cast(array, pa.float64(), safe=False)
    if not pc.all(pc.or_(pc.equal(number, 0.0), pc.equal(number, 1.0)), min_count=0).as_py():
        raise pa.ArrowInvalid("a number that is a boolean is 0 or 1")
    return pc.cast(number, type_)


def _timestamp_to_timestamp(array: pa.Array, type_: pa.DataType) -> pa.Array:
    if (array.type.tz is None) != (type_.tz is None):
        have, want = ("no zone", "a zone") if array.type.tz is None else ("a zone", "no zone")
        _refuse_values(array, f"a timestamp with {have} is not one with {want}; say which is meant")
        return pa.nulls(len(array), type_)
    return pc.cast(array, type_, safe=True)


def _timestamp_to_date(array: pa.Array, type_: pa.DataType) -> pa.Array:
    if array.type.tz is not None:
        _refuse_values(array, "a timestamp with a zone has different dates in different places")
        return pa.nulls(len(array), type_)
    found = pc.cast(array, type_, safe=False)
    if not pc.all(pc.equal(pc.cast(found, array.type), array), min_count=0).as_py():
        raise pa.ArrowInvalid("the date would lose the time of day")
    return found


def _date_to_timestamp(array: pa.Array, type_: pa.DataType) -> pa.Array:
    if type_.tz is not None:
        _refuse_values(array, "a date has no zone; say at which moment it begins")
        return pa.nulls(len(array), type_)
    return pc.cast(array, type_, safe=True)


def _duration_to_text(array: pa.Array, type_: pa.DataType) -> pa.Array:
    """Write what the interval types of all databases read."""
    count = pc.cast(pc.cast(pc.cast(array, pa.duration("us")), pa.int64()), type_)
    return pc.binary_join_element_wise(
        count, pa.scalar("microseconds", type_), pa.scalar(" ", type_)
    )


def _never(array: pa.Array, type_: pa.DataType) -> pa.Array:
    _refuse_values(array, f"{array.type} is no {type_}; convert it first")
    return pa.nulls(len(array), type_)


def _refuse_values(array: pa.Array, reason: str) -> None:
    if array.null_count < len(array):
        raise pa.ArrowInvalid(reason)


def _is_number(type_: pa.DataType) -> bool:
    types = pa.types
    return bool(types.is_integer(type_) or types.is_floating(type_) or types.is_decimal(type_))


def _is_inexact(type_: pa.DataType) -> bool:
    return bool(pa.types.is_floating(type_) or pa.types.is_decimal(type_))


def _is_whole(type_: pa.DataType) -> bool:
    return bool(pa.types.is_integer(type_) or pa.types.is_boolean(type_))


_Test = Callable[[pa.DataType], bool]
_CAREFULLY: tuple[tuple[_Test, _Test, Callable[[pa.Array, pa.DataType], pa.Array]], ...] = (
    (pa.types.is_floating, pa.types.is_decimal, _float_to_decimal),
    (_is_whole, pa.types.is_decimal, _integer_to_decimal),
    (_is_inexact, pa.types.is_floating, _number_to_float),
    (_is_number, pa.types.is_boolean, _number_to_boolean),
    (pa.types.is_timestamp, pa.types.is_timestamp, _timestamp_to_timestamp),
    (pa.types.is_timestamp, pa.types.is_date, _timestamp_to_date),
    (pa.types.is_date, pa.types.is_timestamp, _date_to_timestamp),
    (pa.types.is_timestamp, pa.types.is_time, _never),
    (_is_number, pa.types.is_temporal, _never),
    (pa.types.is_temporal, _is_number, _never),
    (pa.types.is_duration, pa.types.is_string, _duration_to_text),
)


def _fails(array: pa.Array, type_: pa.DataType) -> bool:
    try:
        _cast(array, type_)
    except _REFUSALS:
        return True
    return False


def _unsupported(array: pa.Array, column: Column, table: str) -> UnsupportedType:
    msg = (
        f"{table}.{column.name}: no value of Arrow's {array.type} becomes {column.sql_type} "
        f"(Arrow {column.type}); convert it first"
    )
    return UnsupportedType(msg, table=table, column=column.name, type=str(array.type))


def _does_not_fit(
    array: pa.Array, column: Column, table: str, first_row: int, error: Exception
) -> ValueDoesNotFit:
    row = _first_bad_row(array, column.type)
    value = _shown(array[row])
    reason = str(error).split("\n", 1)[0]
    msg = (
        f"{table}.{column.name} in row {first_row + row} (value {value}): {array.type} does not "
        f"fit {column.sql_type} (Arrow {column.type}) without loss: {reason}"
    )
    fields = {"table": table, "column": column.name, "value": value}
    return ValueDoesNotFit(msg, row=first_row + row, **fields)


def _first_bad_row(array: pa.Array, type_: pa.DataType) -> int:
    """Find the first element that fails by halving, so that the good path pays nothing."""
    low, high = 0, len(array)
    while high - low > 1:
        middle = (low + high) // 2
        if _fails(array[low:middle], type_):
            high = middle
        else:
            low = middle
    return low


def _shown(scalar: pa.Scalar) -> str:
    try:
        text = repr(scalar.as_py())
    except (OverflowError, ValueError):  # beyond Python's dates
        text = str(scalar)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
