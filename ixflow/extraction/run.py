"""Running plans as recorded runs: hold one moment, read every task, verify, publish.

Several tables of one database are read as one is: nothing is published before all of them have
been read and verified.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import sqlalchemy as sa

from ixflow.dialects.guest import visiting
from ixflow.errors import SnapshotUnavailable, SourceUnavailable, ValidationError
from ixflow.events import TablePublished, emit
from ixflow.extraction.cluster import Cluster, cluster_address, cluster_at
from ixflow.extraction.intent import ExtractionIntent
from ixflow.extraction.limits import RunLimits, budget_of, workers_within
from ixflow.extraction.manifest import Manifest
from ixflow.extraction.output import place_of
from ixflow.extraction.plan import ExecutionPlan
from ixflow.extraction.recording import Origin, recorded
from ixflow.extraction.selection import check_same_selection
from ixflow.extraction.slots import connection_cap, connection_slots, connections_of
from ixflow.extraction.snapshot import Moment, held_moment, joined_moment, refuse_not_held
from ixflow.extraction.table_run import Job, TableRun
from ixflow.secrets import redact, redact_url
from ixflow.values import new_run_id

__all__ = ["ExecutionResult", "refusals_named", "run_plan", "run_plans"]


@dataclass(frozen=True)
class ExecutionResult:
    """A complete and published extraction.

    ``output_files`` are the absolute paths or URLs of this run's files, which stay until the
    publication after the next; ``manifest`` describes what is published, which after an incremental
    run are also the files of the runs before. ``effective_workers`` is the mean
    number of workers that were busy. A run that went on where ``resumed_from`` had ended did not
    read ``tasks_resumed`` of its tasks; ``throughput_rows_sec`` counts what it did read.
    ``backoffs`` is how often the run rested because the source answered slowly. ``notes`` say what
    the run has left for a later one, such as rows that are not settled yet.
    """

    run_id: str
    rows_extracted: int
    duration_seconds: float
    throughput_rows_sec: float
    output_files: list[str]
    bytes_written: int
    effective_workers: float
    manifest_path: str
    manifest: Manifest
    status: str = "success"
    resumed_from: str | None = None
    tasks_resumed: int = 0
    backoffs: int = 0
    notes: tuple[str, ...] = ()


def run_plan(
    execution_plan: ExecutionPlan,
    intent: ExtractionIntent,
    origin: Origin,
    moment: Moment | str | None = None,
) -> ExecutionResult:
    """Run a plan as a recorded run, saying where it comes from; raises as `execute_plan`."""
    (result,) = run_plans([Job(execution_plan, intent, origin)], moment)
    return result


def run_plans(jobs: Sequence[Job], moment: Moment | str | None = None) -> list[ExecutionResult]:
    """Run plans of one database in one moment; publish none of them unless all were read."""
    for job in jobs:
        _same_object(job.plan, job.intent)
        check_same_selection(job.plan, job.intent)
    address = cluster_address(jobs)
    clock = time.perf_counter()
    started = datetime.now(UTC).isoformat()
    with contextlib.ExitStack() as stack:
        tables = [stack.enter_context(_begun(job, moment)) for job in jobs]
        stack.enter_context(refusals_named(jobs[0].intent))
        workers = stack.enter_context(_guest_with(jobs, tables[0].directory.run_id))
        with cluster_at(address) as cluster, _moment(jobs, moment, workers) as (held, let_go):
            _read(tables, held, let_go, workers, cluster)
        done: list[ExecutionResult] = []
        for table in tables:
            with _several_named(tables, done):
                done.append(_publish(table, started, clock))
    return done


@contextlib.contextmanager
def _begun(job: Job, moment: Moment | str | None) -> Iterator[TableRun]:
    """Give a table its run; if it fails, its files stay only for a rerun that can use them."""
    run_id = new_run_id()
    with (
        recorded(run_id, job.plan, job.intent, job.origin) as recording,
        place_of(job.intent).new_run(run_id) as directory,
    ):
        table = TableRun(job, directory, recording)
        try:
            table.increment.begin(own_moment=moment is None)
            yield table
        except BaseException:
            directory.keep = table.can_be_resumed(in_held_moment=moment is not None)
            raise


@contextlib.contextmanager
def _guest_with(jobs: Sequence[Job], run_id: str) -> Iterator[int]:
    """Let all sessions of the run keep to its limits; yield how many workers it may have."""
    job, wanted = jobs[0], max(job.plan.worker_count for job in jobs)
    # The plan may have been made for a larger budget.
    room = workers_within(budget_of(job.intent.memory_budget, job.intent.output_dir))
    wanted = min(wanted, room)
    limits = RunLimits.of(job.intent, job.plan, workers=wanted)
    with contextlib.ExitStack() as stack:
        if job.intent.dialect.default_port is not None:
            context = job.origin.runtime_context
            cap = connection_cap(context.max_source_connections if context else None)
            needed = connections_of(wanted, job.intent.dialect.spare_connections)
            slots = connection_slots(job.intent.source(), needed, cap)
            wanted = max(1, wanted - (needed - stack.enter_context(slots)))
        stack.enter_context(visiting(limits.guest(run_id)))
        yield wanted


@contextlib.contextmanager
def _moment(
    jobs: Sequence[Job], given: Moment | str | None, workers: int
) -> Iterator[tuple[Moment, Callable[[], None]]]:
    """Give the moment to read, and a way to let go of a connection that holds none."""
    intent, tables = jobs[0].intent, [j.plan.table for j in jobs if j.plan.query is None]
    url = intent.url()
    with contextlib.ExitStack() as stack:
        if isinstance(given, Moment):
            if given.url != url:
                msg = "the moment is held in another database, or as another user"
                raise ValidationError(msg, argument="moment")
            refuse_not_held(tables, given.tables)
            held, close = given, _nothing
        elif given is not None:
            joining = joined_moment(intent.dialect, url, tables, given)
            held, close = stack.enter_context(joining), _nothing
        else:
            holding = held_moment(intent.dialect, url, tables, workers=workers)
            held, close = stack.enter_context(holding), stack.close
        yield held, close


def _nothing() -> None:
    """Leave what others hold."""


def _read(
    tables: Sequence[TableRun],
    moment: Moment,
    let_go: Callable[[], None],
    workers: int,
    cluster: Cluster | None,
) -> None:
    """Read every task of every table with one set of workers, and check what came of it."""
    if len(tables) > 1 and not moment.record.one:
        names = [table.intent.object_name for table in tables]
        msg = f"one snapshot of {', '.join(names)} cannot be had on {moment.dialect.name} here"
        raise SnapshotUnavailable(msg, tables=names)
    for table in tables:
        moment.verify(table.plan)
        if reason := _shared(len(tables), workers, table.plan.worker_count):
            table.recording.teaches_nothing(reason)
    if not moment.record.one:
        let_go()
    first = None
    for table in tables:
        limits = RunLimits.of(table.intent, table.plan, workers=workers)
        table.prepare(moment, limits, first, cluster)
        first = first or table.tasks
    if first is not None:
        first.run(workers)
    # Whoever failed comes first: the others only stopped.
    for table in sorted(tables, key=lambda table: not table.tasks.errors):
        table.check()
    if not moment.alive():
        for table in tables:
            table.check_failed("the session that held the snapshot was ended too early")


def _shared(tables: int, workers: int, planned: int) -> str | None:
    """Say why the run tells nothing of what its plan's number of workers can do."""
    if tables > 1:
        return "it shared its workers with other tables"
    fewer = "other runs had some of its connections, or the memory budget has room for fewer"
    return fewer if workers < planned else None


def _publish(table: TableRun, started: str, clock: float) -> ExecutionResult:
    manifest, path = table.publish(started)
    seconds = time.perf_counter() - clock
    run_id, name = table.directory.run_id, manifest.object_name
    new = manifest.new_files if manifest.run_id == run_id else ()
    rows = sum(file.rows for file in new)
    if new:
        emit(TablePublished(run_id, name, rows, len(new)))
    busy = sum(outcome.seconds for outcome in table.tasks.outcomes) / seconds
    result = ExecutionResult(
        run_id=run_id,
        rows_extracted=rows,
        duration_seconds=seconds,
        throughput_rows_sec=(rows - table.rows_resumed) / seconds,
        output_files=[table.directory.location(file.name) for file in new],
        bytes_written=sum(file.bytes for file in new),
        effective_workers=min(float(table.plan.worker_count), max(1.0, busy)),
        manifest_path=path,
        manifest=manifest,
        resumed_from=table.resumed_from,
        tasks_resumed=len(table.resumed),
        backoffs=table.tasks.backoffs,
        notes=table.increment.notes,
    )
    table.recording.finished(result)
    return result


@contextlib.contextmanager
def _several_named(tables: Sequence[TableRun], done: Sequence[ExecutionResult]) -> Iterator[None]:
    """Say which tables are new and which are not, where publication ends between two of them."""
    try:
        yield
    except Exception as error:
        if len(tables) > 1:
            new = ", ".join(result.manifest.object_name for result in done) or "none"
            rest = ", ".join(table.intent.object_name for table in tables[len(done) :])
            error.add_note(f"of the tables read together, published: {new}; not published: {rest}")
        raise


@contextlib.contextmanager
def refusals_named(intent: ExtractionIntent) -> Iterator[None]:
    """Turn what the source's driver says into a typed error without a credential."""
    try:
        yield
    except sa.exc.DBAPIError as error:
        known = intent.dialect.explained(error.orig or error, intent.object_name)
        if known is not None:
            raise type(known)(redact(known.message, *intent.secrets), **known.fields) from None
        said = redact(" ".join(str(error.orig or error).split()), *intent.secrets)
        msg = f"{redact_url(intent.url())} refused to be read: {said}"
        raise SourceUnavailable(msg, table=intent.object_name) from None


def _same_object(execution_plan: ExecutionPlan, intent: ExtractionIntent) -> None:
    theirs = (execution_plan.source_type, execution_plan.object_name)
    ours = (intent.dialect.name, intent.object_name)
    if theirs != ours:
        msg = f"the plan reads {theirs[1]} from {theirs[0]}, the intent {ours[1]} from {ours[0]}"
        raise ValidationError(msg, plan=theirs, intent=ours)
