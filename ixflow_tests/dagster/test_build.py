"""Several flows and what stands beside them as one `Definitions`."""

from typing import Any

import dagster as dg
import polars as pl
import pytest
import sqlalchemy as sa

import ixflow.dagster as ixd
from ixflow.errors import DuplicateNameError, FlowError
from ixflow.pipeline import ExternalTableReference, Flow, Stage, Table, materialize
from ixflow_tests.dagster.seen import made, rows


def flow_of(name: str, stage: str, table: str = "t") -> Flow:
    @materialize(name=table)
    def task() -> Table[Any]:
        return Table(pl.DataFrame({"x": [1]}))

    with Flow(name) as flow, Stage(stage):
        task()
    return flow


@dg.asset(deps=[dg.AssetKey(["raw", "t"])])
def beside() -> None:
    """Stand beside the flows."""


@dg.asset_check(asset=beside)
def fine() -> dg.AssetCheckResult:
    return dg.AssetCheckResult(passed=True)


@pytest.mark.parametrize("execution", ["stage", "graph"])
def test_flows_and_assets_are_one_definitions(warehouse, instance, execution):
    job = dg.define_asset_job("only", selection=[beside])
    defs = ixd.build_definitions(
        flow_of("one", "raw"),
        [flow_of("other", "mart"), beside, fine],
        dg.Definitions(sensors=[ixd.collect_garbage_sensor()]),
        job,
        dg.ScheduleDefinition(name="daily", cron_schedule="0 6 * * *", job=job),
        table_store=warehouse,
        execution=execution,
        resources={"more": 1},
    )
    dg.Definitions.validate_loadable(defs)
    names = {job.name for job in defs.resolve_all_job_defs()}
    assert {"one_flow", "other_flow", "only"} <= names
    assert [sensor.name for sensor in defs.sensors or ()] == ["collect_garbage"]
    assert set(defs.resources or ()) == {"warehouse", "more"}
    result = defs.resolve_implicit_global_asset_job_def().execute_in_process(instance=instance)
    assert sorted(made(result)) == ["beside", "mart/t", "raw/t"]
    assert [one.passed for one in result.get_asset_check_evaluations()] == [True]
    assert rows(warehouse.engine, "mart.t") == [(1,)]


def test_the_table_store_is_the_warehouse_of_assets_without_any_flow(warehouse):
    table = sa.Table("t", sa.MetaData(), sa.Column("id", sa.Integer), schema="raw")

    @ixd.ingest_asset(metadata=table.metadata)
    def raw_t(context: dg.AssetExecutionContext, high_watermark: object):
        del context
        yield high_watermark, None, [(table, (1,))]

    defs = ixd.build_definitions(raw_t, table_store=warehouse)
    dg.Definitions.validate_loadable(defs)
    assert defs.resolve_implicit_global_asset_job_def().execute_in_process().success
    assert rows(warehouse.engine, "raw.t") == [(1,)]


def test_two_flows_with_one_name_or_a_common_stage_are_refused():
    with pytest.raises(DuplicateNameError, match="two flows are called 'shop'"):
        ixd.build_definitions(flow_of("shop", "a"), flow_of("shop", "b"))
    with pytest.raises(DuplicateNameError, match="flows one and other both have a stage raw"):
        ixd.build_definitions(flow_of("one", "raw"), flow_of("other", "raw", "another"))


def test_the_same_flow_twice_is_refused_too():
    flow = flow_of("shop", "a")
    with pytest.raises(DuplicateNameError, match="two flows are called 'shop'"):
        ixd.build_definitions(flow, flow)


def test_something_else_is_refused_by_name():
    with pytest.raises(FlowError, match=r"takes flows, assets, .* not 'orders'"):
        ixd.build_definitions(flow_of("shop", "a"), "orders")


def test_an_asset_between_two_tables_of_a_graph_is_refused_with_what_to_do(warehouse, instance):
    @materialize
    def first() -> Table[Any]:
        return Table(pl.DataFrame({"x": [1]}))

    @materialize(input_type=pl.DataFrame)
    def last(between: pl.DataFrame) -> Table[Any]:
        return Table(between)

    with Flow("shop") as flow, Stage("st"):
        first()
        last(ExternalTableReference("between", "own"))

    @dg.asset(key=["own", "between"], deps=[dg.AssetKey(["st", "first"])])
    def between() -> None:
        store = warehouse.store()
        with store.begin() as conn:
            store.dialect.create_schema(conn, "own")
            conn.exec_driver_sql("CREATE TABLE own.between AS SELECT x FROM st.first")

    with pytest.raises(FlowError, match=r"st/last is made of own/between.*execution='stage'"):
        ixd.build_definitions(flow, between, table_store=warehouse, execution="graph")
    defs = ixd.build_definitions(flow, between, table_store=warehouse)
    result = defs.resolve_implicit_global_asset_job_def().execute_in_process(instance=instance)
    assert list(made(result)) == ["st/first", "own/between", "st/last"]
