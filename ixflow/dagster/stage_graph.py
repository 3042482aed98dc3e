"""A stage as a graph: each task in a step of its own, and a last step that audits and publishes.

The steps share nothing but the database, so they may run in different processes and on different
machines. The last step owns all assets of the stage: an event still means that the table can be
seen. Every step asks Dagster which tables are selected, and does nothing for the others.
"""

import datetime as dt
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import dagster as dg

from ixflow.dagster.cache_hits import OnCacheHit
from ixflow.dagster.failures import failures
from ixflow.dagster.guard import tried
from ixflow.dagster.manual import waits_with
from ixflow.dagster.metadata import word
from ixflow.dagster.stage_parts import Part, parts_of
from ixflow.dagster.stage_specs import read_by, stage_checks, stage_specs, table_key
from ixflow.dagster.stage_told import audited, said, told
from ixflow.dagster.table_store import SQLTableStoreResource, key_and_kinds
from ixflow.dagster.timeline import Bar
from ixflow.pipeline.blob_store import BlobStore
from ixflow.pipeline.result import StageResult
from ixflow.pipeline.stage import Stage
from ixflow.pipeline.stage_steps import StageSteps
from ixflow.pipeline.task import Task

__all__ = ["graph_assets"]

_AFTER, _PUBLISH, _TASKS = "after", "publish", "tasks"


@dataclass(frozen=True)
class _Graph:
    """What the steps of one part of a stage have in common."""

    part: Part
    resource_key: str
    max_workers: int
    blob_store: BlobStore | None
    retry_policy: dg.RetryPolicy | None
    on_cache_hit: OnCacheHit
    wait_hours: float | None
    names: Mapping[Task, str]

    @property
    def stage(self) -> Stage:
        return self.part.stage

    def selected(self, context: dg.AssetExecutionContext) -> set[str]:
        """Name the tables of this part that the run is to make."""
        wanted = context.selected_asset_keys
        return {name for name in self.part.tables if table_key(self.stage, name) in wanted}

    def steps(self, context: dg.AssetExecutionContext, names: set[str]) -> StageSteps:
        """Give the stage's steps in this run; retries of a run go on in its transaction."""
        run = context.run.root_run_id or context.run.run_id
        resource: SQLTableStoreResource = getattr(context.resources, self.resource_key)
        return StageSteps(
            self.stage,
            resource.store(),
            transaction_id=run if self.part.number == 1 else f"{run}/{self.part.number}",
            tables=None if names == set(self.stage.output_names) else names,
            max_workers=self.max_workers,
            blobs=self.blob_store,
            on_event=lambda event: context.log.info("%s", said(event)),
        )


def graph_assets(
    stage: Stage,
    *,
    table_store: str | SQLTableStoreResource,
    kinds: set[str] | None,
    automation_condition: dg.AutomationCondition[Any] | None,
    retry_policy: dg.RetryPolicy | None,
    io_manager_key: str | None,
    max_workers: int,
    blob_store: BlobStore | None,
    on_cache_hit: OnCacheHit,
    op_tags: Mapping[str, Mapping[str, Any]],
    wait_hours: float | None,
    **asset: Any,
) -> list[dg.AssetsDefinition]:
    """Give the graph of a stage, or of each of its parts; see `flow_definitions`."""
    key, icons = key_and_kinds(table_store, kinds)
    found = []
    for part in parts_of(stage):
        specs = stage_specs(
            part.tasks,
            table_store,
            io_manager_key,
            kinds=icons,
            automation_condition=automation_condition,
            **asset,
        )
        graph = _Graph(
            part,
            key,
            max_workers,
            blob_store,
            retry_policy,
            on_cache_hit,
            wait_hours,
            _step_names(part.tasks),
        )
        found.append(_assets(graph, specs, io_manager_key, op_tags))
    return found


def _step_names(tasks: Sequence[Task]) -> dict[Task, str]:
    """Name the step of each task; one whose name is taken gets a number."""
    taken = {_PUBLISH}
    return {task: _free(word(task.name), taken) for task in tasks}


def _free(base: str, taken: set[str]) -> str:
    """Take a name, with a number if it is taken: different texts may become the same word."""
    name, number = base, 1
    while name in taken:
        number += 1
        name = f"{base}_{number}"
    taken.add(name)
    return name


def _assets(
    graph: _Graph,
    specs: Mapping[str, dg.AssetSpec],
    io_manager_key: str | None,
    op_tags: Mapping[str, Mapping[str, Any]],
) -> dg.AssetsDefinition:
    """Make the assets definition, in which the last step owns all tables and checks."""
    name = f"stage_{word(graph.stage.name)}"
    name = name if graph.part.number == 1 else f"{name}_part_{graph.part.number}"
    own = {spec.key for spec in specs.values()}
    taken: set[str] = set()
    outputs = {_free(word(table), taken): spec.key for table, spec in specs.items()}
    checks = {
        _free(word(f"{check.asset_key.path[-1]}__{check.name}"), taken): check
        for check in stage_checks(graph.stage)
        if check.asset_key in own
    }
    read = dict.fromkeys(key for task in graph.names for key in read_by(task) if key not in own)
    inputs = {key: _free("_".join(["asset", *map(word, key.path)]), taken) for key in read}
    ops, wiring, mappings = _wired(graph, name, inputs, op_tags)
    ops.append(_publish_op(graph, f"{name}__{_PUBLISH}", [*outputs, *checks], io_manager_key))
    wiring[dg.NodeInvocation(f"{name}__{_PUBLISH}", alias=_PUBLISH)] = {
        _TASKS: dg.MultiDependencyDefinition(
            [dg.DependencyDefinition(step) for step in graph.names.values()]
        )
    }
    return dg.AssetsDefinition(
        node_def=dg.GraphDefinition(
            name,
            node_defs=ops,
            dependencies=wiring,
            input_mappings=mappings,
            output_mappings=[dg.OutputMapping(o, _PUBLISH, o) for o in (*outputs, *checks)],
        ),
        keys_by_input_name={one: key for key, one in inputs.items()},
        keys_by_output_name=outputs,
        check_specs_by_output_name=checks,
        specs=list(specs.values()),
        can_subset=True,
    )


def _wired(
    graph: _Graph,
    name: str,
    inputs: Mapping[dg.AssetKey, str],
    op_tags: Mapping[str, Mapping[str, Any]],
) -> tuple[list[dg.OpDefinition], dict[dg.NodeInvocation, Any], list[dg.InputMapping]]:
    """Make the steps of the tasks; each waits for the tasks and the assets that it takes."""
    ops: list[dg.OpDefinition] = []
    wiring: dict[dg.NodeInvocation, Any] = {}
    mappings: list[dg.InputMapping] = []
    for task, step in graph.names.items():
        above = {f"{_AFTER}_{graph.names[up]}": up for up in task.upstream if up in graph.names}
        assets = [inputs[key] for key in read_by(task) if key in inputs]
        op = _task_op(graph, task, f"{name}__{step}", [*above, *assets], op_tags.get(task.name))
        ops.append(op)
        wiring[dg.NodeInvocation(op.name, alias=step)] = {
            one: dg.DependencyDefinition(graph.names[up]) for one, up in above.items()
        }
        mappings += [_fed(one, step) for one in assets]
    return ops, wiring, mappings


def _fed(name: str, step: str) -> dg.InputMapping:
    return dg.InputMapping(
        graph_input_name=name, mapped_node_name=step, mapped_node_input_name=name
    )


def _task_op(
    graph: _Graph, task: Task, name: str, ins: Sequence[str], tags: Mapping[str, Any] | None
) -> dg.OpDefinition:
    def run(context: dg.AssetExecutionContext) -> None:
        names = graph.selected(context)
        if not names:
            return
        with failures():
            if graph.steps(context, names).run_task(task) is None:
                context.log.info("no table that task %s makes is selected", task.name)

    return dg.op(
        name=name,
        ins={one: dg.In(dg.Nothing) for one in ins},
        out=dg.Out(dg.Nothing),
        required_resource_keys={graph.resource_key},
        retry_policy=graph.retry_policy,
        tags=tags,
    )(run)


def _publish_op(
    graph: _Graph, name: str, outputs: Sequence[str], io_manager_key: str | None
) -> dg.OpDefinition:
    stage = graph.stage

    def publish(context: dg.AssetExecutionContext) -> Iterator[Any]:
        resource: SQLTableStoreResource = getattr(context.resources, graph.resource_key)
        names = graph.selected(context)
        if not names:
            yield from audited(context, stage, resource)
            return
        waits = waits_with(context, stage, graph.wait_hours)
        steps = graph.steps(context, names)
        make: Callable[[], StageResult] = partial(steps.finish, waits=waits)
        begun = dt.datetime.now(dt.UTC)
        yield from told(
            context,
            stage,
            resource,
            names,
            make,
            on_cache_hit=graph.on_cache_hit,
            bars=lambda: tried("the timeline", lambda: _bars(context, steps, begun), ()),
        )

    out = dg.Out(dg.Nothing, is_required=False)
    if io_manager_key is not None:
        out = dg.Out(dg.Nothing, is_required=False, io_manager_key=io_manager_key)
    return dg.op(
        name=name,
        ins={_TASKS: dg.In(dg.Nothing)},
        out=dict.fromkeys(outputs, out),
        required_resource_keys={graph.resource_key},
        retry_policy=graph.retry_policy,
        pool=f"stage_{word(stage.name)}",
    )(publish)


def _bars(
    context: dg.AssetExecutionContext, steps: StageSteps, begun: dt.datetime
) -> tuple[Bar, ...]:
    """Say when tasks ran in other steps of this run, in seconds since this one began."""
    run = context.instance.get_run_record_by_id(context.run.run_id)
    found = []
    for record in steps.recalled:
        ended = dt.datetime.fromisoformat(record.recorded_at)
        if run is not None and ended >= run.create_timestamp.replace(tzinfo=dt.UTC):
            start = (ended - begun).total_seconds() - record.seconds
            found.append(Bar(record.result.task, start, record.seconds, record.state))
    return tuple(found)
