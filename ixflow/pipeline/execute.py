"""Executing one task: its inputs, whether it must run at all, its outputs."""

from __future__ import annotations

import dataclasses
import inspect
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from ixflow.errors import DuplicateNameError, FlowError, IxflowError, TaskError
from ixflow.events import TaskFinished, emit
from ixflow.pipeline.cache import task_key
from ixflow.pipeline.containers import ExternalTableReference, Table, table_from_form
from ixflow.pipeline.encoding import MARKER, decoded, encoded, leaves, mapped
from ixflow.pipeline.outputs import outputs_of, value_form
from ixflow.pipeline.result import TaskState, item_of, loaded
from ixflow.pipeline.stage import Stage
from ixflow.pipeline.task import Task, TaskGetItem
from ixflow.secrets import redact
from ixflow.store import InputRead, SQLTableStore, StageTransaction, StoredResult

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Outcome", "StageExecution", "decoded_value"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a task ended, with the value that its consumers get."""

    task: Task
    value: Any
    result: StoredResult
    state: TaskState
    seconds: float


def decoded_value(text: str, schema: str) -> Any:
    """Read a stored value back, its tables in the given schema."""

    def special(form: dict[str, Any]) -> Any:
        return Stage(form["name"]) if form[MARKER] == "stage" else table_from_form(form, schema)

    return decoded(text, special)


class StageExecution:
    """The tasks of one stage within a run: what is remembered between them."""

    def __init__(
        self,
        store: SQLTableStore,
        stage: Stage,
        transaction_id: str,
        *,
        forced: bool,
        value_of: Callable[[Task, Task], Any],
        reads_of: Callable[[Task], Sequence[InputRead]] = lambda _: (),
    ) -> None:
        """Read the state of the stage.

        ``forced`` runs every task though it may be valid; ``value_of(upstream, task)`` gives the
        value of an upstream task, ``reads_of(task)`` what of it was published by others.
        """
        self.stage = stage
        self.transaction = StageTransaction(store, stage.name, transaction_id)
        self.outcomes: dict[Task, Outcome] = {}
        self._store = store
        self._forced = forced
        self._value_of = value_of
        self._reads_of = reads_of
        self._lock = Lock()
        self._memo: dict[str, Future[Outcome]] = {}
        self._names: dict[str, str] = {}

    def execute(self, task: Task) -> Outcome:
        """Run the task unless its result is there; remember and tell how it ended.

        Raises:
            TaskError: its function raised, or its output cannot be stored.

        """
        start = time.monotonic()
        try:
            outcome = self._outcome(task, start)
        except Exception as error:
            seconds = time.monotonic() - start
            emit(TaskFinished(self.stage.name, task.name, TaskState.FAILED, seconds))
            if isinstance(error, IxflowError):
                error.add_note(f"in task {self.stage.name}.{task.name}")
                raise
            raise self._failure(task, error) from error
        self.outcomes[task] = outcome
        known = self._tables(outcome)
        rows = sum(known[name].rows for name in outcome.result.tables) if known else None
        emit(TaskFinished(self.stage.name, task.name, outcome.state, outcome.seconds, rows))
        return outcome

    def _tables(self, outcome: Outcome) -> Mapping[str, Any]:
        where = self.transaction
        published = where.published.whole(outcome.result.task_key)
        return where.published.tables if published else where.held.tables

    def _failure(self, task: Task, error: Exception) -> TaskError:
        said = str(error.orig) if isinstance(error, sa.exc.DBAPIError) else str(error)
        text = redact(said, str(self._store.url.password or ""))
        place = f"{self.stage.name}.{task.name}"
        msg = f"task {place} failed: {type(error).__name__}: {text}"
        return TaskError(msg, stage=self.stage.name, task=task.name)

    def _outcome(self, task: Task, start: float) -> Outcome:
        arguments = self._resolved(task)
        key, versioned = self._key(task, arguments)
        with self._lock:
            future = self._memo.get(key)
            if future is None:
                mine: Future[Outcome] = Future()
                self._memo[key] = mine
        if future is not None:
            # An equal call of this stage: the same tables, but a place of its own.
            twin = future.result()
            return dataclasses.replace(twin, task=task, result=_placed(twin.result, task))
        try:
            outcome = self._fresh_or_stored(task, key, arguments, start, versioned=versioned)
        except BaseException as error:
            mine.set_exception(error)
            raise
        mine.set_result(outcome)
        return outcome

    def _resolved(self, task: Task) -> dict[str, Any]:
        def change(leaf: Any) -> Any:
            if isinstance(leaf, Task):
                return self._value_of(leaf, task)
            if isinstance(leaf, TaskGetItem):
                return item_of(self._value_of(leaf.task, task), leaf)
            return leaf

        found: dict[str, Any] = mapped(dict(task.arguments.arguments), change)
        return found

    def _key(self, task: Task, arguments: dict[str, Any]) -> tuple[str, bool]:
        """Give the cache key, and whether equal keys mean equal content."""
        where = f"the arguments of task {self.stage.name}.{task.name}"
        cached = None
        if task.definition.cache is not None:
            answer = _call(task.definition.cache, task, arguments)
            cached = encoded(answer, value_form, where=f"the cache function of {task.name}")
        external = cached is None and any(_is_external(leaf) for leaf in leaves(arguments))
        versioned = task.definition.version is not None and not external
        # A task that always runs has a key of this attempt: a retry finds it, the next run not.
        version = task.definition.version if versioned else f"always {self.transaction.schema}"
        inputs = encoded(arguments, value_form, where=where)
        return task_key(task.name, version or "", inputs, cached), versioned

    def _fresh_or_stored(
        self, task: Task, key: str, arguments: dict[str, Any], start: float, *, versioned: bool
    ) -> Outcome:
        published = self.transaction.published.whole(key) if versioned else None
        if published is not None and not self._forced:
            return self._stored(task, published, TaskState.CACHE_VALID, start)
        held = self.transaction.held.whole(key)
        if held is not None:
            return self._stored(task, held, TaskState.RESUMED, start)
        returned = self._called(task, arguments)
        self.transaction.begin()
        self._refuse_forgotten_return(task, returned)
        outputs = outputs_of(task, key, returned, self.transaction.schema)
        for table in outputs.external:
            self.transaction.check_external(table)
        names = tuple(write.spec.name for write in outputs.writes)
        self._register(task, key, names)
        result = StoredResult(task.position, task.name, key, outputs.json, names)
        version = key if versioned else None
        reads = self._reads_of(task)
        self.transaction.write(result, outputs.writes, data_version=version, inputs=reads)
        seconds = time.monotonic() - start
        return Outcome(task, outputs.value, result, TaskState.COMPLETED, seconds)

    def _refuse_forgotten_return(self, task: Task, returned: Any) -> None:
        """Keep a task that forgot its `return` from taking its published table away."""
        known = self.transaction.published.tables
        gone = [n for n in task.output_names if n in known and known[n].task == task.name]
        if returned is None and gone:
            msg = (
                f"task {task.stage.name}.{task.name} returned None, but made the table {gone[0]} "
                f"before; return a Table, or declare @materialize(outputs=[])"
            )
            raise FlowError(msg, stage=task.stage.name, task=task.name)

    def _stored(self, task: Task, found: StoredResult, state: TaskState, start: float) -> Outcome:
        self._register(task, found.task_key, found.tables)
        value = decoded_value(found.output, self.transaction.locate(found.task_key))
        return Outcome(task, value, _placed(found, task), state, time.monotonic() - start)

    def _called(self, task: Task, arguments: dict[str, Any]) -> Any:
        type_ = task.input_type
        frames = {name: loaded(self._store, value, type_) for name, value in arguments.items()}
        try:
            return _call(task.fn, task, frames)
        except Exception as error:
            raise self._failure(task, error) from error

    def _register(self, task: Task, key: str, names: tuple[str, ...]) -> None:
        with self._lock:
            for name in names:
                if self._names.setdefault(name, key) != key:
                    msg = (
                        f"two tasks of stage {self.stage.name} make a table {name!r}, one of them "
                        f"is {task.name}; give one another name, or end the name with %%"
                    )
                    raise DuplicateNameError(msg, stage=self.stage.name, name=name)


def _placed(result: StoredResult, task: Task) -> StoredResult:
    return dataclasses.replace(result, position=task.position, task=task.name)


def _call(fn: Callable[..., Any], task: Task, arguments: dict[str, Any]) -> Any:
    bound = inspect.BoundArguments(task.arguments.signature, arguments)
    return fn(*bound.args, **bound.kwargs)


def _is_external(leaf: Any) -> bool:
    external = isinstance(leaf, Table) and leaf.external is not None
    return external or isinstance(leaf, ExternalTableReference)
