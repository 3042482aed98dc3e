"""Running the tasks of one stage in processes of their own, and publishing the stage in a last one.

What passes between the steps is in the database: tables and results in the stage's transaction, and
a record a task of what it came to and what it took. A step takes over what others have recorded as
long as it is still right: its tables are there, and what it took is what would be taken now. It
makes what is missing itself. So it does not matter which steps are tried again, nor where.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TYPE_CHECKING

import sqlalchemy as sa

from ixflow.errors import InputChanged, IxflowError
from ixflow.events import Event, listen
from ixflow.pipeline.audit import judged_one
from ixflow.pipeline.blob import blobs_in
from ixflow.pipeline.blob_store import BlobStore
from ixflow.pipeline.by_hand import Waits
from ixflow.pipeline.cache import task_key_of
from ixflow.pipeline.engine import ThreadedEngine
from ixflow.pipeline.execute import Outcome, decoded_value
from ixflow.pipeline.result import StageResult, TaskState
from ixflow.pipeline.run import Run
from ixflow.pipeline.schedule import making, ordered
from ixflow.pipeline.stage import Stage
from ixflow.pipeline.subflow import Subflow
from ixflow.pipeline.task import Task
from ixflow.store import InputRead, SQLTableStore, StepRecord, Steps, StoredResult

if TYPE_CHECKING:
    from ixflow.store import StageTransaction

__all__ = ["StageSteps"]

_log = logging.getLogger("ixflow.pipeline")
_TRIES = 3


class StageSteps:
    """One stage whose tasks run in steps of their own; each process makes its own of these.

    All steps of a run have the same ``transaction_id`` and ``tables``; a run with the id of a
    failed one goes on where that ended. ``tables`` selects the tasks that make these tables, and
    publishes only them. Blobs pass between the steps if every process sees the blob store.

    >>> steps = StageSteps(flow["staging"], store, transaction_id=run_id)  # doctest: +SKIP
    >>> steps.run_task(flow["staging"]["orders"])  # in one process  # doctest: +SKIP
    <TaskState.COMPLETED: 'completed'>
    >>> steps.finish().published  # in another, once all have ended  # doctest: +SKIP
    True
    """

    def __init__(
        self,
        stage: Stage,
        store: SQLTableStore,
        *,
        transaction_id: str,
        tables: Collection[str] | None = None,
        blobs: BlobStore | None = None,
        max_workers: int = 4,
        on_event: Callable[[Event], None] | None = None,
    ) -> None:
        self._stage = stage
        self._store = store
        self._transaction_id = transaction_id
        self._full = tables is None
        self._tasks = stage.tasks if tables is None else making(stage, tables)
        self._blobs = blobs
        self._max_workers = max_workers
        self._on_event = on_event
        self._steps = Steps(store)
        #: What other steps had recorded of tasks when `finish` took it over.
        self.recalled: list[StepRecord] = []
        self._place = store.schema(stage.name)

    def run_task(self, task: Task) -> TaskState | None:
        """Run one task, and what it takes if no other step has made that; None: not selected.

        Nothing is published. What it came to is recorded when this returns.

        Raises:
            TaskError: the task raised; the cause is its exception.
            InputChanged: inputs were published anew, again and again, while the task ran.
            CacheError: an input was never published.

        """
        if task not in self._tasks:
            return None
        with self._at_work():
            for left in range(_TRIES - 1, -1, -1):
                run = self._run()
                known = self._recall(run, _above(task, self._tasks))
                self._perform(run, known, task)
                if not (isinstance(run.error, InputChanged) and left):
                    break
        if run.error is not None:
            raise run.error
        return run.outcomes[task].state

    def finish(self, *, waits: Waits | None = None) -> StageResult:
        """Audit what the steps have made, and publish it; what none has recorded is made here.

        If this transaction was published before, by a process that could not tell it any more, the
        same is told again. With ``waits`` nothing is published, as by `run_stage`.

        Raises:
            AuditFailed: an audit refused the tables. Nothing was published.
            DuplicateNameError: two tasks made a table of the same name. Nothing was published.
            InputChanged, TaskError, CacheError: as for `run_task`. Nothing was published.

        """
        with self._at_work():
            for left in range(_TRIES - 1, -1, -1):
                run = self._run(waits)
                where = run.execution(self._stage).transaction
                known = self._recall(run, self._tasks)
                self.recalled = [known[task.position] for task in run.outcomes]
                if not known and where.attempt and (told := self._published_before(run, where)):
                    return told
                ThreadedEngine().run(Subflow(run, ordered(run.progress.graph)))
                if not (isinstance(run.error, InputChanged) and left):
                    break
                _log.info("%s; looking again", run.error)
            if run.error is not None:
                raise run.error
            self._tidy(where.schema)
            return run.results[self._stage.name]

    def _tidy(self, own: str) -> None:
        """Remove old records; failing to is no reason to fail what is published."""
        try:
            self._steps.forget_old(self._place, own)
        except (IxflowError, sa.exc.DBAPIError):
            _log.warning("stage %s: old records of steps remain", self._stage.name, exc_info=True)

    @contextlib.contextmanager
    def _at_work(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._store.held_open())
            if self._on_event is not None:
                stack.enter_context(listen(self._on_event))
            yield

    def _run(self, waits: Waits | None = None) -> Run:
        return Run(
            self._store,
            self._tasks,
            [self._stage],
            transaction_id=self._transaction_id,
            full=self._full,
            blobs=self._blobs,
            max_workers=self._max_workers,
            flow=self._stage.flow,
            waits=waits,
        )

    # -- what other steps have come to ------------------------------------------------------------

    def _recall(self, run: Run, tasks: Collection[Task]) -> dict[str, StepRecord]:
        """Take over what is recorded of these tasks and still right; give all records."""
        execution = run.execution(self._stage)
        where = execution.transaction
        known = self._steps.read(self._place, where.schema)
        for task in tasks:
            found = known.get(task.position)
            if found is None or not self._is_right(run, task, found):
                continue
            result = found.result
            names = [*result.tables, *(f"blob {name}" for name, _ in blobs_in(result.output))]
            execution.memo.register(task.name, task_key_of(result.task_key), names)
            run.recall(_outcome(task, found, where), self._reads(task, found))
        return known

    def _is_right(self, run: Run, task: Task, found: StepRecord) -> bool:
        """Say whether what was made of a task is there, and what it took would be taken now."""
        where = run.execution(self._stage).transaction
        return self._is_there(where, found.result) and found.inputs == self._inputs_now(run, task)

    def _inputs_now(self, run: Run, task: Task) -> tuple[InputRead, ...] | None:
        """Give what a task would take now; None if something of it is still to be made."""
        found = []
        for upstream in task.upstream:
            if upstream not in self._tasks:
                output = run.published_output(upstream)
            elif upstream in run.outcomes:
                output = run.outcomes[upstream].result.output
            else:
                return None
            if output is None:
                return None
            found.append(InputRead(upstream.stage.name, upstream.position, output))
        return tuple(found)

    def _is_there(self, where: StageTransaction, result: StoredResult) -> bool:
        if not all(where.has(*pair) for pair in result.pairs()):
            return False
        named = blobs_in(result.output)
        blobs, stage = self._blobs, self._stage.name
        return not named or (blobs is not None and all(blobs.holds(stage, *n) for n in named))

    def _reads(self, task: Task, found: StepRecord) -> list[InputRead]:
        """Tell what of a task's inputs was published by others, and may be replaced by them."""
        own = {up.position for up in task.upstream if up in self._tasks}
        return [read for read in found.inputs if read.position not in own]

    # -- making and recording ---------------------------------------------------------------------

    def _perform(self, run: Run, known: Mapping[str, StepRecord], task: Task) -> None:
        """Run a task and what is missing above it, and record each; stop at the first failure."""
        above = [one for one in _above(task, self._tasks) if one not in run.outcomes]
        for one in (*above, task):
            run.perform(one)
            if run.error is not None:
                return
            made = self._first_made(run, run.outcomes[one])
            record = StepRecord(
                made.result, str(made.state), made.seconds, made.reason, self._taken(run, one)
            )
            kept = self._steps.put(
                self._place,
                run.execution(self._stage).transaction.schema,
                record,
                before=known.get(one.position),
            )
            if kept != record and self._is_right(run, one, kept):
                made = _outcome(one, kept, run.execution(self._stage).transaction)
            run.recall(made, run.reads_of(one))

    def _first_made(self, run: Run, outcome: Outcome) -> Outcome:
        """Give what the transaction has: an equal call of another process may have been first."""
        where = run.execution(self._stage).transaction
        held = where.held.whole(outcome.result.task_key)
        if held is None or held.output == outcome.result.output:
            return outcome
        result = dataclasses.replace(held, position=outcome.task.position, task=outcome.result.task)
        return dataclasses.replace(outcome, result=result, value=_value(result, where))

    def _taken(self, run: Run, task: Task) -> tuple[InputRead, ...]:
        found = self._inputs_now(run, task)
        reads = {(read.stage, read.position): read for read in run.reads_of(task)}
        # What others published is what was read, which may not be what is there by now.
        return tuple(reads.get((one.stage, one.position), one) for one in found or ())

    # -- telling again ----------------------------------------------------------------------------

    def _published_before(self, run: Run, where: StageTransaction) -> StageResult | None:
        """Tell what the last attempt of this transaction published, if it is still published."""
        last = self._store.transaction_schema(
            self._stage.name, self._transaction_id, where.attempt - 1
        )
        known = self._steps.read(self._place, last)
        for task in self._tasks:
            found = known.get(task.position)
            published = where.published.at(task.position)
            if found is None or published is None or published.output != found.result.output:
                return None
        new: set[str] = set()
        for task in self._tasks:
            found = known[task.position]
            run.recall(_outcome(task, found, where), self._reads(task, found))
            new.update(found.result.tables if found.state != TaskState.CACHE_VALID else ())
        places = dict.fromkeys(where.published.tables, self._place)
        audits = tuple(
            judged_one(self._store, self._stage, audit, places)
            for audit in self._stage.audits
            if not new.isdisjoint(audit.tables.values())
        )
        return run.stage_result(self._stage, audits=audits)


def _above(task: Task, among: Collection[Task]) -> list[Task]:
    """List the tasks that a task takes, also through others, in the order of their declaration."""
    found: set[Task] = set()
    left = [task]
    while left:
        new = {up for up in left.pop().upstream if up in among and up not in found}
        found |= new
        left += new
    return [one for one in among if one in found]


def _outcome(task: Task, found: StepRecord, where: StageTransaction) -> Outcome:
    result = dataclasses.replace(found.result, position=task.position, task=task.name)
    state = TaskState(found.state)
    return Outcome(task, _value(result, where), result, state, found.seconds, found.reason)


def _value(result: StoredResult, where: StageTransaction) -> object:
    return decoded_value(result.output, lambda name, key: where.located(name, key)[0])
