"""Running stages: tasks in an engine's hands, then audits, then one commit a stage.

A run holds no lock while it computes, unless it is given `RunLocks`. It remembers what it read of
other stages, and the commit checks under the stage's own lock that this is still what is published;
if not, the stage is computed again from what is there now, up to three times in all. Tasks whose
inputs did not move are resumed from the transaction, not run again.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from threading import Lock
from typing import TYPE_CHECKING, Any

from ixflow.errors import (
    CacheError,
    InputChanged,
    LockError,
    LockNotAvailable,
    SourceUnavailable,
)
from ixflow.events import Event, StagePublished, emit, listen
from ixflow.pipeline.audit import AuditOutcome, judged
from ixflow.pipeline.blob_store import BlobStore
from ixflow.pipeline.by_hand import Waits, collect_blobs
from ixflow.pipeline.cache import Rules
from ixflow.pipeline.context import undeclared
from ixflow.pipeline.encoding import mapped
from ixflow.pipeline.engine import OrchestrationEngine
from ixflow.pipeline.execute import Outcome, StageExecution, decoded_value
from ixflow.pipeline.locks.run_locks import NO_LOCKS, RunLocks
from ixflow.pipeline.progress import Ended, Progress, name_of
from ixflow.pipeline.result import Result, StageResult, TableResult, TaskState
from ixflow.pipeline.schedule import Node, dependencies, ordered
from ixflow.pipeline.stage import Stage
from ixflow.pipeline.subflow import Subflow
from ixflow.pipeline.task import Task
from ixflow.store import Commit, InputRead, SQLTableStore, StageState, StoredResult

if TYPE_CHECKING:
    from ixflow.pipeline.config import ConfigContext
    from ixflow.pipeline.flow import Flow
    from ixflow.store import StageTransaction

__all__ = ["Run"]

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
        auto_table: tuple[type, ...] | None = None,
        max_workers: int = 4,
        fail_fast: bool = True,
        flow: Flow | None = None,
        config: ConfigContext | None = None,
        locks: RunLocks = NO_LOCKS,
        on_event: Callable[[Event], None] | None = None,
        waits: Waits | None = None,
    ) -> None:
        self.store = store
        self.tasks = list(tasks)
        self._selected = frozenset(tasks)
        self.commits = list(commits)
        self.transaction_id = transaction_id
        self.outcomes: dict[Task, Outcome] = {}
        self.results: dict[str, StageResult] = {}
        self._full = full
        self.rules = rules
        self.blobs = blobs
        self._auto_blob, self._auto_table = auto_blob, auto_table
        self.max_workers = max_workers
        self._fail_fast = fail_fast
        self.flow = flow
        self.config = config
        self._locks = locks
        self._on_event = on_event
        self._waits = waits
        self._replaced: list[tuple[Stage, StageTransaction]] | None = None
        self._reset({})

    def _reset(self, failures: Mapping[Node, Exception]) -> None:
        """Forget what was read and computed, but not what is published, or failed for good."""
        stages = [stage for stage in self.commits if stage.name not in self.results]
        tasks = [task for task in self.tasks if task.stage.name not in self.results]
        self.progress = Progress(dependencies(tasks, stages), fail_fast=self._fail_fast)
        for node, error in failures.items():
            self.progress.fail(node, error)
        self._lock = Lock()
        self._executions: dict[str, StageExecution] = {}
        self._foreign: dict[str, StageState] = {}
        self._reads: dict[Task, set[InputRead]] = {}

    @property
    def error(self) -> Exception | None:
        """The first error of the run."""
        return next(iter(self.progress.failures.values()), None)

    def run(self, engine: OrchestrationEngine, options: Mapping[str, Any]) -> Result:
        """Let the engine run what is not yet committed, again if an input moves meanwhile."""
        with contextlib.ExitStack() as stack:
            # First of all: who waited must see what the run before has published, and let that run
            # use a database file meanwhile.
            try:
                stack.enter_context(self._locks)
            except (LockError, LockNotAvailable, SourceUnavailable) as error:
                self.progress.fail(self.commits[0], error)
                return Subflow(self, ordered(self.progress.graph)).result()
            stack.enter_context(self.store.held_open())
            if self._on_event is not None:
                stack.enter_context(listen(self._on_event))
            if self._waits is not None and self._waits.heard is not None:
                stack.enter_context(listen(self._waits.heard))
            stack.enter_context(self._collecting_last())
            for left in range(_TRIES - 1, -1, -1):
                subflow = Subflow(self, ordered(self.progress.graph))
                result: Result = engine.run(subflow, **options)
                failures = self.progress.failures
                moved = [e for e in failures.values() if isinstance(e, InputChanged)]
                if not moved or not left:
                    break
                _log.info("%s; computing it again", moved[0])
                self._reset({n: e for n, e in failures.items() if not isinstance(e, InputChanged)})
            for node, found in list(self.progress.failures.items())[1:]:
                _log.error("%s failed too: %s", name_of(node), found)
        return result

    @contextlib.contextmanager
    def _collecting_last(self) -> Iterator[None]:
        """Drop what the commits of the block replace behind it: nothing waits for that then."""
        self._replaced = []
        try:
            yield
        finally:
            done, self._replaced = self._replaced, None
            for stage, transaction in done:
                try:
                    self._collect(stage, transaction)
                except Exception:  # noqa: BLE001 - everything is published; the next run tries again
                    _log.warning("stage %s: old tables remain", stage.name, exc_info=True)

    def _collect(self, stage: Stage, transaction: StageTransaction) -> None:
        """Drop what is published no more; if the process dies before, the next run does it."""
        transaction.collect()
        if self.blobs is not None:
            collect_blobs(self.store, stage, self.blobs)

    def perform(self, node: Node) -> Ended:
        """Do the work of a node here, unless it is done or cannot start any more.

        Raises:
            FlowError: it waits for something that has not ended.

        """
        ended = self.progress.begin(node)
        if ended is not None:
            return ended
        try:
            with undeclared(self):
                state = self._work(node)
        except Exception as error:  # noqa: BLE001 - the engine decides what becomes of the others
            return self.progress.fail(node, error)
        return self.progress.succeed(node, state)

    def _work(self, node: Node) -> TaskState:
        if isinstance(node, Stage):
            self._commit(node)
            return TaskState.COMPLETED
        outcome = self.execution(node.stage).execute(node)
        self.outcomes[node] = outcome
        return outcome.state

    def execution(self, stage: Stage) -> StageExecution:
        """Give what is remembered of a stage, and its transaction."""
        with self._lock:
            if stage.name not in self._executions:
                self._executions[stage.name] = StageExecution(
                    self.store,
                    stage,
                    self.transaction_id,
                    rules=self.rules,
                    blobs=self.blobs,
                    auto_blob=self._auto_blob,
                    auto_table=self._auto_table,
                    value_of=self.value_of,
                    reads_of=self.reads_of,
                )
            return self._executions[stage.name]

    def recall(self, outcome: Outcome, reads: Iterable[InputRead]) -> None:
        """Take over what another process has computed of a task, and what that relied on."""
        task = outcome.task
        self.execution(task.stage).outcomes[task] = outcome
        self.outcomes[task] = outcome
        self._reads[task] = set(reads)
        self.progress.succeed(task, outcome.state)

    # -- values between tasks -------------------------------------------------------------------

    def value_of(self, upstream: Task, task: Task) -> Any:
        """Give an upstream task's value: of this transaction if it may be seen, else published."""
        inside = upstream.stage == task.stage or task.stage.within(upstream.stage)
        if upstream in self._selected and (inside or upstream.stage not in self.commits):
            return self.outcomes[upstream].value
        name = upstream.stage.name
        found = self._published_at(upstream)
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

    def published_output(self, task: Task) -> str | None:
        """Give what is published of a task, as it is stored; None: nothing is."""
        found = self._published_at(task)
        return None if found is None else found.output

    def _published_at(self, task: Task) -> StoredResult | None:
        """Find what is published at a task's place; it stays the same within the run."""
        name = task.stage.name
        with self._lock:
            if name not in self._foreign:
                self._foreign[name] = self.store.published(name)
        return self._foreign[name].at(task.position)

    def relocated(self, task: Task) -> Any:
        """Give the value of a task, with its tables where they are after the run."""
        value = self.outcomes[task].value
        if task.stage.name not in self.results:
            return value
        schema = self.store.schema(task.stage.name)
        return mapped(value, lambda leaf: leaf.moved(schema) if hasattr(leaf, "moved") else leaf)

    def reads_of(self, *tasks: Task) -> list[InputRead]:
        """List what these tasks have read of other stages and of tasks that are not selected."""
        reads = {read for task in tasks for read in self._reads.get(task, ())}
        return sorted(reads, key=lambda read: (read.stage, read.position))

    def transaction_schema(self, stage: Stage) -> str:
        """Name the schema that this run writes the stage's tables to."""
        return self.store.schema_of(self.execution(stage).transaction.schema)

    def current_schema(self, stage: Stage) -> str:
        """Name the schema where this run finds the stage's tables now."""
        running = {task.stage for task in self.tasks} - {
            s for s in self.commits if s.name in self.results
        }
        return self.transaction_schema(stage) if stage in running else self.store.schema(stage.name)

    # -- publishing -----------------------------------------------------------------------------

    def _commit(self, stage: Stage) -> None:
        execution = self.execution(stage)
        outcomes = [execution.outcomes[t] for t in self.tasks if t in execution.outcomes]
        audits = self._audited(stage, execution, outcomes)
        self._locks.check(stage.name)
        results = [outcome.result for outcome in outcomes]
        inputs = self.reads_of(*(task for task in self.tasks if task.stage == stage))
        where, waits = execution.transaction, self._waits
        if waits is None:
            done = where.commit(results, full=self._full, inputs=inputs, collects=False)
        else:
            note = waits.note(self.stage_result(stage, audits=audits))
            done = where.wait(
                results, full=self._full, inputs=inputs, keep_for=waits.keep_for, note=note
            )
        published = done.changed and waits is None
        waiting = done.published if done.changed and waits is not None else None
        self.results[stage.name] = self.stage_result(
            stage, done, published=published, waits=waiting, audits=audits
        )
        if published:
            emit(StagePublished(stage.name, done.version, done.published))
        if published and self._replaced is not None:
            self._replaced.append((stage, where))
        elif published:
            self._collect(stage, where)
        self._locks.done(stage.name)

    def stage_result(
        self,
        stage: Stage,
        done: Commit | None = None,
        *,
        published: bool = False,
        waits: tuple[str, ...] | None = None,
        audits: tuple[AuditOutcome, ...] = (),
    ) -> StageResult:
        """Describe the stage's part of the run, and what became of it."""
        execution = self.execution(stage)
        outcomes = [execution.outcomes[t] for t in self.tasks if t in execution.outcomes]
        where = execution.transaction
        return StageResult(
            stage=stage.name,
            version=where.published.version if done is None else done.version,
            published=published,
            tables=_table_results(execution, outcomes),
            dropped=() if done is None else done.dropped,
            audits=audits,
            schema=where.published_schema,
            transaction_schema=where.schema,
            seconds=sum(outcome.seconds for outcome in outcomes),
            waits=waits,
            transaction_id=self.transaction_id,
            before=where.published.tables if done is None else done.before.tables,
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
                outcome.reason,
            )
    return tuple(found.values())
