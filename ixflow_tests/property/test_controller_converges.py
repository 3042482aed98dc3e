"""The search for the number of workers ends, near the best one, whatever the source is like."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from ixflow.extraction.controller import (
    MOST_SAMPLES,
    MOST_WORKERS,
    ControllerState,
    Sample,
    evaluate,
    first_state,
)

PEAK, FLOOR = 50_000.0, 0.2


def logarithmic(workers: int, best: int) -> float:
    if workers <= best:
        return math.log(1 + workers) / math.log(1 + best)
    return 1 - 0.10 * (workers - best)


def linear(workers: int, best: int) -> float:
    return workers / best if workers <= best else 1 - 0.08 * (workers - best)


def plateau_decline(workers: int, best: int) -> float:
    if workers <= best:
        return min(1, 0.3 + 0.7 * workers / best)
    return 1 - 0.15 * (workers - best)


@dataclass
class Source:
    """A source that is fastest with ``best`` workers, more or less."""

    curve: Callable[[int, int], float]
    best: int
    noise: float
    seed: int
    speed: float = 1.0

    def __post_init__(self) -> None:
        """Start the noise."""
        self.random = random.Random(self.seed)

    def expected(self, workers: int) -> float:
        """Give the throughput without noise."""
        return PEAK * self.speed * max(FLOOR, self.curve(workers, self.best))

    def run(self, workers: int) -> float:
        """Give the throughput of one run."""
        return self.expected(workers) * (1 + self.noise * self.random.uniform(-1, 1))


def sources(most: int, noise: float) -> st.SearchStrategy[Source]:
    """Give sources of all shapes, fastest with up to so many workers."""
    curves = st.sampled_from([logarithmic, linear, plateau_decline])
    return st.builds(
        Source, curves, st.integers(1, most), st.floats(0, noise), st.integers(0, 10**6)
    )


class Search:
    """Runs on one source, each with the workers that the runs before it have taught."""

    def __init__(self, source: Source, start: int, cap: int) -> None:
        """Begin with the profiler's number."""
        self.source, self.cap, self.workers = source, cap, start
        self.window: list[Sample] = []
        self.state: ControllerState | None = None
        self.seen: list[int] = []

    def run(self) -> ControllerState:
        """Run once."""
        number = len(self.window) + 1
        self.window.append(Sample(number, self.workers, self.source.run(self.workers)))
        self.seen.append(self.workers)
        state = self.state or first_state(self.workers, number)
        self.state = evaluate(self.window[-200:], state, cap=self.cap).state
        self.workers = self.state.workers
        return self.state

    def until_converged(self, most: int) -> int:
        """Run until it has converged; give how many runs that took."""
        for count in range(1, most + 1):
            if self.run().converged:
                return count
        raise AssertionError(f"not converged after {most} runs: {self.seen}")


@given(source=sources(12, noise=0.005), start=st.integers(1, 12))
def test_a_quiet_source_is_understood_to_within_one_worker(source, start):
    search, best = Search(source, start, cap=MOST_WORKERS), source.best
    search.until_converged(most=3 * abs(best - start) + 16)
    found = search.workers
    # Where the curve is flat fewer workers do as well.
    assert abs(found - best) <= 1 or source.expected(found) > 0.98 * source.expected(best)
    before = list(search.seen)
    for _ in range(60):
        search.run()
    assert set(search.seen[len(before) :]) == {found}


@given(source=sources(16, noise=0.9), start=st.integers(1, 16), cap=st.integers(1, 20))
def test_every_search_ends_within_bounds_and_in_single_steps(source, start, cap):
    start, highest = min(start, cap), min(cap, MOST_WORKERS)
    search = Search(source, start, cap)
    search.until_converged(most=MOST_SAMPLES * highest)
    assert all(1 <= workers <= highest for workers in search.seen)
    for place, workers in enumerate(search.seen[1:], 1):
        # A step up or down from where something was found, never a jump.
        assert min(abs(workers - known) for known in search.seen[:place]) <= 1


@given(best=st.integers(2, 8), noise=st.floats(0, 0.02), seed=st.integers(0, 10**6))
def test_a_source_that_changes_is_searched_again_and_the_search_ends_again(best, noise, seed):
    source = Source(linear, best, noise, seed)
    search = Search(source, best, cap=12)
    search.until_converged(60)
    source.speed = 0.5
    again = [search.run().converged for _ in range(60)]
    assert not all(again)
    assert again[-1]
    assert abs(search.workers - best) <= 1


@given(st.lists(st.floats(1, 1e6), min_size=1, max_size=60), st.integers(1, 8), st.integers(1, 8))
def test_equal_runs_give_equal_decisions(speeds, start, cap):
    def decide():
        state, window = first_state(start), []
        for number, speed in enumerate(speeds, 1):
            window.append(Sample(number, state.workers, speed))
            state = evaluate(window, state, cap=cap).state
        return state

    assert decide() == decide()
