"""What came of a run: of a flow (`Result`), of a stage, of a table."""

from __future__ import annotations

import contextlib
import enum
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from ixflow.errors import NoConfiguration, TaskError, ValidationError
from ixflow.pipeline.blob import Blob
from ixflow.pipeline.blob_store import BlobStore, blob_store
from ixflow.pipeline.containers import ExternalTableReference, Table
from ixflow.pipeline.encoding import fields_of, leaves, mapped
from ixflow.pipeline.locks.run_locks import lock_for_reading
from ixflow.pipeline.raw_sql import RawSql
from ixflow.pipeline.task import Field, Task, TaskGetItem
from ixflow.pipeline.unchanged import read_unchanged, tables_of
from ixflow.store.frames import Wanted, frames_giving, wanted_frame
from ixflow.values import TableName

if TYPE_CHECKING:
    from ixflow.pipeline.audit import AuditOutcome
    from ixflow.pipeline.config import ConfigContext
    from ixflow.pipeline.flow import Flow
    from ixflow.pipeline.subflow import Subflow
    from ixflow.store import SQLTableStore, StoredTable, TableColumn
    from ixflow.store.lineage import ColumnSource

__all__ = [
    "Result",
    "StageResult",
    "Stores",
    "TableResult",
    "TaskState",
    "item_of",
    "loaded",
    "with_backend",
]


class TaskState(enum.StrEnum):
    """How a task ended."""

    #: It was not reached, or not selected.
    UNKNOWN = "unknown"
    #: It ran.
    COMPLETED = "completed"
    #: What is published is what it would make.
    CACHE_VALID = "cache valid"
    #: An earlier try of the same transaction had run it.
    RESUMED = "resumed"
    #: It raised.
    FAILED = "failed"

    def is_successful(self) -> bool:
        """Say whether its result is there."""
        return self in (TaskState.COMPLETED, TaskState.CACHE_VALID, TaskState.RESUMED)

    def is_failure(self) -> bool:
        """Say whether it raised."""
        return self is TaskState.FAILED


@dataclass(frozen=True, slots=True)
class TableResult:
    """One table of a stage's run.

    ``data_version`` is equal when the content is: the task's cache key where the task has a
    version, else a hash of the rows in their order where they passed through ixflow, else unique
    for the write (a query that ran on the server). ``seconds`` is the time its task took,
    ``reason`` why that ran, if it did.
    """

    name: str
    task: str
    state: TaskState
    rows: int
    columns: tuple[TableColumn, ...]
    seconds: float
    data_version: str
    reason: str = ""

    @property
    def lineage(self) -> dict[str, tuple[ColumnSource, ...] | None]:
        """Map each column to the columns that feed it, by schema, table and column.

        None: that is not known. It is told of tables that SQLAlchemy queries make, from the query;
        what literal text is part of is not.
        """
        return {column.name: column.sources for column in self.columns}


@dataclass(frozen=True, slots=True)
class StageResult:
    """What the run of one stage did.

    ``version`` counts the publications of the stage; ``published`` says whether this run made one.
    ``schema`` is where the tables are seen, ``transaction_schema`` where the run wrote. ``waits``
    names the tables that wait to be published by hand, as ``transaction_id``; None: nothing does.
    ``before`` are the tables that were published when the run compared.
    """

    stage: str
    version: int
    published: bool
    tables: tuple[TableResult, ...]
    dropped: tuple[str, ...]
    audits: tuple[AuditOutcome, ...]
    schema: str
    transaction_schema: str
    seconds: float
    waits: tuple[str, ...] | None = None
    transaction_id: str = ""
    before: Mapping[str, StoredTable] = field(default_factory=dict, repr=False)

    def __getitem__(self, name: str) -> TableResult:
        """Give the result of one table.

        Raises:
            KeyError: the run did not touch it.

        """
        for table in self.tables:
            if table.name == name:
                return table
        names = ", ".join(table.name for table in self.tables) or "none"
        msg = f"the run of stage {self.stage} has no table {name!r}; it has {names}"
        raise KeyError(msg)


@dataclass(slots=True)
class Result:
    """What the run of a flow did.

    ``task_values`` holds what tasks returned, with references in place of tables; ``get`` loads
    them. ``task_states`` says how each ended, ``task_reasons`` why those ran that did.
    ``exception`` is the error that ended the run, None if it was ``successful``. ``subflow`` is
    what was selected, ``underlying`` what the engine that ran it made of it, if one did.
    """

    flow: Flow
    successful: bool
    config_context: ConfigContext | None
    task_values: Mapping[Task, Any]
    task_states: Mapping[Task, TaskState]
    exception: Exception | None = None
    stages: Mapping[str, StageResult] = field(default_factory=dict)
    store: SQLTableStore | None = None
    subflow: Subflow | None = None
    underlying: Any = None
    task_reasons: Mapping[Task, str] = field(default_factory=dict)

    def visualize(self) -> Any:
        """Show the flow and what came of its tasks; see `Flow.visualize`."""
        return self.flow.visualize(self)

    def visualize_url(self) -> str:
        """Give a URL that shows the flow and what came of its tasks."""
        return self.flow.visualize_url(self)

    def visualize_pydot(self) -> Any:
        """Give a `pydot.Dot` of the flow and what came of its tasks."""
        return self.flow.visualize_pydot(self)

    def get(self, task: Task | TaskGetItem, as_type: Any = None) -> Any:
        """Load what a task returned; tables as ``as_type``, or as the task's own input type.

        It is always of this run. Types that are read later, such as `sqlalchemy.Table`, stay so
        only within a `StageLockContext`, with a lock manager.

        Raises:
            TaskError: the task has no result in this run.
            CacheError: another run has replaced it.
            LockError: the configuration has a lock manager and ``strict_result_get_locking``, and
                no `StageLockContext` is open.

        >>> result.get(orders, as_type=pl.DataFrame)  # doctest: +SKIP
        """
        root = task.task if isinstance(task, TaskGetItem) else task
        if root not in self.task_values or self.store is None:
            state = self.task_states.get(root, TaskState.UNKNOWN)
            msg = f"task {root.stage.name}.{root.name} has no result in this run (it is {state})"
            raise TaskError(msg, stage=root.stage.name, task=root.name)
        value = self.task_values[root]
        if isinstance(task, TaskGetItem):
            value = item_of(value, task)
        kind = as_type or root.input_type
        with contextlib.ExitStack() as stack:
            stores = Stores(self.store)
            if self.config_context is not None:
                config = stack.enter_context(self.config_context)
                lock_for_reading(config, root.stage.name)
                stores = Stores(config.table_store, config.blob_store)
            stack.enter_context(stores.tables.held_open())
            tables = tables_of(leaves(value), self.stages)
            return read_unchanged(stores.tables, tables, lambda: loaded(stores, value, kind))


def item_of(value: Any, item: TaskGetItem) -> Any:
    """Take one element out of a task's value.

    Raises:
        ValidationError: the value has no such element.

    """
    for step in item.path:
        name = step.name if isinstance(step, Field) else step
        try:
            value = _element(value, step)
        except (KeyError, IndexError, TypeError) as error:
            msg = (
                f"task {item.task.stage.name}.{item.task.name} returned {type(value).__name__}, "
                f"which has no element {name!r} (wired as {item!r})"
            )
            raise ValidationError(msg, task=item.task.name, item=name) from error
    return value


def _element(value: Any, step: int | str | Field) -> Any:
    fields = fields_of(value)
    if isinstance(step, Field):
        return (fields or {})[step.name]
    return value[step] if fields is None or isinstance(step, int) else fields[step]


class Stores(NamedTuple):
    """Where tables and blobs are read from; there need not be blobs."""

    tables: SQLTableStore
    blobs: BlobStore | None = None


def loaded(stores: Stores, value: Any, type_: Any) -> Any:
    """Read every reference in a value: tables as a type of frame, blobs as they were.

    A table that is there several times can be joined with itself.
    """
    wanted = with_backend(type_)
    times: Counter[TableName] = Counter()

    def read(table: TableName) -> Any:
        found, before = stores.tables.read(table, wanted), times[table]
        times[table] += 1
        if wanted is None or not before:
            return found
        return frames_giving(wanted.type).apart(found, before)

    def load(leaf: Any) -> Any:
        if isinstance(leaf, (Table, ExternalTableReference)) and leaf.location is not None:
            return read(leaf.location)
        if isinstance(leaf, Blob):
            stage = str(leaf.stage)
            blobs = blob_store(stores.blobs, stage)
            return blobs.read(stage, str(leaf.name), str(leaf.cache_key))
        if isinstance(leaf, RawSql):
            return leaf.with_tables({name: load(table) for name, table in leaf.items()})
        return leaf

    return mapped(value, load)


def with_backend(type_: Any) -> Wanted | None:
    """Understand a type of frame; the open configuration says the backend that it does not."""
    from ixflow.pipeline.config import ConfigContext

    wanted = None if type_ is None else wanted_frame(type_)
    if wanted is None or wanted.backend is not None:
        return wanted
    try:
        hooks: Mapping[str, Any] = ConfigContext.get().table_hook_args
    except NoConfiguration:
        return wanted
    backend = hooks.get(wanted.type.__module__.partition(".")[0], {}).get("dtype_backend")
    return replace(wanted, backend=backend)
