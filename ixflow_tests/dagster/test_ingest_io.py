"""The ingesting IO manager: what is ingested, what is recorded, and what a failure leaves."""

from typing import Any

import dagster as dg
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import sqlalchemy as sa

import ixflow.dagster as ixd
from ixflow_tests.dagster.seen import data_version, failure, made, rows, value


def orders_table(*, key=True) -> sa.Table:
    number: sa.Column[Any] = sa.Column(
        "id", sa.BigInteger, primary_key=key, autoincrement=False, nullable=False
    )
    return sa.Table("orders", sa.MetaData(), number, sa.Column("name", sa.Text), schema="raw")


def returning(obj, table=None, **options):
    """Make an asset ``raw/orders`` that returns the object."""
    known = ixd.ingest_into(orders_table() if table is None else table, **options)

    @dg.asset(key=["raw", "orders"], metadata=known)
    def raw_orders():
        return obj

    return raw_orders


def materialize(assets, warehouse, instance, config=None, **options):
    """Materialize; ``config`` is the IngestConfig of the run; failures are in the result."""
    said = {"resources": {"io_manager": {"config": {"ingest": config}}}}
    return dg.materialize(
        assets,
        instance=instance,
        resources={
            "warehouse": warehouse,
            "io_manager": ixd.HighWatermarkIOManager(store=warehouse),
        },
        run_config=said if config else None,
        raise_on_error=False,
        **options,
    )


class Source:
    """Rows that grow; remembers the watermarks it was asked behind."""

    def __init__(self, table):
        self.table, self.rows, self.asked = table, [(1, "a"), (2, "b")], []
        self.breaks = False

    def batches(self, high_watermark):
        self.asked.append(high_watermark)
        for row in self.rows:
            if row[0] > (high_watermark or 0):
                yield row[0], None, [(self.table, row)]
        if self.breaks:
            yield 99, None, self.broken()

    def broken(self):
        yield self.table, (99, "half")
        msg = "the source went away"
        raise ZeroDivisionError(msg)


FRAMES = {
    "pandas": pd.DataFrame({"id": [1, 2], "name": ["a", None]}),
    "polars": pl.DataFrame({"id": [1, 2], "name": ["a", None]}),
    "lazy": pl.LazyFrame({"id": [1, 2], "name": ["a", None]}),
    "arrow": pa.table({"id": [1, 2], "name": ["a", None]}),
    "tuples": [(1, "a"), (2, None)],
    "mappings": [{"id": 1, "name": "a"}, {"id": 2, "name": None}],
}


@pytest.mark.parametrize("obj", FRAMES.values(), ids=FRAMES)
def test_frames_and_rows_are_upserted_into_the_declared_table(obj, duckdb_warehouse, instance):
    first = made(materialize([returning(obj)], duckdb_warehouse, instance))["raw/orders"]
    assert rows(duckdb_warehouse.engine, "raw.orders ORDER BY 1") == [(1, "a"), (2, None)]
    assert value(first, "ixflow/rows_inserted") == 2
    assert value(first, "dagster/row_count") == 2
    again = made(materialize([returning(obj)], duckdb_warehouse, instance))["raw/orders"]
    assert value(again, "ixflow/rows_unchanged") == 2
    assert data_version(again) == data_version(first)


def test_batches_go_on_behind_the_committed_watermark(warehouse, instance):
    table = orders_table()
    source = Source(table)
    asset = returning(source.batches, table)
    first = made(materialize([asset], warehouse, instance))["raw/orders"]
    source.rows.append((7, "c"))
    second = made(materialize([asset], warehouse, instance))["raw/orders"]
    assert source.asked == [None, 2]
    assert value(second, "ixflow/rows_inserted") == 1
    assert value(second, "ixflow/high_watermark") == "7"
    assert value(second, "dagster/table_name").endswith("raw.orders")
    assert data_version(first) != data_version(second)


def test_an_asset_that_fails_leaves_whole_batches_and_no_event(warehouse, instance):
    table = orders_table()
    source = Source(table)
    source.breaks = True
    asset = returning(source.batches, table)
    result = materialize([asset], warehouse, instance)
    assert not result.success
    assert made(result) == {}
    assert rows(warehouse.engine, "raw.orders") == [(1, "a"), (2, "b")]
    source.breaks = False
    assert materialize([asset], warehouse, instance).success
    assert source.asked == [None, 2]


def test_the_launchpad_ingests_everything_again_and_replaces(duckdb_warehouse, instance):
    table = orders_table()
    source = Source(table)
    asset = returning(source.batches, table)
    materialize([asset], duckdb_warehouse, instance)
    source.rows = [(2, "b")]
    config = {"high_watermark": "__EARLIEST__", "delete": "__BEFORE_FIRST_BATCH__"}
    assert materialize([asset], duckdb_warehouse, instance, config).success
    assert source.asked == [None, None]
    assert rows(duckdb_warehouse.engine, "raw.orders") == [(2, "b")]
    assert materialize([asset], duckdb_warehouse, instance, {"high_watermark": "5"}).success
    assert source.asked[-1] == 5


def test_the_assets_metadata_says_how_rows_are_deleted(duckdb_warehouse, instance):
    without_key = orders_table(key=False)
    for obj in ([(1, "a"), (2, "b")], [(3, "c")]):
        asset = returning(obj, without_key, delete="__BEFORE_FIRST_BATCH__")
        assert materialize([asset], duckdb_warehouse, instance).success
    assert rows(duckdb_warehouse.engine, "raw.orders") == [(3, "c")]


def test_rows_that_a_second_run_would_double_are_refused(duckdb_warehouse, instance):
    without_key = orders_table(key=False)
    said = failure(materialize([returning([(1, "a")], without_key)], duckdb_warehouse, instance))
    assert "raw.orders has no primary key" in said.description
    for _ in range(2):
        asset = returning([(1, "a")], without_key, upsert="__OFF__")
        assert materialize([asset], duckdb_warehouse, instance).success
    assert rows(duckdb_warehouse.engine, "raw.orders") == [(1, "a"), (1, "a")]


def test_other_tables_of_the_metadata_are_left_alone(duckdb_warehouse, instance):
    table = orders_table()
    sa.Table("others", table.metadata, sa.Column("id", sa.BigInteger), schema="raw")
    assert materialize([returning([(1, "a")], table)], duckdb_warehouse, instance).success
    assert not sa.inspect(duckdb_warehouse.engine).has_table("others", schema="raw")


def test_an_input_arrives_as_its_annotation_says(warehouse, instance):
    seen: dict[str, Any] = {}

    def down(kind: Any, name: str):
        @dg.asset(name=name, ins={"orders": dg.AssetIn(key=["raw", "orders"])})
        def fn(orders: kind) -> None:
            seen[name] = orders

        return fn

    kinds = {"pandas": pd.DataFrame, "polars": pl.DataFrame, "lazy": pl.LazyFrame}
    kinds |= {"arrow": pa.Table, "unsaid": Any}
    assets = [returning([(1, "a")]), *(down(kind, name) for name, kind in kinds.items())]
    assert materialize(assets, warehouse, instance).success
    assert type(seen["pandas"]) is pd.DataFrame
    assert type(seen["unsaid"]) is pa.Table
    assert seen["arrow"].to_pylist() == [{"id": 1, "name": "a"}]
    assert seen["polars"].rows() == [(1, "a")]
    assert seen["lazy"].collect().rows() == [(1, "a")]
    seen.clear()
    assert materialize(assets, warehouse, instance, selection=["polars"]).success
    assert seen["polars"].rows() == [(1, "a")]


def test_what_cannot_be_ingested_is_refused_by_name(duckdb_warehouse, instance):
    said = failure(materialize([returning(42)], duckdb_warehouse, instance))
    assert (
        "raw.orders: a int cannot be ingested; return batches(high_watermark)" in said.description
    )

    @dg.asset(key=["raw", "orders"])
    def undeclared():
        return [(1, "a")]

    said = failure(materialize([undeclared], duckdb_warehouse, instance))
    assert "raw/orders names no table to ingest into" in said.description


def test_none_ingests_nothing(duckdb_warehouse, instance):
    assert materialize([returning(None)], duckdb_warehouse, instance).success
    assert not sa.inspect(duckdb_warehouse.engine).has_table("orders", schema="raw")
