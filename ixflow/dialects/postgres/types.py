"""PostgreSQL's types and the Arrow types that hold them exactly.

The spelling is `format_type`'s. What is not in the table is read as text by a cast on the server:
ranges, intervals, inet, arrays, money, enums and the rest have no Arrow type that survives
Parquet, pandas and polars alike.
"""

from __future__ import annotations

import re

import pyarrow as pa

from ixflow.dialects.types import decimal_type, is_bytes, is_text, split_sql_type

__all__ = ["COPIED", "READ_AS", "arrow_type", "assigned_type", "base_type", "sql_type"]

EXACT: dict[str, pa.DataType] = {
    "boolean": pa.bool_(),
    "smallint": pa.int16(),
    "integer": pa.int32(),
    "bigint": pa.int64(),
    "oid": pa.int64(),
    "real": pa.float32(),
    "double precision": pa.float64(),
    "text": pa.string(),
    "character varying": pa.string(),
    "character": pa.string(),
    "name": pa.string(),
    "bytea": pa.binary(),
    "date": pa.date32(),
    "timestamp without time zone": pa.timestamp("us"),
    "timestamp with time zone": pa.timestamp("us", "UTC"),
    "time without time zone": pa.time64("us"),
    "json": pa.string(),
    "jsonb": pa.string(),
    "uuid": pa.string(),
}

# Exact as text, but only after the server has written them as text.
READ_AS = {
    "json": "text",
    "jsonb": "text",
    "uuid": "text",
    "oid": "bigint",
    "name": "text",
    # The server writes digits for a fraction of what ADBC needs to decode them (see benchmarks/).
    "numeric": "text",
}

COPIED = frozenset(EXACT) - {"oid", "name"} | {"numeric"}
"""Types whose binary COPY form ixflow writes itself; the server casts all others from text."""

_FROM_ARROW: tuple[tuple[pa.DataType, str], ...] = (
    (pa.bool_(), "boolean"),
    (pa.int8(), "smallint"),
    (pa.int16(), "smallint"),
    (pa.uint8(), "smallint"),
    (pa.int32(), "integer"),
    (pa.uint16(), "integer"),
    (pa.int64(), "bigint"),
    (pa.uint32(), "bigint"),
    (pa.uint64(), "numeric(20,0)"),
    (pa.float16(), "real"),
    (pa.float32(), "real"),
    (pa.float64(), "double precision"),
    (pa.date32(), "date"),
    (pa.null(), "text"),
)


def base_type(type_name: str) -> str:
    """Take the arguments out of a type name: ``numeric(12,2)`` is ``numeric``."""
    return split_sql_type(type_name)[0]


_ARGUMENTS = re.compile(r"\([^()\"]*\)(?=[a-z ]*(?:\[\])*$)")
# Without a length these names mean a length of one.
_ANY_LENGTH = {"character": "bpchar", "bit": '"bit"'}


def assigned_type(type_name: str) -> str:
    """Name the type to cast to before a value is assigned to a column.

    A cast to ``bit(3)`` cuts the value off; assigning a value of any length refuses it.

    >>> assigned_type("bit(3)"), assigned_type("character varying(5)[]")
    ('"bit"', 'character varying[]')
    >>> assigned_type("interval day to second(3)[]")
    'interval[]'
    """
    element, brackets = type_name.removesuffix("[]"), "[]" * type_name.endswith("[]")
    bare = "interval" if element.startswith("interval") else _ARGUMENTS.sub("", element)
    return _ANY_LENGTH.get(bare, bare) + brackets


def arrow_type(type_name: str) -> tuple[pa.DataType, bool]:
    """Give the Arrow type of a PostgreSQL type, and whether its values travel as text."""
    base, args = split_sql_type(type_name)
    if base == "numeric":
        found = decimal_type(args)
        return (found, False) if found is not None else (pa.string(), True)
    if base in EXACT:
        return EXACT[base], False
    return pa.string(), True


def sql_type(type_: pa.DataType) -> str | None:
    """Give the column type that holds every value of an Arrow type; None: there is none."""
    types = pa.types
    if types.is_dictionary(type_):
        type_ = type_.value_type
    if types.is_decimal(type_):
        return f"numeric({type_.precision},{type_.scale})" if type_.scale >= 0 else None
    found = next((name for arrow, name in _FROM_ARROW if type_ == arrow), None)
    if found is None:
        kinds = (
            (is_text(type_), "text"),
            (is_bytes(type_), "bytea"),
            (types.is_timestamp(type_) and type_.tz is not None, "timestamp with time zone"),
            (types.is_timestamp(type_), "timestamp without time zone"),
            (types.is_time(type_), "time without time zone"),
            (types.is_date(type_), "date"),
        )
        found = next((name for matches, name in kinds if matches), None)
    return found
