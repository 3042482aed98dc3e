"""Arrow record batches as PostgreSQL's binary COPY stream, without touching a row in Python.

A row of the stream is a 16-bit field count, then per field a 32-bit length (-1: NULL) and the
value in network byte order (https://www.postgresql.org/docs/current/sql-copy.html). Each column
becomes one or two Arrow binary arrays, the length prefixes included; joining them element by
element makes an array whose data buffer *is* the stream, because Arrow stores the values of a
binary array end to end. So numpy swaps bytes and Arrow copies them, a column at a time.

The driver's connection stays the caller's: rows travel in its transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ixflow.dialects.cast import counted_from
from ixflow.dialects.postgres.numeric import numeric_fields
from ixflow.dialects.postgres.types import base_type
from ixflow.dialects.types import is_bytes, is_text
from ixflow.errors import ValueDoesNotFit
from ixflow.values import Column

__all__ = ["HEADER", "TRAILER", "copy_stream", "encode"]

HEADER = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
TRAILER = b"\xff\xff"

# PostgreSQL counts from 2000-01-01.
_EPOCH_DAYS = 10_957
_EPOCH_MICROSECONDS = 946_684_800_000_000
# 4714-11-24 BC, the first day PostgreSQL knows: nothing earlier may wrap around unseen.
_FIRST_DAY = -2_440_588
_FIRST_MICROSECOND = _FIRST_DAY * 86_400_000_000

# A batch is cut so that a piece of the stream stays near this size.
_PIECE_BYTES = 8 << 20
_PIECE_ROWS = 64_000

Fields = list[pa.Array]
"""Binary arrays whose element-wise concatenation is one encoded field a row."""

_NULL_FIELD = pa.scalar(b"\xff\xff\xff\xff", pa.large_binary())


def copy_stream(batches: Iterator[pa.RecordBatch], columns: Sequence[Column]) -> Iterator[bytes]:
    """Yield the pieces of one COPY stream: header, rows, trailer."""
    yield HEADER
    first_row = 0
    for batch in batches:
        rows = _rows_per_piece(batch)
        for start in range(0, batch.num_rows, rows):
            try:
                piece = encode(batch.slice(start, rows), columns)
            except ValueDoesNotFit as error:
                raise counted_from(error, first_row + start) from None
            yield piece
        first_row += batch.num_rows
    yield TRAILER


def _rows_per_piece(batch: pa.RecordBatch) -> int:
    bytes_per_row = batch.get_total_buffer_size() // max(1, batch.num_rows)
    return int(max(1, min(_PIECE_ROWS, _PIECE_BYTES // max(1, bytes_per_row))))


def encode(batch: pa.RecordBatch, columns: Sequence[Column]) -> bytes:
    """Encode a batch, whose columns have the given columns' types, as rows of the stream."""
    if batch.num_rows == 0:
        return b""
    parts: list[pa.Array | pa.Scalar] = [
        pa.scalar(len(columns).to_bytes(2, "big"), pa.large_binary())
    ]
    for array, column in zip(batch.columns, columns, strict=True):
        parts.extend(_ENCODERS[base_type(column.sql_type)](array, column))
    if not columns:
        rows: int = batch.num_rows
        return b"\x00\x00" * rows
    separator = pa.scalar(b"", pa.large_binary())
    joined = pc.binary_join_element_wise(
        *parts, separator, null_handling="replace", null_replacement=b""
    )
    offsets = np.frombuffer(joined.buffers()[1], dtype=np.int64)
    first, last = offsets[joined.offset], offsets[joined.offset + len(joined)]
    return bytes(memoryview(joined.buffers()[2])[first:last])


# -- one encoder a type ---------------------------------------------------------------------------


def _fixed(kind: str, width: int) -> Callable[[pa.Array, Column], Fields]:
    """Make the encoder of a number of fixed width, given numpy's big-endian kind."""

    def encoder(array: pa.Array, column: Column) -> Fields:
        del column
        zero = pa.scalar(0, array.type)
        values = pc.fill_null(array, zero).to_numpy(zero_copy_only=False)
        return _with_length(array, values, kind, width)

    return encoder


def _with_length(array: pa.Array, values: np.ndarray, kind: str, width: int) -> Fields:
    table = np.empty(len(array), dtype=[("length", ">i4"), ("value", kind)])
    table["length"] = width
    table["value"] = values
    return [with_nulls(array, fixed_binary(table))]


def fixed_binary(table: np.ndarray) -> pa.Array:
    """See the records of a structured numpy array as Arrow binary values."""
    size = table.dtype.itemsize
    buffer = pa.py_buffer(np.ascontiguousarray(table).view(np.uint8))
    array = pa.FixedSizeBinaryArray.from_buffers(pa.binary(size), len(table), [None, buffer])
    return array.cast(pa.large_binary())


def with_nulls(array: pa.Array, encoded: pa.Array) -> pa.Array:
    """Put the NULL field wherever the array is null."""
    return pc.if_else(array.is_null(), _NULL_FIELD, encoded) if array.null_count else encoded


def _boolean(array: pa.Array, column: Column) -> Fields:
    return _fixed("u1", 1)(array.cast(pa.uint8()), column)


def _bytes(array: pa.Array, column: Column) -> Fields:
    del column
    texts = array if is_text(array.type) or is_bytes(array.type) else array.cast(pa.string())
    return _variable(texts.cast(pa.large_binary()), b"")


def _jsonb(array: pa.Array, column: Column) -> Fields:
    del column
    return _variable(array.cast(pa.large_binary()), b"\x01")  # the format's version


def _variable(array: pa.Array, prefix: bytes) -> Fields:
    lengths = pc.fill_null(pc.add(pc.binary_length(array), len(prefix)), -1)
    table = np.empty(len(array), dtype=[("length", ">i4")])
    table["length"] = lengths.to_numpy(zero_copy_only=False)
    fields = [fixed_binary(table)]
    if prefix:
        mark = pa.scalar(prefix, pa.large_binary())
        nothing = pa.scalar(b"", pa.large_binary())
        fields.append(pc.if_else(array.is_null(), nothing, mark))
    return [*fields, array]


def _date(array: pa.Array, column: Column) -> Fields:
    days = pc.fill_null(array.cast(pa.int32()), 0).to_numpy(zero_copy_only=False)
    _refuse_before(array, days, _FIRST_DAY, column)
    return _with_length(array, days - _EPOCH_DAYS, ">i4", 4)


def _timestamp(array: pa.Array, column: Column) -> Fields:
    microseconds = pc.fill_null(array.cast(pa.int64()), 0).to_numpy(zero_copy_only=False)
    _refuse_before(array, microseconds, _FIRST_MICROSECOND, column)
    return _with_length(array, microseconds - _EPOCH_MICROSECONDS, ">i8", 8)


def _refuse_before(array: pa.Array, values: np.ndarray, first: int, column: Column) -> None:
    if len(values) and values.min() < first:
        row = int(values.argmin())
        value = f"{values[row]} {'days' if pa.types.is_date(array.type) else 'us'} from 1970"
        msg = (
            f"{column.name} in row {row} (value {value}) is before 4714 BC, the first year that "
            f"PostgreSQL knows"
        )
        raise ValueDoesNotFit(msg, column=column.name, row=row, value=value)


def _time(array: pa.Array, column: Column) -> Fields:
    return _fixed(">i8", 8)(array.cast(pa.int64()), column)


_NIBBLES = np.full(256, 255, dtype=np.uint8)
for _digit, _char in enumerate("0123456789abcdef"):
    _NIBBLES[ord(_char)] = _NIBBLES[ord(_char.upper())] = _digit


def _uuid(array: pa.Array, column: Column) -> Fields:
    zero = "0" * 32
    plain = pc.fill_null(pc.replace_substring(array, "-", ""), zero)
    bad = pc.index(pc.match_substring_regex(plain, "^[0-9a-fA-F]{32}$"), value=False).as_py()
    if bad >= 0:
        value = array[bad].as_py()
        msg = f"{column.name} in row {bad} (value {value!r}) is not a uuid"
        raise ValueDoesNotFit(msg, column=column.name, row=bad, value=value)
    text = plain.cast(pa.binary(32))
    characters = np.frombuffer(text.buffers()[1], dtype=np.uint8)
    nibbles = _NIBBLES[characters[text.offset * 32 : (text.offset + len(text)) * 32]]
    values = (nibbles[0::2] << 4 | nibbles[1::2]).reshape(-1, 16)
    table = np.empty(len(array), dtype=[("length", ">i4"), ("value", "u1", (16,))])
    table["length"] = 16
    table["value"] = values
    return [with_nulls(array, fixed_binary(table))]


def _numeric(array: pa.Array, column: Column) -> Fields:
    del column
    return [with_nulls(array, fixed_binary(numeric_fields(array)))]


_ENCODERS: dict[str, Callable[[pa.Array, Column], Fields]] = {
    "boolean": _boolean,
    "smallint": _fixed(">i2", 2),
    "integer": _fixed(">i4", 4),
    "bigint": _fixed(">i8", 8),
    "real": _fixed(">f4", 4),
    "double precision": _fixed(">f8", 8),
    "numeric": _numeric,
    "text": _bytes,
    "character varying": _bytes,
    "character": _bytes,
    "json": _bytes,
    "bytea": _bytes,
    "jsonb": _jsonb,
    "date": _date,
    "timestamp without time zone": _timestamp,
    "timestamp with time zone": _timestamp,
    "time without time zone": _time,
    "uuid": _uuid,
}
