"""Judging a table's extractions by their last runs, and by what was noted about these."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import MappingProxyType

from ixflow.extraction.diagnosis import ANOMALIES
from ixflow.extraction.history import Run
from ixflow.extraction.notes import Learned, Note

__all__ = ["HEALTHY", "Health", "judge"]

HEALTHY = ("HEALTHY", "NEEDS ATTENTION", "DEGRADED")
"""The judgements, from good to bad."""

_DRIFT, _DRIFT_RUNS, _DRIFT_LEAST = -0.20, 3, 1_000
_ANOMALY_RUNS, _ANOMALIES_TOO_MANY = 3, 2
# Uneven tasks are the table's nature and no reason to call its runs bad.
_SLOW = frozenset({"throughput_drop", "source_latency"})
_NO_NOTES: Mapping[str, Note] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Health:
    """A judgement, and what speaks against a better one."""

    status: str
    reasons: tuple[str, ...]


def judge(
    runs: Sequence[Run],
    planned_at: str | None,
    *,
    stale_hours: float,
    notes: Mapping[str, Note] = _NO_NOTES,
    learned: Learned | None = None,
) -> Health:
    """Judge runs, the newest first, the time of the last plan, and what was noted and learned.

    >>> judge([], None, stale_hours=24).reasons
    ('it was never extracted',)
    """
    if not runs:
        return Health(HEALTHY[1], ("it was never extracted",))
    if bad := tuple(_degraded(runs, notes)):
        return Health(HEALTHY[2], bad)
    odd = (*_odd(runs, planned_at, stale_hours), *_noted(runs, notes), *_exploring(learned))
    return Health(HEALTHY[1], odd) if odd else Health(HEALTHY[0], ())


def _degraded(runs: Sequence[Run], notes: Mapping[str, Note]) -> Iterator[str]:
    ended = [run for run in runs if run.status != "running"]
    if ended and ended[0].status != "success":
        yield f"the last run, {ended[0].run_id}, {_how(ended[0])}"
    slow = [run for run in ended[:_ANOMALY_RUNS] if _SLOW & _categories(run, notes)]
    if len(slow) >= _ANOMALIES_TOO_MANY:
        yield f"{len(slow)} of the last {_ANOMALY_RUNS} runs were unusually slow"
    # Other workers are slower or faster by themselves.
    alike = [run for run in runs if run.comparable and run.workers == runs[0].workers]
    speeds = [run.rows_per_second for run in alike]
    known = [speed for speed in reversed(speeds) if speed is not None]
    if len(known) >= _DRIFT_RUNS and known[0] >= _DRIFT_LEAST:
        drift = known[-1] / known[0] - 1
        if drift < _DRIFT:
            yield f"throughput changed by {drift:.0%} over {len(known)} runs"


def _odd(runs: Sequence[Run], planned_at: str | None, stale_hours: float) -> Iterator[str]:
    if runs[0].status == "running":
        yield f"run {runs[0].run_id} has not ended yet"
    for run in runs[1:]:
        if run.status in ("failed", "abandoned"):
            yield f"run {run.run_id} {_how(run)}"
    if planned_at is None:
        yield "no profile of it is remembered"
    elif datetime.now(UTC) - datetime.fromisoformat(planned_at) > timedelta(hours=stale_hours):
        yield f"its last profile is of {planned_at[:19]} UTC, older than {stale_hours:g} hours"


def _categories(run: Run, notes: Mapping[str, Note]) -> frozenset[str]:
    note = notes.get(run.run_id)
    return frozenset() if note is None else frozenset(note.categories)


def _noted(runs: Sequence[Run], notes: Mapping[str, Note]) -> Iterator[str]:
    for run in runs:
        note = notes.get(run.run_id)
        if note is not None:
            for category, reason in zip(note.categories, note.reasons, strict=True):
                if category in ANOMALIES:
                    yield f"run {run.run_id}: {category}: {reason}"


def _exploring(learned: Learned | None) -> Iterator[str]:
    if learned is not None and not learned.converged:
        yield f"the number of workers is still being learned: {learned.reason}"


def _how(run: Run) -> str:
    return "has failed" if run.status == "failed" else "was abandoned"
