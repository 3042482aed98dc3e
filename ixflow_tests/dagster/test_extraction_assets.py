"""Extractions as assets: what is recorded, what stops them, and what is never told."""

import hashlib
from typing import Any
from urllib.parse import quote

import dagster as dg
import pyarrow.parquet as pq
import pytest

import ixflow
import ixflow.dagster as ixd
from ixflow.dagster.failures import as_failure
from ixflow.errors import (
    AuditFailed,
    ExecutionError,
    InputChanged,
    LockNotAvailable,
    NotRecommendedError,
    OutputNotWritable,
    SourceUnavailable,
    TableNotFound,
    TaskError,
    ValidationError,
)
from ixflow.extraction.intent import ExtractionIntent
from ixflow_tests.dagster.seen import data_version, failure, made, value
from ixflow_tests.sources import intent_for, make


def extract(intent, instance, config=None, **options):
    """Materialize the extraction of an intent; failures are in the result."""
    asset = ixd.extraction_asset(intent, **options)
    return dg.materialize(
        [ixd.source_asset(intent), asset],
        instance=instance,
        resources={"planner": ixd.PlannerResource()},
        run_config={"ops": {asset.op.name: {"config": config}}} if config else None,
        raise_on_error=False,
    )


@pytest.fixture
def orders(any_engine):
    make(
        any_engine,
        "CREATE TABLE orders (id bigint NOT NULL PRIMARY KEY, name varchar(20))",
        "INSERT INTO orders VALUES (1, 'a'), (2, NULL)",
    )
    return any_engine


@pytest.fixture
def sqlite_orders(fresh_sqlite):
    make(
        fresh_sqlite,
        "CREATE TABLE orders (id bigint NOT NULL PRIMARY KEY, name varchar(20))",
        "INSERT INTO orders VALUES (1, 'a'), (2, NULL)",
    )
    return fresh_sqlite


# -- what is recorded -------------------------------------------------------------------------


def test_an_extraction_records_rows_columns_place_and_plan(orders, instance, tmp_path):
    intent = intent_for(orders, "orders", tmp_path)
    one = made(extract(intent, instance))["extracted/orders"]
    assert value(one, "dagster/row_count") == 2
    columns = value(one, "dagster/column_schema").columns
    assert [(c.name, c.constraints.nullable) for c in columns] == [("id", False), ("name", True)]
    assert columns[0].constraints.other == ["primary key"]
    assert value(one, "dagster/uri") == (tmp_path / "orders").as_uri()
    assert value(one, "ixflow/verdict") == "SAFE TO RUN"
    assert value(one, "ixflow/plan").startswith("```\nPlan: orders")
    assert isinstance(one.metadata["ixflow/plan"], dg.MarkdownMetadataValue)
    assert value(one, "ixflow/bytes") > 0
    assert pq.read_table(tmp_path / "orders").num_rows == 2


def test_equal_rows_have_the_same_data_version_and_other_rows_another(orders, instance, tmp_path):
    intent = intent_for(orders, "orders", tmp_path)
    versions = [data_version(made(extract(intent, instance))["extracted/orders"])]
    versions.append(data_version(made(extract(intent, instance))["extracted/orders"]))
    make(orders, "INSERT INTO orders VALUES (3, 'c')")
    versions.append(data_version(made(extract(intent, instance))["extracted/orders"]))
    assert versions[0] == versions[1] != versions[2]


def test_an_empty_table_is_extracted_with_its_columns(any_engine, instance, tmp_path):
    make(any_engine, "CREATE TABLE no_rows (id bigint)")
    one = made(extract(intent_for(any_engine, "no_rows", tmp_path), instance))["extracted/no_rows"]
    assert value(one, "dagster/row_count") == 0
    assert [c.name for c in value(one, "dagster/column_schema").columns] == ["id"]


def test_a_table_with_an_odd_name_is_an_asset(orders, instance, tmp_path):
    quote = orders.dialect.identifier_preparer.quote_identifier
    make(orders, f"CREATE TABLE {quote('Order items select')} (id bigint)")
    intent = intent_for(orders, "Order items select", tmp_path)
    assert list(made(extract(intent, instance))) == ["extracted/Order_items_select"]


def test_the_source_is_an_external_asset_upstream_without_user_and_password():
    config = {"host": "db", "user": "app", "password": "s3cr3t", "database": "shop"}
    intent = ExtractionIntent("postgresql", config, "sales.orders")
    source, asset = ixd.source_asset(intent), ixd.extraction_asset(intent)
    assert source.key.path == ["shop", "sales", "orders"]
    assert source.kinds == {"postgres"}
    assert source.metadata["dagster/uri"] == "postgresql://db:5432/shop/sales/orders"
    [spec] = asset.specs
    assert [dep.asset_key for dep in spec.deps] == [source.key]
    assert spec.kinds == {"postgres", "parquet"}
    assert asset.op.pool == "source_db"


def test_the_limits_of_the_resource_hold_for_every_intent(sqlite_orders, tmp_path):
    planner = ixd.PlannerResource(max_workers=2, output_dir=str(tmp_path))
    url = str(sqlite_orders.url)
    plain = ExtractionIntent("sqlite", {"connection_string": url}, "orders")
    assert (planner.intent(plain).max_workers, planner.intent(plain).output_dir) == (
        2,
        str(tmp_path),
    )
    own = ExtractionIntent("sqlite", {"connection_string": url}, "orders", "own", max_workers=1)
    assert (planner.intent(own).max_workers, planner.intent(own).output_dir) == (1, "own")


# -- run config -------------------------------------------------------------------------------


def test_a_plan_that_is_not_recommended_runs_only_when_forced(sqlite_orders, instance, tmp_path):
    intent = intent_for(sqlite_orders, "orders", tmp_path)
    refused = extract(intent, instance, {"disk_budget_gb": 0.0})
    said = failure(refused)
    assert "NOT RECOMMENDED" in said.description
    assert "orders" in said.description
    assert said.metadata["ixflow/verdict"].value == "NOT RECOMMENDED"
    assert made(refused) == {}
    forced = extract(intent, instance, {"disk_budget_gb": 0.0, "force": True})
    assert value(made(forced)["extracted/orders"], "ixflow/verdict") == "NOT RECOMMENDED"


def test_a_wrong_value_in_the_launchpad_names_what_is_allowed(sqlite_orders, instance, tmp_path):
    result = extract(
        intent_for(sqlite_orders, "orders", tmp_path),
        instance,
        {"source_load": "huge", "max_workers": 0},
    )
    said = failure(result).description
    assert "source_load is 'huge'; it is one of low, normal, high" in said
    assert "max_workers is 0; it is a whole number from 1" in said


# -- secrets ----------------------------------------------------------------------------------

SECRET = "s3cr3t p@ss/wörd%"


def everything_said(instance: dg.DagsterInstance) -> str:
    """Write out all that the instance keeps of all runs."""
    runs = instance.get_runs()
    kept: list[Any] = [*runs]
    for run in runs:
        kept += instance.all_logs(run.run_id)
    return "\n".join(dg.serialize_value(one) for one in kept)


def test_a_password_from_the_environment_is_read_at_run_time_and_told_nowhere(
    fresh_postgres, instance, tmp_path, monkeypatch, capfd
):
    make(fresh_postgres, "CREATE TABLE orders (id bigint)")
    url = fresh_postgres.url
    config = {
        "host": url.host,
        "port": url.port,
        "database": url.database,
        "user": dg.EnvVar("SHOP_USER"),
        "password": dg.EnvVar("SHOP_PASSWORD"),
    }
    intent = ExtractionIntent("postgresql", config, "orders", tmp_path)
    asset = ixd.extraction_asset(intent)
    missing = extract(intent, instance)
    assert "environment variable SHOP_USER is not set" in failure(missing).description
    monkeypatch.setenv("SHOP_USER", str(url.username))
    monkeypatch.setenv("SHOP_PASSWORD", SECRET)
    assert extract(intent, instance).success
    make(fresh_postgres, "DROP TABLE orders")
    assert not extract(intent, instance).success
    monkeypatch.setenv("SHOP_USER", "nobody-of-that-name")
    assert not extract(intent, instance).success
    said = "\n".join([everything_said(instance), *capfd.readouterr(), repr(asset)])
    for spelling in (SECRET, "s3cr3t", quote(SECRET, safe="")):
        assert spelling not in said


# -- failures ---------------------------------------------------------------------------------


def test_a_wrong_password_says_what_to_check(fresh_mariadb, instance, tmp_path):
    make(
        fresh_mariadb,
        "CREATE TABLE orders (id bigint)",
        "CREATE OR REPLACE USER reader@'%' IDENTIFIED BY 'right'",
    )
    url = fresh_mariadb.url.set(username="reader", password="wr0ng-s3cret")
    text = url.render_as_string(hide_password=False)
    intent = ExtractionIntent("mysql", {"connection_string": text}, "orders", tmp_path)
    policy = dg.RetryPolicy(max_retries=3)
    result = extract(intent, instance, retry_policy=policy)
    assert "check user and password" in failure(result).description
    assert not any(event.is_step_up_for_retry for event in result.all_node_events)
    assert "wr0ng" not in everything_said(instance)


def test_an_unreachable_host_is_named_and_tried_again(instance, tmp_path):
    config = {"host": "127.0.0.1", "port": 1, "database": "shop", "user": "u", "password": "s3cr3t"}
    intent = ExtractionIntent("postgresql", config, "orders", tmp_path)
    result = extract(intent, instance, retry_policy=dg.RetryPolicy(max_retries=1))
    assert any(event.is_step_up_for_retry for event in result.all_node_events)
    said = failure(result).description
    assert "127.0.0.1:1/shop" in said
    assert "check host and port" in said
    assert "s3cr3t" not in everything_said(instance)


def test_a_missing_table_is_named(orders, instance, tmp_path):
    result = extract(intent_for(orders, "no_orders", tmp_path), instance)
    assert "no_orders" in failure(result).description
    assert failure(result).metadata["ixflow/error"].value == "TableNotFound"
    assert not list(tmp_path.glob("no_orders*"))


def test_a_place_that_cannot_be_written_is_named(sqlite_orders, instance, tmp_path):
    (tmp_path / "file").write_text("in the way")
    result = extract(intent_for(sqlite_orders, "orders", tmp_path / "file"), instance)
    said = failure(result).description
    assert str(tmp_path / "file") in said
    assert "check the path" in said


def test_a_failed_extraction_leaves_what_was_published(sqlite_orders, instance, tmp_path):
    intent = intent_for(sqlite_orders, "orders", tmp_path)
    extract(intent, instance)
    make(sqlite_orders, "DROP TABLE orders")
    result = extract(intent, instance)
    assert made(result) == {}
    assert pq.read_table(tmp_path / "orders").num_rows == 2


def _caused(error, cause):
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "may_help"),
    [
        (SourceUnavailable("x"), True),
        (SourceUnavailable("x", lasting=True), False),
        (LockNotAvailable("x"), True),
        (InputChanged("x"), True),
        (TaskError("x"), True),
        (_caused(TaskError("x"), ZeroDivisionError()), True),
        (_caused(TaskError("x"), dg.Failure("no", allow_retries=False)), False),
        (ExecutionError("x"), True),
        (_caused(ExecutionError("x"), TableNotFound("gone")), False),
        (ValidationError("x"), False),
        (NotRecommendedError("x"), False),
        (OutputNotWritable("x"), False),
        (AuditFailed("x"), False),
    ],
)
def test_retries_are_allowed_where_another_try_may_end_differently(error, may_help):
    assert as_failure(error).allow_retries is may_help


def test_an_incremental_extraction_records_its_window(orders, instance, tmp_path):
    options = {"mode": "incremental", "incremental_key": ixflow.Cursor("id", "exclusive")}
    intent = intent_for(orders, "orders", tmp_path, **options)
    extract(intent, instance)
    make(orders, "INSERT INTO orders VALUES (7, 'new')")
    one = made(extract(intent, instance))["extracted/orders"]
    assert value(one, "ixflow/window") == "2 < id <= 7"
    assert value(one, "ixflow/high_watermark") == "7"
    assert value(one, "ixflow/new_rows") == 1
    assert value(one, "dagster/row_count") == 3


def test_a_salt_comes_from_the_environment(orders, instance, tmp_path, monkeypatch):
    monkeypatch.setenv("SALT", "0123456789abcdef")
    salt = dg.EnvVar("SALT")
    options = {"mask": {"name": "hash"}, "mask_salt": salt}
    intent = intent_for(orders, "orders", tmp_path, **options)
    one = made(extract(intent, instance))["extracted/orders"]
    assert "0123456789abcdef" not in str(one)
    hashed = pq.read_table(tmp_path / "orders")["name"].to_pylist()
    assert hashlib.sha256(b"0123456789abcdefa").hexdigest() in hashed
