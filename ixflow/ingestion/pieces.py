"""Rows that wait for one table, kept as columns.

Rows become columns a few hundred at a time, while they are still in the processor's cache: later
that takes four times as long. They also are gone before Python's garbage collector looks at them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from ixflow.dialects.moments import is_moments
from ixflow.values import Column

__all__ = ["CHUNK_ROWS", "PART_ROWS", "Piece", "Slices"]

CHUNK_ROWS = 256
"""How many rows become columns at once."""
PART_ROWS = 10 * CHUNK_ROWS
"""How many rows are converted at once where the database works on those before meanwhile."""
# What is made of a slice at once should stay in the processor's larger cache; a call of numpy or
# Arrow for fewer rows costs as much as the rows.
_SLICE_ROWS = 40 * CHUNK_ROWS


class Piece:
    """Columns of rows, in slices; ``rows`` counts them.

    >>> piece = Piece(2)
    >>> piece.add([(1, "a"), (2, "b")])
    >>> piece.add([(3, "c")])
    >>> piece.slices, piece.rows, piece.value(2, 1)
    ([[[1, 2, 3], ['a', 'b', 'c']]], 3, 'c')
    """

    def __init__(self, width: int) -> None:
        self.width = width
        self.rows = 0
        self.slices: list[list[list[Any]]] = []
        self._room = 0

    def add(self, rows: Sequence[Sequence[Any]]) -> None:
        """Take rows that all have the width."""
        if self._room <= 0:
            self.slices.append([[] for _ in range(self.width)])
            self._room = _SLICE_ROWS
        for column, values in zip(self.slices[-1], zip(*rows, strict=True), strict=True):
            column.extend(values)
        self.rows += len(rows)
        self._room -= len(rows)

    def value(self, row: int, place: int) -> Any:
        """Find a value again."""
        return next(itertools.islice(self._column(place), row, None))

    def kinds(self, place: int) -> set[type]:
        """Name the types of a column's values."""
        return set(map(type, self._column(place)))

    def _column(self, place: int) -> Iterator[Any]:
        return itertools.chain.from_iterable(columns[place] for columns in self.slices)

    def whole(self) -> list[list[Any]]:
        """Give all columns at once."""
        return [list(self._column(place)) for place in range(self.width)]


@dataclass(frozen=True, slots=True)
class Slices:
    """A piece that is converted while it is read, which can be done again.

    ``convert`` gets the columns of some rows and the number of the first.
    """

    piece: Piece
    columns: Sequence[Column]
    convert: Callable[[Sequence[Sequence[Any]], int], pa.RecordBatch]

    def reader(self, rows: int | None = None) -> pa.RecordBatchReader:
        """Convert from the beginning, at most so many rows at once.

        All slices have the same types: moments of which one is a text, and so may be infinite,
        are converted at once.
        """
        slices = self.piece.slices
        moments = (n for n, column in enumerate(self.columns) if is_moments(column.type))
        if any(_has_text(self.piece, place) for place in moments):
            slices = [self.piece.whole()]
        elif rows is not None:
            slices = [part for some in slices for part in _cut(some, rows)]
        first = self.convert(slices[0], 0)

        def others() -> Iterator[pa.RecordBatch]:
            start = first.num_rows
            for some in slices[1:]:
                yield self.convert(some, start)
                start += len(some[0])

        batches = itertools.chain([first], others())
        return pa.RecordBatchReader.from_batches(first.schema, batches)


def _cut(columns: list[list[Any]], rows: int) -> Iterator[list[list[Any]]]:
    for start in range(0, len(columns[0]), rows):
        yield [column[start : start + rows] for column in columns]


def _has_text(piece: Piece, place: int) -> bool:
    return any(issubclass(kind, str) for kind in piece.kinds(place))
