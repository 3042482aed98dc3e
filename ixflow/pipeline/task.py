"""`Task`: one call of a materializing function within a stage, and its wiring to others."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ixflow.errors import FlowError
from ixflow.pipeline.auto_version import AutoVersion
from ixflow.pipeline.cache import position_key
from ixflow.pipeline.containers import (
    ExternalTableReference,
    Table,
    normalised,
    table_form,
)
from ixflow.pipeline.context import declaration
from ixflow.pipeline.encoding import MARKER, encoded, leaves
from ixflow.store.frames import Wanted

if TYPE_CHECKING:
    from ixflow.pipeline.config import ConfigContext
    from ixflow.pipeline.flow import Flow
    from ixflow.pipeline.stage import Stage

__all__ = ["Field", "Task", "TaskDefinition", "TaskGetItem"]


@dataclass(frozen=True, slots=True)
class TaskDefinition:
    """What ``@materialize`` was told about a function.

    ``owners`` and ``tags`` (pairs) are those of its tables, for who shows them.
    """

    fn: Callable[..., Any]
    name: str
    input_type: Wanted | None
    version: str | AutoVersion | None
    cache: Callable[..., Any] | None
    nout: int
    outputs: tuple[str, ...] | None
    lazy: bool = False
    owners: tuple[str, ...] = ()
    tags: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Field:
    """A step into a part of an output that is wired by attribute."""

    name: str


class _Indexable:
    """What can be wired by index, key or attribute: the output of a task, or a part of it."""

    def get_output_from_store(
        self,
        as_type: Any = None,
        *,
        ignore_position_hashes: bool = False,
        config: ConfigContext | None = None,
    ) -> Any:
        """Load what is published of it; nothing is run, nor asked whether it is still valid.

        Tables are loaded as ``as_type``, or as the task's own input type. The configuration is the
        open one unless ``config`` gives another. With ``ignore_position_hashes`` a task of the
        same name and stage counts too that was called with other arguments.

        Raises:
            CacheError: nothing is published of the task.

        >>> orders.get_output_from_store(as_type=pl.DataFrame)  # doctest: +SKIP
        """
        from ixflow.pipeline.stored import stored_output

        if not isinstance(self, (Task, TaskGetItem)):
            raise TypeError
        return stored_output(self, as_type, config, ignore_position_hashes=ignore_position_hashes)

    def __getitem__(self, item: int | str | Field) -> TaskGetItem:
        """Wire one element of the output."""
        if not isinstance(self, (Task, TaskGetItem)):
            raise TypeError
        return TaskGetItem(self, item)

    if not TYPE_CHECKING:  # or every misspelt attribute of a task would have a type

        def __getattr__(self, name: str) -> TaskGetItem:
            """Wire a field of the output, while a flow is declared."""
            if name.startswith("_") or declaration.get() is None:
                msg = f"{type(self).__name__!r} object has no attribute {name!r}"
                raise AttributeError(msg)
            return self[Field(name)]


class TaskGetItem(_Indexable):
    """One element of a task's output: ``task["x"]``, ``task[0]``, ``task["x"][0]``, ``task.x``.

    By attribute it is a field of a dataclass or named tuple; one called like an attribute of
    `Task` is wired by its name as a key.
    """

    def __init__(self, parent: Task | TaskGetItem, item: int | str | Field) -> None:
        self.parent = parent
        self.item = item

    @property
    def task(self) -> Task:
        """The task whose output it is."""
        return self.parent if isinstance(self.parent, Task) else self.parent.task

    @property
    def path(self) -> tuple[int | str | Field, ...]:
        """The items, outermost first."""
        head = () if isinstance(self.parent, Task) else self.parent.path
        return (*head, self.item)

    def __iter__(self) -> Iterator[Any]:
        """Refuse: how many elements there are is not known before the flow runs."""
        msg = f"{self!r} cannot be unpacked; wire its elements by index"
        raise FlowError(msg, task=self.task.name)

    def __repr__(self) -> str:
        """Show the wiring as it was written."""
        if isinstance(self.item, Field):
            return f"{self.parent!r}.{self.item.name}"
        return f"{self.parent!r}[{self.item!r}]"


class Task(_Indexable):
    """One call of a ``@materialize`` function in a stage.

    ``fn`` is the plain function, ``arguments`` what it was called with, ``upstream`` the tasks
    among them.
    """

    def __init__(
        self,
        definition: TaskDefinition,
        arguments: inspect.BoundArguments,
        *,
        stage: Stage,
        flow: Flow,
    ) -> None:
        self.definition = definition
        self.arguments = arguments
        self.stage = stage
        self.flow = flow
        self.upstream = self._find_upstream()
        # The wiring is judged where it is written.
        _ = self.position

    @property
    def name(self) -> str:
        """The task's name."""
        return self.definition.name

    @property
    def fn(self) -> Callable[..., Any]:
        """The function as it was written."""
        return self.definition.fn

    @property
    def input_type(self) -> Wanted | None:
        """As what tables arrive."""
        return self.definition.input_type

    @property
    def output_names(self) -> tuple[str, ...]:
        """The tables that the task is known to make before it has run.

        These are the declared ``outputs``; otherwise one table called like the task, if no other
        task of the stage has its name.
        """
        if self.definition.outputs is not None:
            return self.definition.outputs
        return (normalised(self.name),) if self.is_unique else ()

    @property
    def is_unique(self) -> bool:
        """Say whether no other task of the stage makes a table of the same name by itself."""
        return sum(normalised(t.name) == normalised(self.name) for t in self.stage.tasks) == 1

    @property
    def external_tables(self) -> tuple[ExternalTableReference, ...]:
        """The tables among the arguments that something else writes."""
        found = []
        for leaf in leaves(dict(self.arguments.arguments)):
            reference = leaf.external if isinstance(leaf, Table) else leaf
            if isinstance(reference, ExternalTableReference):
                found.append(reference)
        return tuple(dict.fromkeys(found))

    @cached_property
    def position(self) -> str:
        """The hash of the task's place in the flow."""
        where = f"the call of task {self.stage.name}.{self.name}"
        arguments = encoded(dict(self.arguments.arguments), _wiring_form, where=where)
        return position_key(self.stage.name, self.name, arguments)

    def call(self, fn: Callable[..., Any], arguments: dict[str, Any]) -> Any:
        """Call a function with these arguments in the way that the task's own was called."""
        bound = inspect.BoundArguments(self.arguments.signature, arguments)
        return fn(*bound.args, **bound.kwargs)

    def _find_upstream(self) -> tuple[Task, ...]:
        found = [
            leaf.task if isinstance(leaf, TaskGetItem) else leaf
            for leaf in leaves(dict(self.arguments.arguments))
            if isinstance(leaf, (Task, TaskGetItem))
        ]
        for task in found:
            if task.flow is not self.flow:
                msg = (
                    f"task {self.stage.name}.{self.name} takes {task.stage.name}.{task.name}, "
                    f"which belongs to another flow"
                )
                raise FlowError(msg, task=self.name)
        return tuple(dict.fromkeys(found))

    def __iter__(self) -> Iterator[TaskGetItem]:
        """Unpack ``nout`` elements."""
        return iter([self[index] for index in range(self.definition.nout)])

    def __repr__(self) -> str:
        """Show stage and name."""
        return f"<Task {self.stage.name}.{self.name}>"


def _wiring_form(leaf: Any) -> dict[str, Any] | None:
    """Write what may stand in a call: tasks by their place, tables and stages by name."""
    if isinstance(leaf, Task):
        return {MARKER: "task", "position": leaf.position}
    if isinstance(leaf, TaskGetItem):
        path = [{"field": s.name} if isinstance(s, Field) else s for s in leaf.path]
        return {MARKER: "item", "position": leaf.task.position, "path": path}
    return stage_form(leaf) or table_form(leaf)


def stage_form(leaf: Any) -> dict[str, Any] | None:
    """Write a stage by its name; None for other things."""
    from ixflow.pipeline.stage import Stage

    return {MARKER: "stage", "name": leaf.name} if isinstance(leaf, Stage) else None
