"""The functions people call: from `profile` and `plan` to `execute` and `published`."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy as sa

from ixflow.dialects import Held
from ixflow.errors import (
    ExecutionError,
    NotRecommendedError,
    SnapshotUnavailable,
    SourceUnavailable,
    ValidationError,
)
from ixflow.events import TablePublished, emit
from ixflow.extraction import profile as profiling
from ixflow.extraction.bucket import is_bucket_url
from ixflow.extraction.context import RuntimeContext
from ixflow.extraction.cost import CostConfig
from ixflow.extraction.executor import TaskRun
from ixflow.extraction.explain import explain, prepare, remember
from ixflow.extraction.intent import ExtractionIntent
from ixflow.extraction.manifest import ColumnRecord, Manifest
from ixflow.extraction.output import place_of
from ixflow.extraction.plan import ExecutionPlan, PlanResult
from ixflow.extraction.planner import Draft, Facts, decide
from ixflow.extraction.profile import SourceProfile
from ixflow.extraction.recording import Origin, recorded
from ixflow.extraction.snapshot import held_snapshot, still_held
from ixflow.secrets import redact, redact_url
from ixflow.values import new_run_id

__all__ = [
    "ExecutionResult",
    "execute",
    "execute_plan",
    "explain",
    "plan",
    "profile",
    "published",
]


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


def profile(intent: ExtractionIntent) -> SourceProfile:
    """Read the statistics of the intent's table: no scan of a table on a server.

    Raises:
        SourceUnavailable: the database cannot be reached or refuses us.
        TableNotFound: there is no such table, or the role may not see it.
        ValidationError: the intent names columns that are not there.

    """
    _expect(intent, ExtractionIntent, "intent")
    with _refusals_named(intent):
        return profiling.profile(intent)


def plan(
    intent: ExtractionIntent,
    runtime_context: RuntimeContext | None = None,
    cost_config: CostConfig | None = None,
    *,
    state_url: str | sa.URL | None = None,
) -> PlanResult:
    """Profile the source and decide how to extract the table. Nothing is extracted.

    The plan is kept in the state database as the last one of its table, for `explain`.

    Raises:
        StateUnavailable, UnsupportedState: the state database that is named cannot be used.
        SnapshotUnavailable: the intent requires one snapshot, which cannot be had.
        SourceUnavailable, TableNotFound, ValidationError: as `profile`.

    """
    _expect(runtime_context, (RuntimeContext, type(None)), "runtime_context")
    _expect(cost_config, (CostConfig, type(None)), "cost_config")
    _expect(intent, ExtractionIntent, "intent")
    prepare(intent, state_url)
    seen = profile(intent)
    facts = Facts(
        seen,
        runtime_context,
        cost_config,
        max_workers=intent.max_workers,
        cpus=os.cpu_count() or 4,
        free_bytes=_free_bytes(intent.output_dir),
    )
    draft = decide(facts)
    if intent.require_snapshot and draft.consistency != "one snapshot":
        msg = f"{intent.object_name}: one snapshot of all rows cannot be had, and it is required"
        raise SnapshotUnavailable(msg, table=str(seen.table))
    result = PlanResult(
        plan=_plan(intent, seen, draft),
        intent=intent,
        profile=seen,
        verdict=draft.verdict,
        advisories=[*draft.blocks, *draft.warnings],
        cost_estimate=draft.cost,
        worker_source=draft.worker_source,
        worker_resolution=draft.resolution,
        throughput_estimate=draft.rows_per_second,
        runtime_context=runtime_context,
    )
    remember(result, state_url)
    return result


def _plan(intent: ExtractionIntent, seen: SourceProfile, draft: Draft) -> ExecutionPlan:
    return ExecutionPlan(
        identity=intent.identity(),
        source_type=intent.dialect.name,
        object_name=intent.object_name,
        table=seen.table,
        columns=seen.columns,
        strategy=draft.strategy,
        tasks=draft.tasks,
        worker_count=draft.workers,
        consistency=draft.consistency,
        require_snapshot=intent.require_snapshot,
        all_columns=intent.columns is None,
        output_format=intent.file_format,
        compression=intent.file_compression,
        estimated_rows=seen.row_count_estimate,
        estimated_bytes=seen.size_bytes,
        estimated_seconds=draft.seconds,
    )


def execute(
    plan_result: PlanResult,
    force: bool = False,  # noqa: FBT001, FBT002 - the documented signature
    *,
    state_url: str | sa.URL | None = None,
) -> ExecutionResult:
    """Extract what was planned, and publish it.

    Raises:
        NotRecommendedError: the verdict is NOT RECOMMENDED and ``force`` is not set.
        ExecutionError, SourceUnavailable, OutputNotWritable, TableNotFound: as `execute_plan`.

    """
    _expect(plan_result, PlanResult, "plan_result")
    if plan_result.is_not_recommended and not force:
        reason = "; ".join(plan_result.advisories)
        msg = f"{plan_result.plan.object_name}: {plan_result.verdict}: {reason}; force=True runs it"
        raise NotRecommendedError(msg, reason=reason, verdict=plan_result.verdict)
    origin = Origin(runtime_context=plan_result.runtime_context, state_url=state_url)
    return run_plan(plan_result.plan, plan_result.intent, origin)


def execute_plan(
    execution_plan: ExecutionPlan,
    intent: ExtractionIntent,
    *,
    state_url: str | sa.URL | None = None,
) -> ExecutionResult:
    """Execute a plan as it is: no profile, no planning, no verdict.

    Raises:
        StateUnavailable, UnsupportedState: the state database cannot be used; nothing was read.
        ValidationError: the plan is for another table than the intent.
        OutputNotWritable: the output directory cannot be written, or something else is there.
        SourceUnavailable: the database cannot be reached or refuses us.
        TableNotFound: the table is gone.
        ExecutionError: reading or writing failed, or the table has changed since the plan. Fields:
            run_id, table, errors (a text for each failed task), rows_extracted, tasks_done,
            tasks_planned. Nothing was published; what was published before still is.

    """
    _expect(execution_plan, ExecutionPlan, "execution_plan")
    _expect(intent, ExtractionIntent, "intent")
    return run_plan(execution_plan, intent, Origin(state_url=state_url))


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
    with place.new_run(run_id) as directory, _refusals_named(intent):
        with held_snapshot(intent.dialect, url, execution_plan) as held:
            run = TaskRun(execution_plan, intent.dialect, url, held.snapshot, directory)
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


def published(intent_or_dir: ExtractionIntent | str | Path) -> Manifest | None:
    """Read the manifest of what is published: of an intent, or of ``<output_dir>/<object>``.

    Raises:
        ValidationError: there is a manifest that this release cannot read.

    """
    if isinstance(intent_or_dir, ExtractionIntent):
        return place_of(intent_or_dir).published()
    if is_bucket_url(intent_or_dir):
        msg = "published() takes the intent of files in a bucket, which has the credentials"
        raise ValidationError(msg, argument="intent_or_dir")
    return Manifest.read(Path(intent_or_dir))


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
def _refusals_named(intent: ExtractionIntent) -> Iterator[None]:
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


def _expect(value: object, kind: type | tuple[type, ...], name: str) -> None:
    if not isinstance(value, kind):
        wanted = kind[0] if isinstance(kind, tuple) else kind
        msg = f"{name} must be a {wanted.__name__}, not {type(value).__name__}"
        raise ValidationError(msg, argument=name)


def _free_bytes(output_dir: str | Path) -> int | None:
    """Look at the nearest directory that is there; planning makes none. A bucket has no end."""
    if is_bucket_url(output_dir):
        return None
    path = Path(output_dir).expanduser().absolute()
    for existing in (path, *path.parents):
        with contextlib.suppress(OSError):
            return shutil.disk_usage(existing).free
    return None
