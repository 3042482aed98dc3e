"""Several tables of one moment: held for as long as the caller likes, extracted together."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ixflow.errors import NotRecommendedError, SnapshotUnavailable, ValidationError
from ixflow.extraction.output import place_of
from ixflow.extraction.plan import PlanResult
from ixflow.extraction.recording import Origin
from ixflow.extraction.run import ExecutionResult, refusals_named, run_plans
from ixflow.extraction.snapshot import Moment, held_moment
from ixflow.extraction.table_run import Job

if TYPE_CHECKING:
    import sqlalchemy as sa

__all__ = ["execute_together", "hold_snapshot", "job_of"]


@contextlib.contextmanager
def hold_snapshot(
    plan_results: PlanResult | Sequence[PlanResult], *, workers: int | None = None
) -> Iterator[Moment]:
    """Hold one snapshot of the tables of some plans for the block.

    Give what it yields as ``moment`` to `execute`, `execute_plan` or `execute_together`, as often
    as need be: all of them read the same rows, and a run that failed is resumed by the next one.
    On PostgreSQL ``moment.token`` is a text with which other processes do the same. A snapshot
    that is held for long keeps the source from cleaning up. ``workers`` is how many connections may
    read in it at the same time, which counts where all of them have to begin together, as on
    MySQL; None: as many as the largest plan has.

    Raises:
        ValidationError: the plans are of several databases.
        SnapshotUnavailable: this database, or this role, cannot hold one snapshot for them.
        SourceUnavailable: the database cannot be reached or refuses us.
        LockNotAvailable: another session is changing a table's definition.

    """
    given = [plan_results] if isinstance(plan_results, PlanResult) else list(plan_results)
    _one_database(given)
    intent = given[0].intent
    # Several may be of one table, such as its partitions.
    named = dict.fromkeys(result.plan.table for result in given if result.plan.query is None)
    tables = list(named)
    # At least two, since a single reader need not hold its moment for others.
    most = max(2, workers or 0, *(result.plan.worker_count for result in given))
    with contextlib.ExitStack() as stack:
        with refusals_named(intent):
            holding = held_moment(intent.dialect, intent.url(), tables, workers=most)
            moment = stack.enter_context(holding)
        if not moment.record.one:
            msg = f"{intent.dialect.name} cannot hold one snapshot for several connections here"
            raise SnapshotUnavailable(msg, tables=[str(table) for table in tables])
        yield moment


def execute_together(
    plan_results: Sequence[PlanResult],
    force: bool = False,  # noqa: FBT001, FBT002 - as `execute`
    *,
    moment: Moment | str | None = None,
    state_url: str | sa.URL | None = None,
) -> list[ExecutionResult]:
    """Extract several tables of one database, all of one moment, and publish all of them or none.

    The tasks of all tables are read by one set of workers, as many as the largest plan has. Nothing
    is published before every table was read and verified. Then one table is published after the
    other: a process that dies in between leaves some new and some old, which their manifests tell,
    since all tables of one moment name the same ``moment``.

    Raises:
        ValidationError: there is no plan, or they are of several databases, or two of one place.
        NotRecommendedError: a verdict is NOT RECOMMENDED and ``force`` is not set.
        SnapshotUnavailable: one snapshot of all tables cannot be had.
        ExecutionError, SourceUnavailable, OutputNotWritable, TableNotFound: as `execute_plan`;
            nothing was published, unless a note of the error names tables that were.

    """
    results = list(plan_results)
    _one_database(results)
    places = [place_of(result.intent).location for result in results]
    if twice := sorted({place for place in places if places.count(place) > 1}):
        msg = f"several plans write to {', '.join(twice)}"
        raise ValidationError(msg, argument="plan_results")
    jobs = [job_of(result, state_url, force=force) for result in results]
    for job in jobs if len(jobs) > 1 else []:
        if job.plan.consistency != "one snapshot":
            msg = f"{job.intent.object_name}: its rows cannot be of one snapshot with other tables"
            raise SnapshotUnavailable(msg, table=str(job.plan.table))
    return run_plans(jobs, moment)


def job_of(plan_result: PlanResult, state_url: str | sa.URL | None, *, force: bool = False) -> Job:
    """Make the job of a plan.

    Raises:
        NotRecommendedError: its verdict is NOT RECOMMENDED and ``force`` is not set.

    """
    lesson = plan_result.lesson
    if plan_result.is_not_recommended:
        if not force:
            reason = "; ".join(plan_result.advisories)
            name, verdict = plan_result.plan.object_name, plan_result.verdict
            msg = f"{name}: {verdict}: {reason}; force=True runs it"
            raise NotRecommendedError(msg, reason=reason, verdict=verdict)
        if lesson is not None:
            lesson = replace(lesson, not_learned="it was NOT RECOMMENDED, and run all the same")
    origin = Origin(runtime_context=plan_result.runtime_context, state_url=state_url, lesson=lesson)
    return Job(plan_result.plan, plan_result.intent, origin)


def _one_database(results: Sequence[PlanResult]) -> None:
    if not results or not all(isinstance(result, PlanResult) for result in results):
        msg = "plan_results must be the results of plan(), at least one"
        raise ValidationError(msg, argument="plan_results")
    if len({result.intent.url() for result in results}) > 1:
        msg = "the plans read several databases, or one as several users; only one has one snapshot"
        raise ValidationError(msg, argument="plan_results")
