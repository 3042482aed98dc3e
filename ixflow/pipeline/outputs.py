"""From what a task's function returned to tables with names, and the value its consumers get."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ixflow.errors import DuplicateNameError, FlowError
from ixflow.pipeline.containers import ExternalTableReference, Table, normalised, table_form
from ixflow.pipeline.encoding import encoded, leaves, mapped
from ixflow.pipeline.task import Task, stage_form
from ixflow.store import TableWrite
from ixflow.store.frames import TableSpec, is_frame
from ixflow.values import TableName

__all__ = ["Outputs", "outputs_of", "value_form"]

_SUFFIX_OF_KEY = 6


@dataclass(frozen=True, slots=True)
class Outputs:
    """A task's value with references for tables, also as JSON, and the tables to write or check."""

    value: Any
    writes: tuple[TableWrite, ...]
    external: tuple[TableName, ...]
    json: str


def value_form(leaf: Any) -> dict[str, Any] | None:
    """Write the leaves that a task's value may hold as JSON."""
    return table_form(leaf) or stage_form(leaf)


def outputs_of(task: Task, key: str, returned: Any, schema: str) -> Outputs:
    """Name the tables that the function returned and take the rows out of its value.

    Raises:
        FlowError: something was returned that cannot be stored, or not the declared tables.
        DuplicateNameError: two tables have the same name.

    """
    wrapped = mapped(returned, _wrapped)
    tables = [leaf for leaf in leaves(wrapped) if isinstance(leaf, Table)]
    if any(table.obj is None for table in tables):
        msg = f"task {task.stage.name}.{task.name} returned a Table without an object"
        raise FlowError(msg, stage=task.stage.name, task=task.name)
    names = _names(task, key, wrapped, tables)
    references = {
        id(table): table.stored(name, stage=task.stage.name, key=key, schema=schema)
        for table, name in zip(tables, names, strict=True)
    }
    value = mapped(wrapped, lambda leaf: references.get(id(leaf), leaf))
    where = f"the result of task {task.stage.name}.{task.name}"
    writes = tuple(
        TableWrite(table.obj, TableSpec(name, table.primary_key, table.indexes, table.type_map))
        for table, name in zip(tables, names, strict=True)
        if table.external is None
    )
    external = tuple(table.external.location for table in tables if table.external is not None)
    return Outputs(value, writes, external, encoded(value, value_form, where=where))


def _wrapped(leaf: Any) -> Any:
    return Table(leaf) if isinstance(leaf, ExternalTableReference) or is_frame(leaf) else leaf


def _names(task: Task, key: str, value: Any, tables: list[Table[Any]]) -> list[str]:
    declared = _declared_names(task, value)
    alone = sum(table.name is None for table in tables) == 1 and task.is_unique
    names = []
    for number, table in enumerate(tables):
        suffix = f"{key[:_SUFFIX_OF_KEY]}_{number:04d}"
        name = table.name or declared.get(id(table))
        if name is None:
            name = normalised(task.name) if alone else f"{normalised(task.name)}_{suffix}"
        elif name.endswith("%%") and table.external is None:
            name = name.removesuffix("%%") + suffix
        names.append(name)
    own = [name for name, table in zip(names, tables, strict=True) if table.external is None]
    _check_names(task, own)
    return names


def _declared_names(task: Task, value: Any) -> dict[int, str]:
    """Give the declared ``outputs`` to tables without a name: by key, by order, or the only one."""
    outputs = task.definition.outputs
    if outputs is None:
        return {}
    if isinstance(value, dict):
        pairs = [(normalised(name), leaf) for name, leaf in value.items() if name is not None]
        return {id(leaf): name for name, leaf in pairs if name in outputs}
    items = value if isinstance(value, (list, tuple)) else [value]
    tables = [leaf for leaf in items if isinstance(leaf, Table)]
    return {id(table): name for table, name in zip(tables, outputs, strict=False)}


def _check_names(task: Task, names: list[str]) -> None:
    where = f"task {task.stage.name}.{task.name}"
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        msg = f"{where} returned two tables called {twice[0]!r}; end a name with %% to keep apart"
        raise DuplicateNameError(msg, stage=task.stage.name, task=task.name, name=twice[0])
    declared = task.definition.outputs
    if declared is not None and set(declared) != set(names):
        msg = f"{where} declares outputs={sorted(declared)} but returned tables {sorted(names)}"
        raise FlowError(msg, stage=task.stage.name, task=task.name)
