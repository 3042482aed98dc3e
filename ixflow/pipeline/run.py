"""Running stages: tasks on threads, then audits, then one commit a stage.

A run holds no lock while it computes. It remembers what it read of other stages, and the commit
checks under the stage's lock that this is still what is published; if not, the stage is computed
again from what is there now, up to three times in all. Tasks whose inputs did not move are resumed
from the transaction, not run again.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from threading import Lock
from typing import Any

from ixflow.errors import CacheError, InputChanged
from ixflow.events import Event, StagePublished, emit, listen
from ixflow.pipeline.audit import AuditOutcome, judged, judged_one
from ixflow.pipeline.blob import blobs_in
from ixflow.pipeline.blob_store import BlobStore
from ixflow.pipeline.cache import Rules
from ixflow.pipeline.context import undeclared
from ixflow.pipeline.encoding import mapped
from ixflow.pipeline.execute import Outcome, StageExecution, decoded_value
from ixflow.pipeline.result import StageResult, TableResult
from ixflow.pipeline.schedule import Node, dependencies, making, run_graph
from ixflow.pipeline.stage import Stage
from ixflow.pipeline.task import Task
from ixflow.store import InputRead, SQLTableStore, StageState
from ixflow.values import new_run_id

__all__ = ["Run", "audit_published", "relocated", "run_flow", "run_stage"]

_log = logging.getLogger("ixflow.pipeline")
_TRIES = 3
_USUAL = Rules()


class Run:
    """Some tasks and the stages to commit, on one store, under one transaction id."""

    def __init__(
        self,
        store: SQLTableStore,
        tasks: Sequence[Task],
        commits: Collection[Stage],
        *,
        transaction_id: str,
        full: bool = True,
        rules: Rules = _USUAL,
        blobs: BlobStore | None = None,
        auto_blob: tuple[type, ...] = (),
        on_event: Callable[[Event], None] | None = None,
    ) -> None:
        self.store = store
        self.tasks = list(tasks)
        self._selected = frozenset(tasks)
        self.commits = list(commits)
        self.transaction_id = transaction_id
        self.outcomes: dict[Task, Outcome] = {}
        self.results: dict[str, StageResult] = {}
        self._full = full
        self._rules = rules
        self.blobs = blobs
        self._auto_blob = auto_blob
        self._on_event = on_event
        self._reset()

    def _reset(self) -> None:
        self.failed: list[Task] = []
        self._lock = Lock()
        self._executions: dict[str, StageExecution] = {}
        self._foreign: dict[str, StageState] = {}
        self._reads: dict[Task, set[InputRead]] = {}

    def run(self, max_workers: int) -> None:
        """Run what is not yet committed, again if an input moves meanwhile.

        Raises:
            TaskError, AuditFailed: nothing of that stage was published.
            InputChanged: inputs kept moving.

        """
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.store.held_open())
            if self._on_event is not None:
                stack.enter_context(listen(self._on_event))
            for left in range(_TRIES - 1, -1, -1):
                try:
                    run_graph(self._graph(), self._work, max_workers)
                except InputChanged as error:
                    if not left:
                        raise
                    _log.info("%s; computing it again", error)
                    self._reset()
                else:
                    return

    def _graph(self) -> dict[Node, set[Node]]:
        stages = [stage for stage in self.commits if stage.name not in self.results]
        tasks = [task for task in self.tasks if task.stage.name not in self.results]
        return dependencies(tasks, stages)

    def _work(self, node: Node) -> None:
        with undeclared(self):
            if isinstance(node, Stage):
                self._commit(node)
                return
            try:
                outcome = self._execution(node.stage).execute(node)
            except Exception:
                self.failed.append(node)
                raise
            self.outcomes[node] = outcome

    def _execution(self, stage: Stage) -> StageExecution:
        with self._lock:
            if stage.name not in self._executions:
                self._executions[stage.name] = StageExecution(
                    self.store,
                    stage,
                    self.transaction_id,
                    rules=self._rules,
                    blobs=self.blobs,
                    auto_blob=self._auto_blob,
                    value_of=self._value_of,
                    reads_of=self._reads_of,
                )
            return self._executions[stage.name]

    # -- values between tasks -------------------------------------------------------------------

    def _value_of(self, upstream: Task, task: Task) -> Any:
        """Give an upstream task's value: of this transaction if it may be seen, else published."""
        inside = upstream.stage == task.stage or task.stage.within(upstream.stage)
        if upstream in self._selected and (inside or upstream.stage not in self.commits):
            return self.outcomes[upstream].value
        name = upstream.stage.name
        with self._lock:
            if name not in self._foreign:
                self._foreign[name] = self.store.published(name)
        found = self._foreign[name].at(upstream.position)
        if found is None:
            msg = (
                f"task {task.stage.name}.{task.name} takes {name}.{upstream.name}, of which "
                f"nothing is published; run stage {name} first"
            )
            raise CacheError(msg, stage=name, task=upstream.name)
        read = InputRead(name, upstream.position, found.output)
        self._reads.setdefault(task, set()).add(read)
        schema = self.store.schema(name)
        return decoded_value(found.output, lambda *_: schema)

    def _reads_of(self, *tasks: Task) -> list[InputRead]:
        """List what these tasks have read of other stages and of tasks that are not selected."""
        reads = {read for task in tasks for read in self._reads.get(task, ())}
        return sorted(reads, key=lambda read: (read.stage, read.position))

    def transaction_schema(self, stage: Stage) -> str:
        """Name the schema that this run writes the stage's tables to."""
        return self._execution(stage).transaction.schema

    def current_schema(self, stage: Stage) -> str:
        """Name the schema where this run finds the stage's tables now."""
        running = {task.stage for task in self.tasks} - {
            s for s in self.commits if s.name in self.results
        }
        return self.transaction_schema(stage) if stage in running else self.store.schema(stage.name)

    # -- publishing -----------------------------------------------------------------------------

    def _commit(self, stage: Stage) -> None:
        execution = self._execution(stage)
        outcomes = [execution.outcomes[t] for t in self.tasks if t in execution.outcomes]
        audits = self._audited(stage, execution, outcomes)
        done = execution.transaction.commit(
            [outcome.result for outcome in outcomes],
            full=self._full,
            inputs=self._reads_of(*(task for task in self.tasks if task.stage == stage)),
        )
        self.results[stage.name] = self.stage_result(
            stage, version=done.version, published=done.changed, dropped=done.dropped, audits=audits
        )
        if done.changed:
            emit(StagePublished(stage.name, done.version, done.published))
        if done.changed and self.blobs is not None:
            self._collect_blobs(stage, self.blobs)

    def _collect_blobs(self, stage: Stage, blobs: BlobStore) -> None:
        """Remove the blobs that no result of the stage refers to, published or not."""
        with self.store.begin() as conn:
            outputs = self.store.metadata.all_outputs(conn, self.store.schema(stage.name))
        blobs.collect(stage.name, frozenset().union(*map(blobs_in, outputs)))

    def stage_result(
        self,
        stage: Stage,
        *,
        version: int | None = None,
        published: bool = False,
        dropped: tuple[str, ...] = (),
        audits: tuple[AuditOutcome, ...] = (),
    ) -> StageResult:
        """Describe the stage's part of the run."""
        execution = self._execution(stage)
        outcomes = [execution.outcomes[t] for t in self.tasks if t in execution.outcomes]
        where = execution.transaction
        return StageResult(
            stage=stage.name,
            version=where.published.version if version is None else version,
            published=published,
            tables=_table_results(execution, outcomes),
            dropped=dropped,
            audits=audits,
            schema=where.published_schema,
            transaction_schema=where.schema,
            seconds=sum(outcome.seconds for outcome in outcomes),
        )

    def _audited(
        self, stage: Stage, execution: StageExecution, outcomes: Iterable[Outcome]
    ) -> tuple[AuditOutcome, ...]:
        """Let the stage's audits judge what would be published."""
        where = execution.transaction
        places = {} if self._full else dict.fromkeys(where.published.tables, where.published_schema)
        new: set[str] = set()
        for outcome in outcomes:
            found = {name: where.located(name, key)[0] for name, key in outcome.result.pairs()}
            places.update(found)
            new.update(name for name, place in found.items() if place == where.schema)
        return judged(self.store, stage, places, new, transaction_schema=where.schema)


def _table_results(
    execution: StageExecution, outcomes: Iterable[Outcome]
) -> tuple[TableResult, ...]:
    where = execution.transaction
    found = {}
    for outcome in outcomes:
        for name, key in outcome.result.pairs():
            _, table = where.located(name, key)
            found[name] = TableResult(
                name,
                outcome.task.name,
                outcome.state,
                table.rows,
                table.columns,
                outcome.seconds,
                table.data_version,
            )
    return tuple(found.values())


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
) -> StageResult:
    """Run one stage of a flow and publish its tables together; others read what was published.

    ``tables`` selects the tasks that make these tables, and publishes only them. A run with the
    ``transaction_id`` of a failed one takes over the tables that it had finished. Inputs from
    other stages, and from tasks that are not selected, are those that are published.

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
        on_event=on_event,
    )
    run.run(max_workers)
    return run.results[stage.name] if commit else run.stage_result(stage)


def audit_published(stage: Stage, store: SQLTableStore) -> tuple[AuditOutcome, ...]:
    """Let a stage's audits judge the tables that are published; a refusal is an outcome here.

    Raises:
        StageError: an audit asks for a table that is not published.

    """
    with store.held_open():
        places = dict.fromkeys(store.published(stage.name).tables, store.schema(stage.name))
        return tuple(judged_one(store, stage, audit, places) for audit in stage.audits)


def run_flow(
    tasks: Sequence[Task],
    commits: Collection[Stage],
    store: SQLTableStore,
    *,
    transaction_id: str | None = None,
    rules: Rules = _USUAL,
    blobs: BlobStore | None = None,
    auto_blob: tuple[type, ...] = (),
    max_workers: int = 4,
    on_event: Callable[[Event], None] | None = None,
) -> tuple[Run, Exception | None]:
    """Run tasks of one or several stages; give the run and the error that ended it.

    Stages that do not wait for each other run side by side. ``rules`` say which stored results
    are valid, ``auto_blob`` which types of objects are blobs without being wrapped.
    """
    run = Run(
        store,
        tasks,
        commits,
        transaction_id=transaction_id or new_run_id(),
        rules=rules,
        blobs=blobs,
        auto_blob=auto_blob,
        on_event=on_event,
    )
    try:
        run.run(max_workers)
    except Exception as error:  # noqa: BLE001 - the caller decides whether it is raised
        return run, error
    return run, None


def relocated(run: Run, value: Any, stage: Stage) -> Any:
    """Point the tables of a value to where they are after the run."""
    if stage.name not in run.results:
        return value
    schema = run.store.schema(stage.name)
    return mapped(value, lambda leaf: leaf.moved(schema) if hasattr(leaf, "moved") else leaf)
