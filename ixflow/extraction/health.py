"""Judging a table's extractions by their last runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from ixflow.extraction.history import Run

__all__ = ["HEALTHY", "Health", "judge"]

HEALTHY = ("HEALTHY", "NEEDS ATTENTION", "DEGRADED")
"""The judgements, from good to bad."""

_DRIFT, _DRIFT_RUNS, _DRIFT_LEAST = -0.20, 3, 1_000


@dataclass(frozen=True, slots=True)
class Health:
    """A judgement, and what speaks against a better one."""

    status: str
    reasons: tuple[str, ...]


def judge(runs: Sequence[Run], planned_at: str | None, *, stale_hours: float) -> Health:
    """Judge runs, the newest first, and the time of the last plan.

    >>> judge([], None, stale_hours=24).reasons
    ('it was never extracted',)
    """
    if not runs:
        return Health(HEALTHY[1], ("it was never extracted",))
    if bad := tuple(_degraded(runs)):
        return Health(HEALTHY[2], bad)
    if odd := tuple(_odd(runs, planned_at, stale_hours)):
        return Health(HEALTHY[1], odd)
    return Health(HEALTHY[0], ())


def _degraded(runs: Sequence[Run]) -> Iterator[str]:
    ended = [run for run in runs if run.status != "running"]
    if ended and ended[0].status != "success":
        yield f"the last run, {ended[0].run_id}, {_how(ended[0])}"
    speeds = [run.rows_per_second for run in runs if run.comparable]
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


def _how(run: Run) -> str:
    return "has failed" if run.status == "failed" else "was abandoned"
