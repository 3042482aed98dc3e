"""A stage as a Dagster asset: what is published, and what is told about it."""

import threading

import dagster as dg
import polars as pl
import pytest
import sqlalchemy as sa
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.execution.api import create_execution_plan, execute_run
from dagster._core.execution.plan.state import KnownExecutionState

import ixflow.dagster as ixd
from ixflow.errors import FlowError
from ixflow.pipeline import ExternalTableReference, Flow, Stage, Table, audit, materialize
from ixflow_tests.dagster.seen import checks, data_version, failure, made, rows, value
from ixflow_tests.dagster.shop import Shop

T1, T2, T3 = (dg.AssetKey(["st", name]) for name in ("t1", "t2", "t3"))


@pytest.fixture
def shop():
    return Shop()


def tables(warehouse) -> dict[str, int]:
    """Give the one number in each published table."""
    with warehouse.engine.connect() as conn:
        names = warehouse.store().dialect.tables_in(conn, "st")
    return {name: rows(warehouse.engine, f"st.{name}")[0][0] for name in sorted(names)}


# -- one run ----------------------------------------------------------------------------------


def test_a_full_run_publishes_the_stage_and_tells_a_materialization_a_table(
    shop, warehouse, instance
):
    result = shop.run(warehouse, instance)
    assert result.success
    assert tables(warehouse) == {"t1": 1, "t2": 10, "t3": 1}
    assert sorted(made(result)) == ["st/t1", "st/t2", "st/t3"]
    assert checks(result) == {"acceptable": True}
    first = made(result)["st/t1"]
    assert value(first, "dagster/row_count") == 1
    assert [c.name for c in value(first, "dagster/column_schema").columns] == ["x"]
    assert value(first, "ixflow/stage_version") == 1
    assert value(first, "ixflow/state") == "completed"
    assert value(first, "dagster/table_name").endswith("st.t1")
    assert "st/t1" in value(first, "dagster/uri")


def test_one_step_makes_all_tables_of_a_stage(shop, warehouse, instance):
    result = shop.run(warehouse, instance)
    steps = {event.step_key for event in result.all_node_events if event.is_step_success}
    assert steps == {"stage_st"}


def test_events_are_told_after_the_swap(shop, warehouse, instance, monkeypatch):
    shop.run(warehouse, instance)
    shop.value, seen = 2, []
    store = instance.event_log_storage.store_event

    def looking(event):
        told = event.dagster_event
        if told is not None and told.is_step_materialization:
            seen.append(tables(warehouse))
        return store(event)

    monkeypatch.setattr(instance.event_log_storage, "store_event", looking)
    shop.run(warehouse, instance)
    assert seen == 3 * [{"t1": 2, "t2": 20, "t3": 2}]


def test_what_follows_a_stage_in_the_same_run_sees_it_published(shop, warehouse, instance):
    seen = []

    @dg.asset(deps=[T1])
    def down():
        seen.append(tables(warehouse)["t1"])

    shop.run(warehouse, instance, more=[down])
    shop.value = 2
    shop.run(warehouse, instance, more=[down])
    assert seen == [1, 2]


def test_the_check_that_passed_is_about_this_materialization(shop, warehouse, instance):
    shop.run(warehouse, instance)
    result = shop.run(warehouse, instance)
    [evaluation] = result.get_asset_check_evaluations()
    [event] = [
        event
        for event in result.get_asset_materialization_events()
        if event.asset_key == evaluation.asset_key
    ]
    assert evaluation.target_materialization_data is not None
    assert evaluation.target_materialization_data.run_id == result.run_id
    assert event.asset_key == T3


# -- failures ---------------------------------------------------------------------------------


def test_when_a_task_fails_nothing_is_recorded_and_the_published_tables_stay(
    shop, warehouse, instance
):
    shop.run(warehouse, instance)
    shop.value, shop.broken = 2, {"t2"}
    result = shop.run(warehouse, instance)
    assert not result.success
    assert made(result) == {}
    assert checks(result) == {}
    assert tables(warehouse) == {"t1": 1, "t2": 10, "t3": 1}
    said = failure(result)
    assert said.description == "task st.t2 failed: ZeroDivisionError: t2 is broken"
    assert said.metadata["ixflow/stage"].value == "st"


def test_when_an_audit_refuses_only_its_check_is_recorded(shop, warehouse, instance):
    shop.run(warehouse, instance)
    shop.value, shop.refuses = 2, True
    result = shop.run(warehouse, instance)
    assert not result.success
    assert made(result) == {}
    assert checks(result) == {"acceptable": False}
    assert tables(warehouse) == {"t1": 1, "t2": 10, "t3": 1}
    said = failure(result)
    assert "its audits refused it: acceptable (t3): 1 rows seen" in said.description


def test_a_retry_policy_applies_to_what_a_task_raises_and_resumes_in_the_same_run(
    shop, warehouse, instance
):
    shop.broken = {"t2"}

    def mended():
        if shop.calls.count("t2") > 1:
            shop.broken = set()

    shop.during["t2"] = mended
    result = shop.run(warehouse, instance, retry_policy=dg.RetryPolicy(max_retries=2))
    assert result.success
    assert shop.calls.count("t1") == 1
    assert shop.calls.count("t2") == 2
    assert value(made(result)["st/t1"], "ixflow/state") == "resumed"


def test_a_task_can_forbid_retries_with_a_failure_of_its_own(warehouse, instance):
    calls = []

    @materialize
    def never():
        calls.append(1)
        raise dg.Failure("give up", allow_retries=False)

    with Flow("f") as flow, Stage("st"):
        never()
    result = dg.materialize(
        flow.to_definitions(retry_policy=dg.RetryPolicy(max_retries=3)).assets,
        instance=instance,
        resources={"warehouse": warehouse},
        raise_on_error=False,
    )
    assert not result.success
    assert calls == [1]


def retried(shop, warehouse, instance, run, *, by_step: bool):
    """Execute the run that the UI makes of a failed one, by either strategy."""
    defs = dg.Definitions(
        assets=shop.assets(),
        resources={"warehouse": warehouse},
        executor=dg.in_process_executor,
    )
    job = defs.resolve_implicit_global_asset_job_def()
    given = {"parent_run_id": run.run_id, "root_run_id": run.run_id}
    if by_step:
        known = KnownExecutionState.build_for_reexecution(instance, run)
        given["execution_plan"] = create_execution_plan(
            job, step_keys_to_execute=["stage_st"], known_state=known
        )
    else:
        given |= {"asset_selection": frozenset({T1, T2, T3})}
    again = instance.create_run_for_job(job_def=job, **given)
    return execute_run(InMemoryJob(job), again, instance)


@pytest.mark.parametrize("by_step", [True, False], ids=["FROM_FAILURE", "FROM_ASSET_FAILURE"])
def test_a_retry_resumes_the_transaction_of_the_failed_run(shop, warehouse, instance, by_step):
    shop.run(warehouse, instance)
    shop.value, shop.broken = 2, {"t2"}
    shop.calls.clear()
    failed = shop.run(warehouse, instance)
    shop.broken = set()
    result = retried(shop, warehouse, instance, failed.dagster_run, by_step=by_step)
    assert result.success
    assert shop.calls.count("t1") == 1
    assert shop.calls.count("t2") == 2
    assert tables(warehouse) == {"t1": 2, "t2": 20, "t3": 2}
    told = {
        event.asset_key: event.step_materialization_data.materialization
        for event in result.all_events
        if event.is_step_materialization
    }
    assert set(told) == {T1, T2, T3}
    assert value(told[T1], "ixflow/state") == "resumed"
    assert value(told[T2], "ixflow/state") == "completed"


def test_a_new_run_does_not_resume_what_another_left(shop, warehouse, instance):
    shop.broken = {"t2"}
    shop.run(warehouse, instance)
    shop.broken = set()
    result = shop.run(warehouse, instance)
    assert value(made(result)["st/t1"], "ixflow/state") == "completed"
    assert shop.calls.count("t1") == 2


# -- selections -------------------------------------------------------------------------------


def test_selecting_one_table_publishes_and_records_just_that(shop, warehouse, instance):
    shop.run(warehouse, instance)
    shop.value = 2
    result = shop.run(warehouse, instance, selection=[T1])
    assert sorted(made(result)) == ["st/t1"]
    assert tables(warehouse) == {"t1": 2, "t2": 10, "t3": 1}
    assert checks(result) == {}


def test_a_selected_table_is_made_of_what_is_published(shop, warehouse, instance):
    shop.run(warehouse, instance)
    shop.run(warehouse, instance, selection=[T1])
    shop.value, shop.calls[:] = 5, []
    result = shop.run(warehouse, instance, selection=[T2])
    assert shop.calls == ["t2"]
    assert sorted(made(result)) == ["st/t2"]
    assert tables(warehouse) == {"t1": 1, "t2": 10, "t3": 1}


def test_a_selected_table_without_its_check_is_audited_all_the_same(shop, warehouse, instance):
    selection = dg.AssetSelection.assets(T3).without_checks()
    result = shop.run(warehouse, instance, selection=selection)
    assert result.success
    assert checks(result) == {}
    shop.refuses = True
    result = shop.run(warehouse, instance, selection=selection)
    assert not result.success
    assert checks(result) == {}
    assert "refused" in failure(result).description


def test_a_table_whose_input_was_never_published_says_what_to_run(shop, warehouse, instance):
    result = shop.run(warehouse, instance, selection=[T2])
    assert "takes st.t1, of which nothing is published" in failure(result).description


def test_executing_the_check_alone_audits_what_is_published(shop, warehouse, instance):
    selection = dg.AssetSelection.checks(dg.AssetCheckKey(T3, "acceptable"))
    before = shop.run(warehouse, instance, selection=selection)
    assert not before.success
    assert "asks for t3" in failure(before).description
    shop.run(warehouse, instance)
    shop.calls.clear()
    shop.refuses = True
    result = shop.run(warehouse, instance, selection=selection)
    assert checks(result) == {"acceptable": False}
    assert shop.calls == []
    assert made(result) == {}
    assert tables(warehouse) == {"t1": 1, "t2": 10, "t3": 1}


# -- several runs, several stages -------------------------------------------------------------


def test_two_runs_at_once_publish_one_after_the_other_and_never_mix(shop, warehouse):
    barrier = threading.Barrier(2, timeout=60)
    numbers = iter([100, 200])
    shop.during["t1"] = lambda: setattr(shop, "value", next(numbers))
    shop.during["t3"] = lambda: barrier.wait() and None
    results = []

    def run():
        with dg.DagsterInstance.ephemeral() as instance:
            results.append(shop.run(warehouse, instance))

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [result.success for result in results] == [True, True]
    versions = {value(made(result)["st/t1"], "ixflow/stage_version") for result in results}
    assert versions == {1, 2}
    published = tables(warehouse)
    assert published["t2"] == 10 * published["t1"]


def interleaved():
    """Declare a.t1 -> b.x -> a.t2."""

    @materialize
    def t1():
        return Table(pl.DataFrame({"x": [1]}))

    @materialize(input_type=pl.DataFrame)
    def x(t1):
        return Table(t1.with_columns(y=2))

    @materialize(input_type=pl.DataFrame)
    def t2(x):
        return Table(x.with_columns(z=3))

    with Flow("f") as flow:
        with Stage("a") as a:
            first = t1()
            t2(ExternalTableReference("x", "b"))
        with Stage("b"):
            x(first)

    @audit(a)
    def not_empty(t1: pl.DataFrame):
        return t1.height > 0

    return flow


def test_interleaved_stages_are_published_part_by_part_in_one_run(warehouse, instance):
    flow = interleaved()
    for version in (1, 2):
        result = dg.materialize(
            flow.to_definitions().assets, instance=instance, resources={"warehouse": warehouse}
        )
        assert list(made(result)) == ["a/t1", "b/x", "a/t2"]
        assert checks(result) == {"not_empty": True}
        assert rows(warehouse.engine, "a.t2") == [(1, 2, 3)]
        assert value(made(result)["a/t2"], "ixflow/stage_version") == 2 * version


# -- data versions ----------------------------------------------------------------------------


def test_equal_rows_have_equal_data_versions_and_other_rows_others(shop, warehouse, instance):
    versions = []
    for number in (1, 1, 2):
        shop.value = number
        versions.append(data_version(made(shop.run(warehouse, instance))["st/t1"]))
    assert versions[0] == versions[1] != versions[2]


def test_a_valid_task_is_told_as_a_cache_hit_with_the_same_data_version(warehouse, instance):
    shop = Shop(version="1")
    first, second = (made(shop.run(warehouse, instance)) for _ in range(2))
    assert sorted(shop.calls) == ["t1", "t2", "t3"]
    assert [(one.tags or {}).get("ixflow/cache") for one in second.values()] == ["hit"] * 3
    assert [(one.tags or {}).get("ixflow/cache") for one in first.values()] == [None] * 3
    assert value(second["st/t1"], "ixflow/cache_hits") == 1
    assert value(first["st/t1"], "ixflow/reason") == "nothing of this call was published"
    assert "ixflow/reason" not in second["st/t1"].metadata
    assert data_version(first["st/t1"]) == data_version(second["st/t1"])
    assert value(second["st/t1"], "ixflow/stage_version") == 1


def test_the_version_of_a_task_is_the_code_version_of_its_asset(shop):
    [assets] = Shop(version="7").assets()
    assert assets.code_versions_by_key[T1] == "7"
    [assets] = shop.assets()
    assert assets.code_versions_by_key[T1] is None


# -- what definitions say ---------------------------------------------------------------------


def test_assets_have_group_kinds_pool_description_and_dependencies(shop, duckdb_warehouse):
    [assets] = shop.assets(table_store=duckdb_warehouse)
    spec = assets.specs_by_key[T2]
    assert spec.group_name == "st"
    assert spec.kinds == {"duckdb"}
    assert [dep.asset_key for dep in spec.deps] == [T1]
    assert spec.description == "Made by task t2 of stage st."
    assert assets.specs_by_key[T1].description == "The first."
    assert assets.op.pool == "stage_st"


def test_names_that_dagster_does_not_take_keep_their_tables(warehouse, instance):
    @materialize(name='Order "items" select')
    def odd():
        return Table(pl.DataFrame({"Größe in m": [1]}))

    with Flow("Größe, Maße") as flow, Stage("Größe 1"):
        odd()
    assets = flow.to_definitions(io_manager_key="io_manager").assets
    [key] = assets[0].keys
    seen = []

    @dg.asset(ins={"frame": dg.AssetIn(key=key)})
    def down(frame: pl.DataFrame):
        seen.append(frame.to_dicts())

    result = dg.materialize(
        [*assets, down],
        instance=instance,
        resources={
            "warehouse": warehouse,
            "io_manager": ixd.SQLTableStoreIOManager(store=warehouse),
        },
    )
    assert result.success
    assert seen == [[{"Größe in m": 1}]]
    with warehouse.engine.connect() as conn:
        known = warehouse.store().dialect.tables_in(conn, flow["Größe 1".casefold()].name)
    assert known == ('order "items" select',)


def test_a_nested_stage_and_unknown_table_names_are_refused_when_definitions_load():
    @materialize
    def many():
        return Table(pl.DataFrame({"x": [1]}), "one")

    with Flow("f") as nested, Stage("outer"), Stage("inner"):
        many()
    with pytest.raises(FlowError, match="inner is nested in outer"):
        nested.to_definitions()
    with Flow("f") as twice, Stage("st"):
        many()
        many()
    with pytest.raises(FlowError, match="called more than once"):
        twice.to_definitions()


def test_a_warehouse_that_cannot_be_reached_is_a_failure_that_may_be_retried(shop, instance):
    away = ixd.SQLTableStoreResource(url="postgresql+psycopg://u:s3cr3t@127.0.0.1:1/nowhere")
    result = shop.run(away, instance)
    said = failure(result)
    assert said.description.startswith("cannot connect to postgresql+psycopg://u:***@127.0.0.1:1")
    assert "check host and port" in said.description
    assert isinstance(away.engine, sa.Engine)


def test_the_columns_of_a_query_tell_which_columns_feed_them(warehouse, instance):
    @materialize(version="1")
    def orders():
        return Table(pl.DataFrame({"id": [1], "price": [2.0], "n": [3]}))

    @materialize(lazy=True, input_type=sa.Table)
    def totals(orders):
        total = (orders.c.price * orders.c.n).label("total")
        return Table(sa.select(orders.c.id, total, sa.literal_column("1").label("odd")))

    with Flow("lineage") as flow:
        with Stage("raw"):
            made_orders = orders()
        with Stage("st"):
            totals(made_orders)
    definitions = flow.to_definitions(table_store=warehouse)
    job = definitions.resolve_implicit_global_asset_job_def()
    for _ in range(2):
        result = job.execute_in_process(instance=instance)
        found = value(made(result)["st/totals"], "dagster/column_lineage").deps_by_column
        told = {
            name: {(dep.asset_key.to_user_string(), dep.column_name) for dep in deps}
            for name, deps in found.items()
        }
        assert told == {
            "id": {("raw/orders", "id")},
            "total": {("raw/orders", "price"), ("raw/orders", "n")},
        }
        assert "dagster/column_lineage" not in made(result)["raw/orders"].metadata
