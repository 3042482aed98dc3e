"""The tables of one source as assets of one step: what is told, what fails, what a retry does."""

import json
import os
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow.parquet as pq
import pytest

import ixflow.dagster as ixd
from ixflow.errors import ValidationError
from ixflow.extraction.api import published
from ixflow.extraction.intent import ExtractionIntent
from ixflow.tables.cursor import Cursor
from ixflow_tests.dagster.seen import data_version, failure, made, value
from ixflow_tests.sources import intent_for, make

NAMES = ("a", "b", "c")


def run(asset, instance, config=None, **options):
    """Materialize with a planner; failures are in the result."""
    return dg.materialize(
        [asset],
        instance=instance,
        resources={"planner": ixd.PlannerResource()},
        run_config={"ops": {asset.op.name: {"config": config}}} if config else None,
        raise_on_error=False,
        **options,
    )


@pytest.fixture(params=["postgres", "mariadb", "duckdb", "sqlite"])
def source(request):
    return filled(request.getfixturevalue(f"fresh_{request.param}"))


@pytest.fixture
def one_source(fresh_sqlite):
    return filled(fresh_sqlite)


def filled(engine):
    for number, name in enumerate(NAMES, 1):
        make(
            engine,
            f"CREATE TABLE {name} (id bigint NOT NULL PRIMARY KEY)",
            f"INSERT INTO {name} VALUES ({number}), (10)",
        )
    return engine


def intents(engine, path, names=NAMES):
    return [intent_for(engine, name, path) for name in names]


def moments(path, names=NAMES):
    manifests = [published(path / name) for name in names]
    assert None not in manifests
    return [manifest.moment for manifest in manifests if manifest is not None]


# -- what is told -----------------------------------------------------------------------------


def test_all_tables_of_a_source_are_published_of_one_moment_and_told(source, instance, tmp_path):
    asset = ixd.build_extraction_assets(intents(source, tmp_path))
    found = made(run(asset, instance))
    assert sorted(found) == ["extracted/a", "extracted/b", "extracted/c"]
    one = found["extracted/b"]
    assert value(one, "dagster/row_count") == 2
    assert [c.name for c in value(one, "dagster/column_schema").columns] == ["id"]
    assert value(one, "ixflow/verdict") == "SAFE TO RUN"
    assert len({value(told, "ixflow/moment") for told in found.values()}) == 1
    assert set(moments(tmp_path)) == {value(one, "ixflow/moment")}
    assert sorted(pq.read_table(tmp_path / "b")["id"].to_pylist()) == [2, 10]


def test_some_of_the_tables_are_extracted_when_some_are_selected(one_source, instance, tmp_path):
    asset = ixd.build_extraction_assets(intents(one_source, tmp_path))
    found = made(run(asset, instance, selection=[dg.AssetKey(["extracted", "b"])]))
    assert list(found) == ["extracted/b"]
    assert [path.name for path in tmp_path.iterdir() if path.is_dir() and path.name in NAMES] == [
        "b"
    ]


def test_the_body_says_what_is_told(one_source, instance, tmp_path):
    @ixd.extraction_assets(intents=intents(one_source, tmp_path, ("a", "b")))
    def shop(context: dg.AssetExecutionContext, planner: ixd.PlannerResource) -> Any:
        yield from planner.run(context).fetch_row_count()

    found = made(run(shop, instance))
    assert sorted(found) == ["extracted/a", "extracted/b"]
    one = found["extracted/a"]
    assert value(one, "dagster/row_count") == 2
    assert {"dagster/column_schema", "ixflow/plan"}.isdisjoint(one.metadata)
    assert value(one, "ixflow/bytes") > 0


def test_the_definition_carries_no_secret_and_asks_no_database(instance):
    config = {"host": "127.0.0.1", "port": 1, "database": "shop", "password": "s3cr3t"}
    tables = [ExtractionIntent("postgresql", config, name) for name in NAMES]
    asset = ixd.build_extraction_assets(tables)
    assert asset.op.name == "extract_shop"
    assert asset.op.pool == "source_127_0_0_1"
    shown = [dg.serialize_value(dict(spec.metadata)) for spec in asset.specs]
    assert "s3cr3t" not in json.dumps(shown)


def test_intents_of_two_databases_are_refused():
    tables = [ExtractionIntent("sqlite", {"database": name}, "t") for name in ("a.db", "b.db")]
    with pytest.raises(ValidationError, match="intents of one database"):
        ixd.build_extraction_assets(tables)
    with pytest.raises(ValidationError, match="at least one"):
        ixd.build_extraction_assets([])


def test_tables_have_moments_of_their_own_where_that_is_said(one_source, instance, tmp_path):
    asset = ixd.build_extraction_assets(intents(one_source, tmp_path), one_moment=False)
    assert run(asset, instance).success
    assert len(set(moments(tmp_path))) == 3


def test_tables_that_read_what_is_settled_are_read_beside_the_others(
    fresh_postgres, instance, tmp_path
):
    filled(fresh_postgres)
    make(
        fresh_postgres,
        "CREATE TABLE t (at timestamptz)",
        "INSERT INTO t VALUES ('2026-01-01 00:00:00+00')",
    )
    key = Cursor("at", semantics="settled")
    settled = intent_for(fresh_postgres, "t", tmp_path, mode="incremental", incremental_key=key)
    asset = ixd.build_extraction_assets([*intents(fresh_postgres, tmp_path), settled])
    found = made(run(asset, instance))
    assert value(found["extracted/t"], "ixflow/new_rows") == 1
    assert len(set(moments(tmp_path))) == 1
    assert value(found["extracted/t"], "ixflow/moment") not in moments(tmp_path)


# -- what fails -------------------------------------------------------------------------------


def test_a_table_that_fails_is_named_and_the_others_are_published(source, instance, tmp_path):
    asset = ixd.build_extraction_assets(intents(source, tmp_path, ("a", "nope", "c")))
    result = run(asset, instance)
    assert sorted(made(result)) == ["extracted/a", "extracted/c"]
    said = failure(result).description
    assert said.startswith("1 of 3 tables were not extracted, the others are published")
    assert "extracted/nope: " in said
    assert len(set(moments(tmp_path, ("a", "c")))) == 1


def test_a_table_that_cannot_be_published_does_not_stop_the_others(one_source, instance, tmp_path):
    (tmp_path / "b").write_text("something else")
    asset = ixd.build_extraction_assets(intents(one_source, tmp_path))
    result = run(asset, instance)
    assert sorted(made(result)) == ["extracted/a", "extracted/c"]
    assert "extracted/b: " in failure(result).description
    assert (tmp_path / "b").read_text() == "something else"


def test_a_retry_extracts_only_what_failed_and_tells_of_all(one_source, instance, tmp_path):
    (tmp_path / "b").write_text("something else")
    tables = intents(one_source, tmp_path)
    attempts = []

    @ixd.extraction_assets(
        intents=tables, retry_policy=dg.RetryPolicy(max_retries=1), name="extract"
    )
    def extract(context: dg.AssetExecutionContext, planner: ixd.PlannerResource) -> Any:
        attempts.append(context.retry_number)
        if context.retry_number:
            (tmp_path / "b").unlink()
        try:
            yield from planner.run(context).fetch_row_count()
        except dg.Failure as failed:
            raise dg.RetryRequested(max_retries=1) from failed

    result = run(extract, instance)
    assert result.success
    assert attempts == [0, 1]
    told = [event.materialization for event in result.get_asset_materialization_events()]
    names = [one.asset_key.path[-1] for one in told]
    assert sorted(names[:2]) == ["a", "c"]
    assert sorted(names[2:]) == ["a", "b", "c"]
    again = {one.asset_key.path[-1]: one for one in told[2:]}
    for first in told[:2]:
        second = again[first.asset_key.path[-1]]
        assert value(second, "ixflow/run_id") == value(first, "ixflow/run_id")
        assert data_version(second) == data_version(first)
        assert value(second, "ixflow/published_by") == result.run_id
    assert "ixflow/published_by" not in again["b"].metadata


def extraction_job():
    """Make the job anew, as each run does that another one is a retry of."""
    database = os.environ["IXFLOW_TEST_SOURCE"]
    place = Path(database).parent / "out"
    tables = [ExtractionIntent("sqlite", {"database": database}, name, place) for name in NAMES]
    job = dg.define_asset_job("extract", executor_def=dg.in_process_executor)
    assets = [ixd.build_extraction_assets(tables)]
    resources = {"planner": ixd.PlannerResource()}
    return dg.Definitions(assets, jobs=[job], resources=resources).resolve_job_def("extract")


def test_a_run_again_from_the_failure_extracts_only_what_failed(
    one_source, instance, tmp_path, monkeypatch
):
    monkeypatch.setenv("IXFLOW_TEST_SOURCE", str(one_source.url.database))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "b").write_text("something else")

    def executed(options=None):
        job = dg.reconstructable(extraction_job)
        done = dg.execute_job(job, instance, reexecution_options=options, raise_on_error=False)
        told = [event.asset_materialization for event in instance.all_logs(done.run_id)]
        found = {one.asset_key.path[-1]: one for one in told if one is not None}
        return done, found, {name: value(one, "ixflow/run_id") for name, one in found.items()}

    first, _, before = executed()
    assert not first.success
    assert sorted(before) == ["a", "c"]
    second, _, still = executed(dg.ReexecutionOptions.from_failure(first.run_id, instance))
    assert not second.success
    assert still == before
    (tmp_path / "out" / "b").unlink()
    third, told, runs = executed(dg.ReexecutionOptions.from_failure(second.run_id, instance))
    assert third.success
    assert sorted(runs) == ["a", "b", "c"]
    assert {name: runs[name] for name in before} == before
    assert value(told["a"], "ixflow/published_by") == first.run_id
    # Running all again, or the step that went well, is another wish.
    whole = dg.ReexecutionOptions(first.run_id)
    step = dg.ReexecutionOptions(third.run_id, step_selection=["extract_fresh_sqlite"])
    for options in (whole, step):
        _, _, anew = executed(options)
        assert sorted(anew) == ["a", "b", "c"]
        assert not set(anew.values()) & set(runs.values())


# -- the Launchpad ----------------------------------------------------------------------------


def test_a_stored_plan_is_run_again_by_its_id(one_source, instance, tmp_path):
    asset = ixd.build_extraction_assets(intents(one_source, tmp_path))
    first = made(run(asset, instance))
    run_id = value(first["extracted/b"], "ixflow/run_id")
    make(one_source, "INSERT INTO b VALUES (11)")
    selected = {"selection": [dg.AssetKey(["extracted", "b"])]}
    again = made(run(asset, instance, {"replay_run_id": run_id}, **selected))["extracted/b"]
    assert value(again, "ixflow/verdict") == "a stored plan was run again"
    assert value(again, "dagster/row_count") == 3
    assert value(again, "ixflow/run_id") != run_id
    said = failure(run(asset, instance, {"replay_run_id": run_id}))
    assert "select the asset of that table alone" in said.description
    alone = ixd.extraction_asset(intent_for(one_source, "b", tmp_path))
    said = failure(run(alone, instance, {"replay_run_id": "ix-none"}))
    assert "no run ix-none is known" in said.description


def test_caps_of_the_launchpad_hold_for_every_table(one_source, instance, tmp_path):
    asset = ixd.build_extraction_assets(intents(one_source, tmp_path))
    config = {"max_workers": 1, "memory_budget": "512MB", "priority": "low"}
    found = made(run(asset, instance, config))
    assert {value(one, "ixflow/workers") for one in found.values()} == {1}
    said = failure(run(asset, instance, {"memory_budget": "a lot"}))
    assert "memory_budget" in said.description


def test_a_cap_on_connections_is_kept_by_all_tables_together(fresh_postgres, instance, tmp_path):
    asset = ixd.build_extraction_assets(intents(filled(fresh_postgres), tmp_path))
    found = made(run(asset, instance, {"max_source_connections": 2}))
    assert len(found) == 3
    assert len(set(moments(tmp_path))) == 1


def test_not_recommended_tables_run_only_when_forced(one_source, instance, tmp_path):
    asset = ixd.build_extraction_assets(intents(one_source, tmp_path, ("a", "b")))
    config: dict[str, Any] = {"max_workers": 1, "min_workers": 1, "disk_budget_gb": 0.0}
    said = failure(run(asset, instance, config)).description
    assert "2 of 2 tables were not extracted" in said
    assert "NOT RECOMMENDED" in said
    assert len(made(run(asset, instance, {**config, "force": True}))) == 2
