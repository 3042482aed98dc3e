"""`FlowComponent`: a flow of a Python module as assets."""

import importlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import dagster as dg

from ixflow.dagster.components.fields import Automation, on_change_scope, retries, shown
from ixflow.dagster.components.scaffolders import FlowScaffolder
from ixflow.dagster.components.schema import PreciseFields
from ixflow.dagster.manual import WAIT_HOURS
from ixflow.dagster.table_store import WAREHOUSE
from ixflow.errors import ValidationError
from ixflow.pipeline.blob_store import FileBlobStore
from ixflow.pipeline.flow import Flow

__all__ = ["FlowComponent", "flow_at"]


def flow_at(path: str) -> Flow:
    """Import a flow, as ``package.module:name`` or ``package.module.name``.

    Raises:
        ValidationError: there is no such module or name, or it is no flow.

    """
    module, _, name = path.partition(":") if ":" in path else path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        msg = f"flow: {path} cannot be imported ({error}); write package.module:name"
        raise ValidationError(msg, flow=path) from error
    if not isinstance(found, Flow):
        msg = f"flow: {path} is a {type(found).__name__}, not an ixflow.Flow"
        raise ValidationError(msg, flow=path)
    return found


def _flow(context: dg.ResolutionContext, raw: str) -> Flow:
    return flow_at(context.resolve_value(raw, as_type=str))


@dg.scaffold_with(FlowScaffolder)
class FlowComponent(dg.Component, PreciseFields, dg.Model):
    """A flow as assets: each stage is published by one step, in one transaction.

    Example::

        type: ixflow.dagster.FlowComponent
        attributes: {flow: shop.flows:shop}

    """

    flow: Annotated[
        Any,
        dg.Resolver(_flow, model_field_type=str, description="the flow, as package.module:name"),
    ]
    store: Annotated[str, shown("key of the SQLTableStoreResource")] = WAREHOUSE
    blob_store: Annotated[str | None, shown("directory of blobs that every step sees")] = None
    kinds: Annotated[Sequence[str], shown("icons of the tables")] = ()
    io_manager_key: Annotated[str | None, shown("IO manager for downstream assets")] = None
    max_workers: Annotated[int, shown("how many tasks of a stage run at a time")] = 4
    retries: Annotated[int | None, shown("how often a stage is tried again")] = None
    execution: Annotated[
        Literal["stage", "graph"],
        shown("stage: one step a stage; graph: one step a task, and one that publishes"),
    ] = "stage"
    on_cache_hit: Annotated[
        Literal["record", "skip"],
        shown("skip: tell nothing of valid tables, so that what takes only those is skipped"),
    ] = "record"
    publish: Annotated[
        Literal["auto", "manual"] | Mapping[str, Literal["auto", "manual"]],
        shown("manual: what is made waits for the job approve_<stage>; or a mapping by stages"),
    ] = "auto"
    wait_hours: Annotated[float, shown("how long that is kept, at least")] = WAIT_HOURS
    owners: Annotated[Sequence[str], shown("owners of every table")] = ()
    tags: Annotated[Mapping[str, str], shown("tags of every table")] = {}
    automation_condition: Automation = None

    @classmethod
    def get_additional_scope(cls) -> Mapping[str, Any]:
        """Let templates say ``{{ on_change }}``."""
        return on_change_scope()

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """Make the assets and the job of the flow."""
        del context
        blobs = None if self.blob_store is None else FileBlobStore(self.blob_store)
        made: dg.Definitions = self.flow.to_definitions(
            table_store=self.store,
            kinds=set(self.kinds) or None,
            io_manager_key=self.io_manager_key,
            max_workers=self.max_workers,
            blob_store=blobs,
            retry_policy=retries(self.retries),
            automation_condition=self.automation_condition,
            execution=self.execution,
            on_cache_hit=self.on_cache_hit,
            publish=self.publish,
            wait_hours=self.wait_hours,
            owners=list(self.owners),
            tags=dict(self.tags),
        )
        return made
