"""The demo: a shop's tables extracted, ingested, cleaned and summed up, end to end."""

import os
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import sqlalchemy as sa

import ixflow as ix
import ixflow.dagster as ixd

HOME = Path(os.environ.get("IXFLOW_HOME", Path(__file__).parent / ".ixflow")).absolute()
SHOP = sa.make_url(os.environ.get("SHOP_URL", f"sqlite:///{HOME}/shop.sqlite"))
os.environ.setdefault("WAREHOUSE_URL", f"duckdb:///{HOME}/warehouse.duckdb")
CURSORS = {"customers": "customer_id", "products": "sku", "orders": "order_id",
           "order_items": "order_id"}  # fmt: skip


def intent(table: str) -> ix.ExtractionIntent:
    """Describe one table of the shop, to be extracted into Parquet files."""
    url = SHOP.render_as_string(hide_password=False)
    source = {"connection_string": url}
    return ix.ExtractionIntent(SHOP.get_backend_name(), source, table, HOME / "extracted")


@ix.materialize(input_type=pl.DataFrame)
def orders(orders: pl.DataFrame) -> ix.Table[Any]:
    """Orders that were not returned."""
    return ix.Table(orders.filter(pl.col("state") != "returned"), primary_key="order_id")


@ix.materialize(input_type=sa.Table)
def customers(customers: sa.Table) -> ix.Table[Any]:
    """Customers whose country is known: a query, so no row leaves the warehouse."""
    return ix.Table(sa.select(customers).where(customers.c.country.is_not(None)))


@ix.materialize(input_type=pl.DataFrame)
def revenue_by_country(orders: pl.DataFrame, customers: pl.DataFrame) -> ix.Table[Any]:
    """What the customers of each country spent."""
    spent = orders.join(customers, on="customer_id").group_by("country").agg(pl.sum("total"))
    return ix.Table(spent.sort("country"), primary_key="country")


with ix.Flow("shop") as flow:
    with ix.Stage("staging") as staging:
        kept = orders(ix.ExternalTableReference("orders", "raw"))
        known = customers(ix.ExternalTableReference("customers", "raw"))
    with ix.Stage("mart"):
        revenue_by_country(kept, known)


@ix.audit(staging)
def no_negative_totals(orders: pl.DataFrame) -> bool:
    """Refuse to publish the stage when an order has a negative total."""
    return orders.filter(pl.col("total") < 0).is_empty()


@dg.definitions
def defs() -> dg.Definitions:
    """Sources, extractions, ingests and stages, and what runs them."""
    warehouse = ixd.SQLTableStoreResource(url=dg.EnvVar("WAREHOUSE_URL"))
    everything = dg.define_asset_job("everything")
    extracted = [
        asset
        for table, cursor in CURSORS.items()
        for asset in (
            ixd.source_asset(intent(table)),
            ixd.extraction_asset(intent(table)),
            ixd.ingest_extraction(intent(table), cursor=cursor, warehouse=warehouse),
        )
    ]
    return dg.Definitions.merge(
        flow.to_definitions(
            table_store=warehouse, automation_condition=ixd.on_change(), io_manager_key="io_manager"
        ),
        dg.Definitions(
            assets=extracted,
            executor=dg.in_process_executor,
            schedules=[dg.ScheduleDefinition(job=everything, cron_schedule="0 6 * * *")],
            sensors=[
                ixd.high_watermark_sensor(
                    name="new_orders", intent=intent("orders"), cursor="order_id"
                )
            ],
            resources={
                "planner": ixd.PlannerResource(),
                "io_manager": ixd.SQLTableStoreIOManager(store=warehouse),
            },
        ),
    )
