"""Publishing by hand: what a run records, what an approval publishes, what it refuses."""

import dataclasses
import datetime as dt
import types
from typing import Any

import dagster as dg
import polars as pl
import pytest

import ixflow.dagster as ixd
import ixflow.store.collect as collecting
from ixflow.dagster.garbage import collect_garbage
from ixflow.errors import FlowError
from ixflow.pipeline import Flow, Stage, Table, audit, materialize
from ixflow.pipeline.by_hand import Waits, approve_stage
from ixflow.pipeline.config import ConfigContext
from ixflow.pipeline.stage_run import run_stage
from ixflow.store import approval, transaction
from ixflow.store.approval import reject
from ixflow.store.waiting import waiting
from ixflow_tests.dagster.seen import checks, data_version, failure, made, rows, value
from ixflow_tests.dagster.shop import Shop


def approve(
    shop: Shop, warehouse: ixd.SQLTableStoreResource, instance: dg.DagsterInstance, **config: Any
) -> dg.ExecuteInProcessResult:
    """Run the job as a person does from the Launchpad; failures are in the result."""
    return in_launchpad(ixd.approve_job(shop.stage), warehouse, instance, config)


def in_launchpad(
    job: dg.JobDefinition,
    warehouse: ixd.SQLTableStoreResource,
    instance: dg.DagsterInstance,
    config: dict[str, Any],
    tags: dict[str, str] | None = None,
) -> dg.ExecuteInProcessResult:
    """Run a job of one op with its config."""
    return (
        dg.Definitions(jobs=[job], resources={"warehouse": warehouse})
        .resolve_job_def(job.name)
        .execute_in_process(
            run_config={"ops": {job.nodes[0].name: {"config": config}}},
            instance=instance,
            raise_on_error=False,
            tags=tags,
        )
    )


def observed(result: dg.ExecuteInProcessResult) -> dict[str, dg.AssetObservation]:
    """Give the observations of a run by asset key."""
    return {
        one.asset_key.to_user_string(): one
        for one in (e.asset_observation_data.asset_observation for e in observations(result))
    }


def observations(result: dg.ExecuteInProcessResult) -> list[Any]:
    return [event for event in result.all_events if event.event_type_value == "ASSET_OBSERVATION"]


def test_a_run_makes_and_audits_and_publishes_nothing(warehouse, instance):
    shop = Shop(version="1")
    result = shop.run(warehouse, instance, publish="manual")
    assert result.success
    assert made(result) == {}, "a materialization would say that the table can be seen"
    assert checks(result) == {}, "what was judged cannot be seen"
    seen = observed(result)
    assert sorted(seen) == ["st/t1", "st/t2", "st/t3"]
    assert value(seen["st/t1"], "ixflow/published") is False
    assert value(seen["st/t1"], "ixflow/rows") == 1
    assert value(seen["st/t1"], "ixflow/transaction") == result.run_id
    assert value(seen["st/t1"], "ixflow/approve") == "approve_st"
    assert not [key for key in seen["st/t1"].metadata if key.startswith("dagster/")]
    assert warehouse.store().published("st").tables == {}
    [one] = waiting(warehouse.store(), "st")
    assert one.tables == ("t1", "t2", "t3")


def test_the_approval_publishes_what_was_made_and_records_it(warehouse, instance):
    shop = Shop(version="1")
    run = shop.run(warehouse, instance, publish="manual")
    shop.value = 99
    result = approve(shop, warehouse, instance)
    assert result.success
    assert sorted(shop.calls) == ["t1", "t2", "t3"], "the approval makes nothing"
    assert rows(warehouse.engine, "st.t2") == [(10,)]
    told = made(result)
    assert sorted(told) == ["st/t1", "st/t2", "st/t3"]
    state = warehouse.store().published("st")
    for name, table in state.tables.items():
        one = told[f"st/{name}"]
        assert data_version(one) == table.data_version
        assert value(one, "ixflow/stage_version") == 1
        assert value(one, "ixflow/transaction") == run.run_id
        assert value(one, "dagster/row_count") == 1
    assert checks(result) == {"acceptable": True}
    assert waiting(warehouse.store(), "st") == ()


def test_the_audit_of_an_approval_is_of_the_materialization_it_belongs_to(
    duckdb_warehouse, instance
):
    shop = Shop(version="1")
    shop.run(duckdb_warehouse, instance, publish="manual")
    result = approve(shop, duckdb_warehouse, instance)
    [check] = result.get_asset_check_evaluations()
    [latest] = instance.fetch_materializations(dg.AssetKey(["st", "t3"]), limit=1).records
    assert check.target_materialization_data is not None
    assert check.target_materialization_data.storage_id == latest.storage_id


def test_the_approval_shows_when_the_tasks_had_run(duckdb_warehouse, instance):
    shop = Shop(version="1")
    shop.run(duckdb_warehouse, instance, publish="manual")
    told = made(approve(shop, duckdb_warehouse, instance))["st/t2"]
    assert "t1 " in value(told, "ixflow/timeline")
    assert value(told, "ixflow/seconds") >= 0


def test_what_was_approved_is_valid_for_the_next_run(duckdb_warehouse, instance):
    shop = Shop(version="1")
    shop.run(duckdb_warehouse, instance, publish="manual")
    approve(shop, duckdb_warehouse, instance)
    shop.calls.clear()
    result = shop.run(duckdb_warehouse, instance, publish="manual")
    assert shop.calls == []
    told = made(result)
    assert {value(one, "ixflow/cache_hits") for one in told.values()} == {1}
    assert observed(result) == {}


def test_the_provenance_is_that_of_the_run_not_of_the_approval(duckdb_warehouse, instance):
    shop = Shop(version="1")
    shop.run(duckdb_warehouse, instance, publish="manual")
    told = made(approve(shop, duckdb_warehouse, instance))
    tags = told["st/t2"].tags or {}
    assert tags["dagster/code_version"] == "1"
    assert tags["dagster/input_data_version/st/t1"] == data_version(told["st/t1"])


def test_only_the_table_that_changed_waits(duckdb_warehouse, instance):
    shop = Shop(version="1")
    shop.run(duckdb_warehouse, instance)
    again = Shop(version="1")
    again.stage.tasks[2].definition = changed(again.stage.tasks[2].definition, "2")
    result = again.run(duckdb_warehouse, instance, publish="manual")
    assert sorted(observed(result)) == ["st/t3"]
    assert sorted(made(result)) == ["st/t1", "st/t2"]


def changed(definition: Any, version: str) -> Any:
    return dataclasses.replace(definition, version=version)


def test_a_newer_one_that_waits_supersedes_the_older_by_name(duckdb_warehouse, instance):
    first = Shop(version="1").run(duckdb_warehouse, instance, publish="manual")
    shop = Shop(version="2")
    shop.value = 2
    second = shop.run(duckdb_warehouse, instance, publish="manual")
    refused = failure(approve(shop, duckdb_warehouse, instance, transaction=first.run_id))
    assert f"superseded by transaction {second.run_id}" in refused.description
    assert duckdb_warehouse.store().published("st").tables == {}
    assert approve(shop, duckdb_warehouse, instance, transaction=second.run_id).success
    assert rows(duckdb_warehouse.engine, "st.t1") == [(2,)]


def test_parts_of_a_stage_that_wait_do_not_supersede_each_other(duckdb_warehouse, instance):
    shop = Shop(version="1")
    shop.run(duckdb_warehouse, instance)
    shop = Shop(version="2")
    one = shop.run(duckdb_warehouse, instance, selection=["st/t1"], publish="manual")
    shop.run(duckdb_warehouse, instance, selection=["st/t3"], publish="manual")
    result = approve(shop, duckdb_warehouse, instance, transaction=one.run_id)
    assert sorted(made(result)) == ["st/t1"]
    refused = failure(approve(shop, duckdb_warehouse, instance))
    assert "when version 1 was published, and version 2 is now" in refused.description


def test_a_publication_in_between_is_named(warehouse, instance):
    shop = Shop(version="1")
    waits = shop.run(warehouse, instance, publish="manual")
    other = Shop(version="2")
    other.value = 5
    other.run(warehouse, instance)
    refused = failure(approve(shop, warehouse, instance))
    assert waits.run_id in refused.description
    assert "version 1 is now" in refused.description
    assert rows(warehouse.engine, "st.t1") == [(5,)]


def test_what_is_published_already_is_not_published_again(duckdb_warehouse, instance):
    shop = Shop(version="1")
    run = shop.run(duckdb_warehouse, instance, publish="manual")
    approve(shop, duckdb_warehouse, instance)
    refused = failure(approve(shop, duckdb_warehouse, instance, transaction=run.run_id))
    assert "is published already, as version 1" in refused.description
    assert (
        "nothing of stage st waits"
        in failure(approve(shop, duckdb_warehouse, instance)).description
    )


def test_the_same_approval_tried_again_records_what_it_has_published(duckdb_warehouse, instance):
    shop = Shop(version="1")
    shop.run(duckdb_warehouse, instance, publish="manual")
    store = duckdb_warehouse.store()
    # A process that died after the publication, before it could tell.
    approve_stage(shop.stage, store, by="run-1")
    again = approve_stage(shop.stage, store, by="run-1")
    assert again.again
    assert [table.name for table in again.result.tables] == ["t1", "t2", "t3"]
    assert store.published("st").version == 1


def test_a_rejected_one_is_dropped(warehouse, instance):
    shop = Shop(version="1")
    run = shop.run(warehouse, instance, publish="manual")
    store = warehouse.store()
    [one] = waiting(store, "st")
    result = approve(shop, warehouse, instance, reject=True)
    assert sorted(observed(result)) == ["st/t1", "st/t2", "st/t3"]
    with store.begin() as conn:
        assert store.tables_in(conn, one.schema) == ()
    refused = failure(approve(shop, warehouse, instance, transaction=run.run_id))
    assert "was rejected and dropped" in refused.description
    assert Shop(version="1").run(warehouse, instance).success


def test_the_same_rejection_tried_again_drops_nothing_else(duckdb_warehouse, instance):
    for version in ("1", "2"):
        shop = Shop(version=version)
        shop.run(duckdb_warehouse, instance, publish="manual")
    store = duckdb_warehouse.store()
    newest, older = waiting(store, "st")
    for _ in range(2):
        assert reject(store, "st", by="run-1").transaction_id == newest.transaction_id
        assert [one.schema for one in waiting(store, "st")] == [older.schema]
    assert approve_stage(shop.stage, store, by="run-1").transaction_id == older.transaction_id


def test_what_waits_is_kept_for_its_time_and_then_goes_with_a_word(warehouse, instance, caplog):
    shop = Shop(version="1")
    run = shop.run(warehouse, instance, publish="manual", wait_hours=24)
    store = warehouse.store()
    store.gc_after = dt.timedelta(0)
    assert collect_garbage(store) == ({}, {}), "its own time counts, not that of failed runs"
    assert collected_later(store, hours=23) == {}
    dropped = collected_later(store, hours=25)
    assert list(dropped.values()) == ["st"]
    assert f"transaction {run.run_id} waited for approval" in caplog.text
    store.gc_after = dt.timedelta(days=2)
    refused = failure(approve(shop, warehouse, instance, transaction=run.run_id))
    assert "and was collected then" in refused.description


def collected_later(store: Any, hours: int) -> dict[str, str]:
    """Collect garbage as if some hours had gone by."""
    real = dt.datetime

    class Later(real):  # type: ignore[valid-type,misc] # the class of a variable
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return real.now(tz) + dt.timedelta(hours=hours)

    later = types.SimpleNamespace(datetime=Later, timedelta=dt.timedelta, UTC=dt.UTC)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collecting, "dt", later)
        return collect_garbage(store)[0]


def test_a_publication_by_another_run_leaves_what_waits(duckdb_warehouse, instance):
    Shop(version="1").run(duckdb_warehouse, instance, publish="manual")
    Shop(version="2").run(duckdb_warehouse, instance)
    assert len(waiting(duckdb_warehouse.store(), "st")) == 1


def test_an_input_that_moved_is_refused_as_a_commit_refuses_it(warehouse, instance):
    numbers = [1]

    @materialize(version=None)
    def source() -> Table[Any]:
        return Table(pl.DataFrame({"x": [numbers[0]]}), name="source")

    @materialize(version="1")
    def copy(source: Any) -> Table[Any]:
        return Table(pl.DataFrame({"y": [1]}), name="copy")

    with Flow("two") as flow:
        with Stage("first"):
            out = source()
        with Stage("second"):
            copy(out)
    resources = {"warehouse": warehouse}
    assets = list(flow.to_definitions(publish={"second": "manual"}).assets or [])
    assert dg.materialize(assets, instance=instance, resources=resources).success
    dg.materialize(assets, instance=instance, resources=resources, selection="first/source")
    job = ixd.approve_job(flow["second"])
    refused = failure(in_launchpad(job, warehouse, instance, {}))
    assert "computed from results of first that another run has replaced" in refused.description


def test_what_is_downstream_of_what_waits_does_not_run(duckdb_warehouse, instance):
    @materialize(version="1")
    def source() -> Table[Any]:
        return Table(pl.DataFrame({"x": [1]}), name="source")

    @materialize(version="1", input_type=pl.DataFrame)
    def copy(source: pl.DataFrame) -> Table[Any]:
        return Table(source, name="copy")

    with Flow("two") as flow:
        with Stage("first"):
            out = source()
        with Stage("second"):
            copy(out)
    resources = {"warehouse": duckdb_warehouse}
    assets = list(flow.to_definitions(publish={"first": "manual"}).assets or [])
    result = dg.materialize(assets, instance=instance, resources=resources)
    assert result.success
    assert made(result) == {}
    assert in_launchpad(ixd.approve_job(flow["first"]), duckdb_warehouse, instance, {}).success
    result = dg.materialize(assets, instance=instance, resources=resources)
    assert sorted(made(result)) == ["first/source", "second/copy"]


def test_an_audit_that_refuses_lets_nothing_wait(duckdb_warehouse, instance):
    shop = Shop(version="1")
    shop.refuses = True
    result = shop.run(duckdb_warehouse, instance, publish="manual")
    assert not result.success
    assert checks(result) == {"acceptable": False}
    assert waiting(duckdb_warehouse.store(), "st") == ()


def test_what_waits_can_be_compared_with_what_is_published(warehouse, instance):
    Shop(version="1").run(warehouse, instance)
    shop = Shop(version="2")
    shop.value = 2
    shop.run(warehouse, instance, publish="manual")
    found = shop.stage.diff(config=ConfigContext.of_store(warehouse.store()))
    assert found["t1"].rows_added == 1
    assert found["t1"].rows_removed == 1


def test_a_stage_can_be_a_graph_and_wait(duckdb_warehouse, instance):
    shop = Shop(version="1")
    result = shop.run(duckdb_warehouse, instance, publish="manual", execution="graph")
    assert result.success
    assert made(result) == {}
    assert sorted(observed(result)) == ["st/t1", "st/t2", "st/t3"]
    assert sorted(made(approve(shop, duckdb_warehouse, instance))) == ["st/t1", "st/t2", "st/t3"]


def test_a_rerun_of_a_run_that_waits_begins_anew(duckdb_warehouse, instance):
    shop = Shop()
    store, hours = duckdb_warehouse.store(), Waits(dt.timedelta(hours=1))
    run_stage(shop.stage, store, transaction_id="run", waits=hours)
    shop.value = 2
    run_stage(shop.stage, store, transaction_id="run", waits=hours)
    assert [one.attempt for one in waiting(store, "st")] == [1, 0]
    approve(shop, duckdb_warehouse, instance, transaction="run")
    assert rows(duckdb_warehouse.engine, "st.t1") == [(2,)]


def test_a_retry_takes_up_what_died_before_it_could_wait(warehouse, monkeypatch):
    shop = Shop(version="1")
    store, hours = warehouse.store(), Waits(dt.timedelta(hours=1))

    def dies(*_: Any) -> None:
        msg = "killed here"
        raise RuntimeError(msg)

    with monkeypatch.context() as patch:
        patch.setattr(transaction, "put_waiting", dies)
        with pytest.raises(RuntimeError, match="killed here"):
            run_stage(shop.stage, store, transaction_id="run", waits=hours)
    assert waiting(store, "st") == ()
    run_stage(shop.stage, store, transaction_id="run", waits=hours)
    assert sorted(shop.calls) == ["t1", "t2", "t3"], "each task ran once"
    [one] = waiting(store, "st")
    assert one.attempt == 0
    assert store.published("st").tables == {}


def test_an_approval_that_dies_has_published_nothing(warehouse, instance, monkeypatch):
    shop = Shop(version="1")
    shop.run(warehouse, instance, publish="manual")
    store = warehouse.store()

    def dies(*_: Any, **__: Any) -> None:
        msg = "killed here"
        raise RuntimeError(msg)

    with monkeypatch.context() as patch:
        patch.setattr(approval, "end_waiting", dies)
        with pytest.raises(RuntimeError, match="killed here"):
            approve_stage(shop.stage, store)
    assert store.published("st").tables == {}
    assert len(waiting(store, "st")) == 1
    assert approve_stage(shop.stage, store).result.version == 1


def test_the_definitions_have_the_job_of_each_stage_that_waits():
    shop = Shop(version="1")
    jobs = [job.name for job in shop.flow.to_definitions(publish="manual").jobs or []]
    assert "approve_st" in jobs
    assert "approve_st" not in [job.name for job in shop.flow.to_definitions().jobs or []]


def test_the_definitions_with_all_jobs_load():
    kept = ixd.SQLTableStoreResource(url="duckdb:///w.duckdb", keep_versions=2)
    defs = Shop().flow.to_definitions(table_store=kept, publish="manual")
    dg.Definitions.validate_loadable(defs)


@pytest.mark.parametrize("publish", [{"mart": "manual"}, "by hand"])
def test_a_wrong_publish_is_refused_by_name(publish):
    with pytest.raises(FlowError, match=r"mart|by hand"):
        Shop().flow.to_definitions(publish=publish)


def test_an_audit_on_two_tables_is_told_at_the_approval(duckdb_warehouse, instance):
    shop = Shop(version="1")

    @audit(shop.stage)
    def both(t1: None, t2: None) -> bool:
        return True

    shop.run(duckdb_warehouse, instance, publish="manual")
    assert checks(approve(shop, duckdb_warehouse, instance)) == {"acceptable": True, "both": True}
