"""Extractions into a bucket as assets, and their rows in a warehouse."""

import dagster as dg
import pytest
import sqlalchemy as sa

import ixflow.dagster as ixd
from ixflow.extraction.intent import ExtractionIntent
from ixflow_tests.dagster.seen import failure, made, value
from ixflow_tests.object_stores import BUCKET, SECRET
from ixflow_tests.sources import make


@pytest.fixture
def orders(fresh_sqlite, monkeypatch, tmp_path):
    monkeypatch.setenv("IXFLOW_STATE_URL", f"sqlite:///{tmp_path}/state.sqlite")
    monkeypatch.setenv("BUCKET_SECRET", SECRET)
    make(
        fresh_sqlite,
        "CREATE TABLE orders (id bigint NOT NULL PRIMARY KEY, name varchar(20))",
        "INSERT INTO orders VALUES (1, 'a'), (2, NULL)",
    )
    return fresh_sqlite


def run(intent, instance, warehouse):
    assets = [ixd.extraction_asset(intent), ixd.ingest_extraction(intent, cursor="id")]
    resources = {"planner": ixd.PlannerResource(), "warehouse": warehouse}
    return dg.materialize(assets, instance=instance, resources=resources, raise_on_error=False)


def test_rows_go_through_a_bucket_into_a_warehouse(
    orders, s3_server, instance, warehouse, tmp_path
):
    options = {**s3_server.options, "secret_access_key": dg.EnvVar("BUCKET_SECRET")}
    intent = ExtractionIntent(
        "sqlite",
        {"database": orders.url.database},
        "orders",
        f"s3://{BUCKET}/{tmp_path.parent.name}/{tmp_path.name}",
        "s3",
        storage_options=options,
    )
    asset = ixd.extraction_asset(intent)
    assert asset.specs_by_key[asset.key].kinds == {"sqlite", "parquet", "s3"}
    first = made(run(intent, instance, warehouse))
    assert value(first["extracted/orders"], "dagster/uri") == f"{intent.output_dir}/orders"
    make(orders, "INSERT INTO orders VALUES (3, 'c')")
    second = made(run(intent, instance, warehouse))
    assert value(second["raw/orders"], "dagster/row_count") == 3
    with warehouse.store().engine.connect() as conn:
        rows = conn.execute(sa.text("SELECT id, name FROM raw.orders ORDER BY id")).all()
    assert rows == [(1, "a"), (2, None), (3, "c")]
    assert SECRET not in str([*first.values(), *second.values()])


def test_csv_is_not_ingested_and_the_error_says_so(orders, instance, duckdb_warehouse, tmp_path):
    config = {"database": orders.url.database}
    intent = ExtractionIntent("sqlite", config, "orders", tmp_path / "out", "csv")
    result = run(intent, instance, duckdb_warehouse)
    assert "extract with output_format='parquet'" in str(failure(result))
