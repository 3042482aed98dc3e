"""A stage as one subsettable multi-asset whose events come after the tables were published.

The step runs the stage's tasks on threads, audits what they made, publishes all of it in one
transaction, and only then yields a value-less `MaterializeResult` a table: an event means that the
table can be seen. A selection in the UI publishes just that selection. The transaction is named
after the root run, so that a retry of a failed run takes over the tables that are done.
"""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import dagster as dg
import pyarrow as pa

from ixflow.dagster.failures import as_failure, failures
from ixflow.dagster.metadata import asset_key, column_lineage, table_metadata, word
from ixflow.dagster.table_store import WAREHOUSE, SQLTableStoreResource, key_and_kinds, storage
from ixflow.errors import AuditFailed, FlowError
from ixflow.events import Event, TaskFinished
from ixflow.pipeline.audit import Audit, AuditOutcome
from ixflow.pipeline.blob_store import BlobStore
from ixflow.pipeline.flow import Flow
from ixflow.pipeline.result import StageResult, TableResult, TaskState
from ixflow.pipeline.stage import Stage
from ixflow.pipeline.stage_run import audit_published, run_stage
from ixflow.pipeline.task import Task
from ixflow.values import Column, TableName

__all__ = ["flow_definitions", "stage_assets", "table_key"]


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

    Raises:
        FlowError: a stage is nested in another, or makes tables whose names are not known.

    """
    resources: dict[str, Any] = {}
    if isinstance(table_store, SQLTableStoreResource):
        resources[WAREHOUSE] = table_store
    assets = [
        stage_assets(
            stage,
            table_store=table_store,
            kinds=kinds,
            automation_condition=automation_condition,
            retry_policy=retry_policy,
            io_manager_key=io_manager_key,
            max_workers=max_workers,
            blob_store=blob_store,
        )
        for stage in flow.stages.values()
        if any(_names(task) for task in stage.tasks)
    ]
    job = dg.define_asset_job(
        f"{word(flow.name)}_flow", dg.AssetSelection.assets(*assets), executor_def=executor
    )
    return dg.Definitions(assets=assets, jobs=[job], resources=resources)


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
) -> dg.AssetsDefinition:
    """Give the multi-asset of one stage; see `flow_definitions` for the arguments."""
    if stage.outer is not None:
        msg = (
            f"stage {stage.name} is nested in {stage.outer.name}; as Dagster assets each stage is "
            f"published by a step of its own, so declare them side by side"
        )
        raise FlowError(msg, stage=stage.name)
    key, icons = key_and_kinds(table_store, kinds)
    specs = [
        _spec(
            task,
            name,
            io_manager_key,
            kinds=icons,
            automation_condition=automation_condition,
            place=storage(table_store, TableName(name, stage.name), stage=True),
        )
        for task in stage.tasks
        for name in _names(task)
    ]

    @dg.multi_asset(
        name=f"stage_{word(stage.name)}",
        specs=specs,
        check_specs=[_check_spec(stage, audit) for audit in stage.audits],
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
            yield from _only_checks(context, stage, resource)
            return
        yield from _materialize(
            context, stage, resource, names, max_workers=max_workers, blob_store=blob_store
        )

    return _stage


def table_key(stage: Stage, table: str) -> dg.AssetKey:
    """Give the asset key of a stage's table."""
    return asset_key(stage.name, table)


def _materialize(
    context: dg.AssetExecutionContext,
    stage: Stage,
    resource: SQLTableStoreResource,
    names: set[str],
    *,
    max_workers: int,
    blob_store: BlobStore | None,
) -> Iterator[Any]:
    everything = names == set(stage.output_names)
    try:
        with failures(but=AuditFailed):
            result = run_stage(
                stage,
                resource.store(),
                transaction_id=context.run.root_run_id or context.run.run_id,
                tables=None if everything else names,
                max_workers=max_workers,
                blobs=blob_store,
                on_event=lambda event: context.log.info("%s", _said(event)),
            )
    except AuditFailed as error:
        # Only what failed is told: a check that passed says nothing about what is published.
        failed = [outcome for outcome in error.outcomes if not outcome.passed]
        yield from _checks(context, stage, failed)
        raise as_failure(error) from error
    context.log.info(
        "stage %s is at version %d, %s",
        stage.name,
        result.version,
        "published" if result.published else "unchanged",
    )
    for table in result.tables:
        if table.name in names:
            yield _event(stage, resource, result, table)
    yield from _checks(context, stage, result.audits)


def _said(event: Event) -> str:
    if not isinstance(event, TaskFinished):
        return str(event)
    rows = "" if event.rows is None else f", {event.rows:,} rows"
    why = f" ({event.reason})" if event.reason else ""
    return f"task {event.stage}.{event.task}: {event.state}{rows} in {event.seconds:.2f} s{why}"


def _event(
    stage: Stage, resource: SQLTableStoreResource, result: StageResult, table: TableResult
) -> dg.MaterializeResult[Any]:
    valid = table.state is TaskState.CACHE_VALID
    extra: dict[str, Any] = {
        "ixflow/stage_version": result.version,
        "ixflow/state": str(table.state),
        "ixflow/cache_hits": int(valid),
        "ixflow/seconds": round(table.seconds, 3),
    }
    if table.reason:
        extra["ixflow/reason"] = table.reason
    store = resource.store()
    flow_stages = [] if stage.flow is None else stage.flow.stages
    stages = {store.schema(name): name for name in [stage.name, *flow_stages]}
    if (lineage := column_lineage(table.lineage, stages)) is not None:
        extra["dagster/column_lineage"] = lineage
    place = TableName(table.name, result.schema)
    columns = [Column(c.name, c.type, pa.null(), c.nullable) for c in table.columns]
    return dg.MaterializeResult(
        asset_key=table_key(stage, table.name),
        metadata=table_metadata(
            resource.engine.url, place, rows=table.rows, columns=columns, extra=extra
        ),
        data_version=dg.DataVersion(table.data_version),
        tags={"ixflow/cache": "hit"} if valid else None,
    )


def _only_checks(
    context: dg.AssetExecutionContext, stage: Stage, resource: SQLTableStoreResource
) -> Iterator[dg.AssetCheckResult]:
    """Audit what is published, for *Execute check* in the UI; nothing is made or published."""
    with failures():
        outcomes = audit_published(stage, resource.store())
    yield from _checks(context, stage, outcomes)


def _checks(
    context: dg.AssetExecutionContext, stage: Stage, outcomes: Sequence[AuditOutcome]
) -> Iterator[dg.AssetCheckResult]:
    """Tell the outcomes that this step may tell: an audit also guards runs that leave it out."""
    for outcome in outcomes:
        check = dg.AssetCheckKey(table_key(stage, outcome.table), outcome.name)
        if check in context.selected_asset_check_keys:
            yield _check(stage, outcome)


def _check_spec(stage: Stage, audit: Audit) -> dg.AssetCheckSpec:
    return dg.AssetCheckSpec(
        name=audit.name,
        asset=table_key(stage, audit.table),
        description=inspect.getdoc(audit.fn) or "Judges the new tables before they are published.",
        blocking=True,
    )


def _check(stage: Stage, outcome: AuditOutcome) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        asset_key=table_key(stage, outcome.table),
        check_name=outcome.name,
        passed=outcome.passed,
        severity=dg.AssetCheckSeverity.ERROR,
        description=outcome.description or None,
        metadata=dict(outcome.metadata),
    )


def _spec(
    task: Task,
    name: str,
    io_manager_key: str | None,
    *,
    place: Mapping[str, Any],
    **options: Any,
) -> dg.AssetSpec:
    version = task.definition.version
    spec = dg.AssetSpec(
        table_key(task.stage, name),
        deps=_deps(task),
        group_name=word(task.stage.name),
        code_version=version if isinstance(version, str) else None,
        description=_description(task),
        metadata={"ixflow/stage": task.stage.name, "ixflow/table": name, **place},
        **options,
        skippable=True,
    )
    return spec if io_manager_key is None else spec.with_io_manager_key(io_manager_key)


def _description(task: Task) -> str:
    text = (task.fn.__doc__ or "").strip()
    return text or f"Made by task {task.name} of stage {task.stage.name}."


def _deps(task: Task) -> Sequence[dg.AssetKey]:
    """Name what a task reads: tables of other tasks, also through constants, and external ones."""
    found: dict[dg.AssetKey, None] = {}
    for reference in task.external_tables:
        found[asset_key(reference.schema, reference.name)] = None
    for upstream in task.upstream:
        made = [table_key(upstream.stage, name) for name in upstream.output_names]
        found.update(dict.fromkeys(made or _deps(upstream)))
    return list(found)


def _names(task: Task) -> tuple[str, ...]:
    if task.output_names or task.definition.outputs == ():
        return task.output_names
    msg = (
        f"task {task.name} is called more than once in stage {task.stage.name}, so its tables' "
        f"names are not known; say @materialize(outputs=[...]), [] for constants"
    )
    raise FlowError(msg, stage=task.stage.name, task=task.name)
