"""Arrow record batches as PostgreSQL's binary COPY stream, without touching a row in Python.

A row of the stream is a 16-bit field count, then per field a 32-bit length (-1: NULL) and the
value in network byte order (https://www.postgresql.org/docs/current/sql-copy.html). Each column
becomes records of one width or binary values, the length prefixes included, which `copy_fields`
puts together row by row. So numpy swaps bytes and Arrow copies them, a column at a time.

The driver's connection stays the caller's: rows travel in its transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ixflow.dialects.cast import counted_from
from ixflow.dialects.moments import infinite_texts
from ixflow.dialects.postgres.copy_fields import (
    NULL_LENGTH,
    Part,
    Records,
    join_rows,
    nulls_of,
    sized,
)
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

# A batch is cut so that what is made of a piece stays in the processor's cache.
_PIECE_BYTES = 4 << 20
_PIECE_ROWS = 16_000

Fields = list[Part]
"""The parts of one encoded field a row."""


def copy_stream(
    batches: Iterator[pa.RecordBatch], columns: Sequence[Column]
) -> Iterator[bytes | memoryview]:
    """Yield the pieces of one COPY stream: header, rows, trailer."""
    yield HEADER
    yield from (_encoded(piece, columns) for piece in _pieces(batches))
    yield TRAILER


@dataclass(frozen=True, slots=True)
class _Piece:
    batch: pa.RecordBatch
    first_row: int


def _pieces(batches: Iterator[pa.RecordBatch]) -> Iterator[_Piece]:
    first_row = 0
    for batch in batches:
        rows = _rows_per_piece(batch)
        for start in range(0, batch.num_rows, rows):
            yield _Piece(batch.slice(start, rows), first_row + start)
        first_row += batch.num_rows


def _rows_per_piece(batch: pa.RecordBatch) -> int:
    bytes_per_row = batch.nbytes // max(1, batch.num_rows)
    return int(max(1, min(_PIECE_ROWS, _PIECE_BYTES // max(1, bytes_per_row))))


def _encoded(piece: _Piece, columns: Sequence[Column]) -> bytes | memoryview:
    try:
        return encode(piece.batch, columns)
    except ValueDoesNotFit as error:
        raise counted_from(error, piece.first_row) from None


def encode(batch: pa.RecordBatch, columns: Sequence[Column]) -> bytes | memoryview:
    """Encode a batch, whose columns have the given columns' types, as rows of the stream."""
    rows = batch.num_rows
    if rows == 0:
        return b""
    parts: list[Part] = [Records(np.full(rows, len(columns), dtype=">i2"))]
    for array, column in zip(batch.columns, columns, strict=True):
        parts.extend(_ENCODERS[base_type(column.sql_type)](array, column))
    return join_rows(parts, rows)


# -- one encoder a type ---------------------------------------------------------------------------


def _fixed(kind: str) -> Callable[[pa.Array, Column], Fields]:
    """Make the encoder of a number of fixed width, given numpy's big-endian kind."""

    def encoder(array: pa.Array, column: Column) -> Fields:
        del column
        return _number(array, _numbers(array), kind)

    return encoder


def _numbers(array: pa.Array) -> np.ndarray:
    """Give the values, 0 where there is none."""
    filled = pc.fill_null(array, pa.scalar(0, array.type)) if array.null_count else array
    values: np.ndarray = filled.to_numpy(zero_copy_only=False)
    return values


def _number(array: pa.Array, values: np.ndarray, kind: str) -> Fields:
    table = np.empty(len(array), dtype=[("length", ">i4"), ("value", kind)])
    table["value"] = values
    return [sized(table, nulls_of(array))]


def _boolean(array: pa.Array, column: Column) -> Fields:
    del column
    return _number(array, _numbers(array.cast(pa.uint8())), "u1")


def _bytes(array: pa.Array, column: Column) -> Fields:
    del column
    texts = array if is_text(array.type) or is_bytes(array.type) else array.cast(pa.string())
    return _variable(texts.cast(pa.large_binary()), b"")


def _jsonb(array: pa.Array, column: Column) -> Fields:
    del column
    return _variable(array.cast(pa.large_binary()), b"\x01")  # the format's version


def _variable(array: pa.Array, prefix: bytes) -> Fields:
    nulls, size = nulls_of(array), len(prefix)
    table = np.empty(len(array), dtype=[("length", ">i4"), ("prefix", f"V{size}")])
    table["length"] = _numbers(pc.binary_length(array)) + size
    table["prefix"] = np.void(prefix)
    if nulls is not None:
        table["length"][nulls] = NULL_LENGTH
    return [Records(table, nulls if prefix else None), array]


def _date(array: pa.Array, column: Column) -> Fields:
    infinite, array = _finite(array, column)
    days = _numbers(array.cast(pa.int32()))
    _refuse_before(array, days, _FIRST_DAY, column)
    return _moments(array, infinite, days - _EPOCH_DAYS, ">i4")


def _timestamp(array: pa.Array, column: Column) -> Fields:
    infinite, array = _finite(array, column)
    microseconds = _numbers(array.cast(pa.int64()))
    _refuse_before(array, microseconds, _FIRST_MICROSECOND, column)
    return _moments(array, infinite, microseconds - _EPOCH_MICROSECONDS, ">i8")


def _finite(array: pa.Array, column: Column) -> tuple[pa.Array | None, pa.Array]:
    """Give the infinite ones of moments that are texts, and the others as Arrow's moments."""
    if not is_text(array.type):
        return None, array
    infinite, finite = infinite_texts(array)
    return infinite, finite.cast(column.type)


def _moments(array: pa.Array, infinite: pa.Array | None, values: np.ndarray, kind: str) -> Fields:
    """Encode moments; the infinite ones are the least and the greatest number of the type."""
    if infinite is None:
        return _number(array, values, kind)
    found, limits = infinite.to_numpy(zero_copy_only=False), np.iinfo(np.dtype(kind))
    values = np.where(found == "infinity", limits.max, values)
    values = np.where(found == "-infinity", limits.min, values)
    return _number(pc.coalesce(infinite, array.cast(pa.string())), values, kind)


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
    del column
    return _number(array, _numbers(array.cast(pa.int64())), ">i8")


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
    table["value"] = values
    return [sized(table, nulls_of(array))]


def _numeric(array: pa.Array, column: Column) -> Fields:
    del column
    return [sized(numeric_fields(array), nulls_of(array))]


_ENCODERS: dict[str, Callable[[pa.Array, Column], Fields]] = {
    "boolean": _boolean,
    "smallint": _fixed(">i2"),
    "integer": _fixed(">i4"),
    "bigint": _fixed(">i8"),
    "real": _fixed(">f4"),
    "double precision": _fixed(">f8"),
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
