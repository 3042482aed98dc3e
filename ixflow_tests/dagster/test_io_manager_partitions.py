"""Partitions that share a table: what is replaced, what is refused, what is read."""

import datetime as dt
from typing import Any

import dagster as dg
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import sqlalchemy as sa

import ixflow.dagster as ixd
from ixflow_tests.dagster.seen import failure, made, rows, value
from ixflow_tests.dagster.storing import materialize, returning

COUNTRIES = ["de", "it's", 'f"r', "100% :x \\"]
STATIC = dg.StaticPartitionsDefinition(COUNTRIES)
DAYS = dg.DailyPartitionsDefinition("2026-03-01", end_date="2026-03-11", timezone="Europe/Berlin")
BOTH = dg.MultiPartitionsDefinition(
    {"day": DAYS, "country": dg.StaticPartitionsDefinition(["a", "b"])}
)
START, END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"


def parted(obj, definition, expr="part", **said):
    """Make the asset ``st/t`` with partitions, which returns what the object gives for a run."""
    return returning(
        obj,
        partitions_def=definition,
        metadata=ixd.stored("partition", partition_expr=expr, **said),
    )


def counts(result) -> dict[str | None, int]:
    """Give the rows that were recorded for each partition."""
    found = {}
    for event in result.get_asset_materialization_events():
        one = event.step_materialization_data.materialization
        found[one.partition] = value(one, "dagster/partition_row_count")
    return found


def of_key(context):
    """Give two rows of the run's partition, told from those of another run."""
    return pl.DataFrame({"part": [context.partition_key] * 2, "run": [context.run.run_id, None]})


def test_a_partition_replaces_its_own_rows_and_no_others(warehouse, instance):
    asset, runs = parted(of_key, STATIC), {}
    for key in [*COUNTRIES, COUNTRIES[1]]:
        result = materialize([asset], warehouse, instance, partition_key=key)
        assert counts(result) == {key: 2}
        runs[key] = result.run_id
    found = rows(warehouse.engine, "(SELECT part, run FROM st.t WHERE run IS NOT NULL) q")
    assert dict(found) == runs
    assert len(found) == len(runs)
    assert value(made(result)["st/t"], "dagster/row_count") == 8
    assert value(made(result)["st/t"], "ixflow/rows_deleted") == 2


@pytest.mark.parametrize("said", [{"partition_expr": "part"}, ixd.stored(partition_expr="part")])
def test_a_column_alone_means_that_partitions_are_replaced(said, duckdb_warehouse, instance):
    asset = returning(of_key, partitions_def=STATIC, metadata=said)
    for key in ("de", "it's", "de"):
        result = materialize([asset], duckdb_warehouse, instance, partition_key=key)
        assert counts(result) == {key: 2}
    assert len(rows(duckdb_warehouse.engine, "(SELECT part FROM st.t) q")) == 4


def test_partitions_may_be_added_at_any_time(duckdb_warehouse, instance):
    dynamic = dg.DynamicPartitionsDefinition(name="shops")
    up = parted(of_key, dynamic)
    seen: list[Any] = []

    @dg.asset(ins={"t": dg.AssetIn(key=["st", "t"])}, partitions_def=dynamic)
    def one(t: pl.DataFrame):
        seen.append(set(t["part"]))

    @dg.asset(ins={"t": dg.AssetIn(key=["st", "t"])})
    def every(t: sa.Table):
        seen.append(t.name)

    for key in COUNTRIES[:2]:
        instance.add_dynamic_partitions("shops", [key])
        assert materialize([up, one], duckdb_warehouse, instance, partition_key=key).success
    assert materialize([up, every], duckdb_warehouse, instance, selection=[every]).success
    assert seen == [{COUNTRIES[0]}, {COUNTRIES[1]}, "t"]


def test_a_partition_without_rows_empties_itself_alone(warehouse, instance):
    empty = pl.DataFrame(schema={"part": pl.String, "run": pl.String})
    asset = parted(lambda context: empty if "none" in context.run.tags else of_key(context), STATIC)
    first = materialize([asset], warehouse, instance, partition_key="de", tags={"none": "1"})
    assert counts(first) == {"de": 0}
    for key, tags in (("de", {}), ("it's", {}), ("de", {"none": "1"})):
        result = materialize([asset], warehouse, instance, partition_key=key, tags=tags)
    assert counts(result) == {"de": 0}
    assert rows(warehouse.engine, "(SELECT part FROM st.t) q") == [("it's",), ("it's",)]


def of_days(context, make_value):
    """Give one row for the beginning and one for the end of each day of a run."""
    window = context.partition_time_window
    days = (window.end - window.start).days
    moments = [window.start + dt.timedelta(days=n) for n in range(days)]
    return pa.table({"part": [make_value(m) for m in moments], "run": [context.run.run_id] * days})


CLOCKS = {
    "timestamp": lambda m: m.replace(tzinfo=None),
    "zoned": lambda m: m.astimezone(dt.UTC),
    "date": lambda m: m.date(),
    "key": lambda m: m.date().isoformat(),
}


@pytest.mark.parametrize("kind", CLOCKS)
def test_days_are_windows_of_time_one_by_one_and_several_in_one_run(kind, warehouse, instance):
    asset = parted(lambda context: of_days(context, CLOCKS[kind]), DAYS)
    first = materialize([asset], warehouse, instance, partition_key="2026-03-02")
    assert counts(first) == {"2026-03-02": 1}
    some = {START: "2026-03-02", END: "2026-03-05"}
    several = materialize([asset], warehouse, instance, tags=some)
    assert counts(several) == {f"2026-03-0{n}": 1 for n in (2, 3, 4, 5)}
    last = materialize([asset], warehouse, instance, partition_key="2026-03-04")
    runs = [run for (run,) in rows(warehouse.engine, "(SELECT run FROM st.t) q")]
    assert sorted(runs) == sorted([several.run_id] * 3 + [last.run_id])
    assert value(made(several)["st/t"], "dagster/row_count") == 4


def of_both(context):
    """Give the rows of each partition of two dimensions."""
    keys = [key.keys_by_dimension for key in context.partition_keys]
    return pd.DataFrame(
        {
            "at": [pd.Timestamp(key["day"]) for key in keys],
            "Who": [key["country"] for key in keys],
            "run": [context.run.run_id] * len(keys),
        }
    )


def test_partitions_of_two_dimensions_are_told_by_two_columns(warehouse, instance):
    asset = parted(of_both, BOTH, {"day": "at", "country": "Who"})
    all_of_two = {START: "a|2026-03-01", END: "b|2026-03-02"}
    first = materialize([asset], warehouse, instance, tags=all_of_two)
    assert counts(first) == {f"{c}|2026-03-0{n}": 1 for c in "ab" for n in (1, 2)}
    key = dg.MultiPartitionKey({"day": "2026-03-02", "country": "b"})
    second = materialize([asset], warehouse, instance, partition_key=key)
    assert second.success
    found = rows(
        warehouse.engine, f"""(SELECT "Who", "at" FROM st.t WHERE run = '{second.run_id}') q"""
    )
    assert [(who, at.day) for who, at in found] == [("b", 2)]
    assert len(rows(warehouse.engine, "st.t")) == 4


@pytest.mark.parametrize(
    ("definition", "expr"), [(BOTH, "at"), (BOTH, {"day": "at"}), (STATIC, {"x": "at"})]
)
def test_a_column_that_is_not_said_is_asked_for(definition, expr, duckdb_warehouse, instance):
    key = definition.get_partition_keys()[0]
    result = materialize(
        [parted(pa.table({"at": [1]}), definition, expr)],
        duckdb_warehouse,
        instance,
        partition_key=key,
    )
    assert "partition_expr of st/t must" in failure(result).description


def test_an_unknown_column_is_named(duckdb_warehouse, instance):
    asset = parted(pa.table({"at": [1]}), STATIC, "prat")
    result = materialize([asset], duckdb_warehouse, instance, partition_key="de")
    assert "have no columns ['prat']" in failure(result).description


@pytest.mark.parametrize("mode", ["append", "upsert"])
def test_partitions_may_be_appended_and_upserted(mode, warehouse, instance):
    said = ixd.stored(mode, primary_key="n" if mode == "upsert" else (), partition_expr="part")
    asset = returning(
        lambda context: pl.DataFrame({"part": [context.partition_key], "n": [1]}),
        partitions_def=STATIC,
        metadata=said,
    )
    for key in ("de", "it's"):
        result = materialize([asset], warehouse, instance, partition_key=key)
        assert counts(result) == {key: 1}
    assert len(rows(warehouse.engine, "st.t")) == (1 if mode == "upsert" else 2)


def test_only_the_partitions_that_are_needed_are_read(warehouse, instance):
    seen: dict[str, Any] = {}

    def down(name: str, kind: Any, definition):
        @dg.asset(name=name, ins={"t": dg.AssetIn(key=["st", "t"])}, partitions_def=definition)
        def fn(t: kind):
            seen[name] = t

        return fn

    up = parted(of_both, BOTH, {"day": "at", "country": "Who"})
    some = {START: "a|2026-03-01", END: "b|2026-03-03"}
    assert materialize([up], warehouse, instance, tags=some).success
    kinds = {"pandas": pd.DataFrame, "polars": pl.DataFrame, "select": sa.Select, "named": sa.Table}
    daily = [down(f"{name}_day", kind, DAYS) for name, kind in kinds.items()]
    whole = [down(f"{name}_all", kind, None) for name, kind in kinds.items()]
    for one in (*daily, *whole):
        key = "2026-03-02" if one in daily else None
        result = materialize([up, one], warehouse, instance, selection=[one], partition_key=key)
        assert result.success is (one.key.path[-1] != "named_day")
    assert sorted(seen["pandas_day"]["Who"]) == ["a", "b"]
    assert {at.day for at in seen["polars_day"]["at"]} == {2}
    assert len(seen["polars_all"]) == len(seen["pandas_all"]) == 6
    with warehouse.engine.connect() as conn:
        assert len(conn.execute(seen["select_day"]).all()) == 2
        assert len(conn.execute(seen["select_all"]).all()) == 6
    named = materialize(
        [up, daily[-1]], warehouse, instance, selection=[daily[-1]], partition_key="2026-03-02"
    )
    assert "for a part of them take sqlalchemy.Select" in failure(named).description


def test_a_slice_that_is_selected_may_become_a_table(warehouse, instance):
    up = parted(of_key, STATIC)

    @dg.asset(
        key=["st", "u"],
        ins={"t": dg.AssetIn(key=["st", "t"])},
        partitions_def=STATIC,
        metadata=ixd.stored("partition", partition_expr="part"),
    )
    def u(t: sa.Select[Any]):
        q = t.subquery()
        return sa.select(q.c.part, sa.func.count().label("n")).group_by(q.c.part)

    for key in COUNTRIES:
        assert materialize([up, u], warehouse, instance, partition_key=key).success
    assert rows(warehouse.engine, "st.u") == [(key, 2) for key in sorted(COUNTRIES)]
