"""The common half of every type map: parsing SQL type names, and what Arrow types are."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pyarrow as pa

from ixflow.dialects.cast import cast_column
from ixflow.values import Column

__all__ = [
    "EXACT_DECIMAL",
    "arrow_schema",
    "cast_column",
    "decimal_type",
    "is_bytes",
    "is_text",
    "split_sql_type",
]

EXACT_DECIMAL = 76
"""Digits of the widest Arrow decimal (decimal256)."""
_DECIMAL128 = 38

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
    return (
        pa.decimal128(precision, scale)
        if precision <= _DECIMAL128
        else pa.decimal256(precision, scale)
    )


def is_text(type_: pa.DataType) -> bool:
    """Say whether it is one of Arrow's string types."""
    types = pa.types
    return bool(
        types.is_string(type_) or types.is_large_string(type_) or types.is_string_view(type_)
    )


def is_bytes(type_: pa.DataType) -> bool:
    """Say whether it is one of Arrow's binary types."""
    types = pa.types
    return bool(
        types.is_binary(type_)
        or types.is_large_binary(type_)
        or types.is_binary_view(type_)
        or types.is_fixed_size_binary(type_)
    )


def arrow_schema(columns: Sequence[Column]) -> pa.Schema:
    """Make the Arrow schema of these columns."""
    return pa.schema([pa.field(c.name, c.type, nullable=True) for c in columns])
