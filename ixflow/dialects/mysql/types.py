"""MySQL's types, the Arrow types that hold them exactly, and how each is asked for.

The server sends rows as text. Numbers, dates and times are cast from it by Arrow, which refuses
zero dates and everything else that is no value of the type. What has no Arrow type is text: TIME
reaches 838 hours, ENUM and SET are names, BIT is its digits.
"""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from ixflow.dialects.types import cast_column, decimal_type, is_bytes, is_text, split_sql_type
from ixflow.values import Column

__all__ = ["arrow_type", "select_form", "to_array", "travels_as"]

_INTEGERS = {
    "tinyint": (pa.int8(), pa.uint8()),
    "smallint": (pa.int16(), pa.uint16()),
    "mediumint": (pa.int32(), pa.uint32()),
    "int": (pa.int32(), pa.uint32()),
    "bigint": (pa.int64(), pa.uint64()),
}
_EXACT: dict[str, pa.DataType] = {
    "year": pa.int16(),
    "float": pa.float32(),
    "double": pa.float64(),
    "date": pa.date32(),
    "datetime": pa.timestamp("us"),
    "timestamp": pa.timestamp("us", "UTC"),
    **dict.fromkeys(("char", "varchar", "tinytext", "text"), pa.string()),
    **dict.fromkeys(("mediumtext", "longtext"), pa.string()),
    **dict.fromkeys(("binary", "varbinary", "tinyblob", "blob"), pa.binary()),
    **dict.fromkeys(("mediumblob", "longblob"), pa.binary()),
}
_GEOMETRIES = (
    *("geometry", "geometrycollection", "geomcollection"),
    *("point", "linestring", "polygon", "multipoint", "multilinestring", "multipolygon"),
)


def arrow_type(sql_type: str) -> tuple[pa.DataType, bool]:
    """Give the Arrow type of a MySQL type, and whether its values travel as text.

    >>> arrow_type("bigint(20) unsigned")[0]
    DataType(uint64)
    """
    base, args = split_sql_type(sql_type)
    word, _, rest = base.partition(" ")
    if word in _INTEGERS:
        return _INTEGERS[word]["unsigned" in rest], False
    if word == "decimal":
        found = decimal_type(args)
        return (found, False) if found is not None else (pa.string(), True)
    return (_EXACT[word], False) if word in _EXACT else (pa.string(), True)


def select_form(column: Column, quoted: str) -> str:
    """Write the expression for which the server sends every digit, as text if there is no type."""
    word = split_sql_type(column.sql_type)[0].partition(" ")[0]
    if not column.as_text:
        # A float is sent with six digits unless it is a double.
        return f"{quoted} * 1e0" if word == "float" else quoted
    if word == "bit":
        width = (split_sql_type(column.sql_type)[1] or (1,))[0]
        return f"LPAD(BIN({quoted}), {width}, '0')"
    if word in _GEOMETRIES:
        return f"ST_AsText({quoted})"
    if _EXACT.get(word) == pa.binary():
        return f"HEX({quoted})"
    return f"CAST({quoted} AS CHAR)"


def travels_as(column: Column) -> pa.DataType:
    """Say as what `to_array` takes a column: as bytes, or as the text of a number or time."""
    free = is_text(column.type) or is_bytes(column.type)
    return pa.binary() if free else pa.string()


def to_array(cells: pa.Array, column: Column, first_row: int = 0) -> pa.Array:
    """Make the array of one column from what the server sends, which must be a value of its type.

    Raises:
        ValueDoesNotFit: one is not, such as a zero date; or a text is not UTF-8.

    """
    type_ = column.type
    if pa.types.is_timestamp(type_) and type_.tz is not None:
        # The session's time zone is UTC.
        without = replace(column, type=pa.timestamp(type_.unit))
        return pc.cast(to_array(cells, without, first_row), type_)
    return cast_column(cells, column, table="query", first_row=first_row)
