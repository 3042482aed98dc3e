"""Executing one task: its inputs, whether it must run at all, its outputs."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from ixflow.errors import FlowError, IxflowError, TaskError
from ixflow.events import TaskFinished, emit
from ixflow.pipeline.blob import blob_from_form, blobs_in
from ixflow.pipeline.blob_store import BlobStore, blob_store
from ixflow.pipeline.cache import (
    Rules,
    lazy_result_key,
    script_key,
)
from ixflow.pipeline.containers import table_from_form
from ixflow.pipeline.context import running_input_type
from ixflow.pipeline.encoding import MARKER, decoded, leaves, mapped
from ixflow.pipeline.lazy import published_names, table_key, timeless
from ixflow.pipeline.memo import Memo, SharedMemo
from ixflow.pipeline.outputs import Outputs, Placer, outputs_of, wrapped
from ixflow.pipeline.raw_sql import RawSql, raw_sql_from_form, tables_among
from ixflow.pipeline.reasons import reason_to_run
from ixflow.pipeline.result import Stores, TaskState, item_of, loaded
from ixflow.pipeline.stage import Stage
from ixflow.pipeline.task import Task, TaskGetItem
from ixflow.pipeline.validity import key_of
from ixflow.secrets import redact
from ixflow.store import (
    InputRead,
    Script,
    SQLTableStore,
    StageTransaction,
    StoredResult,
    TableSpec,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Outcome", "StageExecution", "decoded_value"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a task ended, why it ran if it did, and the value that its consumers get."""

    task: Task
    value: Any
    result: StoredResult
    state: TaskState
    seconds: float
    reason: str = ""


def decoded_value(text: str, place: Callable[[str, str], str]) -> Any:
    """Read a stored value back; ``place`` gives a table's schema by its name and key."""

    def special(form: dict[str, Any]) -> Any:
        if form[MARKER] == "stage":
            return Stage(form["name"])
        if form[MARKER] == "blob":
            return blob_from_form(form)
        if form[MARKER] == "raw_sql":
            places = {name: place(name, form["key"]) for name in form["tables"]}
            return raw_sql_from_form(form, places)
        known = form[MARKER] == "table" and not form["external"]
        return table_from_form(form, place(form["name"], form["key"]) if known else "")

    return decoded(text, special)


class StageExecution:
    """The tasks of one stage within a run: what is remembered between them."""

    def __init__(
        self,
        store: SQLTableStore,
        stage: Stage,
        transaction_id: str,
        *,
        rules: Rules,
        blobs: BlobStore | None = None,
        auto_blob: tuple[type, ...] = (),
        auto_table: tuple[type, ...] | None = None,
        value_of: Callable[[Task, Task], Any],
        reads_of: Callable[[Task], Sequence[InputRead]] = lambda _: (),
        memo: SharedMemo[Outcome] | None = None,
    ) -> None:
        """Read the state of the stage.

        ``rules`` say what is valid, ``value_of(upstream, task)`` gives the value of an upstream
        task, ``reads_of(task)`` what of it was published by others. ``memo`` is that of the
        leader, if this is another process.
        """
        self.stage = stage
        self.transaction = StageTransaction(
            store, stage.name, transaction_id, keep_versions=stage.keep_versions
        )
        self.outcomes: dict[Task, Outcome] = {}
        self._store = store
        self._rules = rules
        self._blobs = blobs
        self._auto_blob, self._auto_table = auto_blob, auto_table
        self._value_of = value_of
        self._reads_of = reads_of
        self.memo: SharedMemo[Outcome] = Memo(stage.name) if memo is None else memo

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
        pairs = outcome.result.pairs()
        rows = sum(self.transaction.located(*pair)[1].rows for pair in pairs) if pairs else None
        ended = (outcome.state, outcome.seconds, rows, outcome.reason)
        emit(TaskFinished(self.stage.name, task.name, *ended))
        return outcome

    def _failure(self, task: Task, error: Exception) -> TaskError:
        said = str(error.orig) if isinstance(error, sa.exc.DBAPIError) else str(error)
        text = redact(said, str(self._store.url.password or ""))
        place = f"{self.stage.name}.{task.name}"
        msg = f"task {place} failed: {type(error).__name__}: {text}"
        return TaskError(msg, stage=self.stage.name, task=task.name)

    def _outcome(self, task: Task, start: float) -> Outcome:
        arguments = self._resolved(task)
        key, versioned = key_of(task, arguments, self._rules, self.transaction, self._store)
        twin = self.memo.claim(key)
        if twin is not None:
            # An equal call of this stage: the same tables, but a place of its own.
            return dataclasses.replace(twin, task=task, result=_placed(twin.result, task))
        try:
            outcome = self._fresh_or_stored(task, key, arguments, start, versioned=versioned)
        except BaseException as error:
            self.memo.fail(key, error)
            raise
        self.memo.settle(key, outcome)
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

    def _fresh_or_stored(
        self, task: Task, key: str, arguments: dict[str, Any], start: float, *, versioned: bool
    ) -> Outcome:
        if not task.definition.lazy:
            published = self.transaction.published.whole(key) if versioned else None
            if published is not None and not self._rules.forced and self._has_blobs(published):
                return self._stored(task, published, TaskState.CACHE_VALID, start)
            held = self.transaction.held.whole(key)
            if held is not None and self._has_blobs(held):
                return self._stored(task, held, TaskState.RESUMED, start)
        returned = wrapped(self._called(task, arguments), self._auto_blob, self._auto_table)
        self._refuse_forgotten_return(task, returned)
        inputs = leaves(arguments)
        where = self.transaction
        schemas = self._store.spellings(where.schema, where.published_schema)
        schemas.update(published_names(inputs, self._store))
        run_before = mapped(returned, lambda leaf: self._ran(task, key, leaf, inputs, schemas))
        outputs = outputs_of(task, key, run_before, self._placer(task, key, schemas))
        for table in outputs.external:
            self.transaction.check_external(table)
        self._store_blobs(task, key, outputs.blobs)
        result = self._result(task, key, outputs)
        self.memo.register(task.name, key, result.tables)
        state = self._kept(task, outputs, result, data_version=key if versioned else None)
        reason = ""
        if state is TaskState.CACHE_VALID and any(map(_made_nothing, leaves(run_before))):
            state, reason = TaskState.COMPLETED, "its script makes no table"
        elif state is TaskState.COMPLETED:
            before = self.transaction.published
            reason = reason_to_run(task, key, before, self._rules, versioned=versioned)
        seconds = time.monotonic() - start
        return Outcome(task, outputs.value, result, state, seconds, reason)

    def _placer(self, task: Task, key: str, schemas: Mapping[str, str]) -> Placer:
        """Say where a table that was returned will be: a valid one of a lazy task stays."""

        def place(obj: Any, spec: TableSpec) -> tuple[str | None, str]:
            if not task.definition.lazy:
                return None, self.transaction.schema
            own = table_key(key, obj, spec, self._store, schemas)
            valid = not self._rules.forced and self.transaction.published.table(spec.name, own)
            return own, self.transaction.published_schema if valid else self.transaction.schema

        return place

    def _ran(
        self, task: Task, key: str, leaf: Any, inputs: Sequence[Any], schemas: Mapping[str, str]
    ) -> Any:
        """Run a script unless what it makes is there; give other leaves as they are."""
        if not isinstance(leaf, RawSql) or leaf.stage is not None:
            return leaf
        if leaf.sql is None:
            msg = f"task {task.stage.name}.{task.name} returned a RawSql without a script"
            raise FlowError(msg, stage=task.stage.name, task=task.name)
        own = script_key(key, leaf.name or "", leaf.separator + timeless(leaf.sql, schemas))
        made = {} if self._rules.forced else self.transaction.made_by(own)
        if not made:
            self.transaction.begin()
            places = [table.location for table in tables_among(inputs) if table.location]
            beside = self.transaction.beside_scripts(places)
            script = Script(leaf.sql, leaf.separator, own, beside)
            made = self.transaction.run_script(task.name, script, replaces=task.is_unique)
        return leaf.stored(stage=task.stage.name, key=own, tables=made)

    def _store_blobs(self, task: Task, key: str, found: Sequence[tuple[str, Any]]) -> None:
        """Write blobs before the result that names them; one too many is collected later."""
        for name, obj in found:
            self.memo.register(task.name, key, (f"blob {name}",))
            blob_store(self._blobs, self.stage.name).write(self.stage.name, name, key, obj)

    def _has_blobs(self, result: StoredResult) -> bool:
        """Say whether the blobs of a result are still there."""
        stage = self.stage.name
        named = blobs_in(result.output)
        return not named or all(blob_store(self._blobs, stage).holds(stage, *n) for n in named)

    def _result(self, task: Task, key: str, outputs: Outputs) -> StoredResult:
        pairs = [(write.spec.name, write.key or key) for write in outputs.writes]
        pairs += outputs.scripted
        names = tuple(name for name, _ in pairs)
        keys = tuple(own for _, own in pairs)
        lazy = task.definition.lazy
        own = lazy_result_key(key, outputs.json) if lazy else key
        only = all(table == own for table in keys)
        return StoredResult(
            task.position, task.name, own, outputs.json, names, () if only else keys
        )

    def _kept(
        self, task: Task, outputs: Outputs, result: StoredResult, *, data_version: str | None
    ) -> TaskState:
        """Write what is not there yet."""
        where, lazy = self.transaction, task.definition.lazy
        if lazy and not self._rules.forced and where.published.whole(result.task_key):
            return TaskState.CACHE_VALID
        writes = outputs.writes
        if lazy and not self._rules.forced:
            writes = tuple(w for w in writes if not where.has(w.spec.name, str(w.key)))
        where.begin()
        reads = self._reads_of(task)
        where.write(result, writes, data_version=data_version, inputs=reads)
        return TaskState.COMPLETED

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
        self.memo.register(task.name, found.task_key, found.tables)
        where = self.transaction
        value = decoded_value(found.output, lambda name, key: where.located(name, key)[0])
        return Outcome(task, value, _placed(found, task), state, time.monotonic() - start)

    def _called(self, task: Task, arguments: dict[str, Any]) -> Any:
        type_ = task.input_type
        stores = Stores(self._store, self._blobs)
        frames = loaded(stores, arguments, type_)
        token = running_input_type.set(type_)
        try:
            return task.call(task.fn, frames)
        except Exception as error:
            raise self._failure(task, error) from error
        finally:
            running_input_type.reset(token)


def _made_nothing(leaf: Any) -> bool:
    """Say whether it is a script that made no table, and has therefore run."""
    return isinstance(leaf, RawSql) and not len(leaf)


def _placed(result: StoredResult, task: Task) -> StoredResult:
    return dataclasses.replace(result, position=task.position, task=task.name)
