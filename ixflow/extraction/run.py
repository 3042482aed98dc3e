"""Running a plan as one recorded run: hold the snapshot, read every task, verify, publish."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import sqlalchemy as sa

from ixflow.dialects import Held
from ixflow.errors import ExecutionError, SourceUnavailable, ValidationError
from ixflow.events import TablePublished, emit
from ixflow.extraction.executor import TaskRun
from ixflow.extraction.intent import ExtractionIntent
from ixflow.extraction.manifest import ColumnRecord, Manifest
from ixflow.extraction.output import place_of
from ixflow.extraction.plan import ExecutionPlan
from ixflow.extraction.recording import Origin, recorded
from ixflow.extraction.snapshot import held_snapshot, still_held
from ixflow.secrets import redact, redact_url
from ixflow.values import new_run_id

__all__ = ["ExecutionResult", "refusals_named", "run_plan"]


@dataclass(frozen=True)
class ExecutionResult:
    """A complete and published extraction.

    ``output_files`` are the absolute paths or URLs of this run's files, which stay until the
    publication after the next; ``manifest`` describes them. ``effective_workers`` is the mean
    number of workers that were busy.
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


def run_plan(
    execution_plan: ExecutionPlan, intent: ExtractionIntent, origin: Origin
) -> ExecutionResult:
    """Run a plan as a recorded run, saying where it comes from; raises as `execute_plan`."""
    _same_object(execution_plan, intent)
    run_id = new_run_id()
    with recorded(run_id, execution_plan, intent, origin) as recording:
        result = _extract(execution_plan, intent, run_id)
        recording.finished(result)
    return result


def _extract(
    execution_plan: ExecutionPlan, intent: ExtractionIntent, run_id: str
) -> ExecutionResult:
    started = datetime.now(UTC)
    clock = time.perf_counter()
    url, place = intent.url(), place_of(intent)
    with place.new_run(run_id) as directory, refusals_named(intent):
        with held_snapshot(intent.dialect, url, execution_plan) as held:
            run = TaskRun(execution_plan, intent.dialect, held, directory)
            run.run()
            _check(run, held, intent)
        manifest = _manifest(run, intent, held.snapshot, started)
        path = directory.publish(manifest)
    seconds = time.perf_counter() - clock
    table = intent.object_name
    emit(TablePublished(run_id, table, manifest.total_rows, len(manifest.files)))
    busy = sum(outcome.seconds for outcome in run.outcomes) / seconds
    return ExecutionResult(
        run_id=run_id,
        rows_extracted=manifest.total_rows,
        duration_seconds=seconds,
        throughput_rows_sec=manifest.total_rows / seconds,
        output_files=[directory.location(file.name) for file in manifest.files],
        bytes_written=manifest.total_bytes,
        effective_workers=min(float(execution_plan.worker_count), max(1.0, busy)),
        manifest_path=path,
        manifest=manifest,
    )


def _check(run: TaskRun, held: Held, intent: ExtractionIntent) -> None:
    """Refuse to publish anything but the whole table."""
    table = str(run.plan.table)
    fields = {
        "run_id": run.directory.run_id,
        "table": table,
        "errors": {
            chunk: redact(f"{type(e).__name__}: {e}", *intent.secrets)
            for chunk, e in run.errors.items()
        },
        "rows_extracted": sum(outcome.rows for outcome in run.outcomes),
        "tasks_done": len(run.outcomes),
        "tasks_planned": len(run.plan.tasks),
    }
    done = f"{len(run.outcomes)} of {len(run.plan.tasks)} tasks were done, nothing was published"
    if run.errors:
        chunk, first = next(iter(run.errors.items()))
        said = redact(" ".join(str(first).split()), *intent.secrets)
        msg = f"extraction of {table} failed in task {chunk}: {said}; {done}"
        raise ExecutionError(msg, **fields) from _without_secrets(first, intent)
    if not run.complete():
        raise ExecutionError(f"extraction of {table} is incomplete: {done}", **fields)
    if not still_held(held):
        msg = f"the session that held the snapshot of {table} was ended too early; {done}"
        raise ExecutionError(msg, **fields)


def _without_secrets(error: Exception, intent: ExtractionIntent) -> Exception | None:
    """Keep a cause only if its text may be shown."""
    text = f"{error}"
    return error if redact(text, *intent.secrets) == text else None


def _manifest(
    run: TaskRun, intent: ExtractionIntent, snapshot: str | None, started: datetime
) -> Manifest:
    files = [file for outcome in run.outcomes for file in outcome.files]
    return Manifest(
        run_id=run.directory.run_id,
        object_name=intent.object_name,
        table=str(run.plan.table),
        source=intent.source(),
        identity=intent.identity(),
        plan_fingerprint=run.plan.fingerprint,
        consistency=run.plan.consistency,
        snapshot=snapshot,
        columns=tuple(ColumnRecord.of(column) for column in run.plan.columns),
        files=tuple(sorted(files, key=lambda file: file.name)),
        started_at=started.isoformat(),
        finished_at=datetime.now(UTC).isoformat(),
        output_format=run.plan.output_format,
        compression=run.plan.compression,
    )


@contextlib.contextmanager
def refusals_named(intent: ExtractionIntent) -> Iterator[None]:
    """Turn what the source's driver says into a typed error without a credential."""
    try:
        yield
    except sa.exc.DBAPIError as error:
        said = redact(" ".join(str(error.orig or error).split()), *intent.secrets)
        msg = f"{redact_url(intent.url())} refused to be read: {said}"
        raise SourceUnavailable(msg, table=intent.object_name) from None


def _same_object(execution_plan: ExecutionPlan, intent: ExtractionIntent) -> None:
    theirs = (execution_plan.source_type, execution_plan.object_name)
    ours = (intent.dialect.name, intent.object_name)
    if theirs != ours:
        msg = f"the plan reads {theirs[1]} from {theirs[0]}, the intent {ours[1]} from {ours[0]}"
        raise ValidationError(msg, plan=theirs, intent=ours)
