"""What the step that publishes a stage tells: materializations once the tables can be seen."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import dagster as dg

from ixflow.dagster.cache_hits import OnCacheHit, not_skipped
from ixflow.dagster.failures import as_failure, failures
from ixflow.dagster.guard import taken
from ixflow.dagster.manual import waiting_events
from ixflow.dagster.stage_description import StageTold
from ixflow.dagster.stage_specs import table_key
from ixflow.dagster.table_store import SQLTableStoreResource
from ixflow.dagster.timeline import Bar, Recorder
from ixflow.errors import AuditFailed
from ixflow.events import Event, TaskFinished, listen
from ixflow.pipeline.audit import AuditOutcome
from ixflow.pipeline.result import StageResult
from ixflow.pipeline.stage import Stage
from ixflow.pipeline.stage_run import audit_published

__all__ = ["audited", "said", "told"]


def told(
    context: dg.AssetExecutionContext,
    stage: Stage,
    resource: SQLTableStoreResource,
    names: set[str],
    make: Callable[[], StageResult],
    *,
    on_cache_hit: OnCacheHit,
    bars: Callable[[], Sequence[Bar]] = tuple,
) -> Iterator[Any]:
    """Make and publish the tables of these names, and tell it; of what failed only the checks.

    ``bars`` are tasks that ran before in other steps, since this one began.
    """
    seen = Recorder()
    try:
        with failures(but=AuditFailed), listen(seen):
            result = make()
    except AuditFailed as error:
        # Only what failed is told: a check that passed says nothing about what is published.
        failed = [outcome for outcome in error.outcomes if not outcome.passed]
        yield from _checks(context, stage, failed)
        raise as_failure(error) from error
    ended = "published" if result.published else "unchanged"
    context.log.info("stage %s is at version %d, %s", stage.name, result.version, ended)
    describe = StageTold(stage, resource, result, names, (*bars(), *seen.bars))
    if result.waits is not None:
        waiting_events(context, stage, describe, result)
    events = describe.events(names - set(result.waits or ()))
    yield from events if on_cache_hit == "record" else not_skipped(context, events)
    # Of what waits nothing is judged that could be seen: the approval tells the verdicts.
    if result.waits is None:
        yield from _checks(context, stage, result.audits)


def said(event: Event) -> str:
    """Say in the log of a step what happened to a task."""
    if not isinstance(event, TaskFinished):
        return str(event)
    rows = "" if event.rows is None else f", {event.rows:,} rows"
    why = f" ({event.reason})" if event.reason else ""
    return f"task {event.stage}.{event.task}: {event.state}{rows} in {event.seconds:.2f} s{why}"


def audited(
    context: dg.AssetExecutionContext, stage: Stage, resource: SQLTableStoreResource
) -> Iterator[dg.AssetCheckResult]:
    """Audit what is published, for *Execute check* in the UI; nothing is made or published."""
    with failures():
        outcomes = audit_published(stage, resource.store())
    yield from _checks(context, stage, outcomes)


def _checks(
    context: dg.AssetExecutionContext, stage: Stage, outcomes: Sequence[AuditOutcome]
) -> Iterator[dg.AssetCheckResult]:
    """Tell the outcomes that this step may tell: an audit also guards runs that leave it out."""
    for outcome in outcomes:
        check = dg.AssetCheckKey(table_key(stage, outcome.table), outcome.name)
        if check in context.selected_asset_check_keys:
            yield _check(stage, outcome)


def _check(stage: Stage, outcome: AuditOutcome) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        asset_key=table_key(stage, outcome.table),
        check_name=outcome.name,
        passed=outcome.passed,
        severity=dg.AssetCheckSeverity.ERROR,
        description=outcome.description or None,
        metadata=taken(f"what the audit {outcome.name} says", outcome.metadata),
    )
