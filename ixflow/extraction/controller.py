"""How many workers a table should have, learned from the runs it had: a search that ends.

The search climbs: from the number of workers it starts with it tries one more, and goes on while
throughput grows; if the first step up gains nothing it tries one fewer, and goes on while nothing
is lost, since connections that gain nothing are better left to others. It ends because every
number of workers is tried at most `MOST_SAMPLES` times in a search, whatever the noise: after at
most that many runs for each number up to the cap it has converged. A later fall of throughput
starts a new search.

Nothing here reads or writes anything, and equal samples give equal decisions.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

from ixflow.extraction.circumstances import Circumstances

__all__ = [
    "MOST_WORKERS",
    "ControllerState",
    "Decision",
    "Sample",
    "evaluate",
    "first_state",
    "similar",
]

MOST_WORKERS = 16
"""No search goes above it, whatever the source could give."""

FIRST_SAMPLES, LEAST_SAMPLES, MOST_SAMPLES = 3, 2, 4
"""Runs that the start of a search has, and the least and the most of any number of workers."""

WINDOW = 5
_BAND, _KNOWN, _LIKELY = 0.02, 0.05, 0.03
_REGRESSION, _GROWTH = 0.30, 0.5
_ESCAPE_RUNS, _ESCAPE_EACH, _ESCAPE_ALL, _ESCAPE_STEP = 3, 0.15, 0.20, 2

# Student's t, 90 % from both sides, by degrees of freedom.
_STUDENT = (math.inf, 6.31, 2.92, 2.35, 2.13, 2.02, 1.94, 1.89, 1.86, 1.83, 1.81)

Verdict = Literal["better", "equal", "worse", "more"]


@dataclass(frozen=True, slots=True)
class Sample:
    """One run that may teach: its place in the order of runs, its workers, its rows a second.

    ``latency_ms`` is what the source took to answer when the run was planned, ``age_days`` how long
    ago it ended; ``circumstances`` are None where they were not noted.
    """

    number: int
    workers: int
    throughput: float
    rows: int = 0
    latency_ms: float = 0.0
    age_days: float = 30.0
    circumstances: Circumstances | None = None


@dataclass(frozen=True, slots=True)
class ControllerState:
    """Where the search stands: the next run shall have ``workers``.

    ``start`` is where it began and ``since`` the number of its first sample. When ``converged``,
    ``converged_at`` is the number of its last sample, ``cap`` the most workers it could have tried,
    and ``baseline`` the rows a second that it found.
    """

    workers: int
    start: int
    since: int = 1
    converged: bool = False
    converged_at: int = 0
    cap: int = MOST_WORKERS
    baseline: float = 0.0


@dataclass(frozen=True, slots=True)
class Decision:
    """A state, and in words what has led to it."""

    state: ControllerState
    reason: str


def first_state(workers: int, number: int = 1) -> ControllerState:
    """Begin with the number of workers that the first run has had."""
    return ControllerState(workers=workers, start=workers, since=number)


def similar(rows: int, other: int) -> bool:
    """Say whether two tables are of like size: neither is more than twice the other.

    >>> similar(100, 150), similar(100, 201)
    (True, False)
    """
    return abs(rows - other) <= _GROWTH * max(rows, other)


def evaluate(window: Sequence[Sample], state: ControllerState, *, cap: int = 1) -> Decision:
    """Decide how many workers the next run has; ``window`` is in order, ``cap`` the most there are.

    Only runs of like size with the newest count.

    >>> once = [Sample(1, 1, 5_000.0)]
    >>> evaluate(once, first_state(1), cap=1).state.converged
    True
    >>> more = [Sample(n, 2, 5_000.0) for n in (1, 2, 3)]
    >>> evaluate(more, first_state(2), cap=8).state.workers
    3
    """
    cap = max(1, min(cap, MOST_WORKERS))
    alike = [sample for sample in window if similar(sample.rows, window[-1].rows)]
    if not state.converged:
        return _climb(alike, state, cap)
    found_by = {sample.number for sample in alike}
    if window and state.converged_at >= window[0].number and state.converged_at not in found_by:
        newest = window[-1]
        again = _climb([newest], first_state(newest.workers, newest.number), cap)
        return replace(again, reason="the table has another size now: starting again")
    return _watch(alike, state, cap)


def _watch(window: Sequence[Sample], state: ControllerState, cap: int) -> Decision:
    """Stay, unless the runs since then say that the source has changed."""
    if state.workers == state.cap < cap:
        opened = replace(state, converged=False)
        return replace(_climb(window, opened, cap), reason=f"up to {cap} workers can be had now")
    recent = [s for s in window if s.number > state.converged_at and s.workers == state.workers]
    recent = recent[-WINDOW:]
    speeds = [sample.throughput for sample in recent]
    if state.workers < cap and _falls(speeds):
        start = min(cap, state.workers + _ESCAPE_STEP)
        again = ControllerState(start, start, since=recent[-1].number + 1, cap=cap)
        return Decision(again, f"throughput falls run by run: starting again at {start}")
    if len(speeds) == WINDOW and statistics.fmean(speeds) < state.baseline * (1 - _REGRESSION):
        again = ControllerState(state.workers, state.workers, since=recent[0].number, cap=cap)
        change = statistics.fmean(speeds) / state.baseline - 1
        reason = f"throughput changed by {change:.0%} since it converged: starting again"
        return replace(_climb(window, again, cap), reason=reason)
    return Decision(state, f"converged at {state.workers}")


def _falls(speeds: Sequence[float]) -> bool:
    if len(speeds) < _ESCAPE_RUNS:
        return False
    last = speeds[-_ESCAPE_RUNS:]
    each = all(b <= a * (1 - _ESCAPE_EACH) for a, b in pairwise(last))
    return each and speeds[-1] <= speeds[0] * (1 - _ESCAPE_ALL)


def _climb(window: Sequence[Sample], state: ControllerState, cap: int) -> Decision:
    tried = _tried(window, state.since)
    start = min(state.start, cap)
    found = _search(tried, start, cap)
    if isinstance(found, _Try):
        trying = replace(state, workers=found.workers, converged=False, cap=cap)
        return Decision(trying, found.reason)
    last = max((sample.number for sample in window), default=state.since)
    baseline = statistics.fmean(tried.get(found, (0.0,)))
    ended = replace(
        state, workers=found, converged=True, converged_at=last, cap=cap, baseline=baseline
    )
    return Decision(ended, f"converged at {found} of up to {cap}")


def _tried(window: Sequence[Sample], since: int) -> dict[int, list[float]]:
    """Take the first samples of each number of workers; later ones change no decision."""
    tried: dict[int, list[float]] = {}
    for sample in window:
        if sample.number >= since and sample.throughput > 0:
            tried.setdefault(sample.workers, []).append(sample.throughput)
    return {workers: speeds[:MOST_SAMPLES] for workers, speeds in tried.items()}


@dataclass(frozen=True, slots=True)
class _Try:
    workers: int
    reason: str


def _search(tried: Mapping[int, Sequence[float]], start: int, cap: int) -> int | _Try:
    """Walk over what was tried; give the best number of workers, or the next one to try."""
    if cap == 1:
        return 1
    if (count := len(tried.get(start, ()))) < FIRST_SAMPLES:
        return _Try(start, f"run {count + 1} of {FIRST_SAMPLES} with {start}")
    best = _walk_up(tried, start, cap)
    return _walk_down(tried, start) if best == start else best


def _walk_up(tried: Mapping[int, Sequence[float]], start: int, cap: int) -> int | _Try:
    """Go up while it gains; one step that gains nothing may be followed by one that does."""
    best, equals = start, 0
    for workers in range(start + 1, cap + 1):
        verdict = _compare(tried.get(workers, ()), tried[best])
        if verdict == "more":
            return _Try(workers, f"trying {workers}, one more than {workers - 1}")
        if verdict == "better":
            best, equals = workers, 0
        elif verdict == "equal" and not equals:
            equals = 1
        else:
            break
    return best


def _walk_down(tried: Mapping[int, Sequence[float]], start: int) -> int | _Try:
    """Go down while nothing is lost against the start, or something is even won."""
    best, known = start, start
    for workers in range(start - 1, 0, -1):
        verdict = _compare(tried.get(workers, ()), tried[known])
        if verdict == "more":
            return _Try(workers, f"trying {workers}, one fewer than {best}")
        if verdict == "better":
            best = known = workers
        elif verdict == "equal":
            best = workers
        else:
            break
    return best


def _compare(tried: Sequence[float], known: Sequence[float]) -> Verdict:
    """Compare two numbers of workers by their runs, as far as their noise lets us.

    >>> _compare([110.0, 112.0], [100.0, 101.0, 99.0])
    'better'
    >>> _compare([110.0], [100.0, 101.0, 99.0])
    'more'
    """
    if len(tried) < LEAST_SAMPLES:
        return "more"
    usual = statistics.fmean(known)
    change = statistics.fmean(tried) / usual - 1
    doubt = _doubt(tried, known) / usual
    if abs(change) > max(_BAND, doubt):
        return "better" if change > 0 else "worse"
    if doubt > _KNOWN and len(tried) < MOST_SAMPLES:
        return "more"
    # What the runs cannot tell apart costs little either way; then the means decide.
    if doubt <= _KNOWN or abs(change) <= _LIKELY:
        return "equal"
    return "better" if change > 0 else "worse"


def _doubt(tried: Sequence[float], known: Sequence[float]) -> float:
    """Give half the width of the interval in which the difference of the two means lies."""
    squares = sum((x - statistics.fmean(group)) ** 2 for group in (tried, known) for x in group)
    freedom = len(tried) + len(known) - 2
    spread = math.sqrt(squares / max(1, freedom))
    return _STUDENT[min(freedom, 10)] * spread * math.sqrt(1 / len(tried) + 1 / len(known))
