"""Tables that are valid: recorded again, or left out so that what only takes them is skipped."""

from collections.abc import Iterator

import dagster as dg
import polars as pl
import pytest
import sqlalchemy as sa

import ixflow.dagster as ixd
from ixflow.errors import FlowError
from ixflow.pipeline import Flow, Stage, Table, materialize
from ixflow_tests.dagster.conftest import resource_of
from ixflow_tests.dagster.seen import made

ONE, OTHER = dg.AssetKey(["st", "one"]), dg.AssetKey(["st", "other"])


class Versions:
    """A stage of two tables whose versions can change, and what stands behind it."""

    def __init__(self, execution: str, warehouse: ixd.SQLTableStoreResource) -> None:
        self.one, self.other = "1", "1"
        self.execution = execution
        self.warehouse = warehouse
        self.ran: list[str] = []

    def run(
        self, instance: dg.DagsterInstance, *more: dg.AssetsDefinition
    ) -> dg.ExecuteInProcessResult:
        """Run the stage with its versions of now, and what is given besides."""

        @materialize(version=self.one)
        def one() -> Table[pl.DataFrame]:
            return Table(pl.DataFrame({"x": [self.one]}))

        @materialize(version=self.other)
        def other() -> Table[pl.DataFrame]:
            return Table(pl.DataFrame({"x": [self.other]}))

        with Flow("f") as flow, Stage("st"):
            one()
            other()
        definitions = flow.to_definitions(
            table_store=self.warehouse, execution=self.execution, on_cache_hit="skip"
        )
        with_more = dg.Definitions.merge(definitions, dg.Definitions(assets=list(more)))
        self.ran.clear()
        job = with_more.resolve_implicit_global_asset_job_def()
        return job.execute_in_process(instance=instance, raise_on_error=False)

    def down(self, name: str, *takes: dg.AssetKey) -> dg.AssetsDefinition:
        """Make an asset that notes that it ran."""

        @dg.asset(name=name, deps=takes)
        def down() -> None:
            self.ran.append(name)

        return down


@pytest.fixture(params=["stage", "graph"])
def versions(request: pytest.FixtureRequest, fresh_duckdb: sa.Engine) -> Iterator[Versions]:
    warehouse = resource_of(fresh_duckdb)
    yield Versions(request.param, warehouse)
    warehouse.store().dispose()


def test_what_only_takes_valid_tables_is_skipped_in_the_same_run(versions, instance):
    down = versions.down("down", ONE)
    assert sorted(made(versions.run(instance, down))) == ["down", "st/one", "st/other"]
    result = versions.run(instance, down)
    assert result.success
    assert made(result) == {}
    assert versions.ran == []
    versions.one = "2"
    assert sorted(made(versions.run(instance, down))) == ["down", "st/one"]


def test_a_step_that_also_takes_something_new_runs_and_its_valid_input_is_told(versions, instance):
    """Dagster skips a step if any of its inputs is left out."""
    both, one = versions.down("both", ONE, OTHER), versions.down("only", OTHER)
    versions.run(instance, both, one)
    versions.one = "2"
    result = versions.run(instance, both, one)
    assert sorted(made(result)) == ["both", "only", "st/one", "st/other"]
    versions.other = "2"
    result = versions.run(instance, versions.down("only", ONE))
    assert sorted(made(result)) == ["st/other"]


def test_a_step_that_takes_something_of_another_step_runs(versions, instance):
    beside = versions.down("beside")
    both = versions.down("both", ONE, dg.AssetKey("beside"))
    versions.run(instance, beside, both)
    result = versions.run(instance, beside, both)
    assert sorted(made(result)) == ["beside", "both", "st/one"]


def test_a_step_that_takes_something_that_the_run_does_not_make_runs(versions, instance):
    both = versions.down("both", ONE, dg.AssetKey("rates"))
    versions.run(instance, both)
    assert sorted(made(versions.run(instance, both))) == ["both", "st/one"]


def test_what_the_event_log_does_not_have_is_told(versions, instance):
    versions.run(instance)
    with dg.DagsterInstance.ephemeral() as another:
        assert sorted(made(versions.run(another))) == ["st/one", "st/other"]
        assert made(versions.run(another)) == {}


def test_without_it_valid_tables_are_recorded(warehouse, instance):
    @materialize(version="1")
    def one() -> Table[pl.DataFrame]:
        return Table(pl.DataFrame({"x": [1]}))

    with Flow("f") as flow, Stage("st"):
        one()
    job = flow.to_definitions(table_store=warehouse).resolve_job_def("f_flow")
    for _ in range(2):
        assert list(made(job.execute_in_process(instance=instance))) == ["st/one"]


def test_another_word_is_refused():
    @materialize(version="1")
    def one() -> Table[pl.DataFrame]:
        return Table(pl.DataFrame({"x": [1]}))

    with Flow("f") as flow, Stage("st"):
        one()
    with pytest.raises(FlowError, match="on_cache_hit='never': write 'record' or 'skip'"):
        flow.to_definitions(on_cache_hit="never")
