"""SQLite's declared types and the Arrow types that hold their values exactly."""

from __future__ import annotations

import pyarrow as pa

from ixflow.dialects.types import decimal_type, is_bytes, is_text, split_sql_type

__all__ = ["arrow_type", "sql_type"]

# Decimals of up to this many digits survive SQLite's REAL; more become text.
_REAL_DIGITS = 15
# Declared type to Arrow. A value that is not of the declared type is refused, not guessed at.
_EXACT: dict[str, pa.DataType] = {
    "boolean": pa.bool_(),
    "bool": pa.bool_(),
    "date": pa.date32(),
    "time": pa.time64("us"),
    "datetime": pa.timestamp("us"),
    "timestamp": pa.timestamp("us"),
    "timestamp with time zone": pa.timestamp("us", "UTC"),
    "timestamptz": pa.timestamp("us", "UTC"),
    "blob": pa.binary(),
}
# SQLite's affinity rules (https://www.sqlite.org/datatype3.html): first word found decides.
_AFFINITY: tuple[tuple[str, pa.DataType], ...] = (
    ("int", pa.int64()),
    *((word, pa.string()) for word in ("char", "clob", "text")),
    *((word, pa.float64()) for word in ("real", "floa", "doub")),
)
_INTEGERS = (pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32())


def arrow_type(declared: str) -> tuple[pa.DataType, bool]:
    """Give the Arrow type of a declared type, and whether its values travel as text."""
    base, args = split_sql_type(declared) if declared else ("", ())
    if base in _EXACT:
        return _EXACT[base], False
    if base in ("decimal", "numeric"):
        found = decimal_type(args)
        return (found, False) if found is not None else (pa.string(), True)
    found = next((type_ for word, type_ in _AFFINITY if word in base), None)
    return (found, False) if found is not None else (pa.string(), True)


def sql_type(type_: pa.DataType) -> str | None:
    """Give the column type that holds every value of an Arrow type; None: there is none."""
    types = pa.types
    if types.is_dictionary(type_):
        type_ = type_.value_type
    if types.is_decimal(type_):
        if type_.scale < 0:
            return None
        exact = type_.precision <= _REAL_DIGITS
        return f"DECIMAL({type_.precision},{type_.scale})" if exact else "TEXT"
    zoned = types.is_timestamp(type_) and type_.tz is not None
    kinds = (
        (types.is_boolean(type_), "BOOLEAN"),
        (type_ in _INTEGERS, "INTEGER"),
        (types.is_floating(type_), "REAL"),
        (is_text(type_) or types.is_null(type_), "TEXT"),
        (is_bytes(type_), "BLOB"),
        (types.is_date(type_), "DATE"),
        (types.is_time(type_), "TIME"),
        (zoned, "TIMESTAMP WITH TIME ZONE"),
        (types.is_timestamp(type_), "TIMESTAMP"),
    )
    return next((name for matches, name in kinds if matches), None)
