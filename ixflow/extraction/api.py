"""The functions people call: from `profile` and `plan` to `execute` and `published`."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from ixflow.errors import (
    NotRecommendedError,
    SnapshotUnavailable,
    ValidationError,
)
from ixflow.extraction import profile as profiling
from ixflow.extraction.bucket import is_bucket_url
from ixflow.extraction.context import RuntimeContext
from ixflow.extraction.cost import CostConfig
from ixflow.extraction.explain import explain, prepare, remember
from ixflow.extraction.intent import ExtractionIntent
from ixflow.extraction.manifest import Manifest
from ixflow.extraction.output import place_of
from ixflow.extraction.plan import ExecutionPlan, PlanResult
from ixflow.extraction.planner import Draft, Facts, decide
from ixflow.extraction.profile import SourceProfile
from ixflow.extraction.recording import Origin
from ixflow.extraction.run import ExecutionResult, refusals_named, run_plan

if TYPE_CHECKING:
    import sqlalchemy as sa

__all__ = [
    "ExecutionResult",
    "execute",
    "execute_plan",
    "explain",
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
