"""Stages as graphs, in one process: what definitions say, and what passes between the steps."""

from typing import Any

import dagster as dg
import polars as pl
import pytest

import ixflow.dagster as ixd
from ixflow import FileBlobStore
from ixflow.errors import FlowError
from ixflow.pipeline import (
    Blob,
    ExternalTableReference,
    Flow,
    RawSql,
    Stage,
    Table,
    audit,
    materialize,
)
from ixflow_tests.dagster.seen import checks, made, rows, value
from ixflow_tests.dagster.shop import Shop

T1, T2, T3 = (dg.AssetKey(["st", name]) for name in ("t1", "t2", "t3"))


def steps(result: dg.ExecuteInProcessResult) -> list[str]:
    return [str(event.step_key) for event in result.all_node_events if event.is_step_success]


def published(warehouse: ixd.SQLTableStoreResource) -> list[int]:
    return [rows(warehouse.engine, f"st.{name}")[0][0] for name in ("t1", "t2", "t3")]


def test_each_task_is_a_step_and_a_last_one_publishes_and_tells_everything(warehouse, instance):
    shop = Shop()
    result = shop.run(warehouse, instance, execution="graph")
    assert sorted(steps(result)[:-1]) == ["stage_st.t1", "stage_st.t2", "stage_st.t3"]
    assert steps(result)[-1] == "stage_st.publish"
    assert sorted(made(result)) == ["st/t1", "st/t2", "st/t3"]
    assert checks(result) == {"acceptable": True}
    one = made(result)["st/t1"]
    assert value(one, "dagster/row_count") == 1
    assert value(one, "ixflow/state") == "completed"
    assert value(one, "ixflow/seconds") > 0
    picture = value(one, "ixflow/timeline")
    assert all(f"%3E{name} " in picture for name in ("t1", "t2", "t3"))
    assert published(warehouse) == [1, 10, 1]


def test_definitions_say_the_same_as_those_of_one_step(duckdb_warehouse):
    shop = Shop(version="7")
    [graph] = shop.assets(table_store=duckdb_warehouse, execution="graph")
    [stage] = shop.assets(table_store=duckdb_warehouse)
    assert graph.keys == stage.keys == {T1, T2, T3}
    assert {key: graph.specs_by_key[key] for key in graph.keys} == stage.specs_by_key
    assert list(graph.check_specs) == list(stage.check_specs)
    assert isinstance(graph.node_def, dg.GraphDefinition)
    pools = {op.name: op.pool for op in graph.node_def.node_defs if isinstance(op, dg.OpDefinition)}
    assert pools["stage_st__publish"] == "stage_st"


def test_a_retry_policy_tries_the_step_of_a_task_again(warehouse, instance):
    shop = Shop()
    shop.broken = {"t2"}

    def mended() -> None:
        if shop.calls.count("t2") > 1:
            shop.broken = set()

    shop.during["t2"] = mended
    policy = dg.RetryPolicy(max_retries=2)
    result = shop.run(warehouse, instance, execution="graph", retry_policy=policy)
    assert result.success
    assert sorted(shop.calls) == ["t1", "t2", "t2", "t3"]


def test_steps_of_tasks_have_tags_by_their_names():
    tags = {"t2": {"dagster-celery/queue": "big"}}
    [assets] = Shop().assets(execution="graph", op_tags=tags)
    found = {op.name: op.tags.get("dagster-celery/queue") for op in assets.node_def.node_defs}
    assert found == {
        "stage_st__t1": None,
        "stage_st__t2": "big",
        "stage_st__t3": None,
        "stage_st__publish": None,
    }
    with pytest.raises(FlowError, match="there is no task 't4'; there are t1, t2, t3"):
        Shop().assets(execution="graph", op_tags={"t4": {}})
    with pytest.raises(FlowError, match="execution='graph' makes"):
        Shop().assets(op_tags=tags)
    with pytest.raises(FlowError, match="execution='steps': write 'stage' or 'graph'"):
        Shop().assets(execution="steps")


def test_downstream_assets_load_tables_of_a_graph_through_the_io_manager(warehouse, instance):
    seen = []

    @dg.asset(ins={"t2": dg.AssetIn(T2)})
    def down(t2: pl.DataFrame) -> None:
        seen.append(t2["x"].to_list())

    shop = Shop()
    result = dg.materialize(
        [*shop.assets(execution="graph", io_manager_key="tables"), down],
        instance=instance,
        resources={
            "warehouse": warehouse,
            "tables": ixd.SQLTableStoreIOManager(store=warehouse),
        },
    )
    assert result.success
    assert seen == [[10]]


def test_constants_blobs_scripts_and_odd_names_pass_between_the_steps(
    warehouse, instance, tmp_path
):
    @materialize(outputs=[])
    def number(name: str) -> dict[str, Any]:
        return {"number": len(name)}

    @materialize(name="publish", outputs=["a b", "a.b"])
    def odd(one: dict[str, Any], other: dict[str, Any]) -> Any:
        frame = pl.DataFrame({"x": [one["number"] + other["number"]]})
        return Table(frame, "a b"), Table(frame, "a.b"), Blob({"weight": 3})

    @materialize(outputs=["scripted"])
    def script(made: Any) -> RawSql:
        return RawSql(
            f"CREATE TABLE {stage.transaction_name}.scripted AS SELECT {made['weight']} AS x"
        )

    with Flow("f") as flow, Stage("Größe") as stage:
        both = odd(number("one"), number("three"))
        script(both[2])

    @audit(stage, table="a.b")
    def fine(frame: pl.DataFrame) -> bool:
        return frame.height == 1

    defs = flow.to_definitions(
        table_store=warehouse, execution="graph", blob_store=FileBlobStore(tmp_path)
    )
    job = defs.resolve_implicit_global_asset_job_def()
    result = job.execute_in_process(instance=instance)
    assert result.success
    assert checks(result) == {"fine": True}
    for table, found in (("a b", 8), ("a.b", 8), ("scripted", 3)):
        assert rows(warehouse.engine, f'"{stage.name}"."{table}"') == [(found,)]
    assert len(steps(result)) == 5
    assert len(set(steps(result))) == 5


def interleaved() -> Flow:
    """Declare a.t1 -> b.x -> a.t2, of which both take a constant of a."""

    @materialize(outputs=[])
    def number() -> int:
        return 3

    @materialize(input_type=pl.DataFrame)
    def t1(number: int) -> Table[Any]:
        return Table(pl.DataFrame({"x": [number]}))

    @materialize(input_type=pl.DataFrame)
    def x(t1: pl.DataFrame) -> Table[Any]:
        return Table(t1 * 2)

    @materialize(input_type=pl.DataFrame)
    def t2(x: pl.DataFrame, number: int) -> Table[Any]:
        return Table(x + number)

    with Flow("f") as flow:
        with Stage("a") as stage:
            constant = number()
            first = t1(constant)
            t2(ExternalTableReference("x", "b"), constant)
        with Stage("b"):
            x(first)

    @audit(stage)
    def not_empty(t2: pl.DataFrame) -> bool:
        return t2.height > 0

    return flow


def test_interleaved_stages_are_graphs_of_parts(warehouse, instance):
    flow = interleaved()
    defs = flow.to_definitions(table_store=warehouse, execution="graph")
    job = defs.resolve_implicit_global_asset_job_def()
    for version in (1, 2):
        result = job.execute_in_process(instance=instance)
        assert list(made(result)) == ["a/t1", "b/x", "a/t2"]
        assert checks(result) == {"not_empty": True}
        assert rows(warehouse.engine, "a.t2") == [(9,)]
        assert value(made(result)["a/t2"], "ixflow/stage_version") == 2 * version
    assert {step.rpartition(".")[0] for step in steps(result)} == {
        "stage_a",
        "stage_b",
        "stage_a_part_2",
    }
    with pytest.raises(FlowError, match="2 assets definitions"):
        ixd.stage_assets(flow["a"], execution="graph")


def test_a_selection_of_an_interleaved_stage_runs_only_its_part(warehouse, instance):
    flow = interleaved()
    defs = flow.to_definitions(table_store=warehouse, execution="graph")
    job = defs.resolve_implicit_global_asset_job_def()
    job.execute_in_process(instance=instance)
    key = dg.AssetKey(["a", "t2"])
    result = job.execute_in_process(instance=instance, asset_selection=[key])
    assert list(made(result)) == ["a/t2"]


def test_a_component_makes_a_flow_a_graph():
    component = ixd.FlowComponent(flow=Shop().flow, execution="graph", on_cache_hit="skip")
    context = dg.ComponentTree.for_test().load_context
    [assets] = component.build_defs(context).assets or ()
    assert isinstance(assets, dg.AssetsDefinition)
    assert assets.node_def.name == "stage_st"
    assert isinstance(assets.node_def, dg.GraphDefinition)
