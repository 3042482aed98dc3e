"""What one run deviated by: from its estimate, from earlier runs, and among its own tasks.

A run is compared before it joins the runs that later ones are compared with.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from ixflow.extraction.controller import Sample, similar

__all__ = ["ADVICE", "ANOMALIES", "Diagnosis", "RunFacts", "diagnose", "skew_level", "task_skew"]

ANOMALIES = frozenset({"throughput_drop", "source_latency", "data_skew"})
"""The categories that `ixflow inspect` reports."""

ADVICE = {
    "throughput_drop": "look for load on the source, locks, or a slower network at that time",
    "throughput_rise": "nothing to do: it was faster than before",
    "source_latency": "the source answered late already when it was planned: look at its load",
    "data_skew": "a few tasks took most of the time: look at the sizes of the partitions or keys",
    "under_parallel": "more workers are faster here; the controller goes on from there",
    "over_parallel": "fewer workers are faster here; the controller goes on from there",
    "stable": "nothing to do",
}
"""What to do about each category."""

_BASELINE, _LEAST_BASELINE, _SIGMAS = 20, 5, 2.0
# A spread of nearly nothing would call every other number an anomaly.
_NO_SPREAD, _LEAST_CHANGE, _CHANGE_WITHOUT_SPREAD = 1e-6, 0.10, 0.20
_LATENCY_TIMES, _LEAST_LATENCY_MS = 5.0, 1.0
_SOME_SKEW, _SKEW, _BUSY = 1.5, 3.0, 0.75
_NOISE = 0.05


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What is known of a run that has just succeeded.

    ``busy`` is the mean number of workers that had something to do. ``predicted_seconds`` is None
    where there was no estimate.
    """

    workers: int
    rows: int
    seconds: float
    predicted_seconds: float | None = None
    task_seconds: Sequence[float] = ()
    busy: float = 1.0
    latency_ms: float = 0.0

    @property
    def throughput(self) -> float:
        """Give the rows a second."""
        return self.rows / self.seconds if self.seconds > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The categories of a run, a reason for each, and the numbers they come from.

    ``deviation_ratio`` is actual over predicted seconds; ``skew`` the slowest task's seconds over
    the median's. None: there was nothing to compare with.
    """

    categories: tuple[str, ...]
    reasons: tuple[str, ...]
    deviation_ratio: float | None = None
    baseline_mean: float | None = None
    baseline_sigma: float | None = None
    baseline_runs: int = 0
    skew: float | None = None


@dataclass(frozen=True, slots=True)
class _Baseline:
    speeds: list[float] = field(default_factory=list)

    @property
    def mean(self) -> float | None:
        return statistics.fmean(self.speeds) if len(self.speeds) >= _LEAST_BASELINE else None

    @property
    def sigma(self) -> float | None:
        return statistics.pstdev(self.speeds) if len(self.speeds) >= _LEAST_BASELINE else None


def diagnose(run: RunFacts, before: Sequence[Sample]) -> Diagnosis:
    """Compare a run with the comparable runs before it, which are in order.

    >>> before = [Sample(n, 1, 1_000.0, rows=100) for n in range(1, 6)]
    >>> diagnose(RunFacts(1, 100, 0.2), before).categories
    ('throughput_drop',)
    >>> diagnose(RunFacts(1, 100, 0.1), before).categories
    ('stable',)
    """
    alike = [s for s in before if s.workers == run.workers and similar(s.rows, run.rows)]
    baseline = _Baseline([sample.throughput for sample in alike[-_BASELINE:]])
    found = [
        *_against(run, baseline),
        *_latency(run, alike),
        *_skew(run),
        *_parallel(run, before),
    ] or [("stable", "nothing unusual")]
    predicted = run.predicted_seconds
    return Diagnosis(
        categories=tuple(category for category, _ in found),
        reasons=tuple(reason for _, reason in found),
        deviation_ratio=round(run.seconds / predicted, 3) if predicted else None,
        baseline_mean=baseline.mean,
        baseline_sigma=baseline.sigma,
        baseline_runs=len(baseline.speeds),
        skew=task_skew(run.task_seconds),
    )


_Found = Iterator[tuple[str, str]]


def _against(run: RunFacts, baseline: _Baseline) -> _Found:
    mean, sigma = baseline.mean, baseline.sigma
    if mean is None or sigma is None or mean <= 0:
        return
    change = run.throughput / mean - 1
    spread = sigma / mean
    limit = max(_LEAST_CHANGE, _SIGMAS * spread)
    if spread < _NO_SPREAD:
        limit = _CHANGE_WITHOUT_SPREAD
    if abs(change) > limit:
        category = "throughput_drop" if change < 0 else "throughput_rise"
        against = f"{change:+.0%} against the last {len(baseline.speeds)} runs"
        yield category, f"{run.throughput:,.0f} rows/s, {against}"


def _latency(run: RunFacts, alike: Sequence[Sample]) -> _Found:
    known = [sample.latency_ms for sample in alike[-_BASELINE:] if sample.latency_ms > 0]
    if len(known) < _LEAST_BASELINE:
        return
    usual = statistics.median(known)
    if run.latency_ms > max(_LEAST_LATENCY_MS, _LATENCY_TIMES * usual):
        said = f"the source answered in {run.latency_ms:g} ms, usually {usual:g} ms"
        yield "source_latency", said


def _skew(run: RunFacts) -> _Found:
    """Uneven tasks matter only where workers had nothing to do meanwhile."""
    skew = task_skew(run.task_seconds)
    if skew is not None and skew > _SKEW and run.workers > 1 and run.busy < _BUSY * run.workers:
        busy = f"{run.busy:.1f} of {run.workers} workers were busy"
        yield "data_skew", f"the slowest task took {skew:g} times the median, {busy}"


def _parallel(run: RunFacts, before: Sequence[Sample]) -> _Found:
    alike = [sample for sample in before if similar(sample.rows, run.rows)]
    if not alike or alike[-1].workers == run.workers or alike[-1].throughput <= 0:
        return
    last = alike[-1]
    change = run.throughput / last.throughput - 1
    if abs(change) <= _NOISE:
        return
    more, better = run.workers > last.workers, change > 0
    category = "under_parallel" if more == better else "over_parallel"
    yield category, f"{run.workers} workers instead of {last.workers}: {change:+.0%} rows/s"


def task_skew(seconds: Sequence[float]) -> float | None:
    """Give the slowest task's seconds over the median's; None: there is nothing to compare.

    >>> task_skew([1.0, 1.0, 4.0])
    4.0
    """
    if len(seconds) < 2 or not (median := statistics.median(seconds)):  # noqa: PLR2004 - a pair
        return None
    return round(max(seconds) / median, 2)


def skew_level(skew: float) -> str:
    """Name how uneven tasks are: low, moderate or high.

    >>> skew_level(1.5), skew_level(3.0), skew_level(3.1)
    ('low', 'moderate', 'high')
    """
    return ("low", "moderate", "high")[(skew > _SOME_SKEW) + (skew > _SKEW)]
