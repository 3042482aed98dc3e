"""The IO manager: what assets return becomes tables, what they take comes from tables."""

from typing import Any

import dagster as dg
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import sqlalchemy as sa

import ixflow.dagster as ixd
from ixflow_tests.dagster.seen import failure, made, rows, value
from ixflow_tests.dagster.shop import Shop
from ixflow_tests.sources import make

ROWS = [{"id": 1, "name": "a"}, {"id": 2, "name": None}]


def materialize(assets, warehouse, instance, **options):
    """Materialize with the IO manager for every output; failures are in the result."""
    return dg.materialize(
        assets,
        instance=instance,
        resources={
            "warehouse": warehouse,
            "io_manager": ixd.SQLTableStoreIOManager(store=warehouse),
        },
        raise_on_error=False,
        **options,
    )


def returning(obj, **options):
    """Make an asset ``st/t`` that returns the object."""

    @dg.asset(key=["st", "t"], **options)
    def t():
        return obj

    return t


FRAMES = {
    "pandas": pd.DataFrame(ROWS),
    "polars": pl.DataFrame(ROWS),
    "lazy": pl.LazyFrame(ROWS),
    "arrow": pa.Table.from_pylist(ROWS),
    "select": sa.select(sa.literal(1).label("id"), sa.literal("a").label("name")).union_all(
        sa.select(sa.literal(2), sa.null())
    ),
}


@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES)
def test_every_kind_of_frame_and_a_query_become_a_table(frame, warehouse, instance):
    result = materialize([returning(frame)], warehouse, instance)
    assert result.success
    assert rows(warehouse.engine, "st.t ORDER BY 1") == [(1, "a"), (2, None)]
    one = made(result)["st/t"]
    assert value(one, "dagster/row_count") == 2
    assert [c.name for c in value(one, "dagster/column_schema").columns] == ["id", "name"]
    assert value(one, "dagster/table_name").endswith("st.t")


def test_an_input_arrives_as_its_annotation_says(warehouse, instance):
    seen: dict[str, Any] = {}

    def down(kind: Any, name: str):
        @dg.asset(name=name, ins={"t": dg.AssetIn(key=["st", "t"])})
        def fn(t: kind):
            seen[name] = t

        return fn

    kinds = {
        "by_pandas": pd.DataFrame,
        "by_polars": pl.DataFrame,
        "by_lazy": pl.LazyFrame,
        "by_arrow": pa.Table,
        "by_query": sa.Table,
    }

    @dg.asset(ins={"t": dg.AssetIn(key=["st", "t"])})
    def plain(t):
        seen["plain"] = t

    assets = [returning(pl.DataFrame(ROWS)), plain, *(down(k, n) for n, k in kinds.items())]
    assert materialize(assets, warehouse, instance).success
    assert {name: isinstance(seen[name], kind) for name, kind in kinds.items()} == dict.fromkeys(
        kinds, True
    )
    assert isinstance(seen["plain"], pa.Table)
    assert seen["by_lazy"].collect().sort("id").to_dicts() == ROWS
    assert seen["plain"].sort_by("id").to_pylist() == ROWS
    assert [c.name for c in seen["by_query"].columns] == ["id", "name"]


def test_adding_a_column_never_empties_the_table(warehouse, instance):
    materialize([returning(pl.DataFrame({"id": [1, 2]}))], warehouse, instance)
    wider = pl.DataFrame({"id": [3], "more": ["x"]})
    assert materialize([returning(wider)], warehouse, instance).success
    assert rows(warehouse.engine, "st.t") == [(3, "x")]


def test_a_failing_write_keeps_the_old_rows(warehouse, instance):
    materialize([returning(pl.DataFrame({"id": [1, 2]}))], warehouse, instance)

    def broken():
        yield pa.record_batch({"id": [3]})
        msg = "the stream broke"
        raise OSError(msg)

    stream = pa.RecordBatchReader.from_batches(pa.schema({"id": pa.int64()}), broken())
    result = materialize([returning(stream)], warehouse, instance)
    assert not result.success
    assert made(result) == {}
    assert rows(warehouse.engine, "st.t") == [(1,), (2,)]
    with warehouse.engine.connect() as conn:
        assert warehouse.store().dialect.tables_in(conn, "st") == ("t",)


def test_a_query_that_fails_keeps_the_old_rows(warehouse, instance):
    materialize([returning(pl.DataFrame({"id": [1]}))], warehouse, instance)
    query: Any = sa.select(sa.literal_column("1 / nothing").label("id"))
    result = materialize([returning(query)], warehouse, instance)
    assert not result.success
    assert rows(warehouse.engine, "st.t") == [(1,)]


def test_a_query_may_read_the_very_table_it_replaces(warehouse, instance):
    materialize([returning(pl.DataFrame({"id": [1, 2]}))], warehouse, instance)
    old = sa.table("t", sa.column("id"), schema="st")
    assert materialize([returning(sa.select(old.c.id + 1))], warehouse, instance).success
    assert rows(warehouse.engine, "st.t") == [(2,), (3,)]


def test_asset_metadata_gives_the_table_a_primary_key(warehouse, instance):
    options = {"metadata": {"ixflow/primary_key": ["id"]}}
    for _ in range(2):
        result = materialize([returning(pl.DataFrame(ROWS), **options)], warehouse, instance)
        assert result.success
    columns = value(made(result)["st/t"], "dagster/column_schema").columns
    assert columns[0].constraints.other == ["primary key"]
    assert columns[0].constraints.nullable is False
    again = materialize([returning(pl.DataFrame({"id": [1, 1]}), **options)], warehouse, instance)
    assert not again.success
    assert len(rows(warehouse.engine, "st.t")) == 2


def test_views_and_comments_on_postgres_survive_a_replacement(fresh_postgres, instance):
    url = fresh_postgres.url.render_as_string(hide_password=False)
    warehouse = ixd.SQLTableStoreResource(url=url)
    materialize([returning(pl.DataFrame({"id": [1]}))], warehouse, instance)
    make(
        fresh_postgres,
        "CREATE VIEW st.seen AS SELECT id FROM st.t",
        "COMMENT ON TABLE st.t IS 'kept'",
    )
    assert materialize([returning(pl.DataFrame({"id": [2]}))], warehouse, instance).success
    assert rows(fresh_postgres, "st.seen") == [(2,)]
    assert rows(fresh_postgres, "(SELECT obj_description('st.t'::regclass)) AS c") == [("kept",)]


def test_a_table_of_a_stage_is_loaded_downstream(warehouse, instance):
    shop, seen = Shop(), []

    @dg.asset(ins={"t2": dg.AssetIn(key=["st", "t2"])})
    def down(t2: pl.DataFrame):
        seen.append(t2.to_dicts())

    assets = [*shop.assets(io_manager_key="io_manager"), down]
    assert materialize(assets, warehouse, instance).success
    assert materialize(assets, warehouse, instance, selection=[down]).success
    assert seen == 2 * [[{"x": 10}]]


def test_a_single_part_key_goes_to_the_default_schema(warehouse, instance):
    @dg.asset
    def alone():
        return pl.DataFrame(ROWS)

    assert materialize([alone], warehouse, instance).success
    assert len(rows(warehouse.engine, "assets.alone")) == 2


def test_none_writes_nothing_and_something_else_is_refused(duckdb_warehouse, instance):
    assert materialize([returning(None)], duckdb_warehouse, instance).success
    said = failure(materialize([returning([1, 2])], duckdb_warehouse, instance))
    assert "a list cannot be stored as a table; return a frame or a query" in said.description


def test_a_partitioned_asset_that_names_no_column_is_refused(duckdb_warehouse, instance):
    parts = dg.StaticPartitionsDefinition(["a", "b"])
    asset = returning(pl.DataFrame(ROWS), partitions_def=parts)
    result = materialize([asset], duckdb_warehouse, instance, partition_key="a")
    said = failure(result).description
    assert "st/t is partitioned, and nothing says how its partitions share a table" in said


def test_a_missing_input_and_an_unknown_type_are_named(duckdb_warehouse, instance):
    @dg.asset(ins={"t": dg.AssetIn(key=["st", "t"])})
    def down(t: pl.DataFrame): ...

    @dg.asset(ins={"t": dg.AssetIn(key=["st", "t"])})
    def odd(t: dict[str, int]): ...

    up = dg.AssetSpec(["st", "t"])
    result = materialize([up, down], duckdb_warehouse, instance)
    assert "there is no table st.t" in failure(result).description
    materialize([returning(pl.DataFrame(ROWS))], duckdb_warehouse, instance)
    result = materialize([up, odd], duckdb_warehouse, instance)
    assert "cannot be read as" in failure(result).description
