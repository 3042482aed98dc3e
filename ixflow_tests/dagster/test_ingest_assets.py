"""Ingests as assets: counts, watermarks, and when nothing is recorded."""

import json
from typing import Any

import dagster as dg
import pandas as pd
import polars as pl
import pytest
import sqlalchemy as sa

import ixflow.dagster as ixd
from ixflow import Exclusive, incremental_batches
from ixflow.dagster import described
from ixflow_tests.dagster.seen import data_version, failure, made, rows, value
from ixflow_tests.sources import intent_for, make


def materialize(assets, warehouse, instance, config=None, **resources):
    """Materialize; ``config`` is the ingest's run config; failures are in the result."""
    [op] = [asset.op.name for asset in assets if asset.op.name.startswith(("ingest", "raw"))]
    return dg.materialize(
        assets,
        instance=instance,
        resources={"warehouse": warehouse, "planner": ixd.PlannerResource(), **resources},
        run_config={"ops": {op: {"config": config}}} if config else None,
        raise_on_error=False,
    )


@pytest.fixture
def source(fresh_sqlite):
    make(
        fresh_sqlite,
        "CREATE TABLE orders (id bigint NOT NULL PRIMARY KEY, name varchar(20))",
        "INSERT INTO orders VALUES (1, 'a'), (2, NULL)",
    )
    return fresh_sqlite


@pytest.fixture
def assets(source, tmp_path):
    intent = intent_for(source, "orders", tmp_path / "files")
    return [
        ixd.extraction_asset(intent),
        ixd.ingest_extraction(intent, cursor="id"),
    ]


class Orders:
    """Two tables that one batches function fills; it can be told to do other things."""

    def __init__(self, schema="raw"):
        self.metadata = sa.MetaData()
        self.orders = sa.Table(
            "orders",
            self.metadata,
            sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
            sa.Column("name", sa.Text),
            schema=schema,
        )
        self.items = sa.Table("items", self.metadata, sa.Column("id", sa.BigInteger), schema=schema)
        self.seen: list[Any] = []
        self.batches: list[Any] = [(2, None, [(self.orders, (1, "a")), (self.orders, (2, "b"))])]

    def asset(self, **options):
        @ixd.ingest_asset(metadata=self.metadata, **options)
        def raw_orders(high_watermark):
            """Orders as they come."""
            self.seen.append(high_watermark)
            for batch in self.batches:
                if isinstance(batch, Exception):
                    raise batch
                yield batch

        return raw_orders


def test_new_rows_of_another_database_are_an_asset(source, warehouse, instance):
    columns: list[sa.Column[Any]] = [
        sa.Column("id", sa.BigInteger, primary_key=True),
        sa.Column("name", sa.Text),
    ]
    table = sa.Table("raw_orders", sa.MetaData(), *columns, schema="raw")
    new = incremental_batches(
        source, table, cursor="id", semantics=Exclusive(), source_table="orders"
    )
    asset = ixd.ingest_asset(metadata=table.metadata)(new)
    found = made(materialize([asset], warehouse, instance))["raw/raw_orders"]
    assert value(found, "ixflow/rows_inserted") == 2
    assert json.loads(value(found, "ixflow/high_watermark")) == {"cursor": "id", "after": "2"}
    make(source, "INSERT INTO orders VALUES (3, 'c')")
    found = made(materialize([asset], warehouse, instance))["raw/raw_orders"]
    assert value(found, "ixflow/rows_inserted") == 1


# -- what is recorded -------------------------------------------------------------------------


def test_each_table_of_the_metadata_is_an_asset_with_its_counts(warehouse, instance):
    orders = Orders()
    result = materialize([orders.asset()], warehouse, instance)
    found = made(result)
    assert sorted(found) == ["raw/items", "raw/orders"]
    one = found["raw/orders"]
    assert value(one, "ixflow/rows_inserted") == 2
    assert value(one, "ixflow/rows_updated") == 0
    assert value(one, "dagster/row_count") == 2
    assert value(one, "ixflow/high_watermark") == "2"
    assert value(one, "dagster/table_name").endswith("raw.orders")
    assert [c.name for c in value(one, "dagster/column_schema").columns] == ["id", "name"]
    assert value(found["raw/items"], "dagster/row_count") == 0
    [spec, _] = sorted(orders.asset().specs, key=lambda s: s.key.path[-1], reverse=True)
    assert (spec.group_name, spec.description) == ("raw", "Orders as they come.")


def test_a_proof_of_arrival_is_recorded(duckdb_warehouse, instance):
    orders = Orders()
    result = materialize([orders.asset(prove_arrival=True)], duckdb_warehouse, instance)
    one = made(result)["raw/orders"]
    assert value(one, "ixflow/proved_rows_sent") == value(one, "ixflow/proved_rows_there") == 2
    assert len(value(one, "ixflow/proved_checksum")) == 16
    assert value(one, "ixflow/proved_not_compared") == "none"


def test_upserts_are_told_apart(warehouse, instance):
    orders = Orders()
    materialize([orders.asset()], warehouse, instance)
    orders.batches = [
        (4, None, [(orders.orders, (2, "new")), (orders.orders, (1, "a"))]),
        (5, None, [(orders.orders, (3, "c"))]),
    ]
    one = made(materialize([orders.asset()], warehouse, instance))["raw/orders"]
    counts = [value(one, f"ixflow/rows_{what}") for what in ("inserted", "updated", "unchanged")]
    assert counts == [1, 1, 1]
    assert orders.seen == [None, 2]
    assert value(one, "ixflow/high_watermark") == "5"


def test_a_data_version_changes_only_with_the_rows_of_its_table(warehouse, instance):
    orders, versions = Orders(), []
    steps: list[list[Any]] = [
        orders.batches,
        [],
        [(3, None, [(orders.orders, (1, "a"))])],
        [(4, None, [(orders.items, (7,))])],
        [(5, None, [(orders.orders, (9, "z"))])],
    ]
    for batches in steps:
        orders.batches = batches
        found = made(materialize([orders.asset()], warehouse, instance))
        versions.append((data_version(found["raw/orders"]), data_version(found["raw/items"])))
    first, nothing, same_row, other_table, new_row = versions
    assert first == nothing == same_row
    assert (other_table[0] == first[0], other_table[1] == first[1]) == (True, False)
    assert (new_row[0] == other_table[0], new_row[1] == other_table[1]) == (False, True)


def test_a_function_may_take_the_context_too(duckdb_warehouse, instance):
    orders, seen = Orders(), []

    @ixd.ingest_asset(metadata=orders.metadata, key_prefix=["lake"], group_name="other")
    def raw_orders(context, high_watermark):
        seen.append((context.run.run_id, high_watermark))
        yield from orders.batches

    result = materialize([raw_orders], duckdb_warehouse, instance)
    assert seen == [(result.run_id, None)]
    assert sorted(made(result)) == ["lake/raw/items", "lake/raw/orders"]


# -- extracted files --------------------------------------------------------------------------


def test_extracted_rows_are_ingested_and_the_next_run_takes_only_new_ones(
    source, assets, warehouse, instance
):
    first = made(materialize(assets, warehouse, instance))["raw/orders"]
    assert value(first, "ixflow/rows_inserted") == 2
    again = made(materialize(assets, warehouse, instance))["raw/orders"]
    assert value(again, "ixflow/rows_inserted") == 0
    assert data_version(again) == data_version(first)
    make(source, "INSERT INTO orders VALUES (3, 'c')")
    third = made(materialize(assets, warehouse, instance))["raw/orders"]
    assert value(third, "ixflow/rows_inserted") == 1
    assert value(third, "dagster/row_count") == 3
    assert data_version(third) != data_version(first)
    assert [row[0] for row in rows(warehouse.engine, "raw.orders")] == [1, 2, 3]


def test_everything_is_ingested_again_from_the_earliest_watermark(
    source, assets, warehouse, instance
):
    materialize(assets, warehouse, instance)
    make(source, "UPDATE orders SET name = 'late' WHERE id = 1")
    unseen = made(materialize(assets, warehouse, instance))["raw/orders"]
    assert value(unseen, "ixflow/rows_updated") == 0
    again = made(materialize(assets, warehouse, instance, {"high_watermark": "__EARLIEST__"}))
    assert value(again["raw/orders"], "ixflow/rows_updated") == 1
    assert value(again["raw/orders"], "ixflow/rows_unchanged") == 1


def test_a_watermark_can_be_given_as_json(source, assets, warehouse, instance):
    materialize(assets, warehouse, instance)
    make(source, "UPDATE orders SET name = 'late'")
    again = made(materialize(assets, warehouse, instance, {"high_watermark": "1"}))["raw/orders"]
    assert value(again, "ixflow/rows_updated") == 1
    assert rows(warehouse.engine, "raw.orders")[0] == (1, "a")
    assert ixd.IngestConfig(high_watermark='"2026-01-01"').watermark() == "2026-01-01"
    assert ixd.IngestConfig(high_watermark="2026-01-01").watermark() == "2026-01-01"


def test_existing_rows_can_be_replaced_from_the_launchpad(source, assets, warehouse, instance):
    materialize(assets, warehouse, instance)
    make(source, "DELETE FROM orders WHERE id = 1")
    config = {"high_watermark": "__EARLIEST__", "delete": "__BEFORE_FIRST_BATCH__"}
    one = made(materialize(assets, warehouse, instance, config))["raw/orders"]
    assert value(one, "ixflow/rows_deleted") == 2
    assert [row[0] for row in rows(warehouse.engine, "raw.orders")] == [2]


def test_an_empty_source_makes_an_empty_table(fresh_sqlite, warehouse, instance, tmp_path):
    make(fresh_sqlite, "CREATE TABLE orders (id bigint NOT NULL PRIMARY KEY)")
    intent = intent_for(fresh_sqlite, "orders", tmp_path)
    both = [ixd.extraction_asset(intent), ixd.ingest_extraction(intent, cursor="id")]
    one = made(materialize(both, warehouse, instance))["raw/orders"]
    assert value(one, "dagster/row_count") == 0
    assert rows(warehouse.engine, "raw.orders") == []


def test_ingesting_before_extracting_says_what_to_do(assets, duckdb_warehouse, instance):
    result = materialize(assets[1:], duckdb_warehouse, instance)
    assert "nothing of orders is published" in failure(result).description
    assert "extract it first" in failure(result).description


def test_odd_names_reach_the_table_and_the_io_manager_finds_it(
    fresh_sqlite, warehouse, instance, tmp_path
):
    make(
        fresh_sqlite,
        'CREATE TABLE "Order ""items"" select" ("Group By" bigint NOT NULL PRIMARY KEY)',
        'INSERT INTO "Order ""items"" select" VALUES (7)',
    )
    intent = intent_for(fresh_sqlite, 'Order "items" select', tmp_path)
    ingest = ixd.ingest_extraction(intent, cursor="Group By", schema="Raw data")
    seen = []

    @dg.asset(ins={"frame": dg.AssetIn(key=ingest.key)})
    def down(frame: pl.DataFrame):
        seen.append(frame.to_dicts())

    manager = ixd.SQLTableStoreIOManager(store=warehouse)
    both = [ixd.extraction_asset(intent), ingest]
    result = materialize([*both, down], warehouse, instance, io_manager=manager)
    assert result.success
    assert seen == [[{"Group By": 7}]]


# -- failures ---------------------------------------------------------------------------------


def test_a_failing_batch_is_not_recorded_and_earlier_ones_are_taken_up_again(warehouse, instance):
    orders = Orders()
    orders.batches = [*orders.batches, (3, None, [(orders.orders, (3, "c"), "surplus")])]
    result = materialize([orders.asset()], warehouse, instance)
    assert not result.success
    assert made(result) == {}
    assert len(rows(warehouse.engine, "raw.orders")) == 2
    orders.batches = [(4, None, [(orders.orders, (4, "d"))])]
    assert materialize([orders.asset()], warehouse, instance).success
    assert orders.seen == [None, 2]


def test_an_exception_of_the_function_is_shown_as_it_is(duckdb_warehouse, instance):
    orders = Orders()
    orders.batches = [ZeroDivisionError("of mine")]
    result = materialize([orders.asset()], duckdb_warehouse, instance)
    assert made(result) == {}
    [event] = [event for event in result.all_node_events if event.is_step_failure]
    assert "ZeroDivisionError: of mine" in event.step_failure_data.error.to_string()


@pytest.mark.parametrize("config", [{"delete": "all"}, {"upsert": "maybe"}])
def test_a_wrong_option_names_what_is_allowed(config, duckdb_warehouse, instance):
    result = materialize([Orders().asset()], duckdb_warehouse, instance, config)
    [option] = config
    assert f"{option}=" in failure(result).description
    assert "is not one of __" in failure(result).description


def test_what_cannot_be_described_is_recorded_all_the_same(
    warehouse, instance, monkeypatch, caplog
):
    orders = Orders()

    def gone(engine):
        msg = "the server went away"
        raise sa.exc.OperationalError("SELECT 1", {}, Exception(msg))

    monkeypatch.setattr(described, "connected", gone)
    result = materialize([orders.asset()], warehouse, instance)
    assert result.success
    one = made(result)["raw/orders"]
    assert value(one, "ixflow/rows_inserted") == 2
    assert "dagster/row_count" not in one.metadata
    assert data_version(one) is not None
    logged = [log.message for log in instance.all_logs(result.run_id)]
    assert any("lacks columns and rows of raw.orders" in message for message in logged)


# -- loading ----------------------------------------------------------------------------------


def test_what_was_ingested_is_loaded_through_the_io_manager_whatever_the_prefix(
    warehouse_engine, instance
):
    url = warehouse_engine.url.render_as_string(hide_password=False)
    prefixed = ixd.SQLTableStoreResource(url=url, schema_prefix="dev_")
    orders, seen = Orders(), []

    @dg.asset(ins={"orders": dg.AssetIn(key=["raw", "orders"])})
    def down(orders: pd.DataFrame):
        seen.append(json.loads(orders.sort_values("id").to_json(orient="records")))

    tables = ixd.SQLTableStoreIOManager(store=prefixed)
    asset = orders.asset(io_manager_key="tables")
    assert materialize([asset, down], prefixed, instance, tables=tables).success
    assert seen == [[{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]]


def test_an_environment_variable_may_name_the_warehouse(
    fresh_duckdb, source, instance, tmp_path, monkeypatch
):
    monkeypatch.delenv("WAREHOUSE_URL", raising=False)
    resource = ixd.SQLTableStoreResource(url=dg.EnvVar("WAREHOUSE_URL"))
    intent = intent_for(source, "orders", tmp_path)
    unknown = ixd.ingest_extraction(intent, cursor="id", warehouse=resource)
    assert [spec.kinds for spec in unknown.specs] == [{"table"}]
    assert [spec.kinds for spec in Orders().asset(warehouse=resource).specs] == 2 * [{"table"}]
    monkeypatch.setenv("WAREHOUSE_URL", str(fresh_duckdb.url))
    known = ixd.ingest_extraction(intent, cursor="id", warehouse=resource)
    assert [spec.kinds for spec in known.specs] == [{"duckdb"}]
    both = [ixd.extraction_asset(intent), unknown]
    assert made(materialize(both, resource, instance))
    assert len(rows(fresh_duckdb, "raw.orders")) == 2
