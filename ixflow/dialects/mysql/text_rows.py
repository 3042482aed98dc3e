"""Rows of MySQL's text protocol as Arrow arrays, column by column, no row in Python.

In a row each value is its length and its text. So one pass per column finds where the values of all
rows begin and end; between two of them is what belongs to other columns. Both kinds of pieces, in
turn, are one Arrow array over the very bytes that came from the network, and Arrow's `take` of
every second element copies the values next to each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ixflow.dialects.mysql.packets import HEADER, Block, Places
from ixflow.dialects.mysql.types import to_array, travels_as
from ixflow.values import Column

__all__ = ["Malformed", "Rows", "decode"]

_NULL = 251
# The first byte of a length that takes more bytes, and how many more.
_LONGER = ((252, 2), (253, 3), (254, 8))


class Malformed(Exception):
    """The bytes are no rows of so many columns."""


class Rows(NamedTuple):
    """Packets of whole rows: the bytes, where each packet begins, and where the last one ends."""

    block: Block
    starts: Places


class _Cells(NamedTuple):
    """One column: where each value begins and ends, in turn; and which are NULL (None: no one)."""

    edges: npt.NDArray[np.int32]
    null: npt.NDArray[np.bool_] | None


def decode(rows: Rows, columns: Sequence[Column], first_row: int = 0) -> list[pa.Array]:
    """Make the arrays of all columns; nothing in them refers to the block.

    Args:
        rows: At least one.
        columns: Name, type and SQL type of each value of a row.
        first_row: What the first of the rows counts as in an error.

    Raises:
        Malformed: the rows have more or fewer values, or they do not end with their packets.
        ValueDoesNotFit: a value that its type cannot hold, with its row.

    """
    # All lengths are checked before Arrow follows the first of them.
    found = list(_walk(rows, len(columns)))
    evens = np.arange(0, 2 * (len(rows.starts) - 1), 2, dtype=np.int32)
    return [
        to_array(_taken(rows.block, cells, evens, column), column, first_row)
        for cells, column in zip(found, columns, strict=True)
    ]


def _walk(rows: Rows, width: int) -> Iterator[_Cells]:
    at, ends = rows.starts[:-1] + HEADER, rows.starts[1:]
    for _ in range(width):
        if (at >= ends).any():
            raise Malformed("a row is shorter than its columns")
        begin, size, null = _lengths(rows.block, at)
        at = begin + size
        edges = np.empty(2 * len(at), np.int32)
        edges[0::2], edges[1::2] = begin, at
        yield _Cells(edges, null)
    if not np.array_equal(at, ends):
        raise Malformed("a row does not end with its last column")


def _lengths(block: Block, at: Places) -> tuple[Places, Places, npt.NDArray[np.bool_] | None]:
    """Give where the values begin, how long they are, and which are NULL."""
    mark = block[at]
    begin, size = at + 1, mark.astype(np.int64)
    highest = int(mark.max())
    if highest < _NULL:
        return begin, size, None
    null = mark == _NULL
    size[null] = 0
    for lead, count in _LONGER:
        rows = np.flatnonzero(mark == lead) if highest >= lead else ()
        if len(rows):
            given = begin[rows, None] + np.arange(count)
            if given[-1, -1] >= len(block):
                raise Malformed("a length is cut off")
            size[rows] = block[given].astype(np.int64) @ (1 << 8 * np.arange(count))
            begin[rows] += count
    if highest > _LONGER[-1][0] or size.min() < 0 or size.max() > len(block):
        raise Malformed("a value has no length")
    return begin, size, null if null.any() else None


def _taken(block: Block, cells: _Cells, evens: npt.NDArray[np.int32], column: Column) -> pa.Array:
    """Copy one column's values out of the block; NULL for those that are."""
    buffers = [None, pa.py_buffer(cells.edges), pa.py_buffer(block)]
    pieces = pa.Array.from_buffers(travels_as(column), len(cells.edges) - 1, buffers)
    valid = None
    if cells.null is not None:
        valid = pa.py_buffer(np.packbits(~cells.null, bitorder="little"))
    index = pa.Array.from_buffers(pa.int32(), len(evens), [valid, pa.py_buffer(evens)])
    return pieces.take(index)
