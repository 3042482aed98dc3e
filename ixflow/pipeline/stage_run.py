"""Running one stage by itself, and auditing what is published of it; Dagster's steps do this."""

from __future__ import annotations

from collections.abc import Callable, Collection

from ixflow.events import Event
from ixflow.pipeline.audit import AuditOutcome, judged_one
from ixflow.pipeline.blob_store import BlobStore
from ixflow.pipeline.by_hand import Waits
from ixflow.pipeline.engine import ThreadedEngine
from ixflow.pipeline.result import StageResult
from ixflow.pipeline.run import Run
from ixflow.pipeline.schedule import making
from ixflow.pipeline.stage import Stage
from ixflow.store import SQLTableStore
from ixflow.values import new_run_id

__all__ = ["audit_published", "run_stage"]


def run_stage(
    stage: Stage,
    store: SQLTableStore,
    *,
    transaction_id: str | None = None,
    tables: Collection[str] | None = None,
    commit: bool = True,
    blobs: BlobStore | None = None,
    max_workers: int = 4,
    on_event: Callable[[Event], None] | None = None,
    waits: Waits | None = None,
) -> StageResult:
    """Run one stage of a flow and publish its tables together; others read what was published.

    ``tables`` selects the tasks that make these tables, and publishes only them. A run with the
    ``transaction_id`` of a failed one takes over the tables that it had finished. Inputs from
    other stages, and from tasks that are not selected, are those that are published. With ``waits``
    nothing is published: what was made and audited waits for `approve_stage`.

    Raises:
        TaskError: a task raised; the cause is its exception. Nothing was published.
        AuditFailed: an audit refused the tables. Nothing was published.
        InputChanged: inputs were published anew, again and again, while the stage was computed.
        CacheError: an input was never published.
        StageError: ``tables`` names one that no task of the stage is known to make.

    >>> result = run_stage(flow["staging"], store)  # doctest: +SKIP
    >>> result["orders"].rows  # doctest: +SKIP
    200000
    """
    selected = stage.tasks if tables is None else making(stage, tables)
    run = Run(
        store,
        selected,
        [stage] if commit else [],
        transaction_id=transaction_id or new_run_id(),
        full=tables is None,
        blobs=blobs,
        max_workers=max_workers,
        flow=stage.flow,
        on_event=on_event,
        waits=waits,
    )
    run.run(ThreadedEngine(), {})
    if run.error is not None:
        raise run.error
    return run.results[stage.name] if commit else run.stage_result(stage)


def audit_published(stage: Stage, store: SQLTableStore) -> tuple[AuditOutcome, ...]:
    """Let a stage's audits judge the tables that are published; a refusal is an outcome here.

    Raises:
        StageError: an audit asks for a table that is not published.

    """
    with store.held_open():
        places = dict.fromkeys(store.published(stage.name).tables, store.schema(stage.name))
        return tuple(judged_one(store, stage, audit, places) for audit in stage.audits)
