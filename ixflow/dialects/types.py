"""The common half of every type map: parsing SQL type names, casting exactly or refusing."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from ixflow.errors import ValueDoesNotFit
from ixflow.values import Column

__all__ = ["EXACT_DECIMAL", "arrow_schema", "cast_column", "decimal_type", "split_sql_type"]

EXACT_DECIMAL = 76
"""Digits of the widest Arrow decimal (decimal256)."""

_SQL_TYPE = re.compile(r"^(?P<base>[^()]+?)\s*(?:\((?P<args>[^()]*)\))?(?P<rest>\s[^()]*)?$")


def split_sql_type(sql_type: str) -> tuple[str, tuple[int, ...]]:
    """Take the arguments out of a type name; lower case.

    >>> split_sql_type("timestamp(3) with time zone")
    ('timestamp with time zone', (3,))
    """
    found = _SQL_TYPE.match(sql_type.strip())
    if found is None:
        return sql_type.strip().lower(), ()
    base = (found["base"] + (found["rest"] or "")).lower()
    args = (found["args"] or "").replace(" ", "")
    numbers = tuple(int(a) for a in args.split(",") if re.fullmatch(r"-?\d+", a))
    return base, numbers


def decimal_type(args: Sequence[int]) -> pa.DataType | None:
    """Choose the decimal for (precision, scale); None where Arrow has none that is exact.

    >>> decimal_type((12, 2))
    Decimal128Type(decimal128(12, 2))
    """
    if not args:
        return None
    precision, scale = args[0], args[1] if len(args) > 1 else 0
    if not 0 < precision <= EXACT_DECIMAL or not 0 <= scale <= precision:
        return None
    return pa.decimal128(precision, scale) if precision <= 38 else pa.decimal256(precision, scale)


def arrow_schema(columns: Sequence[Column]) -> pa.Schema:
    """Make the Arrow schema of these columns."""
    return pa.schema([pa.field(c.name, c.type, nullable=True) for c in columns])


def cast_column(array: pa.Array, column: Column, *, table: str, first_row: int = 0) -> pa.Array:
    """Cast an array to the column's type, exactly.

    Raises:
        ValueDoesNotFit: naming table, column, row (from 0, counted from first_row) and value.

    """
    if array.type == column.type:
        return array
    array = _plain(array)
    try:
        return _cast(array, column.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
        raise _does_not_fit(array, column, table, first_row, error) from None


def _plain(array: pa.Array) -> pa.Array:
    """Take off dictionary encoding and extension types, which casts do not always know."""
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    return array


def _cast(array: pa.Array, type_: pa.DataType) -> pa.Array:
    if array.type == type_:
        return array
    if pa.types.is_floating(array.type) and pa.types.is_decimal(type_):
        return _float_to_decimal(array, type_)
    if pa.types.is_integer(array.type) and pa.types.is_decimal(type_):
        # Arrow wants room for every int64 before it looks at the values.
        wide = pc.cast(pc.cast(array, pa.decimal128(20, 0)), pa.decimal256(76, type_.scale))
        return pc.cast(wide, type_)
    if pa.types.is_timestamp(array.type) and pa.types.is_timestamp(type_):
        _same_zone_kind(array.type, type_)
    return pc.cast(array, type_, safe=True)


def _float_to_decimal(array: pa.Array, type_: pa.DataType) -> pa.Array:
    """Go through the shortest text of each float, so that 0.1 is 0.1 and 0.125 is refused in .2."""
    return pc.cast(pc.cast(array, pa.string()), type_)


def _same_zone_kind(given: pa.DataType, wanted: pa.DataType) -> None:
    if (given.tz is None) != (wanted.tz is None):
        have, want = ("no zone", "a zone") if given.tz is None else ("a zone", "no zone")
        msg = f"a timestamp with {have} is not one with {want}; say which zone is meant"
        raise pa.ArrowInvalid(msg)


def _does_not_fit(
    array: pa.Array, column: Column, table: str, first_row: int, error: Exception
) -> ValueDoesNotFit:
    row = _first_bad_row(array, column.type)
    value = _shown(array[row]) if row is not None else None
    where = "" if row is None else f" in row {first_row + row} (value {value})"
    reason = str(error).split("\n", 1)[0]
    msg = (
        f"{table}.{column.name}{where}: {array.type} does not fit {column.sql_type} "
        f"(Arrow {column.type}) without loss: {reason}"
    )
    fields = {"table": table, "column": column.name, "value": value}
    return ValueDoesNotFit(msg, row=None if row is None else first_row + row, **fields)


def _first_bad_row(array: pa.Array, type_: pa.DataType) -> int | None:
    """Find the first element that fails by halving, so that the good path pays nothing."""

    def fails(part: pa.Array) -> bool:
        try:
            _cast(part, type_)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError):
            return True
        return False

    if len(array) == 0 or fails(array[:0]):
        return None
    low, high = 0, len(array)
    while high - low > 1:
        middle = (low + high) // 2
        if fails(array[low:middle]):
            high = middle
        else:
            low = middle
    return low


def _shown(scalar: pa.Scalar) -> str:
    text = repr(scalar.as_py())
    return text if len(text) <= 60 else text[:57] + "..."
