"""From a table's parts to tasks of like size: whole parts, ranges of pages, ranges of a key."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import zip_longest

from ixflow.dialects import KeyCuts
from ixflow.extraction.plan import ExtractionTask
from ixflow.extraction.profile import SourceProfile
from ixflow.values import TablePart

__all__ = ["cut_tasks", "strategy_of"]

_TASK_BYTES, _MOST_TASKS, _TASKS_OF_A_WORKER = 64 << 20, 1_000, 4
_LEAST_TASK_PAGES = 64


def strategy_of(profile: SourceProfile, *, forced: bool) -> str:
    """Name the way to read; ``forced``: somebody asks for several workers, however small it is.

    Ranges of pages need no key and are as even as the table; ranges of a key are next.
    """
    strategy = profile.recommended_strategy
    if strategy == "single_pass" and forced and profile.shares_snapshot:
        strategy = profile.possible_split
    if strategy == "single_pass" and len(profile.parts) > 1:
        return "partitions"
    return strategy


def cut_tasks(profile: SourceProfile, strategy: str, workers: int) -> tuple[ExtractionTask, ...]:
    """Cut the parts into tasks, several for each worker; the largest come first."""
    split = strategy in ("page_ranges", "key_ranges")
    pieces: list[ExtractionTask] = []
    for part, cuts in zip_longest(profile.parts, profile.cuts[: len(profile.parts)]):
        pieces += _pieces(part, cuts, profile, workers) if split else _whole(part)
    pieces.sort(key=lambda task: -task.estimated_bytes)
    width = max(3, len(str(len(pieces))))
    return tuple(replace(task, chunk_id=f"{n:0{width}d}") for n, task in enumerate(pieces, 1))


def _pieces(
    part: TablePart, cuts: KeyCuts | None, profile: SourceProfile, workers: int
) -> Iterator[ExtractionTask]:
    total = max(1, profile.size_bytes)
    wanted = max(workers * _TASKS_OF_A_WORKER, total / _TASK_BYTES)
    share = max(1, math.ceil(min(wanted, _MOST_TASKS) * part.size_bytes / total))
    if share > workers:
        # Whole rounds: a task that is left over would be read while the other workers are idle.
        share = workers * math.ceil(share / workers)
    if part.pages is not None and profile.shares_snapshot:
        return _page_ranges(part, share)
    return _whole(part) if cuts is None else _key_ranges(part, cuts, share)


def _whole(part: TablePart) -> Iterator[ExtractionTask]:
    yield ExtractionTask("", part, estimated_rows=part.rows, estimated_bytes=part.size_bytes)


def _page_ranges(part: TablePart, share: int) -> Iterator[ExtractionTask]:
    pages = part.pages or 0
    count = max(1, min(share, pages // _LEAST_TASK_PAGES))
    rows = -1 if part.rows < 0 else part.rows // count
    bounds = [pages * number // count for number in range(count)]
    # The last range has no end: pages that are added after the plan belong to it.
    size = part.size_bytes // count
    for first, end in zip_longest(bounds, bounds[1:]):
        whole = first == 0 and end is None
        piece = None if whole else (first, end)
        yield ExtractionTask("", part, piece, estimated_rows=rows, estimated_bytes=size)


def _key_ranges(part: TablePart, cuts: KeyCuts, share: int) -> Iterator[ExtractionTask]:
    ranges = cuts.ranges(share)
    if len(ranges) == 1:
        yield from _whole(part)
        return
    for keys, weight in ranges:
        rows = -1 if part.rows < 0 else round(part.rows * weight)
        size = round(part.size_bytes * weight)
        yield ExtractionTask("", part, keys=keys, estimated_rows=rows, estimated_bytes=size)
