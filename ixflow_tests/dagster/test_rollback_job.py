"""The rollback job: which version comes back, what is recorded, what the next run makes of it."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import dagster as dg
import pytest

import ixflow.dagster as ixd
from ixflow_tests.dagster.seen import data_version, failure, made, rows, value
from ixflow_tests.dagster.shop import Shop


@pytest.fixture
def anywhere(warehouse: ixd.SQLTableStoreResource) -> Iterator[ixd.SQLTableStoreResource]:
    """Give a table store that keeps versions."""
    made = ixd.SQLTableStoreResource(url=warehouse.url, keep_versions=3)
    yield made
    made.store().dispose()


@pytest.fixture
def keeping(duckdb_warehouse: ixd.SQLTableStoreResource) -> Iterator[ixd.SQLTableStoreResource]:
    """Give one on DuckDB."""
    made = ixd.SQLTableStoreResource(url=duckdb_warehouse.url, keep_versions=3)
    yield made
    made.store().dispose()


def version_of(number: int) -> Shop:
    """Declare the shop as it was in a release, whose tables have its number."""
    shop = Shop(version=str(number))
    shop.value = number
    return shop


def rolled_back(
    shop: Shop,
    warehouse: ixd.SQLTableStoreResource,
    instance: dg.DagsterInstance,
    run_id: str | None = None,
    **config: Any,
) -> dg.ExecuteInProcessResult:
    """Run the job as a person does from the Launchpad; failures are in the result."""
    job = ixd.rollback_job(shop.stage)
    defs = dg.Definitions(jobs=[job], resources={"warehouse": warehouse})
    return defs.resolve_job_def(job.name).execute_in_process(
        run_config={"ops": {job.nodes[0].name: {"config": config}}},
        instance=instance,
        raise_on_error=False,
        run_id=run_id,
    )


def test_the_version_before_comes_back_as_it_was(anywhere, instance):
    first = made(version_of(1).run(anywhere, instance))
    shop = version_of(2)
    shop.run(anywhere, instance)
    result = rolled_back(shop, anywhere, instance)
    assert result.success
    assert rows(anywhere.engine, "st.t2") == [(10,)]
    told = made(result)
    assert sorted(told) == ["st/t1", "st/t2", "st/t3"]
    for name, one in told.items():
        assert data_version(one) == data_version(first[name])
        assert value(one, "ixflow/rolled_back_to") == 1
        assert value(one, "ixflow/stage_version") == 3


def test_a_retry_after_a_kill_does_not_go_back_further(keeping, instance, monkeypatch):
    for number in (1, 2, 3):
        shop = version_of(number)
        shop.run(keeping, instance)
    run_id = "0b1f8a3e-9d53-4a5e-8c6f-3f1f6c0d2a11"

    def died(*_: Any) -> None:
        raise OSError

    with monkeypatch.context() as patched:
        patched.setattr("ixflow.dagster.rollback.emit", died)
        first = rolled_back(shop, keeping, dg.DagsterInstance.ephemeral(), run_id)
    assert not first.success
    assert rows(keeping.engine, "st.t1") == [(2,)]
    result = rolled_back(shop, keeping, instance, run_id)
    assert rows(keeping.engine, "st.t1") == [(2,)]
    told = made(result)
    assert sorted(told) == ["st/t1", "st/t2", "st/t3"]
    assert {value(one, "ixflow/rolled_back_to") for one in told.values()} == {2}
    assert {value(one, "ixflow/stage_version") for one in told.values()} == {4}


def test_a_version_is_named_by_its_number(keeping, instance):
    for number in (1, 2, 3):
        shop = version_of(number)
        shop.run(keeping, instance)
    assert rolled_back(shop, keeping, instance, version=1).success
    assert rows(keeping.engine, "st.t1") == [(1,)]
    assert rolled_back(shop, keeping, instance, version="2").success
    assert rows(keeping.engine, "st.t1") == [(2,)]


def test_the_next_run_makes_the_newer_tables_again(anywhere, instance):
    version_of(1).run(anywhere, instance)
    shop = version_of(2)
    shop.run(anywhere, instance)
    rolled_back(shop, anywhere, instance)
    shop.calls.clear()
    told = made(shop.run(anywhere, instance))
    assert sorted(shop.calls) == ["t1", "t2", "t3"]
    assert {value(one, "ixflow/cache_hits") for one in told.values()} == {0}
    assert rows(anywhere.engine, "st.t1") == [(2,)]


def test_the_release_that_was_rolled_back_to_is_valid(keeping, instance):
    version_of(1).run(keeping, instance)
    version_of(2).run(keeping, instance)
    shop = version_of(1)
    rolled_back(shop, keeping, instance)
    told = made(shop.run(keeping, instance))
    assert shop.calls == []
    assert {value(one, "ixflow/cache_hits") for one in told.values()} == {1}


def test_only_what_differs_is_recorded(keeping, instance):
    shop = version_of(1)
    shop.run(keeping, instance)
    other = version_of(1)
    last = other.stage.tasks[2]
    last.definition = dataclasses.replace(last.definition, version="9")
    other.run(keeping, instance)
    assert sorted(made(rolled_back(other, keeping, instance))) == ["st/t3"]


def test_the_provenance_is_that_of_the_time_when_it_was_made(keeping, instance):
    version_of(1).run(keeping, instance)
    shop = version_of(2)
    shop.run(keeping, instance)
    tags = made(rolled_back(shop, keeping, instance))["st/t2"].tags or {}
    assert tags["dagster/code_version"] == "1"
    assert "dagster/input_data_version/st/t1" in tags


def test_a_version_that_is_not_kept_is_refused_by_name(keeping, instance):
    shop = version_of(1)
    shop.run(keeping, instance)
    refused = failure(rolled_back(shop, keeping, instance))
    assert "no version before it to go back to" in refused.description
    assert refused.metadata["ixflow/error"].value == "StageError"
    refused = failure(rolled_back(shop, keeping, instance, version=7))
    assert "no version 7 to go back to: it keeps none" in refused.description
    refused = failure(rolled_back(shop, keeping, instance, version="the good one"))
    assert "give the number of a version" in refused.description
    assert rows(keeping.engine, "st.t1") == [(1,)]


def test_what_is_rolled_back_supersedes_what_waits(keeping, instance):
    version_of(1).run(keeping, instance)
    version_of(2).run(keeping, instance)
    shop = version_of(3)
    shop.run(keeping, instance, publish="manual")
    rolled_back(shop, keeping, instance)
    job = ixd.approve_job(shop.stage)
    defs = dg.Definitions(jobs=[job], resources={"warehouse": keeping})
    result = defs.resolve_job_def(job.name).execute_in_process(
        instance=instance, raise_on_error=False
    )
    assert "when version 2 was published, and version 3 is now" in failure(result).description


def test_there_is_a_job_where_versions_are_kept():
    keeps = ixd.SQLTableStoreResource(url="duckdb:///w.duckdb", keep_versions=2)
    none = ixd.SQLTableStoreResource(url="duckdb:///w.duckdb")
    names = [
        [job.name for job in Shop().flow.to_definitions(table_store=store).jobs or []]
        for store in (keeps, none)
    ]
    assert names == [["shop_flow", "rollback_st"], ["shop_flow"]]
