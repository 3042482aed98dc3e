"""Estimating throughput: from comparable runs of the table, or, before there are any, by rule."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from ixflow.extraction.controller import Sample, similar

__all__ = ["ThroughputEstimate", "estimate_throughput"]

_BYTES_PER_SECOND, _ROWS_PER_SECOND, _UNKNOWN_ROWS_PER_SECOND = 25_000_000, 500_000, 10_000
_NEWEST_WEIGHT, _MOST_RUNS = 0.3, 50
_LEVELS, _SURE_RUNS, _SOME_RUNS, _MOST_VARIATION = ("low", "medium", "high"), 3, 2, 0.2


@dataclass(frozen=True, slots=True)
class ThroughputEstimate:
    """Rows a second; ``method`` is ``cold start`` or ``history``, ``confidence`` low to high."""

    value: float
    method: str
    confidence: str
    runs: int = 0


def estimate_throughput(
    history: Sequence[Sample], *, rows: int, workers: int, row_bytes: int
) -> ThroughputEstimate:
    """Estimate the rows a second of ``workers``; ``history`` is in order, ``rows`` -1 if unknown.

    The newest run counts three tenths, what came before it the rest. Runs of another size are left
    out; those with other workers are scaled with the root of the workers.

    >>> estimate_throughput([], rows=10, workers=4, row_bytes=1_000)
    ThroughputEstimate(value=50000.0, method='cold start', confidence='low', runs=0)
    >>> runs = [Sample(n, 1, 1_000.0, rows=10) for n in (1, 2, 3)]
    >>> estimate_throughput(runs, rows=10, workers=4, row_bytes=1_000).value
    2000.0
    """
    alike = [s for s in history if s.throughput > 0 and (rows < 0 or similar(s.rows, rows))]
    speeds = [s.throughput * math.sqrt(workers / s.workers) for s in alike[-_MOST_RUNS:]]
    if not speeds:
        return ThroughputEstimate(_by_rule(workers, row_bytes), "cold start", "low")
    value = speeds[0]
    for speed in speeds[1:]:
        value += _NEWEST_WEIGHT * (speed - value)
    return ThroughputEstimate(round(value, 1), "history", _confidence(speeds), len(speeds))


def _by_rule(workers: int, row_bytes: int) -> float:
    """Read 25 MB a second, and with more workers as much more as the root of their number."""
    if row_bytes <= 0:
        return float(_UNKNOWN_ROWS_PER_SECOND)
    speed = _BYTES_PER_SECOND * math.sqrt(workers) / row_bytes
    return round(min(speed, _ROWS_PER_SECOND), 1)


def _confidence(speeds: Sequence[float]) -> str:
    level = (len(speeds) >= _SOME_RUNS) + (len(speeds) >= _SURE_RUNS)
    if level and statistics.pstdev(speeds) > _MOST_VARIATION * statistics.fmean(speeds):
        level -= 1
    return _LEVELS[level]
