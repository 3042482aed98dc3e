"""A code location for the browser: a plan check, partitions, a schedule, a sensor, a failure."""

import os

import dagster as dg

import ixflow as ix
import ixflow.dagster as ixd

__all__ = ["defs"]

HOME = os.environ.get("IXFLOW_HOME", "/nowhere")
SHOP = os.environ.get("SHOP_URL", f"sqlite:///{HOME}/shop.sqlite")
PARTITIONS = dg.StaticPartitionsDefinition([f"{number}" for number in range(1, 11)])


def intent(table: str, place: str = "day") -> ix.ExtractionIntent:
    """Describe the extraction of one table of the shop."""
    source = {"connection_string": SHOP}
    return ix.ExtractionIntent("sqlite", source, table, f"{HOME}/{place}")


@dg.definitions
def defs() -> dg.Definitions:
    """Give what the pages of the browser tests show."""
    orders = ixd.extraction_asset(intent("orders"), key=["day", "orders"])
    judged = ixd.extraction_asset(
        intent("customers"), key=["day", "customers"], check=ixd.plan_check()
    )
    products = ixd.extraction_asset(intent("products"), key=["day", "products"])
    misspelt = ixd.extraction_asset(intent("ordres"), key=["day", "ordres"])
    by_customer = ixd.extraction_asset(
        intent("orders", "parts"),
        key=["day", "by_customer"],
        partitions_def=PARTITIONS,
        partition_by="customer_id",
    )
    rows = ixd.ingest_extraction(
        intent("orders"), cursor="order_id", schema="day_raw", deps=[["day", "orders"]]
    )
    nightly = dg.define_asset_job("nightly", dg.AssetSelection.assets(products))
    return dg.Definitions(
        assets=[orders, judged, products, misspelt, by_customer, rows],
        schedules=[
            dg.ScheduleDefinition(
                job=nightly,
                cron_schedule="* * * * *",
                default_status=dg.DefaultScheduleStatus.RUNNING,
            )
        ],
        sensors=[
            ixd.high_watermark_sensor(
                name="watch_orders",
                intent=intent("orders"),
                cursor="order_id",
                schema="day_raw",
                assets=[orders, rows],
                minimum_interval_seconds=5,
                default_status=dg.DefaultSensorStatus.RUNNING,
            )
        ],
        executor=dg.in_process_executor,
        resources={
            "planner": ixd.PlannerResource(),
            "warehouse": ixd.SQLTableStoreResource(url=f"duckdb:///{HOME}/day.duckdb"),
        },
    )
