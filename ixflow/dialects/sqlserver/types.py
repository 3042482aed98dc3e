"""SQL Server's types, the Arrow types that hold them exactly, and how each is asked for.

What has no Arrow type that holds every value is text, written by the server in a form that loses
nothing: ``datetime2(7)`` counts in 100 ns from year 1, which neither microseconds nor nanoseconds
hold; ``datetimeoffset`` knows the offset that a moment was written with.
"""

from __future__ import annotations

import re

import pyarrow as pa

from ixflow.dialects.types import decimal_type, split_sql_type
from ixflow.values import Column

__all__ = ["ENCRYPTED", "arrow_type", "is_long", "literal", "row_bytes", "select_form"]

ENCRYPTED = " encrypted"
"""What follows the type name of a column that only its owners' keys can read."""

_EXACT: dict[str, pa.DataType] = {
    "bit": pa.bool_(),
    "tinyint": pa.uint8(),
    "smallint": pa.int16(),
    "int": pa.int32(),
    "bigint": pa.int64(),
    "money": pa.decimal128(19, 4),
    "smallmoney": pa.decimal128(10, 4),
    "real": pa.float32(),
    "float": pa.float64(),
    "date": pa.date32(),
    "smalldatetime": pa.timestamp("us"),
    "datetime": pa.timestamp("us"),
    **dict.fromkeys(("char", "varchar", "nchar", "nvarchar", "text", "ntext"), pa.string()),
    **dict.fromkeys(("binary", "varbinary", "image", "timestamp"), pa.binary()),
    # What a type of the user's own in .NET stores.
    "clr": pa.binary(),
}
_MICROSECONDS = 6
_DEFAULT_SCALE = 7
_LONG = ("text", "ntext", "image")
_SHORT_BYTES = 40
_LENGTH = re.compile(r"char\((\d+)\)")

# ODBC's canonical form of dates and times, every digit of a float, four decimals of money, hex.
_STYLES = {
    **dict.fromkeys(("bit", "tinyint", "smallint", "int", "bigint"), "nvarchar(41), {}"),
    **dict.fromkeys(("decimal", "numeric"), "nvarchar(41), {}"),
    "date": "nvarchar(10), {}, 23",
    **dict.fromkeys(
        ("time", "smalldatetime", "datetime", "datetime2", "datetimeoffset"),
        "nvarchar(34), {}, 121",
    ),
    **dict.fromkeys(("real", "float"), "nvarchar(30), {}, 3"),
    **dict.fromkeys(("money", "smallmoney"), "nvarchar(30), {}, 2"),
    **dict.fromkeys(
        ("binary", "varbinary", "image", "timestamp", "clr"),
        "nvarchar(max), CONVERT(varbinary(max), {}), 2",
    ),
    "uniqueidentifier": "nvarchar(36), {}",
    "hierarchyid": "nvarchar(4000), {}",
}
# A variant's text depends on what is in it; these would lose digits in the plain form.
_VARIANT_STYLES = {
    **dict.fromkeys(("real", "float"), 3),
    **dict.fromkeys(("money", "smallmoney"), 2),
    **dict.fromkeys(("date", "time", "smalldatetime", "datetime", "datetime2"), 121),
    "datetimeoffset": 121,
    **dict.fromkeys(("binary", "varbinary"), 2),
}


def arrow_type(sql_type: str) -> tuple[pa.DataType, bool]:
    """Give the Arrow type of a SQL Server type, and whether its values travel as text.

    >>> arrow_type("datetime2(3)")[0]
    TimestampType(timestamp[us])
    >>> arrow_type("datetime2(7)")
    (DataType(string), True)
    """
    if sql_type.endswith(ENCRYPTED):
        return pa.binary(), False
    base, args = split_sql_type(sql_type)
    scale = args[0] if args else _DEFAULT_SCALE
    found: pa.DataType | None = _EXACT.get(base)
    if base in ("decimal", "numeric"):
        found = decimal_type(args or (18, 0))
    elif base == "time":
        found = pa.time64("us" if scale <= _MICROSECONDS else "ns")
    elif base == "datetime2" and scale <= _MICROSECONDS:
        found = pa.timestamp("us")
    return (found, False) if found is not None else (pa.string(), True)


def select_form(column: Column, quoted: str) -> str:
    """Write the expression that the server sends exactly, as text if there is no type."""
    base = split_sql_type(column.sql_type)[0]
    if not column.as_text:
        return f"CONVERT(varbinary(max), {quoted})" if base == "clr" else quoted
    if _EXACT.get(base) == pa.string():
        return quoted
    if base == "sql_variant":
        return _variant_form(quoted)
    if base in ("geometry", "geography"):
        # Well-known text rounds; the binary form does not, but leaves out the reference system.
        wkb = f"CONVERT(varchar(max), {quoted}.AsBinaryZM(), 2)"
        text = f"CONCAT('SRID=', {quoted}.STSrid, ';', {wkb})"
        return f"CASE WHEN {quoted} IS NOT NULL THEN {text} END"
    return f"CONVERT({_STYLES.get(base, 'nvarchar(max), {}').format(quoted)})"


def _variant_form(quoted: str) -> str:
    kind = f"CONVERT(nvarchar(128), SQL_VARIANT_PROPERTY({quoted}, 'BaseType'))"
    cases = [
        f"WHEN '{name}' THEN CONVERT(nvarchar(max), CONVERT({_whole(name)}, {quoted}), {style})"
        for name, style in _VARIANT_STYLES.items()
    ]
    return f"CASE {kind} {' '.join(cases)} ELSE CONVERT(nvarchar(max), {quoted}) END"


def _whole(base: str) -> str:
    # Without a length CONVERT makes 30 bytes of them; binary would be filled up to its length.
    return "varbinary(8000)" if base in ("binary", "varbinary") else base


def literal(text: str, sql_type: str) -> str:
    """Write a value that was read as text as one of the column's type.

    >>> literal("2024-02-29", "date"), literal("it's", "varchar(20)")
    ("CONVERT(date, N'2024-02-29')", "N'it''s'")
    """
    escaped = f"N'{text.replace(chr(39), chr(39) * 2)}'"
    base = split_sql_type(sql_type)[0]
    if _EXACT.get(base) == pa.string():
        # A conversion to varchar would lose what the database's own code page does not have.
        return escaped
    if base in ("binary", "varbinary", "timestamp"):
        return f"CONVERT({'binary(8)' if base == 'timestamp' else sql_type}, {escaped}, 2)"
    return f"CONVERT({sql_type}, {escaped})"


def is_long(column: Column) -> bool:
    """Say whether a value can have gigabytes, so that nothing is known about the size of a row."""
    asked = f"{column.sql_type} {select_form(column, '')}"
    return "(max)" in asked or split_sql_type(column.sql_type)[0] in _LONG


def row_bytes(column: Column) -> int:
    """Give the most bytes that the driver's buffer needs for a value that is not long."""
    base, args = split_sql_type(column.sql_type)
    if _EXACT.get(base) in (pa.string(), pa.binary()) and base != "timestamp":
        return 4 * (args[0] if args else 1)
    asked = _LENGTH.search(select_form(column, ""))
    return _SHORT_BYTES if asked is None else 4 * int(asked[1])
