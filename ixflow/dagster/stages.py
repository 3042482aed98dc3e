"""A stage as one subsettable multi-asset whose events come after the tables were published.

The step runs the stage's tasks on threads, audits what they made, publishes all of it in one
transaction, and only then yields a value-less `MaterializeResult` a table: an event means that the
table can be seen. A selection in the UI publishes just that selection. The transaction is named
after the root run, so that a retry of a failed run takes over the tables that are done.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import dagster as dg

from ixflow.dagster.cache_hits import OnCacheHit
from ixflow.dagster.manual import (
    WAIT_HOURS,
    Publish,
    approve_job,
    by_hand,
    waits_with,
)
from ixflow.dagster.metadata import word
from ixflow.dagster.rollback import keeps_versions, rollback_job
from ixflow.dagster.stage_specs import stage_checks, stage_specs, table_key, table_names
from ixflow.dagster.stage_told import audited, said, told
from ixflow.dagster.table_store import WAREHOUSE, SQLTableStoreResource, key_and_kinds
from ixflow.errors import FlowError
from ixflow.pipeline.blob_store import BlobStore
from ixflow.pipeline.flow import Flow
from ixflow.pipeline.result import StageResult
from ixflow.pipeline.stage import Stage
from ixflow.pipeline.stage_run import run_stage

__all__ = ["Execution", "flow_definitions", "stage_assets", "table_key"]

Execution = Literal["stage", "graph"]
"""How a stage runs: in one step, or each task in one of its own and the publication in a last."""


def flow_definitions(
    flow: Flow,
    *,
    table_store: str | SQLTableStoreResource = WAREHOUSE,
    kinds: set[str] | None = None,
    automation_condition: dg.AutomationCondition[Any] | None = None,
    retry_policy: dg.RetryPolicy | None = None,
    io_manager_key: str | None = None,
    max_workers: int = 4,
    blob_store: BlobStore | None = None,
    executor: dg.ExecutorDefinition | None = None,
    execution: Execution = "stage",
    on_cache_hit: OnCacheHit = "record",
    op_tags: Mapping[str, Mapping[str, Any]] | None = None,
    publish: Publish | Mapping[str, Publish] = "auto",
    wait_hours: float = WAIT_HOURS,
    owners: Sequence[str] | None = None,
    tags: Mapping[str, str] | None = None,
) -> dg.Definitions:
    """Give the definitions of a flow: a multi-asset a stage, a job of all of them.

    Args:
        flow: The flow, declared.
        table_store: The key of the `SQLTableStoreResource` to publish in, or the resource itself.
        kinds: Icons of the tables; default: the table store's database, where it is known.
        automation_condition: For every table, as `ixflow.dagster.on_change()`.
        retry_policy: For every stage. A retry takes over the tables that were done.
        io_manager_key: The IO manager through which downstream assets load the tables.
        max_workers: How many tasks of a stage run at a time.
        blob_store: Where blobs are kept, such as a `FileBlobStore` on a disk that every step sees.
        executor: How Dagster runs the steps of the job.
        execution: "stage": a stage is one step. "graph": each task is a step, which may run on
            another machine, and a last step publishes.
        on_cache_hit: What is told of a table that is valid: "record" a materialization with the
            same data version, "skip" nothing, so that what only takes such tables is skipped.
        op_tags: Tags of the steps of tasks, by the task's name, as for a queue of Celery or the
            resources of a pod. For ``execution="graph"``.
        publish: "manual": what a run has made and audited waits until the job ``approve_<stage>``
            publishes it; a mapping says it of some stages, by their names.
        wait_hours: How long that is kept, at least.
        owners: Of every table.
        tags: Of every table.

    A stage that keeps versions has a job ``rollback_<stage>`` too.

    Raises:
        FlowError: a stage is nested in another, or makes tables whose names are not known, or
            ``op_tags`` names no task, or ``publish`` no stage.

    """
    resources: dict[str, Any] = {}
    if isinstance(table_store, SQLTableStoreResource):
        resources[WAREHOUSE] = table_store
    manual = by_hand(publish, flow.stages)
    stages = [s for s in flow.stages.values() if any(table_names(task) for task in s.tasks)]
    assets = [
        made
        for stage in stages
        for made in _assets_of(
            stage,
            table_store=table_store,
            kinds=kinds,
            automation_condition=automation_condition,
            retry_policy=retry_policy,
            io_manager_key=io_manager_key,
            max_workers=max_workers,
            blob_store=blob_store,
            execution=execution,
            on_cache_hit=on_cache_hit,
            op_tags=op_tags,
            wait_hours=wait_hours if stage.name in manual else None,
            owners=owners,
            tags=tags,
        )
    ]
    job = dg.define_asset_job(
        f"{word(flow.name)}_flow", dg.AssetSelection.assets(*assets), executor_def=executor
    )
    approvals = [
        approve_job(stage, table_store=table_store, blob_store=blob_store)
        for stage in stages
        if stage.name in manual
    ]
    rollbacks = [
        rollback_job(stage, table_store=table_store)
        for stage in stages
        if keeps_versions(stage, table_store)
    ]
    return dg.Definitions(assets=assets, jobs=[job, *approvals, *rollbacks], resources=resources)


def stage_assets(
    stage: Stage,
    *,
    table_store: str | SQLTableStoreResource = WAREHOUSE,
    kinds: set[str] | None = None,
    automation_condition: dg.AutomationCondition[Any] | None = None,
    retry_policy: dg.RetryPolicy | None = None,
    io_manager_key: str | None = None,
    max_workers: int = 4,
    blob_store: BlobStore | None = None,
    execution: Execution = "stage",
    on_cache_hit: OnCacheHit = "record",
    op_tags: Mapping[str, Mapping[str, Any]] | None = None,
    publish: Publish = "auto",
    wait_hours: float = WAIT_HOURS,
    owners: Sequence[str] | None = None,
    tags: Mapping[str, str] | None = None,
) -> dg.AssetsDefinition:
    """Give the multi-asset of one stage; see `flow_definitions` for the arguments.

    The jobs of a stage are `approve_job` and `rollback_job`.

    >>> stage_assets(flow["staging"], execution="graph")  # doctest: +SKIP
    """
    options: dict[str, Any] = {
        "table_store": table_store,
        "kinds": kinds,
        "automation_condition": automation_condition,
        "retry_policy": retry_policy,
        "io_manager_key": io_manager_key,
        "max_workers": max_workers,
        "blob_store": blob_store,
        "on_cache_hit": on_cache_hit,
        "wait_hours": wait_hours if by_hand(publish, {stage.name: stage}) else None,
        "owners": owners,
        "tags": tags,
    }
    made = _assets_of(stage, execution=execution, op_tags=op_tags, **options)
    if len(made) == 1:
        return made[0]
    msg = (
        f"stage {stage.name} reads what other stages make of its own tables, so as a graph it is "
        f"{len(made)} assets definitions; take flow.to_definitions(execution='graph')"
    )
    raise FlowError(msg, stage=stage.name)


def _assets_of(
    stage: Stage,
    *,
    execution: Execution,
    op_tags: Mapping[str, Mapping[str, Any]] | None,
    **options: Any,
) -> list[dg.AssetsDefinition]:
    if stage.outer is not None:
        msg = (
            f"stage {stage.name} is nested in {stage.outer.name}; as Dagster assets each stage is "
            f"published by a step of its own, so declare them side by side"
        )
        raise FlowError(msg, stage=stage.name)
    _check_execution(stage, execution, options["on_cache_hit"], op_tags)
    if execution == "graph":
        from ixflow.dagster.stage_graph import graph_assets

        return graph_assets(stage, op_tags=op_tags or {}, **options)
    return [_one_step(stage, **options)]


def _check_execution(
    stage: Stage,
    execution: str,
    on_cache_hit: str,
    op_tags: Mapping[str, Mapping[str, Any]] | None,
) -> None:
    if execution not in ("stage", "graph"):
        msg = f"execution={execution!r}: write 'stage' or 'graph'"
        raise FlowError(msg, execution=execution)
    if on_cache_hit not in ("record", "skip"):
        msg = f"on_cache_hit={on_cache_hit!r}: write 'record' or 'skip'"
        raise FlowError(msg, on_cache_hit=on_cache_hit)
    if op_tags and execution == "stage":
        msg = "op_tags are for the steps of tasks, which execution='graph' makes; say so too"
        raise FlowError(msg, stage=stage.name)
    known = {task.name for task in (stage.tasks if stage.flow is None else stage.flow.tasks)}
    if unknown := sorted(set(op_tags or ()) - known):
        msg = f"op_tags: there is no task {unknown[0]!r}; there are {', '.join(sorted(known))}"
        raise FlowError(msg, task=unknown[0])


def _one_step(
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
    wait_hours: float | None,
    **asset: Any,
) -> dg.AssetsDefinition:
    key, icons = key_and_kinds(table_store, kinds)
    specs = stage_specs(
        stage.tasks,
        table_store,
        io_manager_key,
        kinds=icons,
        automation_condition=automation_condition,
        **asset,
    )

    @dg.multi_asset(
        name=f"stage_{word(stage.name)}",
        specs=list(specs.values()),
        check_specs=stage_checks(stage),
        can_subset=True,
        required_resource_keys={key},
        retry_policy=retry_policy,
        pool=f"stage_{word(stage.name)}",
    )
    def _stage(context: dg.AssetExecutionContext) -> Iterator[Any]:
        resource: SQLTableStoreResource = getattr(context.resources, key)
        wanted = context.selected_asset_keys
        names = {name for name in stage.output_names if table_key(stage, name) in wanted}
        if not names:
            yield from audited(context, stage, resource)
            return
        everything = names == set(stage.output_names)
        waits = waits_with(context, stage, wait_hours)

        def make() -> StageResult:
            return run_stage(
                stage,
                resource.store(),
                transaction_id=context.run.root_run_id or context.run.run_id,
                tables=None if everything else names,
                max_workers=max_workers,
                blobs=blob_store,
                on_event=lambda event: context.log.info("%s", said(event)),
                waits=waits,
            )

        yield from told(context, stage, resource, names, make, on_cache_hit=on_cache_hit)

    return _stage
