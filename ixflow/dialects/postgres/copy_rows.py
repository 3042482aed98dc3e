"""Where the rows of PostgreSQL's binary COPY lie in a block of messages.

On the wire a row is one message: ``d``, a 32-bit length, a 16-bit count of fields, and the fields
(https://www.postgresql.org/docs/current/protocol-message-formats.html). Rows that are equally long
are found by looking at them with that stride, all others by following their lengths, both for a
whole block at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["HEAD_BYTES", "Bytes", "Even", "Places", "Rows", "Uneven", "find_rows", "numbers_at"]

Bytes = npt.NDArray[np.uint8]
Places = npt.NDArray[np.int64]

HEAD_BYTES = 7
"""Bytes of a row before its first field."""

_ROW = ord("d")
_LENGTH = 4
# A run of equal rows of at least this many is worth a batch of its own.
_RUN = 1024
# The length of a shorter message begins with a zero, which text does not hold.
_SHORT = 1 << 24
# What is searched at a time stays in the processor's cache.
_PIECE_BYTES = 1 << 18


@dataclass(frozen=True, slots=True)
class Even:
    """Consecutive rows whose messages are equally long: ``count`` of ``size`` bytes."""

    first: int
    size: int
    count: int

    def __len__(self) -> int:
        """Count the rows."""
        return self.count

    @property
    def end(self) -> int:
        """Give the place behind the last row."""
        return self.first + self.size * self.count

    @property
    def starts(self) -> Places:
        """Give the places where the messages begin."""
        return self.first + self.size * np.arange(self.count, dtype=np.int64)

    @property
    def ends(self) -> Places:
        """Give the places where the messages end."""
        return self.starts + self.size

    def column(self, block: Bytes, offset: int, kind: str) -> npt.NDArray[Any]:
        """See the numbers at the same offset of each row."""
        place, strides = self.first + offset, (self.size,)
        return np.ndarray((self.count,), kind, block, offset=place, strides=strides)


@dataclass(frozen=True, slots=True)
class Uneven:
    """Consecutive rows of any lengths: where their messages begin and end."""

    starts: Places
    ends: Places

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.starts)

    @property
    def end(self) -> int:
        """Give the place behind the last row."""
        return int(self.ends[-1])


Rows = Even | Uneven


def find_rows(block: Bytes, first: int, end: int, fields: int) -> Rows | None:
    """Find the rows from ``first``, which has to be the start of a message, that end before `end`.

    None: there is no whole row. Not all need be found: ask again from where they end.

    Raises:
        ValueError: the first message is too short for a row.

    """
    if end - first < HEAD_BYTES or not _is_row(block, first, fields):
        return None
    size = 1 + int.from_bytes(block[first + 1 : first + 5].tobytes(), "big")
    if size < HEAD_BYTES + _LENGTH * fields:
        raise ValueError(f"a row of {fields} fields in {size} bytes")
    even = Even(first, size, (end - first) // size)
    if not even.count:
        return None
    # The seven bytes of a head, without the one behind it.
    heads = even.column(block, 0, "<u8") << np.uint64(8)
    alike = heads == heads[0]
    run = even.count if alike.all() else int(alike.argmin())
    if run >= min(even.count - 1, _RUN):
        return Even(first, size, run)
    return _chained(block, first, end, fields)


def _is_row(block: Bytes, place: int, fields: int) -> bool:
    count = int(block[place + 5]) << 8 | int(block[place + 6])
    return block[place] == _ROW and count == fields


def _chained(block: Bytes, first: int, end: int, fields: int) -> Uneven:
    """Follow the lengths from row to row, through places that look like the head of a row.

    The first is one; what begins where a row ends is one too. So no value can pass for a row.
    """
    stop, short = end - HEAD_BYTES + 1, end - first < _SHORT
    pieces = range(first, stop, _PIECE_BYTES)
    places = np.concatenate(
        [_heads(block, start, min(start + _PIECE_BYTES, stop), short=short) for start in pieces]
    )
    sizes = 1 + numbers_at(block, ">i4")[places + 1].astype(np.int64)
    counts = numbers_at(block, ">u2")[places + 5]
    heads = (counts == fields) & (sizes >= HEAD_BYTES + _LENGTH * fields)
    starts = places[heads]
    ends = starts + sizes[heads]
    linked = ends[:-1] == starts[1:]
    if not linked.all():
        chain = _chain(starts, ends, np.flatnonzero(~linked))
        starts, ends = starts[chain], ends[chain]
    whole = int(np.searchsorted(ends, end, side="right"))
    return Uneven(starts[:whole], ends[:whole])


def _heads(block: Bytes, start: int, stop: int, *, short: bool) -> Places:
    """Find where a message for a row could begin."""
    found = block[start:stop] == _ROW
    if short:
        found &= block[start + 1 : stop + 1] == 0
    return start + np.flatnonzero(found)


def _chain(starts: Places, ends: Places, broken: Places) -> Places:
    """Give the indices of the rows: `broken` are those whose neighbour is not their successor."""
    pieces: list[Places] = []
    index = 0
    while index < len(starts) and (not pieces or starts[index] == ends[pieces[-1][-1]]):
        stop = int(np.searchsorted(broken, index))
        last = int(broken[stop]) if stop < len(broken) else len(starts) - 1
        pieces.append(np.arange(index, last + 1))
        index = int(np.searchsorted(starts, ends[last]))
    return np.concatenate(pieces)


def numbers_at(block: Bytes, kind: str) -> npt.NDArray[Any]:
    """See the block as numbers that begin at every byte."""
    dtype = np.dtype(kind)
    return np.ndarray((len(block) - dtype.itemsize + 1,), dtype, block, strides=(1,))
