"""Cutting a table into ranges of a key that hold about the same number of rows, without a scan.

A range is halved again and again: guess a key in its middle (`keyspace`), ask an index for the
first key from there on and for the last one before it, and ask the optimizer how many rows each
half has. The heaviest range is next. Each question costs the server a walk down an index.

Every bound is a key that the server itself found at or behind one bound and before the next, with
the same conditions that tasks read by. So bounds rise strictly in the server's own order, whatever
its collation is; a bad guess makes ranges uneven, never wrong.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

from ixflow.dialects.keyspace import Kind, extent, is_plain, middle
from ixflow.values import KeyRange

__all__ = ["Key", "KeyCuts", "Probe", "SplitKey", "cut_evenly"]

# Halves that turned out empty or of one key, in a row, until a range is left as it is.
_MOST_FAILURES = 32
_MOST_OF_WANTED, _NEARLY = 3, 1.3

Key = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SplitKey:
    """Columns that an index orders, most significant first, and what is needed to cut by them.

    ``types`` is what `Selects.literal` is told, ``kinds`` how to guess. ``index`` is its name,
    where one has to be named. Only the first column may be NULL (``nulls``). ``places`` says that
    the values are places of rows, such as rowid; ``clustered`` that rows lie in this order.
    """

    columns: tuple[str, ...]
    types: tuple[str, ...]
    kinds: tuple[Kind, ...]
    index: str | None = None
    nulls: bool = False
    places: bool = False
    clustered: bool = True

    def between(self, low: Key | None, high: Key | None) -> KeyRange:
        """Make the range between two keys, or between their first columns if they have no more."""
        width = len(low or high or self.columns)
        columns, types = self.columns[:width], self.types[:width]
        return KeyRange(columns, types, low, high, places=self.places)


class Probe(Protocol):
    """What a server is asked about an index."""

    def edge(self, *ranges: KeyRange, last: bool) -> Key | None:
        """Give the first or last key that lies in all these ranges; None: there is none."""
        ...

    def rows(self, keys: KeyRange) -> float | None:
        """Estimate the rows of a range; None: this server does not say."""
        ...


@dataclass(frozen=True, slots=True)
class KeyCuts:
    """Bounds that cut a table by a key, and the weight of each range between them.

    There is one weight more than bounds. All together they are the whole table, with one more
    range for the rows whose key is NULL if ``nulls``.
    """

    key: SplitKey
    bounds: tuple[Key, ...]
    weights: tuple[float, ...]

    def ranges(self, count: int) -> list[tuple[KeyRange, float]]:
        """Join neighbours to about ``count`` ranges; give each with its share of the rows.

        >>> key = SplitKey(("id",), ("bigint",), ("integer",))
        >>> cuts = KeyCuts(key, (("5",), ("9",)), (2.0, 1.0, 1.0))
        >>> [(str(keys), share) for keys, share in cuts.ranges(2)]
        [('id before 5', 0.5), ('id from 5', 0.5)]
        """
        total = sum(self.weights) or 1.0
        goal = total / max(1, count)
        bounds: list[Key | None] = [None]
        shares = [0.0]
        for weight, bound in zip(self.weights, (*self.bounds, None), strict=True):
            shares[-1] += weight / total
            # A range ends where one more neighbour would take it further from the goal.
            if bound is not None and shares[-1] * total >= goal * 0.75:
                bounds.append(bound)
                shares.append(0.0)
        made = [self.key.between(low, high) for low, high in pairwise([*bounds, None])]
        found = list(zip(made, shares, strict=True))
        if self.key.nulls:
            first = self.key.between(None, None)
            found.append((KeyRange(first.columns, first.types, nulls=True), 0.0))
        return found


@dataclass(slots=True)
class _Span:
    """A range in the making, the first and last key known in it, and its weight."""

    low: Key | None
    high: Key | None
    first: Key
    last: Key
    weight: float
    failures: int = 0
    whole: bool = False
    """It cannot be cut further."""


def cut_evenly(
    key: SplitKey,
    probe: Probe,
    wanted: int,
    *,
    seconds: float = 5.0,
    clock: Callable[[], float] = time.monotonic,
) -> KeyCuts | None:
    """Cut until no range holds much more than its share of ``wanted``, for so many seconds.

    Where keys are skewed there are up to three times as many ranges; `KeyCuts.ranges` joins them.
    None: there is nothing to cut.
    """
    everything = key.between(None, None)
    first, last = probe.edge(everything, last=False), probe.edge(everything, last=True)
    if first is None or last is None or first == last:
        return None
    spans = [_Span(None, None, first, last, probe.rows(everything) or 1.0)]
    ends = clock() + seconds
    while len(spans) < wanted * _MOST_OF_WANTED and clock() < ends:
        heaviest = max((span for span in spans if not span.whole), key=_weight, default=None)
        total = sum(span.weight for span in spans)
        if heaviest is None or heaviest.weight <= total / wanted * _NEARLY:
            break
        halves = _halved(key, probe, heaviest)
        place = spans.index(heaviest)
        spans[place : place + 1] = halves
    if len(spans) == 1:
        return None
    bounds = tuple(span.low for span in spans if span.low is not None)
    return KeyCuts(key, bounds, tuple(max(span.weight, 0.0) for span in spans))


def _weight(span: _Span) -> float:
    return span.weight


def _halved(key: SplitKey, probe: Probe, span: _Span) -> list[_Span]:
    """Cut a range in two, or mark it as one that cannot be cut."""
    for guess in _guesses(key, span):
        here = key.between(span.low, span.high)
        found = probe.edge(here, key.between(guess, None), last=False)
        if found is None or not _usable(key, found):
            continue
        before = probe.edge(key.between(span.low, found), last=True)
        if before is not None:
            left = _Span(span.low, found, span.first, before, 0.0)
            right = _Span(found, span.high, found, span.last, 0.0)
            _weigh(key, probe, span, (left, right), len(guess) - 1)
            return [left, right]
    span.whole = True
    return [span]


def _guesses(key: SplitKey, span: _Span) -> Iterator[Key]:
    """Guess in the first column that differs; the columns before it are the same in all keys.

    The middle comes first. Where the server's order is another than that of our numbers, it may lie
    outside of the range, and other places are worth a try.
    """
    if span.failures > _MOST_FAILURES:
        return
    differing = (
        n for n, pair in enumerate(zip(span.first, span.last, strict=True)) if len({*pair}) > 1
    )
    for column in differing:
        kind, prefix = key.kinds[column], span.first[:column]
        ends = span.first[column], span.last[column]
        center = middle(kind, *ends) or middle(kind, *reversed(ends))
        if center is None:
            return
        for guess in (center, middle(kind, ends[0], center), middle(kind, center, ends[1])):
            if guess is not None:
                yield (*prefix, guess)
        return


def _usable(key: SplitKey, found: Key) -> bool:
    return all(is_plain(kind, text) for kind, text in zip(key.kinds, found, strict=True))


def _weigh(
    key: SplitKey, probe: Probe, span: _Span, halves: tuple[_Span, _Span], column: int
) -> None:
    """Ask the server for the weights, or share the range's own by how far its keys reach."""
    kind = key.kinds[column]
    reaches = [extent(kind, half.first[column], half.last[column]) for half in halves]
    # One key alone is no evidence that guessing works; many of them in a row that it does not.
    alone = any(half.first == half.last for half in halves)
    for half, reach in zip(halves, reaches, strict=True):
        rows = probe.rows(key.between(half.low, half.high))
        half.weight = span.weight * reach / sum(reaches) if rows is None else rows
        half.failures = span.failures + 1 if alone else 0
        half.whole = half.first == half.last
