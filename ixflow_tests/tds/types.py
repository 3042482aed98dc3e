"""T-SQL's types: as declared, as DuckDB stores them here, and as bytes on the wire (MS-TDS 2.2.5).

Dates with times are stored as the text that the server shows, since DuckDB has no type for 100 ns
over 9999 years, nor for offsets.
"""

from __future__ import annotations

import datetime as dt
import decimal
import re
import struct
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["MAX", "SQLType", "from_duckdb", "wire_type"]

MAX = -1
_DAY_ONE = dt.date(1, 1, 1)
_OF_DATETIME = (dt.date(1900, 1, 1) - _DAY_ONE).days

# Locale, collation flags and the sort id, and what Python calls the code page.
_COLLATIONS = {
    "SQL_Latin1_General_CP1_CI_AS": (0x00D00409, 0x34, "cp1252"),
    "Cyrillic_General_CI_AS": (0x00D00419, 0, "cp1251"),
    "Japanese_CI_AS": (0x00D00411, 0, "cp932"),
    "Latin1_General_100_CI_AS_SC_UTF8": (0x24D00409, 0, "utf-8"),
}
_DEFAULT_COLLATION = "SQL_Latin1_General_CP1_CI_AS"

_STORED = {
    "bit": "BOOLEAN",
    "tinyint": "UTINYINT",
    "smallint": "SMALLINT",
    "int": "INTEGER",
    "bigint": "BIGINT",
    "float": "DOUBLE",
    "real": "REAL",
    "money": "DECIMAL(19,4)",
    "smallmoney": "DECIMAL(10,4)",
    "date": "DATE",
    "uniqueidentifier": "UUID",
    **dict.fromkeys(("binary", "varbinary", "image", "timestamp"), "BLOB"),
}
_FROM_DUCKDB = {
    "BOOLEAN": "bit",
    "UTINYINT": "tinyint",
    "SMALLINT": "smallint",
    "INTEGER": "int",
    "BIGINT": "bigint",
    "HUGEINT": "decimal(38,0)",
    "DOUBLE": "float",
    "FLOAT": "real",
    "DATE": "date",
    "UUID": "uniqueidentifier",
    "BLOB": "varbinary(max)",
}
_INTEGERS = {"tinyint": 1, "smallint": 2, "int": 4, "bigint": 8}


@dataclass(frozen=True)
class SQLType:
    """A type as it is declared: ``nvarchar(50)``; ``(max)`` is the length MAX."""

    base: str
    args: tuple[int, ...] = ()
    collation: str = _DEFAULT_COLLATION

    @classmethod
    def parse(cls, text: str, collation: str = _DEFAULT_COLLATION) -> SQLType:
        """Read ``decimal(12,2)``."""
        base, _, rest = text.strip().lower().partition("(")
        base = {"numeric": "decimal", "integer": "int", "rowversion": "timestamp"}.get(
            base.strip(), base.strip()
        )
        words = [word.strip() for word in rest.rstrip(") ").split(",") if word.strip()]
        return cls(base, tuple(MAX if w == "max" else int(w) for w in words), collation)

    @property
    def stored(self) -> str:
        """Name DuckDB's type."""
        if self.base == "decimal":
            return f"DECIMAL({self.precision},{self.scale})"
        return _STORED.get(self.base, "VARCHAR")

    @property
    def length(self) -> int:
        """Give characters or bytes; MAX where there is no end."""
        return self.args[0] if self.args else 1

    @property
    def precision(self) -> int:
        """Give a decimal's digits."""
        return self.args[0] if self.base == "decimal" and self.args else 18

    @property
    def scale(self) -> int:
        """Give the digits behind the point."""
        if self.base == "decimal":
            return self.args[1] if len(self.args) > 1 else 0
        return self.args[0] if self.args else 7

    @property
    def max_length(self) -> int:
        """Give what sys.columns calls the length: bytes, -1 for (max)."""
        if self.base in ("nchar", "nvarchar"):
            return self.length if self.length == MAX else 2 * self.length
        return self.length if self.base in ("char", "varchar", "binary", "varbinary") else 8


def from_duckdb(type_name: str) -> SQLType:
    """Give the T-SQL type that an expression of a DuckDB type is sent as."""
    if type_name.startswith("DECIMAL"):
        return SQLType.parse(type_name)
    return SQLType.parse(_FROM_DUCKDB.get(type_name, "nvarchar(max)"))


Encode = Callable[[Any], bytes]


def wire_type(type_: SQLType) -> tuple[bytes, Encode]:
    """Give a column's TYPE_INFO, and the function that writes its values."""
    if type_.base in _BUILDERS:
        return _BUILDERS[type_.base](type_)
    msg = f"the stand-in cannot send {type_.base}"
    raise NotImplementedError(msg)


def _sized(code: int, size: int, write: Encode, extra: bytes = b"") -> tuple[bytes, Encode]:
    """Make a type whose values follow a byte with their length, 0 for NULL."""

    def encode(value: Any) -> bytes:
        if value is None:
            return b"\0"
        written = write(value)
        return bytes([len(written)]) + written

    return bytes([code, size]) + extra, encode


def _integer(type_: SQLType) -> tuple[bytes, Encode]:
    size = _INTEGERS[type_.base]
    return _sized(0x26, size, lambda v: int(v).to_bytes(size, "little", signed=size > 1))


def _decimal(type_: SQLType) -> tuple[bytes, Encode]:
    digits = type_.precision
    size = next(n for most, n in ((9, 4), (19, 8), (28, 12), (38, 16)) if digits <= most)

    def write(value: decimal.Decimal) -> bytes:
        whole = int(decimal.Context(prec=60).scaleb(decimal.Decimal(value), type_.scale))
        return bytes([whole >= 0]) + abs(whole).to_bytes(size, "little")

    return _sized(0x6A, size + 1, write, bytes([digits, type_.scale]))


def _money(type_: SQLType) -> tuple[bytes, Encode]:
    def write(value: decimal.Decimal) -> bytes:
        whole = int(decimal.Decimal(value).scaleb(4))
        if type_.base == "smallmoney":
            return struct.pack("<i", whole)
        return struct.pack("<iI", whole >> 32, whole & 0xFFFFFFFF)

    return _sized(0x6E, 4 if type_.base == "smallmoney" else 8, write)


_MOMENT = re.compile(
    r"(?:(?P<date>\d{4}-\d\d-\d\d))?[ T]?"
    r"(?:(?P<h>\d\d):(?P<m>\d\d)(?::(?P<s>\d\d)(?:\.(?P<f>\d{1,7}))?)?)?"
    r"(?: ?(?P<sign>[+-])(?P<oh>\d\d):(?P<om>\d\d))?"
)


def _moment(value: Any) -> tuple[int, int, int]:
    """Take text apart: days since year 1, steps of 100 ns of the day, minutes of the offset."""
    found = _MOMENT.fullmatch(str(value))
    if found is None:
        msg = f"Conversion failed when converting date and/or time from character string {value!r}."
        raise ValueError(msg)
    day = dt.date.fromisoformat(found["date"] or "1900-01-01")
    seconds = int(found["h"] or 0) * 3600 + int(found["m"] or 0) * 60 + int(found["s"] or 0)
    steps = seconds * 10_000_000 + int((found["f"] or "").ljust(7, "0"))
    offset = int(found["oh"] or 0) * 60 + int(found["om"] or 0)
    return (day - _DAY_ONE).days, steps, -offset if found["sign"] == "-" else offset


_STEPS_OF_A_DAY = 864_000_000_000


def _time_bytes(steps: int, scale: int) -> bytes:
    size = next(n for most, n in ((2, 3), (4, 4), (7, 5)) if scale <= most)
    whole: int = steps // 10 ** (7 - scale)
    return whole.to_bytes(size, "little")


def _time(type_: SQLType) -> tuple[bytes, Encode]:
    scale = type_.scale

    def write(value: Any) -> bytes:
        days, steps, offset = _moment(value)
        if type_.base == "time":
            return _time_bytes(steps, scale)
        if type_.base == "datetime2":
            return _time_bytes(steps, scale) + days.to_bytes(3, "little")
        # An offset is sent beside the moment in UTC.
        days, steps = divmod(days * _STEPS_OF_A_DAY + steps - offset * 600_000_000, _STEPS_OF_A_DAY)
        return _time_bytes(steps, scale) + days.to_bytes(3, "little") + struct.pack("<h", offset)

    code = {"time": 0x29, "datetime2": 0x2A, "datetimeoffset": 0x2B}[type_.base]
    return _sized(code, scale, write)


def _datetime(type_: SQLType) -> tuple[bytes, Encode]:
    def write(value: Any) -> bytes:
        days, steps, _ = _moment(value)
        if type_.base == "smalldatetime":
            return struct.pack("<HH", days - _OF_DATETIME, steps // 600_000_000)
        return struct.pack("<iI", days - _OF_DATETIME, round(steps * 3 / 100_000))

    return _sized(0x6F, 4 if type_.base == "smalldatetime" else 8, write)


def _date(type_: SQLType) -> tuple[bytes, Encode]:
    del type_

    def encode(value: dt.date | None) -> bytes:
        if value is None:
            return b"\0"
        return b"\x03" + (value - _DAY_ONE).days.to_bytes(3, "little")

    return b"\x28", encode


def _collation(type_: SQLType) -> tuple[bytes, str]:
    locale, sort, page = _COLLATIONS[type_.collation]
    return struct.pack("<IB", locale, sort), page


def _characters(type_: SQLType) -> tuple[bytes, Encode]:
    wide = type_.base.startswith("n")
    collation, page = _collation(type_)
    code = {"varchar": 0xA7, "char": 0xAF, "nvarchar": 0xE7, "nchar": 0xEF}[type_.base]
    fixed = type_.base in ("char", "nchar")

    def write(value: Any) -> bytes:
        text = str(value).ljust(type_.length) if fixed else str(value)
        return text.encode("utf-16-le" if wide else page, "surrogatepass" if wide else "strict")

    if type_.length == MAX:
        return bytes([code]) + b"\xff\xff" + collation, _in_pieces(write)
    size = type_.length * 2 if wide else type_.length
    return bytes([code]) + struct.pack("<H", size) + collation, _short(write)


def _bytes(type_: SQLType) -> tuple[bytes, Encode]:
    code = 0xA5 if type_.base == "varbinary" else 0xAD
    size = 8 if type_.base == "timestamp" else type_.length

    def write(value: Any) -> bytes:
        return bytes(value) if code == 0xA5 else bytes(value).ljust(size, b"\0")

    if size == MAX:
        return bytes([code]) + b"\xff\xff", _in_pieces(write)
    return bytes([code]) + struct.pack("<H", size), _short(write)


def _short(write: Encode) -> Encode:
    def encode(value: Any) -> bytes:
        if value is None:
            return b"\xff\xff"
        written = write(value)
        return struct.pack("<H", len(written)) + written

    return encode


def _in_pieces(write: Encode) -> Encode:
    """Write a value of unknown length: its length, one piece, and a piece of none."""

    def encode(value: Any) -> bytes:
        if value is None:
            return b"\xff" * 8
        written = write(value)
        piece = struct.pack("<I", len(written)) + written if written else b""
        return struct.pack("<Q", len(written)) + piece + struct.pack("<I", 0)

    return encode


def _legacy(type_: SQLType) -> tuple[bytes, Encode]:
    """Make text, ntext or image, whose values have a pointer and a timestamp before them."""
    collation, page = _collation(type_)
    code = {"image": 0x22, "text": 0x23, "ntext": 0x63}[type_.base]
    extra = b"" if type_.base == "image" else collation
    # One part of the table's name: none of interest.
    info = bytes([code]) + struct.pack("<I", 0x7FFFFFFF) + extra + b"\x01\x01\x00t\x00"

    def encode(value: Any) -> bytes:
        if value is None:
            return b"\0"
        if type_.base == "image":
            written = bytes(value)
        else:
            written = str(value).encode("utf-16-le" if type_.base == "ntext" else page)
        return b"\x10" + b"\0" * 24 + struct.pack("<I", len(written)) + written

    return info, encode


def _uuid(value: uuid.UUID) -> bytes:
    return value.bytes_le


_BUILDERS: dict[str, Callable[[SQLType], tuple[bytes, Encode]]] = {
    **dict.fromkeys(_INTEGERS, _integer),
    "bit": lambda _: _sized(0x68, 1, lambda v: bytes([bool(v)])),
    "float": lambda _: _sized(0x6D, 8, lambda v: struct.pack("<d", v)),
    "real": lambda _: _sized(0x6D, 4, lambda v: struct.pack("<f", v)),
    "decimal": _decimal,
    **dict.fromkeys(("money", "smallmoney"), _money),
    "date": _date,
    **dict.fromkeys(("time", "datetime2", "datetimeoffset"), _time),
    **dict.fromkeys(("datetime", "smalldatetime"), _datetime),
    **dict.fromkeys(("char", "varchar", "nchar", "nvarchar"), _characters),
    **dict.fromkeys(("binary", "varbinary", "timestamp"), _bytes),
    **dict.fromkeys(("text", "ntext", "image"), _legacy),
    "uniqueidentifier": lambda _: _sized(0x24, 16, _uuid),
}
