"""From what a task's function returned to tables with names, and the value its consumers get."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ixflow.errors import DuplicateNameError, FlowError
from ixflow.pipeline.blob import Blob, blob_form
from ixflow.pipeline.containers import ExternalTableReference, Table, normalised, table_form
from ixflow.pipeline.encoding import encoded, fields_of, leaves, mapped
from ixflow.pipeline.raw_sql import RawSql, raw_sql_form
from ixflow.pipeline.task import Task, stage_form
from ixflow.store import TableWrite
from ixflow.store.frames import TableSpec, is_frame
from ixflow.values import TableName

__all__ = ["Outputs", "Placer", "outputs_of", "value_form", "wrapped"]

#: Gives, for an object and how it shall be stored, the table's own key if it has one, and the
#: schema where consumers find it.
Placer = Callable[[Any, TableSpec], tuple[str | None, str]]

_SUFFIX_OF_KEY = 6


@dataclass(frozen=True, slots=True)
class Outputs:
    """A task's value with references for tables, also as JSON, and the tables that belong to it.

    ``writes`` are those that were returned as frames or queries, ``scripted`` the names and keys
    of those that scripts have made, ``external`` those that something else writes, ``blobs`` the
    objects to store with their names.
    """

    value: Any
    writes: tuple[TableWrite, ...]
    scripted: tuple[tuple[str, str], ...]
    external: tuple[TableName, ...]
    blobs: tuple[tuple[str, Any], ...]
    json: str


def value_form(leaf: Any) -> dict[str, Any] | None:
    """Write the leaves that a task's value may hold as JSON."""
    return table_form(leaf) or raw_sql_form(leaf) or blob_form(leaf) or stage_form(leaf)


def wrapped(
    returned: Any,
    auto_blob: tuple[type, ...] = (),
    auto_table: tuple[type, ...] | None = None,
) -> Any:
    """Put what is to be stored into a `Table` or a `Blob`, where the function has not.

    ``auto_blob`` are the types whose objects are blobs, ``auto_table`` those whose objects are
    tables; None: all kinds of frames and queries.

    Raises:
        FlowError: a frame is not wrapped, and its type not among ``auto_table``.

    """

    def wrap(leaf: Any) -> Any:
        if isinstance(leaf, auto_blob):
            return Blob(leaf)
        if isinstance(leaf, (ExternalTableReference, *(auto_table or ()))):
            return Table(leaf)
        if not is_frame(leaf):
            return leaf
        if auto_table is not None:
            kind = f"{type(leaf).__module__}.{type(leaf).__qualname__}"
            msg = (
                f"a {kind} was returned as it is; wrap it in Table(...), or add its type to the "
                f"configuration's auto_table"
            )
            raise FlowError(msg, type=kind)
        return Table(leaf)

    return mapped(returned, wrap, whole=auto_blob)


def outputs_of(task: Task, key: str, returned: Any, place: Placer) -> Outputs:
    """Name the tables of a wrapped value and take the rows out of it; its scripts have run.

    Raises:
        FlowError: something was returned that cannot be stored, or not the declared tables.
        DuplicateNameError: two tables have the same name.

    """
    found = leaves(returned)
    tables = [leaf for leaf in found if isinstance(leaf, Table)]
    if any(table.obj is None for table in tables):
        msg = f"task {task.stage.name}.{task.name} returned a Table without an object"
        raise FlowError(msg, stage=task.stage.name, task=task.name)
    scripts = [leaf for leaf in found if isinstance(leaf, RawSql)]
    scripted = tuple((name, str(script.cache_key)) for script in scripts for name in script)
    names = _names(task, key, returned, tables, [name for name, _ in scripted])
    references: dict[int, Any] = {}
    writes = []
    for table, name in zip(tables, names, strict=True):
        label = table.materialization_details or task.stage.materialization_details
        spec = TableSpec(
            name,
            table.primary_key,
            table.indexes,
            table.type_map,
            materialization_details=label,
        )
        own, schema = (None, "") if table.external else place(table.obj, spec)
        made = table.stored(name, stage=task.stage.name, key=own or key, schema=schema)
        references[id(table)] = made
        if table.external is None:
            writes.append(TableWrite(table.obj, spec, own))
    blobs = _blobs(task, key, [leaf for leaf in found if isinstance(leaf, Blob)])
    for blob, name in blobs:
        references[id(blob)] = blob.stored(name, stage=task.stage.name, key=key)
    value = mapped(returned, lambda leaf: references.get(id(leaf), leaf))
    where = f"the result of task {task.stage.name}.{task.name}"
    external = tuple(table.external.location for table in tables if table.external is not None)
    json = encoded(value, value_form, where=where)
    objects = tuple((name, blob.obj) for blob, name in blobs)
    return Outputs(value, tuple(writes), scripted, external, objects, json)


def _blobs(task: Task, key: str, found: list[Blob[Any]]) -> list[tuple[Blob[Any], str]]:
    if found and task.definition.lazy:
        msg = f"task {task.stage.name}.{task.name} is lazy, so it cannot return a Blob"
        raise FlowError(msg, stage=task.stage.name, task=task.name)
    named = []
    for number, blob in enumerate(found):
        suffix = f"{key[:_SUFFIX_OF_KEY]}_{number:04d}"
        name = blob.name or normalised(task.name) + (f"_{suffix}" if len(found) > 1 else "")
        named.append((blob, name.removesuffix("%%") + suffix if name.endswith("%%") else name))
    _check_twice(task, "blobs", [name for _, name in named])
    return named


def _names(
    task: Task, key: str, value: Any, tables: list[Table[Any]], scripted: list[str]
) -> list[str]:
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
    _check_names(task, own + scripted)
    return names


def _declared_names(task: Task, value: Any) -> dict[int, str]:
    """Give the declared ``outputs`` to tables without a name: by key, by order, or the only one."""
    outputs = task.definition.outputs
    if outputs is None:
        return {}
    fields = value if isinstance(value, dict) else fields_of(value)
    if fields is not None:
        pairs = [(normalised(name), leaf) for name, leaf in fields.items() if name is not None]
        return {id(leaf): name for name, leaf in pairs if name in outputs}
    items = value if isinstance(value, (list, tuple)) else [value]
    tables = [leaf for leaf in items if isinstance(leaf, Table)]
    return {id(table): name for table, name in zip(tables, outputs, strict=False)}


def _check_twice(task: Task, kind: str, names: list[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        msg = (
            f"task {task.stage.name}.{task.name} returned two {kind} called {twice[0]!r}; end a "
            f"name with %% to keep apart"
        )
        raise DuplicateNameError(msg, stage=task.stage.name, task=task.name, name=twice[0])


def _check_names(task: Task, names: list[str]) -> None:
    where = f"task {task.stage.name}.{task.name}"
    _check_twice(task, "tables", names)
    declared = task.definition.outputs
    if declared is not None and set(declared) != set(names):
        msg = f"{where} declares outputs={sorted(declared)} but returned tables {sorted(names)}"
        raise FlowError(msg, stage=task.stage.name, task=task.name)
