r"""Arrow to CSV and back without loss, given the Arrow types, which the manifest tells.

RFC 4180: UTF-8 without a mark, a header line always, commas, lines that end in CR LF, quotes
doubled inside quotes. Names and texts are always quoted, everything else never. So:

========================  ==========================================================
NULL                      nothing, not even quotes; in a table of one column: an empty line
text                      ``"it"``, and ``""`` if it is empty
boolean                   ``true``, ``false``
integer, decimal          digits, with the scale of the type and never an exponent
float                     the shortest text that gives the same number; ``nan``, ``inf``, ``-inf``
bytes                     ``\x`` and two lower case hexadecimal digits for each byte
date                      ``2026-11-21``
timestamp                 ``2026-11-21 08:15:00.123456`` with all digits of the unit, and ``Z``,
                          which is UTC, if the type has a zone
time                      ``08:15:00.123456``
duration                  an integer, in the unit of the type
========================  ==========================================================

Years are astronomical: ``0000`` is 1 BC, ``-0043`` is 44 BC; those after 9999 have more digits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from ixflow.dialects.types import is_bytes, is_text
from ixflow.errors import UnsupportedType, ValueDoesNotFit

__all__ = ["csv_header", "csv_lines", "read_csv"]

_END = "\r\n"
_TEXT = pa.large_string()
_BLOCK_BYTES = 64 << 20
_PLAIN_SCALE = 6
_YEAR_0, _YEAR_10000 = np.datetime64("0000-01-01", "s"), np.datetime64("10000-01-01", "s")


def csv_header(schema: pa.Schema) -> bytes:
    r"""Write the header line.

    >>> csv_header(pa.schema([("id", pa.int64()), ('5" disk', pa.string())]))
    b'"id","5"" disk"\r\n'

    Raises:
        UnsupportedType: a column of a type that CSV has no text for.

    """
    for field in schema:
        _renderer(field)
    names = ['"' + name.replace('"', '""') + '"' for name in schema.names]
    return (",".join(names) + _END).encode()


def csv_lines(batch: pa.RecordBatch) -> memoryview:
    r"""Write the rows, without header.

    >>> rows = pa.record_batch({"id": [1, 2], "name": ["", None]})
    >>> bytes(csv_lines(rows))
    b'1,""\r\n2,\r\n'
    """
    columns = [
        _renderer(field)(column).cast(_TEXT)
        for field, column in zip(batch.schema, batch.columns, strict=True)
    ]
    fields = _join(*columns, ",", nulls="replace")
    lines = _join(fields, pa.scalar("", _TEXT), _END)
    offsets = np.frombuffer(lines.buffers()[1], np.int64)
    start, end = offsets[lines.offset], offsets[lines.offset + len(lines)]
    data = lines.buffers()[2]
    return memoryview(data or b"").cast("B")[start:end]


def read_csv(source: Any, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Read a file that was written by these rules, with its types.

    Args:
        source: A path or a binary file.
        schema: What was written: `Manifest.schema`.

    """
    reader = csv.open_csv(
        source,
        read_options=csv.ReadOptions(block_size=_BLOCK_BYTES, use_threads=False),
        parse_options=csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False),
        convert_options=csv.ConvertOptions(
            column_types=dict.fromkeys(schema.names, pa.string()),
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )
    for batch in reader:
        columns = [_parsed(batch.column(f.name), f.type) for f in schema]
        yield pa.record_batch(columns, schema=schema)


def _join(*parts: Any, nulls: str = "emit_null") -> pa.Array:
    """Put texts side by side; the last one comes between them."""
    return pc.binary_join_element_wise(
        *parts[:-1], pa.scalar(parts[-1], _TEXT), null_handling=nulls, null_replacement=""
    )


def _renderer(field: pa.Field) -> Callable[[pa.Array], pa.Array]:
    """Choose how a column's values become text."""
    for belongs, render in _RENDERERS:
        if belongs(field.type):
            return render
    msg = (
        f"column {field.name} has type {field.type}, which CSV has no text for; read it with "
        f"as_text=[{field.name!r}], or write Parquet"
    )
    raise UnsupportedType(msg, column=field.name)


def _quoted(array: pa.Array) -> pa.Array:
    doubled = pc.replace_substring(array.cast(_TEXT), '"', '""')
    quote = pa.scalar('"', _TEXT)
    return _join(quote, doubled, quote, "")


def _hex(array: pa.Array) -> pa.Array:
    plain = array.cast(pa.large_binary())
    offsets = np.frombuffer(plain.buffers()[1], np.int64)
    offsets = offsets[plain.offset : plain.offset + len(plain) + 1]
    data = memoryview(plain.buffers()[2] or b"")[offsets[0] : offsets[-1]]
    doubled = pa.py_buffer((offsets - offsets[0]) * 2)
    digits = pa.py_buffer(data.hex().encode())
    text = pa.LargeStringArray.from_buffers(len(plain), doubled, digits)
    marked = _join(pa.scalar("\\x", _TEXT), text, "")
    return pc.if_else(plain.is_valid(), marked, pa.scalar(None, _TEXT))


def _decimal(array: pa.Array) -> pa.Array:
    """Arrow writes small numbers of many digits with an exponent; then place the point here."""
    type_ = array.type
    if type_.scale <= _PLAIN_SCALE:
        return array.cast(_TEXT)
    whole = pa.decimal256(76, 0) if type_.bit_width > 128 else pa.decimal128(38, 0)  # noqa: PLR2004
    text = array.view(whole).cast(_TEXT)
    digits = pc.utf8_lpad(pc.utf8_ltrim(text, "-"), type_.scale + 1, "0")
    pointed = pc.utf8_replace_slice(digits, -type_.scale, -type_.scale, ".")
    sign = pc.if_else(pc.starts_with(text, "-"), "-", "").cast(_TEXT)
    return _join(sign, pointed, "")


def _moment(array: pa.Array) -> pa.Array:
    """Write dates and timestamps; what is far away is beyond Arrow, so numpy does it."""
    type_ = array.type
    zone = "Z" if pa.types.is_timestamp(type_) and type_.tz is not None else ""
    if zone:
        array = array.cast(pa.timestamp(type_.unit))
    elif pa.types.is_date64(type_):
        array = array.cast(pa.date32())
    if _is_near(array):
        text = array.cast(_TEXT)
    else:
        numbers = array.to_numpy(zero_copy_only=False)
        text = pa.array([None if np.isnat(n) else _far(str(n)) for n in numbers], _TEXT)
    return _join(text, pa.scalar(zone, _TEXT), "") if zone else text


def _far(text: str) -> str:
    """Write numpy's text with four digits of the year at least."""
    sign, text = ("-", text[1:]) if text.startswith("-") else ("", text)
    year, _, rest = text.replace("T", " ").partition("-")
    return f"{sign}{year:0>4}-{rest}"


def _is_near(array: pa.Array) -> bool:
    found = array.drop_null()
    if not len(found):
        return True
    numbers = found.to_numpy(zero_copy_only=False)
    return bool(numbers.min() >= _YEAR_0 and numbers.max() < _YEAR_10000)


def _time(array: pa.Array) -> pa.Array:
    text = array.cast(_TEXT)
    if pc.any(pc.starts_with(text, "<")).as_py():
        raise ValueDoesNotFit(f"a time of day beyond 23:59:59 does not fit {array.type}")
    return text


def _duration(array: pa.Array) -> pa.Array:
    return array.cast(pa.int64()).cast(_TEXT)


def _float16(array: pa.Array) -> pa.Array:
    return array.cast(pa.float32()).cast(_TEXT)


def _plain(array: pa.Array) -> pa.Array:
    return array.cast(_TEXT)


def _is_date_or_timestamp(type_: pa.DataType) -> bool:
    return bool(pa.types.is_date(type_) or pa.types.is_timestamp(type_))


_RENDERERS: tuple[tuple[Callable[[pa.DataType], bool], Callable[[pa.Array], pa.Array]], ...] = (
    (is_text, _quoted),
    (is_bytes, _hex),
    (pa.types.is_decimal, _decimal),
    (_is_date_or_timestamp, _moment),
    (pa.types.is_time, _time),
    (pa.types.is_duration, _duration),
    (pa.types.is_float16, _float16),
    (pa.types.is_primitive, _plain),
    (pa.types.is_null, _plain),
)


def _parsed(text: pa.Array, type_: pa.DataType) -> pa.Array:
    """Undo what the renderer of the type did."""
    if is_bytes(type_):
        values = [None if v is None else bytes.fromhex(v[2:]) for v in text.to_pylist()]
        return pa.array(values, type_)
    if _is_date_or_timestamp(type_):
        return _parsed_moment(text, type_)
    if pa.types.is_time(type_):
        days = _join(pa.scalar("1970-01-01 ", _TEXT), text.cast(_TEXT), "")
        text = days.cast(pa.timestamp(type_.unit))
    elif pa.types.is_duration(type_):
        text = text.cast(pa.int64())
    elif pa.types.is_float16(type_):
        text = text.cast(pa.float32())
    return pa.nulls(len(text)) if pa.types.is_null(type_) else text.cast(type_)


def _parsed_moment(text: pa.Array, type_: pa.DataType) -> pa.Array:
    try:
        return text.cast(type_)
    except pa.ArrowInvalid:  # some are far away
        days = pa.types.is_date(type_)
        unit: Any = "D" if days else type_.unit
        words = [word.removesuffix("Z") if word else "NaT" for word in text.to_pylist()]
        numbers = pa.array(np.array(words, f"datetime64[{unit}]"))
        return numbers.cast(type_) if days else numbers.view(type_)
