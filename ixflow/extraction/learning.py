"""Learning in the state database: what a plan is told of earlier runs, and what a run adds to it.

A run's lesson is written in the transaction that ends the run, so it counts exactly once. That
transaction first counts the run in the controller's row: whoever else ends a run of the same table
at that moment waits there, and then sees what this one has written.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from ixflow.errors import IxflowError
from ixflow.extraction.circumstances import Circumstances
from ixflow.extraction.controller import ControllerState, Sample, evaluate, first_state
from ixflow.extraction.diagnosis import Diagnosis, RunFacts, diagnose
from ixflow.extraction.experience import NOTHING, BenchmarkFacts, Experience, Lesson, shape_of
from ixflow.extraction.migrations import benchmarks, controller, deviations, runs
from ixflow.extraction.processes import Process
from ixflow.extraction.state import StatePlace, now
from ixflow.values import Column

if TYPE_CHECKING:
    from ixflow.extraction.intent import ExtractionIntent
    from ixflow.extraction.plan import ExecutionPlan

__all__ = [
    "add_lesson",
    "experience",
    "forget",
    "lesson_for",
    "running_now",
    "save_benchmark",
]

_log = logging.getLogger("ixflow")

_MOST_SAMPLES = 200
"""How many runs back anything looks."""

_SECONDS_WITHOUT_SIGN = 60.0
"""A run that gave no sign of life for so long is not counted as one that runs."""


def experience(
    intent: ExtractionIntent, columns: Sequence[Column], state_url: str | sa.URL | None = None
) -> Experience:
    """Read what is known about runs like this intent's; a state that cannot be read only warns."""
    identity, shape = intent.identity(), shape_of(intent, columns)
    try:
        with StatePlace.of(intent.output_dir, state_url).look() as state:
            if state is None:
                return NOTHING
            with state.reading() as conn:
                return Experience(
                    samples=tuple(_samples(conn, identity, shape)),
                    controller=_controller(conn, identity, shape),
                    benchmark=_benchmark(conn, identity),
                    concurrent=running_now(conn, intent),
                )
    except (IxflowError, KeyError, TypeError, ValueError) as error:
        # Not to know is no reason not to plan.
        what = (intent.object_name, error)
        _log.warning("the plan of %s does without what earlier runs tell: %s", *what)
        return NOTHING


def _samples(conn: sa.Connection, identity: str, shape: str) -> list[Sample]:
    query = (
        sa.select(deviations)
        .where(deviations.c.identity == identity, deviations.c.shape == shape)
        .where(deviations.c.number.is_not(None))
        .order_by(deviations.c.number.desc())
        .limit(_MOST_SAMPLES)
    )
    return [
        Sample(
            number=row["number"],
            workers=row["workers"],
            throughput=row["rows_per_second"],
            rows=row["rows_extracted"],
            latency_ms=row["latency_ms"] or 0.0,
            age_days=_days_since(row["noted_at"]),
            circumstances=Circumstances.from_json(row["circumstances_json"]),
        )
        for row in reversed(conn.execute(query).mappings().all())
    ]


def _controller(conn: sa.Connection, identity: str, shape: str) -> ControllerState | None:
    query = sa.select(controller).where(*_row_of(identity, shape))
    row = conn.execute(query).mappings().one_or_none()
    return None if row is None or row["workers"] is None else _state(row)


def _state(row: Mapping[Any, Any]) -> ControllerState:
    return ControllerState(
        workers=row["workers"],
        start=row["start_workers"],
        since=row["since"],
        converged=bool(row["converged"]),
        converged_at=row["converged_at"],
        cap=row["cap"],
        baseline=row["baseline"],
    )


def _row_of(identity: str, shape: str) -> tuple[sa.ColumnElement[bool], ...]:
    return (controller.c.identity == identity, controller.c.shape == shape)


def _benchmark(conn: sa.Connection, identity: str) -> BenchmarkFacts | None:
    query = sa.select(benchmarks).where(benchmarks.c.identity == identity)
    row = conn.execute(query).mappings().one_or_none()
    if row is None:
        return None
    return BenchmarkFacts(
        optimal_workers=row["optimal_workers"],
        confidence=row["confidence"],
        signal_strength=row["signal_strength"],
        row_estimate=row["row_estimate"],
        age_days=_days_since(row["benchmarked_at"]),
    )


def _days_since(time: str) -> float:
    return (datetime.now(UTC) - datetime.fromisoformat(time)).total_seconds() / 86_400


def running_now(conn: sa.Connection, intent: ExtractionIntent) -> int:
    """Count the runs that read from the intent's database now, as far as this state knows."""
    lately = datetime.now(UTC) - timedelta(seconds=_SECONDS_WITHOUT_SIGN)
    since = lately.isoformat(timespec="microseconds")
    process = (runs.c.machine, runs.c.pid, runs.c.process_started)
    running = (runs.c.status == "running", runs.c.seen_at >= since)
    found = conn.execute(sa.select(runs.c.source_json, *process).where(*running)).all()
    mine = [row for row in found if json.loads(row.source_json) == intent.source()]
    return sum(Process(*row[1:]).alive() is not False for row in mine)


def save_benchmark(
    conn: sa.Connection, identity: str, object_name: str, facts: BenchmarkFacts, result: Any
) -> None:
    """Keep a benchmark as the only one of its table; ``result`` has ``curve`` and the numbers."""
    conn.execute(sa.delete(benchmarks).where(benchmarks.c.identity == identity))
    values = {
        "identity": identity,
        "object_name": object_name,
        "benchmarked_at": now(),
        "optimal_workers": facts.optimal_workers,
        "confidence": facts.confidence,
        "signal_strength": facts.signal_strength,
        "curve": result["curve"],
        "row_estimate": facts.row_estimate,
        "result_json": json.dumps(result, ensure_ascii=False),
    }
    conn.execute(sa.insert(benchmarks).values(**values))


def lesson_for(plan: ExecutionPlan, intent: ExtractionIntent, lesson: Lesson | None) -> Lesson:
    """Give the lesson of a run; without one from its planning it counts for nothing."""
    if lesson is not None:
        return lesson
    reason = "its plan was not made for it: a replay, or a plan that was given"
    return Lesson(shape_of(intent, plan.columns), not_learned=reason)


def add_lesson(
    conn: sa.Connection, run_id: str, identity: str, lesson: Lesson, run: RunFacts
) -> Diagnosis:
    """Write what a run that succeeded deviated by and, if it counts, what it teaches.

    Runs in the transaction that ends the run.
    """
    number = None
    if lesson.not_learned is None:
        number = _count(conn, identity, lesson.shape)
    before = _samples(conn, identity, lesson.shape)
    found = diagnose(run, before)
    key = {"run_id": run_id, "identity": identity, "number": number}
    conn.execute(sa.insert(deviations).values({**key, **_note(lesson, run, found)}))
    if number is not None:
        sample = Sample(number, run.workers, run.throughput, run.rows, run.latency_ms)
        _advance(conn, identity, lesson, [*before, sample])
    return found


def _count(conn: sa.Connection, identity: str, shape: str) -> int:
    """Count the run, which locks the row for the rest of the transaction."""
    counted = {"runs": controller.c.runs + 1, "updated_at": now()}
    update = sa.update(controller).where(*_row_of(identity, shape)).values(**counted)
    if conn.execute(update).rowcount == 0:
        # Another transaction may insert at the same moment; then this one is begun again.
        first = {"identity": identity, "shape": shape, "runs": 1, "updated_at": now()}
        conn.execute(sa.insert(controller).values(**first, converged=0, converged_at=0))
    runs = sa.select(controller.c.runs).where(*_row_of(identity, shape))
    return int(conn.execute(runs).scalar_one())


def _note(lesson: Lesson, run: RunFacts, found: Diagnosis) -> dict[str, Any]:
    return {
        "shape": lesson.shape,
        "noted_at": now(),
        "workers": run.workers,
        "rows_extracted": run.rows,
        "rows_per_second": run.throughput,
        "seconds": run.seconds,
        "predicted_seconds": run.predicted_seconds,
        "deviation_ratio": found.deviation_ratio,
        "baseline_mean": found.baseline_mean,
        "baseline_sigma": found.baseline_sigma,
        "baseline_runs": found.baseline_runs,
        "skew": found.skew,
        "latency_ms": run.latency_ms,
        "categories_json": json.dumps(found.categories),
        "reasons_json": json.dumps(found.reasons, ensure_ascii=False),
        "not_learned": lesson.not_learned,
        "circumstances_json": lesson.circumstances and lesson.circumstances.to_json(),
    }


def _advance(conn: sa.Connection, identity: str, lesson: Lesson, samples: list[Sample]) -> None:
    """Let the search take its next step; a benchmark's choice only begins one."""
    newest = samples[-1]
    state = _controller(conn, identity, lesson.shape)
    reason = "waiting for the benchmark to become old"
    if state is None:
        state = first_state(newest.workers, newest.number)
    if lesson.steers:
        decision = evaluate(samples, state, cap=lesson.cap)
        state, reason = decision.state, decision.reason
    values = {
        "workers": state.workers,
        "start_workers": state.start,
        "since": state.since,
        "converged": int(state.converged),
        "converged_at": state.converged_at,
        "cap": state.cap,
        "baseline": state.baseline,
        "reason": reason,
    }
    conn.execute(sa.update(controller).where(*_row_of(identity, lesson.shape)).values(**values))


def forget(intent: ExtractionIntent, *, state_url: str | sa.URL | None = None) -> None:
    """Forget what was learned about the intent's table; its runs and their notes stay.

    Raises:
        StateUnavailable, UnsupportedState: the state cannot be used.

    """
    identity = intent.identity()
    with StatePlace.of(intent.output_dir, state_url).look() as state:
        if state is None:
            return
        with state.writing() as conn:
            mine = deviations.c.identity == identity
            conn.execute(sa.update(deviations).where(mine).values(number=None))
            conn.execute(sa.delete(controller).where(controller.c.identity == identity))
            conn.execute(sa.delete(benchmarks).where(benchmarks.c.identity == identity))
