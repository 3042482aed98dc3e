"""Metadata can never fail a load: failures are injected into every piece of it."""

from collections.abc import Callable
from typing import Any

import dagster as dg
import polars as pl
import pytest
import sqlalchemy as sa

import ixflow.dagster as ixd
from ixflow.dagster import (
    described,
    extraction_events,
    ingestion,
    io_managers,
    manual,
    parquet_io,
    plan_checks,
    stage_description,
)
from ixflow.dagster.guard import guarded, taken
from ixflow.dagster.timeline import Recorder
from ixflow.extraction.intent import ExtractionIntent
from ixflow.pipeline import AuditResult, audit
from ixflow_tests.dagster.seen import data_version, made
from ixflow_tests.dagster.shop import Shop

SECRET = "s3cr3t-in-a-driver"


def breaks(*_args: Any, **_kwargs: Any) -> Any:
    """Fail as a driver may, with a credential in its text."""
    msg = f"cannot reach postgresql://app:{SECRET}@db/shop"
    raise RuntimeError(msg)


def warnings(result: dg.ExecuteInProcessResult, instance: dg.DagsterInstance) -> list[str]:
    """Give the warnings of a run, as the UI shows them."""
    logs = instance.all_logs(result.run_id)
    return [log.user_message for log in logs if "lacks" in log.user_message]


@pytest.mark.parametrize(
    ("name", "piece"),
    [
        ("table_metadata", "place, rows and columns of st.t1"),
        ("column_lineage", "the column lineage of st.t1"),
        ("diff_metadata", "the diff of st.t1"),
        ("stage_changes", "the diff"),
        ("stage_diff", "the pictures of st.t1"),
        ("timeline", "the pictures of st.t1"),
    ],
)
def test_a_stage_is_published_and_recorded_without_the_piece(
    name, piece, duckdb_warehouse, instance, monkeypatch
):
    monkeypatch.setattr(stage_description, name, breaks)
    result = Shop(version="1").run(duckdb_warehouse, instance)
    assert result.success
    state = duckdb_warehouse.store().published("st")
    assert sorted(state.tables) == ["t1", "t2", "t3"]
    assert data_version(made(result)["st/t1"]) == state.tables["t1"].data_version
    said = warnings(result, instance)
    assert any(f"lacks {piece}," in one for one in said), said
    assert SECRET not in "".join(said)


def test_a_listener_that_breaks_draws_no_timeline(duckdb_warehouse, instance, monkeypatch):
    monkeypatch.setattr(Recorder, "__call__", breaks)
    result = Shop(version="1").run(duckdb_warehouse, instance)
    assert result.success
    assert "ixflow/timeline" not in made(result)["st/t1"].metadata


def test_what_waits_waits_without_its_note(duckdb_warehouse, instance, monkeypatch):
    monkeypatch.setattr(manual, "provenance", breaks)
    monkeypatch.setattr(manual, "inputs_now", breaks)
    shop = Shop(version="1")
    result = shop.run(duckdb_warehouse, instance, publish="manual")
    assert result.success
    job = ixd.approve_job(shop.stage)
    defs = dg.Definitions(jobs=[job], resources={"warehouse": duckdb_warehouse})
    done = defs.resolve_job_def(job.name).execute_in_process(instance=instance)
    assert sorted(made(done)) == ["st/t1", "st/t2", "st/t3"]


def test_what_an_audit_says_may_be_anything(duckdb_warehouse, instance):
    shop = Shop(version="1")

    @audit(shop.stage, table="t1")
    def odd(t1: pl.DataFrame) -> AuditResult:
        return AuditResult(True, "", {"rows": 1, "odd": object(), "none": float("nan")})

    result = shop.run(duckdb_warehouse, instance)
    assert result.success
    [check] = [one for one in result.get_asset_check_evaluations() if one.check_name == "odd"]
    assert sorted(check.metadata) == ["none", "rows"]
    assert any("(odd)" in one for one in warnings(result, instance))


@pytest.fixture
def intent(fresh_sqlite: sa.Engine, tmp_path: Any) -> ExtractionIntent:
    """Give the intent of a small table."""
    with fresh_sqlite.begin() as conn:
        conn.exec_driver_sql("CREATE TABLE orders (id integer PRIMARY KEY)")
        conn.exec_driver_sql("INSERT INTO orders VALUES (1), (2)")
    config = {"database": fresh_sqlite.url.database}
    return ExtractionIntent("sqlite", config, "orders", tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "piece"),
    [
        ("published_uri", "the place"),
        ("_window", "the window"),
        ("_work", "the work"),
        ("column_schema", "the columns"),
        ("Explanation", "the plan"),
        ("timeline", "the timeline"),
    ],
)
def test_an_extraction_is_published_and_recorded_without_the_piece(
    name, piece, intent, instance, monkeypatch
):
    monkeypatch.setattr(extraction_events, name, breaks)
    result = materialize([ixd.extraction_asset(intent)], instance)
    assert result.success
    one = made(result)["extracted/orders"]
    assert data_version(one) is not None
    said = warnings(result, instance)
    assert any(f"lacks {piece} of extracted/orders," in one for one in said), said
    assert SECRET not in "".join(said)


def test_a_plan_that_cannot_be_shown_is_judged_all_the_same(intent, instance, monkeypatch):
    monkeypatch.setattr(plan_checks, "markdown", breaks)
    asset = ixd.extraction_asset(intent, check=ixd.plan_check())
    result = materialize([asset], instance)
    assert result.success
    assert [one.passed for one in result.get_asset_check_evaluations()] == [True]


@pytest.mark.parametrize(
    ("name", "piece"),
    [
        ("connected", "columns and rows of main.orders"),
        ("table_metadata", "the place of main.orders"),
        ("lag_metadata", "the counts of main.orders"),
    ],
)
def test_an_ingest_is_committed_and_recorded_without_the_piece(
    name, piece, duckdb_warehouse, instance, monkeypatch
):
    monkeypatch.setattr(ingestion if name == "lag_metadata" else described, name, breaks)
    metadata = sa.MetaData()
    orders = sa.Table("orders", metadata, sa.Column("id", sa.Integer), schema="main")

    @ixd.ingest_asset(metadata=metadata, delete="__BEFORE_FIRST_BATCH__")
    def ingested(high_watermark: Any) -> Any:
        yield 1, None, [(orders, (1,))]

    result = materialize([ingested], instance, warehouse=duckdb_warehouse)
    assert result.success
    one = made(result)["main/orders"]
    assert data_version(one) is not None
    assert any(f"lacks {piece}," in said for said in warnings(result, instance))


@pytest.mark.parametrize(
    ("name", "instead"), [("table_metadata", breaks), ("table_metadata", lambda *_, **__: {"x": 1})]
)
def test_an_io_manager_writes_without_what_it_cannot_tell(
    name, instead: Callable[..., Any], duckdb_warehouse, instance, monkeypatch
):
    monkeypatch.setattr(io_managers, name, instead)

    @dg.asset(io_manager_key="tables")
    def numbers() -> pl.DataFrame:
        return pl.DataFrame({"x": [1, 2]})

    tables = ixd.SQLTableStoreIOManager(store=duckdb_warehouse)
    result = materialize([numbers], instance, tables=tables)
    assert result.success
    assert list(made(result)) == ["numbers"]
    with duckdb_warehouse.engine.connect() as conn:
        assert conn.exec_driver_sql("SELECT count(*) FROM assets.numbers").scalar() == 2


def test_files_are_published_without_what_cannot_be_told(tmp_path, instance, monkeypatch):
    monkeypatch.setattr(parquet_io, "_tell", breaks)

    @dg.asset(io_manager_key="tables")
    def numbers() -> pl.DataFrame:
        return pl.DataFrame({"x": [1, 2]})

    result = materialize(
        [numbers], instance, tables=ixd.ParquetIOManager(base_dir=str(tmp_path / "files"))
    )
    assert result.success
    assert list(made(result)) == ["numbers"]
    assert any("lacks what was written to" in said for said in warnings(result, instance))
    assert len(list((tmp_path / "files").rglob("*.parquet"))) == 1


def materialize(
    assets: list[Any], instance: dg.DagsterInstance, **resources: Any
) -> dg.ExecuteInProcessResult:
    resources = {"planner": ixd.PlannerResource(), **resources}
    used = {
        key: resources[key]
        for key in resources
        if any(key in one.required_resource_keys for one in assets) or key == "tables"
    }
    return dg.materialize(assets, instance=instance, resources=used, raise_on_error=False)


def test_values_that_dagster_does_not_take_are_left_out_one_by_one():
    found = taken("a test", {"a": 1, "b": object(), "c": float("inf"), "d": {"x": object()}})
    assert {key: value.value for key, value in found.items()} == {"a": 1, "c": "inf"}


def test_an_interrupt_is_no_failure_of_metadata():
    def stop() -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        guarded("a test", stop)
