"""What is known of a stage's tables while definitions load: their asset keys, specs and checks."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from ixflow.dagster.metadata import asset_key, word
from ixflow.dagster.specs import asset_spec, defined_at
from ixflow.dagster.table_store import SQLTableStoreResource, storage
from ixflow.errors import FlowError
from ixflow.pipeline.audit import Audit
from ixflow.pipeline.stage import Stage
from ixflow.pipeline.task import Task
from ixflow.values import TableName

__all__ = ["read_by", "stage_checks", "stage_specs", "table_key", "table_names"]


def table_key(stage: Stage, table: str) -> dg.AssetKey:
    """Give the asset key of a stage's table."""
    return asset_key(stage.name, table)


def stage_specs(
    tasks: Sequence[Task],
    table_store: str | SQLTableStoreResource,
    io_manager_key: str | None,
    **options: Any,
) -> dict[str, dg.AssetSpec]:
    """Give the specs of the tables that tasks make, by the tables' names."""
    return {
        name: _spec(
            task,
            name,
            io_manager_key,
            place=storage(table_store, TableName(name, task.stage.name), stage=True),
            **options,
        )
        for task in tasks
        for name in table_names(task)
    }


def stage_checks(stage: Stage) -> list[dg.AssetCheckSpec]:
    """Give the checks of a stage, one an audit."""
    return [_check_spec(stage, audit) for audit in stage.audits]


def _spec(
    task: Task,
    name: str,
    io_manager_key: str | None,
    *,
    place: Mapping[str, Any],
    **options: Any,
) -> dg.AssetSpec:
    version = task.definition.version
    own = {
        "deps": read_by(task),
        "group_name": word(task.stage.name),
        "code_version": version if isinstance(version, str) else None,
        "description": _description(task),
        "metadata": {
            "ixflow/stage": task.stage.name,
            "ixflow/table": name,
            **place,
            **defined_at(task.fn),
        },
        "skippable": True,
    }
    definition = task.definition
    given = {
        **options,
        "owners": [*(options.get("owners") or ()), *definition.owners],
        "tags": {**(options.get("tags") or {}), **dict(definition.tags)},
    }
    spec = asset_spec(table_key(task.stage, name), own, given)
    return spec if io_manager_key is None else spec.with_io_manager_key(io_manager_key)


def _description(task: Task) -> str:
    text = (task.fn.__doc__ or "").strip()
    return text or f"Made by task {task.name} of stage {task.stage.name}."


def _check_spec(stage: Stage, audit: Audit) -> dg.AssetCheckSpec:
    return dg.AssetCheckSpec(
        name=audit.name,
        asset=table_key(stage, audit.table),
        description=inspect.getdoc(audit.fn) or "Judges the new tables before they are published.",
        blocking=True,
    )


def read_by(task: Task) -> Sequence[dg.AssetKey]:
    """Name what a task reads: tables of other tasks, also through constants, and external ones."""
    found: dict[dg.AssetKey, None] = {}
    for reference in task.external_tables:
        found[asset_key(reference.schema, reference.name)] = None
    for upstream in task.upstream:
        made = [table_key(upstream.stage, name) for name in upstream.output_names]
        found.update(dict.fromkeys(made or read_by(upstream)))
    return list(found)


def table_names(task: Task) -> tuple[str, ...]:
    """Name the tables that a task makes.

    Raises:
        FlowError: they are not known before it runs.

    """
    if task.output_names or task.definition.outputs == ():
        return task.output_names
    msg = (
        f"task {task.name} is called more than once in stage {task.stage.name}, so its tables' "
        f"names are not known; say @materialize(outputs=[...]), [] for constants"
    )
    raise FlowError(msg, stage=task.stage.name, task=task.name)
