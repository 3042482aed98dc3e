"""Stages that are published by hand: a run lets its tables wait, a person publishes them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ixflow.events import Event, StagePublished, emit
from ixflow.pipeline.blob import blobs_in
from ixflow.pipeline.result import StageResult, TableResult, TaskState
from ixflow.store.approval import Approved, approve

if TYPE_CHECKING:
    from ixflow.pipeline.blob_store import BlobStore
    from ixflow.pipeline.stage import Stage
    from ixflow.store import SQLTableStore, StageState

__all__ = ["Approval", "Waits", "approve_stage", "collect_blobs", "published_result"]


@dataclass(frozen=True, slots=True)
class Waits:
    """That a run does not publish its stage: how long its tables wait, at least.

    ``note`` gives what shall be found again with them, from the stage's result, as JSON can hold.
    ``heard`` listens to the run, for the note.
    """

    keep_for: dt.timedelta
    note: Callable[[StageResult], Mapping[str, Any]] = lambda _: {}
    heard: Callable[[Event], None] | None = None


@dataclass(frozen=True, slots=True)
class Approval:
    """What was published by hand: the result, the run that had made it, and its note.

    ``again`` says that the same approver had published it before.
    """

    result: StageResult
    transaction_id: str
    since: str
    note: Mapping[str, Any]
    again: bool


def approve_stage(
    stage: Stage,
    store: SQLTableStore,
    transaction_id: str | None = None,
    *,
    by: str = "",
    blobs: BlobStore | None = None,
) -> Approval:
    """Publish what waits for a stage; see `ixflow.store.approval.approve` for what it refuses."""
    with store.held_open():
        done = approve(store, stage.name, transaction_id, by=by, keep=stage.keep_versions)
        if done.commit.changed:
            emit(StagePublished(stage.name, done.commit.version, done.commit.published))
            if blobs is not None:
                collect_blobs(store, stage, blobs)
    waited = done.waited
    return Approval(
        _result(stage, store, done),
        waited.transaction_id,
        waited.since,
        waited.note,
        again=not done.commit.changed,
    )


def collect_blobs(store: SQLTableStore, stage: Stage, blobs: BlobStore) -> None:
    """Remove the blobs that no result of the stage refers to, published or not."""
    with store.begin() as conn:
        outputs = store.metadata.all_outputs(conn, store.schema(stage.name))
    blobs.collect(stage.name, frozenset().union(*map(blobs_in, outputs)))


def _result(stage: Stage, store: SQLTableStore, done: Approved) -> StageResult:
    return published_result(
        stage,
        store,
        done.state,
        done.commit.published,
        dropped=done.commit.dropped,
        before=done.commit.before,
        transaction_schema=done.waited.schema,
    )


def published_result(
    stage: Stage,
    store: SQLTableStore,
    state: StageState,
    names: Collection[str],
    *,
    dropped: tuple[str, ...],
    before: StageState,
    transaction_schema: str,
) -> StageResult:
    """Describe a publication without a run: some tables of a stage as they were stored."""
    tables = tuple(
        TableResult(
            name,
            state.tables[name].task,
            TaskState.COMPLETED,
            state.tables[name].rows,
            state.tables[name].columns,
            0.0,
            state.tables[name].data_version,
        )
        for name in sorted(names)
        if name in state.tables  # somebody may have dropped one since
    )
    return StageResult(
        stage=stage.name,
        version=state.version,
        published=True,
        tables=tables,
        dropped=dropped,
        audits=(),
        schema=store.schema(stage.name),
        transaction_schema=transaction_schema,
        seconds=0.0,
        before=before.tables,
    )
