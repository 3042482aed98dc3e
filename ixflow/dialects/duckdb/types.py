"""DuckDB's types and the Arrow types that hold them exactly."""

from __future__ import annotations

import pyarrow as pa

from ixflow.dialects.types import decimal_type, is_bytes, is_text, split_sql_type

__all__ = ["arrow_type", "sql_type", "width"]

_MOST_DIGITS = 38
_EXACT: dict[str, pa.DataType] = {
    "boolean": pa.bool_(),
    "tinyint": pa.int8(),
    "smallint": pa.int16(),
    "integer": pa.int32(),
    "bigint": pa.int64(),
    "utinyint": pa.uint8(),
    "usmallint": pa.uint16(),
    "uinteger": pa.uint32(),
    "ubigint": pa.uint64(),
    "float": pa.float32(),
    "double": pa.float64(),
    "varchar": pa.string(),
    "json": pa.string(),
    "uuid": pa.string(),
    "blob": pa.binary(),
    "date": pa.date32(),
    "time": pa.time64("us"),
    "timestamp_s": pa.timestamp("s"),
    "timestamp_ms": pa.timestamp("ms"),
    "timestamp": pa.timestamp("us"),
    "timestamp_ns": pa.timestamp("ns"),
    "timestamp with time zone": pa.timestamp("us", "UTC"),
}
_FROM_ARROW: tuple[tuple[pa.DataType, str], ...] = (
    *((type_, name) for name, type_ in _EXACT.items() if name not in ("json", "uuid")),
    (pa.float16(), "float"),
    (pa.null(), "varchar"),
)


def arrow_type(sql_type: str) -> tuple[pa.DataType, bool]:
    """Give the Arrow type of a DuckDB type, and whether its values travel as text."""
    base, args = split_sql_type(sql_type)
    if base == "decimal":
        found = decimal_type(args)
        return (found, False) if found is not None else (pa.string(), True)
    return (_EXACT[base], False) if base in _EXACT else (pa.string(), True)


def sql_type(type_: pa.DataType) -> str | None:
    """Give the column type that holds every value of an Arrow type; None: there is none."""
    types = pa.types
    if types.is_dictionary(type_):
        type_ = type_.value_type
    if types.is_decimal(type_):
        exact = type_.precision <= _MOST_DIGITS and type_.scale >= 0
        return f"decimal({type_.precision},{type_.scale})" if exact else None
    found = next((name for arrow, name in _FROM_ARROW if type_ == arrow), None)
    if found is None:
        kinds = (
            (is_text(type_), "varchar"),
            (is_bytes(type_), "blob"),
            (types.is_timestamp(type_), "timestamp with time zone"),
            (types.is_time(type_), "time"),
            (types.is_date(type_), "date"),
        )
        found = next((name for matches, name in kinds if matches), None)
    return found


def width(type_: pa.DataType) -> int:
    """Estimate the bytes of one value."""
    try:
        return max(1, int(type_.bit_width) // 8)
    except ValueError:
        return 24
