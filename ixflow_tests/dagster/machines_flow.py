"""The demo with each task as a step, for executors on many machines: what every worker imports."""

import os
from typing import Any

import dagster as dg
import sqlalchemy as sa
from dagster_celery import celery_executor

import ixflow as ix
import ixflow.dagster as ixd
from ixflow.dagster.dask import dask_executor

__all__ = ["shop_job"]

_EXECUTORS = {"celery": celery_executor, "dask": dask_executor, "here": dg.in_process_executor}


def _intent(table: str) -> ix.ExtractionIntent:
    shop = {"connection_string": os.environ["SHOP_URL"]}
    return ix.ExtractionIntent("postgresql", shop, table, os.environ["SHARED_DIRECTORY"])


def shop_job(executor: str, execution: str) -> dg.JobDefinition:
    """Give the job that makes everything, which every process builds anew."""
    import definitions

    # Every call of it gives assets to one set of definitions, but the flow is the demo's.
    flow, cursors = definitions.flow, definitions.CURSORS
    warehouse = ixd.SQLTableStoreResource(url=dg.EnvVar("WAREHOUSE_URL"))
    extracted: list[Any] = [
        asset
        for table, cursor in cursors.items()
        if table in ("customers", "orders")
        for asset in (
            ixd.extraction_asset(_intent(table)),
            ixd.ingest_extraction(_intent(table), cursor=cursor, warehouse=warehouse),
        )
    ]
    executor_def = _EXECUTORS[executor]
    made = dg.Definitions.merge(
        flow.to_definitions(execution=execution, table_store=warehouse),
        dg.Definitions(
            assets=extracted,
            jobs=[dg.define_asset_job("shop_everything", executor_def=executor_def)],
            resources={"planner": ixd.PlannerResource()},
        ),
    )
    assert sa.make_url(os.environ["WAREHOUSE_URL"]).get_backend_name() == "postgresql"
    return made.resolve_job_def("shop_everything")
