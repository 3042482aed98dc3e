"""Estimating throughput: from runs in like circumstances, from all comparable runs, or by rule.

What all comparable runs say is a mean in which the newest counts three tenths. Runs in
circumstances like now are believed beside it, the more, the more alike they are and the more there
are. An estimate made of runs lies between the slowest and the fastest of them, so none needs to be
cut.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from ixflow.extraction.circumstances import Circumstances
from ixflow.extraction.controller import Sample
from ixflow.extraction.similarity import Match, like_size, matches

__all__ = ["FACTORS", "ThroughputEstimate", "estimate_throughput"]

_BYTES_PER_SECOND, _ROWS_PER_SECOND, _UNKNOWN_ROWS_PER_SECOND = 25_000_000, 500_000, 10_000
_QUICK_MS, _ROWS_OF_AN_ANSWER = 1.0, 100
_NEWEST_WEIGHT, _MOST_RUNS = 0.3, 50
_LOST_EACH_DAY, _FULL_DEPTH, _LEAST_WEIGHT = 0.05, 10, 1e-6
_BELOW, _ABOVE = 0.75, 1.25

_LEVELS = ("low", "medium", "high")
_SURE_RUNS, _SURE_SIMILARITY, _SOME_RUNS, _SOME_SIMILARITY = 3, 0.70, 2, 0.50
_WEAK_SIMILARITY, _MOST_VARIATION, _MOST_OF_ONE = 0.65, 0.20, 0.70

FACTORS: Mapping[str, str] = MappingProxyType(
    {
        "fallback_used": "no earlier run was in circumstances like now",
        "sparse_evidence": "only one run tells",
        "weak_match": "no earlier run was in very similar circumstances",
        "high_variance": "the runs differ by more than a fifth",
        "dominant_match": "one run counts for most of it",
    }
)
"""What takes confidence from an estimate, in the order in which it is said."""


@dataclass(frozen=True, slots=True)
class ThroughputEstimate:
    """Rows a second, and what the number rests on.

    ``method`` is ``cold start``, ``history`` or ``blended``, ``confidence`` low to high and
    ``factors`` (keys of `FACTORS`) what speaks against it. Of the comparable ``runs`` as many as
    ``matched_runs`` were in circumstances like now, up to ``similarity`` (0 to 1) alike; what these
    say counts ``blend_weight`` of the value (0 to 1). ``excluded_runs`` were looked at and not
    matched. ``bounds`` reach from three quarters of the slowest run to five quarters of the fastest
    one, None without runs. ``rows_share`` is how many rows runs extracted for each estimated one.
    """

    value: float
    method: str
    confidence: str
    runs: int = 0
    matched_runs: int = 0
    excluded_runs: int = 0
    similarity: float | None = None
    blend_weight: float = 0.0
    bounds: tuple[float, float] | None = None
    rows_share: float = 1.0
    factors: tuple[str, ...] = ()


def estimate_throughput(
    history: Sequence[Sample],
    *,
    rows: int,
    workers: int,
    row_bytes: int,
    latency_ms: float = 0.0,
    now: Circumstances | None = None,
) -> ThroughputEstimate:
    """Estimate the rows a second of ``workers``; ``history`` is in order, ``rows`` -1 if unknown.

    Runs of tables of another size are left out; those with other workers are scaled with the root
    of the workers.

    >>> estimate_throughput([], rows=10, workers=4, row_bytes=1_000).value
    50000.0
    >>> runs = [Sample(n, 1, 1_000.0, rows=10) for n in (1, 2, 3)]
    >>> estimate_throughput(runs, rows=10, workers=4, row_bytes=1_000).value
    2000.0
    """
    alike = [s for s in history if s.throughput > 0 and like_size(s, rows)][-_MOST_RUNS:]
    if not alike:
        value, why = _by_rule(workers, row_bytes, latency_ms), ("fallback_used",)
        return ThroughputEstimate(
            value, "cold start", "low", excluded_runs=len(history), factors=why
        )
    speeds = [_scaled(sample, workers) for sample in alike]
    found = matches(alike, now)
    usual = ThroughputEstimate(
        round(_newest_most(speeds), 1),
        "history",
        "low",
        runs=len(alike),
        matched_runs=len(found),
        excluded_runs=len(history) - len(found),
        bounds=(round(_BELOW * min(speeds), 1), round(_ABOVE * max(speeds), 1)),
        rows_share=_rows_share(alike),
        factors=("fallback_used", *("sparse_evidence",) * (len(alike) < _SOME_RUNS)),
    )
    return _blended(usual, alike, found, workers)


def _blended(
    usual: ThroughputEstimate, alike: Sequence[Sample], found: Sequence[Match], workers: int
) -> ThroughputEstimate:
    """Believe the matched runs beside what all runs say, if they have any weight."""
    speeds = [_scaled(match.sample, workers) for match in found]
    counts = [match.score * math.exp(-_LOST_EACH_DAY * match.sample.age_days) for match in found]
    whole = math.fsum(counts)
    if whole < _LEAST_WEIGHT:
        return usual
    said = math.fsum(count / whole * speed for count, speed in zip(counts, speeds, strict=True))
    known = sum(sample.circumstances is not None for sample in alike)
    believed = found[0].score * min(1.0, known / _FULL_DEPTH)
    confidence, factors = _confidence(found[0].score, speeds, max(counts) / whole)
    return replace(
        usual,
        value=round(believed * said + (1 - believed) * usual.value, 1),
        method="blended",
        confidence=confidence,
        similarity=found[0].score,
        blend_weight=round(believed, 4),
        factors=factors,
    )


def _scaled(sample: Sample, workers: int) -> float:
    return sample.throughput * math.sqrt(workers / sample.workers)


def _newest_most(values: Sequence[float]) -> float:
    mean = values[0]
    for value in values[1:]:
        mean += _NEWEST_WEIGHT * (value - mean)
    return mean


def _rows_share(alike: Sequence[Sample]) -> float:
    """Say how many rows runs extracted for each estimated one: a filter leaves some out."""
    shares = [
        sample.rows / sample.circumstances.row_estimate
        for sample in alike
        if sample.circumstances is not None and sample.circumstances.row_estimate > 0
    ]
    return round(_newest_most(shares), 6) if shares else 1.0


def _by_rule(workers: int, row_bytes: int, latency_ms: float) -> float:
    """Read 25 MB a second, and with more workers as much more as the root of their number.

    A source that answers late gives at most a hundred rows for each time it could have answered.
    """
    root = math.sqrt(workers)
    speed = float(_UNKNOWN_ROWS_PER_SECOND)
    if row_bytes > 0:
        speed = min(_BYTES_PER_SECOND * root / row_bytes, _ROWS_PER_SECOND)
    if latency_ms > _QUICK_MS:
        speed = min(speed, 1000 / latency_ms * _ROWS_OF_AN_ANSWER * root)
    return round(speed, 1)


def _confidence(
    best: float, speeds: Sequence[float], largest_share: float
) -> tuple[str, tuple[str, ...]]:
    """Judge matched runs by their number, their likeness and how far they agree."""
    level = (len(speeds) >= _SOME_RUNS and best >= _SOME_SIMILARITY) + (
        len(speeds) >= _SURE_RUNS and best >= _SURE_SIMILARITY
    )
    varied = statistics.pstdev(speeds) > _MOST_VARIATION * statistics.fmean(speeds)
    said = {
        "sparse_evidence": len(speeds) < _SOME_RUNS,
        "weak_match": best < _WEAK_SIMILARITY,
        "high_variance": varied,
        "dominant_match": len(speeds) >= _SOME_RUNS and largest_share > _MOST_OF_ONE,
    }
    level -= said["high_variance"] + said["dominant_match"]
    return _LEVELS[max(0, level)], tuple(name for name, holds in said.items() if holds)
