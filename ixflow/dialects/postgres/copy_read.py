"""PostgreSQL's binary COPY rows as Arrow arrays, without touching a row in Python.

A field is a 32-bit length (-1: NULL) and the value in network byte order. Each column is picked out
of all rows of a block at once: where the rows are equally long, and the fields of the column too,
it is a slice of the block. Elsewhere the places of its fields are computed first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ixflow.dialects.postgres.copy_rows import (
    HEAD_BYTES,
    Bytes,
    Even,
    Places,
    Rows,
    numbers_at,
)

__all__ = ["SLACK", "WIRE_TYPES", "decode"]

SLACK = 8
"""Bytes of a block behind its last message: also where a NULL is, a value is looked at first."""

_LENGTH = 4

# PostgreSQL counts from 2000-01-01.
_EPOCH_DAYS = 10_957
_EPOCH_MICROSECONDS = 946_684_800_000_000


class _Field(Protocol):
    """One column of some rows."""

    def numbers(self, kind: str) -> npt.NDArray[Any]:
        """Give the values in this machine's byte order; what stands at NULLs is noise."""

    def values(self, type_: pa.DataType) -> pa.Array:
        """Give the values as they are, bytes or text."""

    def bitmap(self) -> pa.Buffer | None:
        """Give Arrow's bits for what is not NULL; None: nothing is."""


@dataclass(frozen=True, slots=True)
class _EvenField:
    """A field with the same offset and width (-1: NULL) in each of some equally long rows."""

    block: Bytes
    rows: Even
    offset: int
    width: int

    def numbers(self, kind: str) -> npt.NDArray[Any]:
        dtype = np.dtype(kind)
        if self.width < 0:
            return np.zeros(len(self.rows), dtype.newbyteorder("="))
        _expect(self.width, dtype)
        return self.rows.column(self.block, self.offset, kind).astype(dtype.newbyteorder("="))

    def values(self, type_: pa.DataType) -> pa.Array:
        count, width, size = len(self.rows), max(self.width, 0), self.rows.size
        table = self.block[self.rows.first : self.rows.end].reshape(count, size)
        data = np.ascontiguousarray(table[:, self.offset : self.offset + width])
        offsets = np.arange(count + 1, dtype=np.int32) * np.int32(width)
        buffers = [self.bitmap(), pa.py_buffer(offsets), pa.py_buffer(data)]
        return pa.Array.from_buffers(type_, count, buffers)

    def bitmap(self) -> pa.Buffer | None:
        return None if self.width >= 0 else pa.py_buffer(bytes(len(self.rows) // 8 + 1))


@dataclass(frozen=True, slots=True)
class _UnevenField:
    """A field anywhere in each row; ``lengths`` are 0 where it is NULL."""

    block: Bytes
    starts: Places
    lengths: Places
    present: npt.NDArray[np.bool_] | None

    def numbers(self, kind: str) -> npt.NDArray[Any]:
        dtype = np.dtype(kind)
        widths = self.lengths if self.present is None else self.lengths[self.present]
        if len(widths):
            _expect(int(widths.min()), dtype)
            _expect(int(widths.max()), dtype)
        return numbers_at(self.block, kind)[self.starts].astype(dtype.newbyteorder("="))

    def values(self, type_: pa.DataType) -> pa.Array:
        # Values and what lies between them alternate; Arrow copies every second one.
        count = len(self.starts)
        bounds = np.empty(2 * count, dtype=np.int32)
        bounds[0::2] = self.starts
        bounds[1::2] = self.starts + self.lengths
        buffers = [None, pa.py_buffer(bounds), pa.py_buffer(self.block)]
        pieces = pa.Array.from_buffers(pa.binary(), 2 * count - 1, buffers)
        found = pc.take(pieces, pa.array(np.arange(0, 2 * count, 2)))
        return pa.Array.from_buffers(type_, count, [self.bitmap(), *found.buffers()[1:]])

    def bitmap(self) -> pa.Buffer | None:
        if self.present is None:
            return None
        return pa.py_buffer(np.packbits(self.present, bitorder="little"))


def _expect(width: int, dtype: np.dtype[Any]) -> None:
    if width != dtype.itemsize:
        raise ValueError(f"a value of {width} bytes is not one of {dtype.itemsize}")


def decode(block: Bytes, rows: Rows, types: Sequence[pa.DataType]) -> list[pa.Array]:
    """Decode the rows' columns, whose values travel as those of these types.

    Raises:
        ValueError: the rows are not of these types.

    """
    arrays: list[pa.Array] = []
    offset = HEAD_BYTES
    if isinstance(rows, Even):
        while len(arrays) < len(types) and (width := _width(block, rows, offset)) is not None:
            field = _EvenField(block, rows, offset + _LENGTH, width)
            offset += _LENGTH + max(width, 0)
            arrays.append(_decoded(field, len(rows), types[len(arrays)]))
        if len(arrays) == len(types):
            _expect_end(whole=offset == rows.size)
            return arrays
    places = rows.starts + offset
    for number in range(len(arrays), len(types)):
        uneven = _uneven(block, places)
        places = uneven.starts + uneven.lengths
        arrays.append(_decoded(uneven, len(rows), types[number]))
    _expect_end(whole=np.array_equal(places, rows.ends))
    return arrays


def _expect_end(*, whole: bool) -> None:
    if not whole:
        raise ValueError("the fields of a row do not end where the row does")


def _width(block: Bytes, rows: Even, offset: int) -> int | None:
    """Give the length that stands there in all rows; None: not all have the same."""
    lengths = rows.column(block, offset, "<i4")
    return int(lengths[:1].byteswap()[0]) if (lengths == lengths[0]).all() else None


def _uneven(block: Bytes, places: Places) -> _UnevenField:
    lengths = numbers_at(block, ">i4")[places].astype(np.int64)
    present = lengths >= 0
    if present.all():
        return _UnevenField(block, places + _LENGTH, lengths, None)
    return _UnevenField(block, places + _LENGTH, np.maximum(lengths, 0), present)


def _decoded(field: _Field, count: int, type_: pa.DataType) -> pa.Array:
    return _DECODERS[type_](field, count, type_)


_Decoder = Callable[[_Field, int, pa.DataType], pa.Array]


def _fixed(kind: str, added: int = 0) -> _Decoder:
    """Make the decoder of a number, given numpy's big-endian kind.

    Infinite dates wrap around when the epochs are added; the reader refuses what lies there.
    """

    def decoder(field: _Field, count: int, type_: pa.DataType) -> pa.Array:
        values = field.numbers(kind)
        if added:
            values += values.dtype.type(added)
        return pa.Array.from_buffers(type_, count, [field.bitmap(), pa.py_buffer(values)])

    return decoder


def _boolean(field: _Field, count: int, type_: pa.DataType) -> pa.Array:
    bits = np.packbits(field.numbers("u1") != 0, bitorder="little")
    return pa.Array.from_buffers(type_, count, [field.bitmap(), pa.py_buffer(bits)])


def _bytes(field: _Field, count: int, type_: pa.DataType) -> pa.Array:
    """Take bytes and text alike: the server has checked that text is the UTF-8 it was asked for."""
    del count
    return field.values(type_)


_DECODERS: dict[pa.DataType, _Decoder] = {
    pa.bool_(): _boolean,
    pa.int16(): _fixed(">i2"),
    pa.int32(): _fixed(">i4"),
    pa.int64(): _fixed(">i8"),
    # Moved as integers: no bit of a NaN is lost.
    pa.float32(): _fixed(">i4"),
    pa.float64(): _fixed(">i8"),
    pa.date32(): _fixed(">i4", _EPOCH_DAYS),
    pa.timestamp("us"): _fixed(">i8", _EPOCH_MICROSECONDS),
    pa.timestamp("us", "UTC"): _fixed(">i8", _EPOCH_MICROSECONDS),
    pa.time64("us"): _fixed(">i8"),
    pa.binary(): _bytes,
    pa.string(): _bytes,
}

WIRE_TYPES: dict[int, pa.DataType] = {
    16: pa.bool_(),
    17: pa.binary(),  # bytea
    19: pa.string(),  # name
    20: pa.int64(),
    21: pa.int16(),
    23: pa.int32(),
    25: pa.string(),  # text
    114: pa.string(),  # json
    700: pa.float32(),
    701: pa.float64(),
    1042: pa.string(),  # character
    1043: pa.string(),  # character varying
    1082: pa.date32(),
    1083: pa.time64("us"),
    1114: pa.timestamp("us"),
    1184: pa.timestamp("us", "UTC"),
}
"""The types that are decoded, by the number that every server has for them."""
