"""Cutting a task in two shorter ones, for a source that does not let a query run to its end."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace

from ixflow.extraction.plan import ExtractionTask
from ixflow.values import KeyRange, PageRange

__all__ = ["Piece"]

_MOST_CUTS = 4
_INTEGERS = ("int", "bigint", "smallint", "tinyint", "mediumint", "serial")


@dataclass(frozen=True, slots=True)
class Piece:
    """A task, or what is left of it after it was cut some times. ``name`` is unique in its run."""

    task: ExtractionTask
    name: str
    cuts: int = 0

    @classmethod
    def whole(cls, task: ExtractionTask) -> Piece:
        """Give all of a task.

        >>> from ixflow.values import TableName, TablePart
        >>> task = ExtractionTask("007", TablePart(TableName("t"), pages=100), pages=(10, 20))
        >>> [(piece.name, piece.task.pages) for piece in Piece.whole(task).halves()]
        [('007a', (10, 15)), ('007b', (15, 20))]
        """
        return cls(task, task.chunk_id)

    def halves(self) -> tuple[Piece, Piece] | None:
        """Cut in two that together read the same rows; None: it cannot be cut (again)."""
        if self.cuts >= _MOST_CUTS:
            return None
        task = self.task
        if task.keys is not None:
            keys = _halved_keys(task.keys)
            tasks = [replace(task, keys=half) for half in keys]
        else:
            pages = _halved_pages(task.pages, task.part.pages)
            tasks = [replace(task, pages=half) for half in pages]
        if not tasks:
            return None
        low, high = (
            Piece(half, f"{self.name}{letter}", self.cuts + 1)
            for half, letter in zip(tasks, "ab", strict=True)
        )
        return low, high


def _halved_pages(pages: PageRange | None, of_part: int | None) -> tuple[PageRange, ...]:
    first, end = pages or (0, None)
    known_end = end if end is not None else of_part
    if known_end is None or known_end - first <= 1:
        return ()
    middle = (first + known_end) // 2
    return (first, middle), (middle, end)


def _halved_keys(keys: KeyRange) -> tuple[KeyRange, ...]:
    """Cut between two whole numbers; other keys have no middle without asking the server."""
    whole = len(keys.types) == 1 and keys.types[0].lower().startswith(_INTEGERS)
    if keys.nulls or keys.low is None or keys.high is None or not whole:
        return ()
    with contextlib.suppress(ValueError):
        low, high = int(keys.low[0]), int(keys.high[0])
        if high - low > 1:
            middle = (str((low + high) // 2),)
            return replace(keys, high=middle), replace(keys, low=middle)
    return ()
