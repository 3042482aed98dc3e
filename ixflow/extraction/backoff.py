"""Giving a source rest when it answers more slowly than it did when the plan was made.

The latency of a task is the time until the server has accepted its query: what a busy server or a
full network lengthens first. All workers of a run rest together.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Backoff", "Rest"]

_FACTOR, _FLOOR_FACTOR, _FLOOR_MS = 5, 10, 50.0
_MOST_RESTS, _TASKS_BETWEEN, _LONGEST = 10, 3, 30.0


@dataclass(frozen=True, slots=True)
class Rest:
    """One rest: how slow the source was, what would have been well, and how long we wait."""

    latency_ms: float
    threshold_ms: float
    seconds: float


class Backoff:
    """The rests of one run; safe to use from all of its workers.

    >>> backoff = Backoff(usual_ms=1.0)
    >>> backoff.saw(40.0), backoff.saw(60.0).seconds, backoff.saw(60.0)
    (None, 1.0, None)
    """

    def __init__(self, usual_ms: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Take the median latency that the plan was made with."""
        self.threshold_ms = max(_FACTOR * usual_ms, _FLOOR_FACTOR * usual_ms, _FLOOR_MS)
        self.count = 0
        self._clock = clock
        self._tasks_since = _TASKS_BETWEEN
        self._rested_until = 0.0
        self._lock = threading.Lock()

    def saw(self, latency_ms: float) -> Rest | None:
        """Note the latency of a task; give the rest that follows from it."""
        with self._lock:
            self._tasks_since += 1
            recent = self._tasks_since <= _TASKS_BETWEEN
            if latency_ms <= self.threshold_ms or recent or self.count >= _MOST_RESTS:
                return None
            seconds = min(2.0**self.count, _LONGEST)
            self.count += 1
            self._tasks_since = 0
            self._rested_until = self._clock() + seconds
            return Rest(latency_ms, self.threshold_ms, seconds)

    def seconds_left(self) -> float:
        """Say for how long nobody shall ask the source for more; 0: go on."""
        with self._lock:
            return max(0.0, self._rested_until - self._clock())
