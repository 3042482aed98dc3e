"""The functions people call: from `profile` and `plan` to `execute` and `published`."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ixflow.errors import SnapshotUnavailable, ValidationError
from ixflow.extraction import profile as profiling
from ixflow.extraction.bucket import is_bucket_url
from ixflow.extraction.checkpoint import resume_advisories
from ixflow.extraction.circumstances import Circumstances, machine_load
from ixflow.extraction.context import RuntimeContext
from ixflow.extraction.cost import CostConfig
from ixflow.extraction.experience import Lesson, shape_of
from ixflow.extraction.explain import explain, prepare, remember
from ixflow.extraction.intent import ExtractionIntent
from ixflow.extraction.learning import experience
from ixflow.extraction.limits import bytes_of, workers_within
from ixflow.extraction.manifest import Manifest
from ixflow.extraction.objects import published_at
from ixflow.extraction.output import place_of
from ixflow.extraction.plan import ExecutionPlan, PlanResult
from ixflow.extraction.planner import Draft, Facts, decide, wants_several
from ixflow.extraction.profile import SourceProfile
from ixflow.extraction.recording import Origin
from ixflow.extraction.run import ExecutionResult, refusals_named, run_plan, run_plans
from ixflow.extraction.selection import salt_digest
from ixflow.extraction.slots import connection_cap
from ixflow.extraction.snapshot import Moment
from ixflow.extraction.together import execute_together, hold_snapshot, job_of

if TYPE_CHECKING:
    import sqlalchemy as sa

__all__ = [
    "ExecutionResult",
    "execute",
    "execute_plan",
    "execute_together",
    "explain",
    "hold_snapshot",
    "plan",
    "profile",
    "published",
]


def profile(intent: ExtractionIntent) -> SourceProfile:
    """Read the statistics of the intent's table: no scan of a table on a server.

    Raises:
        SourceUnavailable: the database cannot be reached or refuses us.
        TableNotFound: there is no such table, or the role may not see it.
        ValidationError: the intent names columns that are not there.

    """
    _expect(intent, ExtractionIntent, "intent")
    with refusals_named(intent):
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
    with refusals_named(intent):
        seen = profiling.profile(intent, split_small=wants_several(runtime_context))
    known = experience(intent, seen.columns, state_url)
    facts = Facts(
        seen,
        runtime_context,
        cost_config,
        max_workers=intent.max_workers,
        memory_workers=workers_within(bytes_of("memory_budget", intent.memory_budget)),
        connection_cap=source_cap(intent, runtime_context),
        cpus=os.cpu_count() or 4,
        free_bytes=_free_bytes(intent.output_dir),
        known=known,
        now=Circumstances.seen(
            seen, concurrent=known.concurrent, at=datetime.now(UTC), load=machine_load()
        ),
    )
    draft = decide(facts)
    if intent.require_snapshot and draft.consistency != "one snapshot":
        msg = (
            f"{intent.object_name}: one snapshot of all rows cannot be had, and it is required: "
            f"{seen.snapshot_advice}"
        )
        raise SnapshotUnavailable(msg, table=str(seen.table))
    made = plan_of(intent, seen, draft)
    result = PlanResult(
        plan=made,
        intent=intent,
        profile=seen,
        verdict=draft.verdict,
        advisories=[
            *draft.blocks,
            *draft.warnings,
            *resume_advisories(made, intent.resume),
        ],
        cost_estimate=draft.cost,
        cost_comparison=draft.cost_options,
        worker_source=draft.worker_source,
        worker_resolution=draft.resolution,
        throughput_estimate=draft.throughput.value,
        throughput_method=draft.throughput.method,
        throughput_confidence=draft.throughput.confidence,
        throughput_basis=draft.throughput,
        runtime_context=runtime_context,
        lesson=_lesson(intent, facts, draft),
    )
    remember(result, state_url)
    return result


def source_cap(intent: ExtractionIntent, context: RuntimeContext | None) -> int | None:
    """Give how many connections to the source all runs on this machine may have."""
    if intent.dialect.default_port is None:
        return None
    return connection_cap(context.max_source_connections if context else None)


def _lesson(intent: ExtractionIntent, facts: Facts, draft: Draft) -> Lesson:
    """Say what a run of this plan may teach."""
    tasks, reason = len(draft.tasks), None
    if facts.context is not None:
        reason = "it had a runtime context"
    elif draft.held_back:
        reason = "the intent's max_workers took workers away"
    elif intent.mode == "incremental":
        reason = "it read only what was new"
    return Lesson(
        shape_of(intent, facts.profile.columns),
        # More workers than tasks cannot be tried.
        cap=min(draft.worker_cap, tasks) if tasks <= draft.workers else draft.worker_cap,
        steers=not draft.chosen_by.startswith("benchmarked"),
        not_learned=reason,
        circumstances=facts.now,
    )


def plan_of(intent: ExtractionIntent, seen: SourceProfile, draft: Draft) -> ExecutionPlan:
    """Make the plan of a draft."""
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
        latency_ms=seen.latency_p50_ms,
        where=intent.where,
        query=intent.query,
        dropped=tuple(intent.drop),
        salt_digest=salt_digest(intent.mask_salt),
        cursor=seen.cursor,
        window_from=seen.window_from,
    )


def execute(
    plan_result: PlanResult,
    force: bool = False,  # noqa: FBT001, FBT002 - the documented signature
    *,
    moment: Moment | str | None = None,
    state_url: str | sa.URL | None = None,
) -> ExecutionResult:
    """Extract what was planned, and publish it.

    A run of the same plan that died, or that failed in a ``moment`` of `hold_snapshot`, is resumed
    where the intent's ``resume`` allows it.

    Raises:
        NotRecommendedError: the verdict is NOT RECOMMENDED and ``force`` is not set.
        ExecutionError, SourceUnavailable, OutputNotWritable, TableNotFound: as `execute_plan`.

    """
    _expect(plan_result, PlanResult, "plan_result")
    (result,) = run_plans([job_of(plan_result, state_url, force=force)], moment)
    return result


def execute_plan(
    execution_plan: ExecutionPlan,
    intent: ExtractionIntent,
    *,
    moment: Moment | str | None = None,
    state_url: str | sa.URL | None = None,
) -> ExecutionResult:
    """Execute a plan as it is: no profile, no planning, no verdict.

    ``moment`` is one that `hold_snapshot` gives, or its token: the rows are of it.

    Raises:
        StateUnavailable, UnsupportedState: the state database cannot be used; nothing was read.
        ValidationError: the plan is for another table than the intent.
        OutputNotWritable: the output directory cannot be written, or something else is there.
        SourceUnavailable: the database cannot be reached or refuses us.
        SnapshotUnavailable: the moment is held no longer.
        TableNotFound: the table is gone.
        ExecutionError: reading or writing failed, or the table has changed since the plan. Fields:
            run_id, table, errors (a text for each failed task), rows_extracted, tasks_done,
            tasks_planned. Nothing was published; what was published before still is.

    """
    _expect(execution_plan, ExecutionPlan, "execution_plan")
    _expect(intent, ExtractionIntent, "intent")
    return run_plan(execution_plan, intent, Origin(state_url=state_url), moment)


def published(
    intent_or_dir: ExtractionIntent | str | Path,
    *,
    storage_options: Mapping[str, Any] | None = None,
) -> Manifest | None:
    """Read the manifest of what is published: of an intent, or of ``<output_dir>/<object>``.

    ``storage_options`` are those of an intent, for a URL of a place in a bucket; where they are
    silent the environment's count.

    Raises:
        ValidationError: there is a manifest that this release cannot read.
        OutputNotWritable: the bucket cannot be read.

    """
    if isinstance(intent_or_dir, ExtractionIntent):
        return place_of(intent_or_dir).published()
    _expect(intent_or_dir, (ExtractionIntent, str, Path), "intent_or_dir")
    if is_bucket_url(intent_or_dir):
        return published_at(str(intent_or_dir), storage_options or {})
    return Manifest.read(Path(intent_or_dir))


def _expect(value: object, kind: type | tuple[type, ...], name: str) -> None:
    if not isinstance(value, kind):
        wanted = kind[0] if isinstance(kind, tuple) else kind
        article = "an" if wanted.__name__[0] in "AEIOU" else "a"
        msg = f"{name} must be {article} {wanted.__name__}, not {type(value).__name__}"
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
