"""The sensor compares the source with what the warehouse committed."""

import dataclasses
import subprocess
import sys
import time
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa
from dagster._core.definitions.unresolved_asset_job_definition import (
    UnresolvedAssetJobDefinition,
)

import ixflow.dagster as ixd
from ixflow import Exclusive, incremental_batches
from ixflow.errors import TableNotFound, ValidationError
from ixflow.extraction.intent import ExtractionIntent
from ixflow.tables.cursor import Cursor
from ixflow_tests.servers import make_engine
from ixflow_tests.sources import intent_for, make


@pytest.fixture
def orders(fresh_sqlite, tmp_path):
    make(
        fresh_sqlite,
        "CREATE TABLE orders (id bigint NOT NULL PRIMARY KEY, price decimal(10,2), at timestamp)",
        "INSERT INTO orders VALUES (1, 9.5, '2026-01-01 00:00:00')",
    )
    return intent_for(fresh_sqlite, "orders", tmp_path / "files")


def look(intent, warehouse, cursor="id"):
    """Evaluate the sensor once."""
    sensor = ixd.high_watermark_sensor(name="s", intent=intent, cursor=cursor)
    resources = {"warehouse": warehouse}
    with (
        dg.DagsterInstance.ephemeral() as instance,
        dg.build_sensor_context(instance=instance, resources=resources) as context,
    ):
        return sensor.evaluate_tick(context)


def ingest(intent, warehouse, cursor="id"):
    """Do what the sensor asks for."""
    dg.materialize(
        [ixd.extraction_asset(intent), ixd.ingest_extraction(intent, cursor=cursor)],
        resources={"warehouse": warehouse, "planner": ixd.PlannerResource()},
    )


def test_it_asks_on_the_first_look_then_rests_then_asks_for_new_rows(
    orders, fresh_sqlite, warehouse
):
    first = look(orders, warehouse)
    assert [request.run_key for request in first.run_requests] == ["raw.orders:id:1"]
    assert look(orders, warehouse).run_requests == first.run_requests
    ingest(orders, warehouse)
    rest = look(orders, warehouse)
    assert not rest.run_requests
    assert rest.skip_message == "raw.orders is up to date at id = 1"
    make(fresh_sqlite, "INSERT INTO orders VALUES (7, 1, NULL)")
    again = look(orders, warehouse)
    assert [request.run_key for request in again.run_requests] == ["raw.orders:id:7"]
    assert again.cursor == "7"


def test_rows_that_left_the_source_are_no_reason_to_run(orders, fresh_sqlite, warehouse):
    make(fresh_sqlite, "INSERT INTO orders VALUES (7, 1, NULL)")
    ingest(orders, warehouse)
    make(fresh_sqlite, "DELETE FROM orders WHERE id = 7")
    assert not look(orders, warehouse).run_requests
    make(fresh_sqlite, "DELETE FROM orders")
    assert not look(orders, warehouse).run_requests


@pytest.mark.parametrize(
    ("cursor", "rows"),
    [
        ("price", ("(2, 10.50, NULL)", "(3, 100, NULL)")),
        ("at", ("(2, 1, '2026-01-02')", "(3, 1, '2026-01-02 00:00:01')")),
    ],
)
def test_decimals_and_times_are_compared_as_such(
    cursor, rows, orders, fresh_sqlite, duckdb_warehouse
):
    old, new = rows
    make(fresh_sqlite, f"INSERT INTO orders VALUES {old}")
    ingest(orders, duckdb_warehouse, cursor)
    assert not look(orders, duckdb_warehouse, cursor).run_requests
    make(fresh_sqlite, f"INSERT INTO orders VALUES {new}")
    assert len(look(orders, duckdb_warehouse, cursor).run_requests) == 1


def test_rows_that_the_intent_does_not_select_are_no_reason_to_run(
    orders, fresh_sqlite, duckdb_warehouse
):
    some = dataclasses.replace(orders, where="id < 5")
    ingest(some, duckdb_warehouse)
    make(fresh_sqlite, "INSERT INTO orders VALUES (7, 1, NULL)")
    assert not look(some, duckdb_warehouse).run_requests
    make(fresh_sqlite, "INSERT INTO orders VALUES (3, 1, NULL)")
    assert len(look(some, duckdb_warehouse).run_requests) == 1


def test_rows_that_are_not_settled_yet_are_no_reason_to_run(
    fresh_postgres, duckdb_warehouse, tmp_path
):
    make(
        fresh_postgres,
        "CREATE TABLE t (at timestamptz)",
        "INSERT INTO t VALUES (now() + interval '1 day')",
    )
    key = Cursor("at", semantics="settled")
    options = {"mode": "incremental", "incremental_key": key}
    intent = intent_for(fresh_postgres, "t", tmp_path, **options)
    assert not look(intent, duckdb_warehouse, "at").run_requests
    make(fresh_postgres, "INSERT INTO t VALUES ('2026-01-01 00:00:00+00')")
    assert len(look(intent, duckdb_warehouse, "at").run_requests) == 1


@pytest.mark.parametrize("cursor", ["id", "at"])
def test_the_watermark_of_incremental_batches_is_understood(
    cursor, orders, fresh_sqlite, duckdb_warehouse
):
    columns: list[sa.Column[Any]] = [
        sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("at", sa.DateTime),
    ]
    table = sa.Table("orders", sa.MetaData(), *columns, schema="raw")
    new = incremental_batches(
        fresh_sqlite, table, cursor=cursor, semantics=Exclusive(), source_table="orders"
    )
    asset = ixd.ingest_asset(metadata=table.metadata)(new)
    dg.materialize([asset], resources={"warehouse": duckdb_warehouse})
    rest = look(orders, duckdb_warehouse, cursor)
    assert "raw.orders is up to date" in rest.skip_message
    make(fresh_sqlite, "INSERT INTO orders VALUES (10, 1, '2026-01-03 00:00:00')")
    assert len(look(orders, duckdb_warehouse, cursor).run_requests) == 1


def test_an_empty_source_is_no_reason_to_run(orders, fresh_sqlite, warehouse):
    make(fresh_sqlite, "DELETE FROM orders")
    assert not look(orders, warehouse).run_requests


@pytest.mark.parametrize("kind", ["postgres", "duckdb", "sqlite"])
def test_every_kind_of_source_is_watched(kind, request, duckdb_warehouse, tmp_path):
    # The warehouse is the fresh DuckDB file already.
    name = "duckdb_source" if kind == "duckdb" else f"fresh_{kind}"
    source = request.getfixturevalue(name)
    make(source, "CREATE TABLE o (id bigint)", "INSERT INTO o VALUES (5), (NULL)")
    found = look(intent_for(source, "o", tmp_path), duckdb_warehouse)
    assert [request.run_key for request in found.run_requests] == ["raw.o:id:5"]


@pytest.fixture
def duckdb_source(tmp_path):
    return make_engine(f"duckdb:///{tmp_path}/source.duckdb")


def test_the_run_is_for_the_extraction_and_its_ingest_unless_said_otherwise(orders):
    def selected(**options):
        sensor = ixd.high_watermark_sensor(name="s", intent=orders, cursor="id", **options)
        assert isinstance(sensor.job, UnresolvedAssetJobDefinition)
        return sensor.job.selection

    both = dg.AssetSelection.assets(["extracted", "orders"], ["raw", "orders"])
    assert selected() == both
    assert selected(assets=["other"]) == dg.AssetSelection.assets("other")


# -- what is away -----------------------------------------------------------------------------


def test_a_source_that_is_away_is_a_reason_to_skip_and_not_made_by_looking(
    duckdb_warehouse, tmp_path
):
    path = tmp_path / "none.sqlite"
    intent = ExtractionIntent("sqlite", {"database": str(path)}, "orders")
    found = look(intent, duckdb_warehouse)
    assert "no sqlite database file" in found.skip_message
    assert not path.exists()
    config = {"host": "127.0.0.1", "port": 1, "database": "shop", "password": "s3cr3t"}
    found = look(ExtractionIntent("postgresql", config, "orders"), duckdb_warehouse)
    assert "check host and port" in found.skip_message
    assert "s3cr3t" not in found.skip_message


def test_a_warehouse_that_is_away_is_a_reason_to_skip(orders):
    away = ixd.SQLTableStoreResource(url="postgresql+psycopg://u:s3cr3t@127.0.0.1:1/w")
    found = look(orders, away)
    assert "cannot connect to postgresql+psycopg://u:***@127.0.0.1:1/w" in found.skip_message


def test_a_warehouse_file_that_another_process_holds_does_not_hang_the_sensor(
    orders, duckdb_warehouse
):
    code = (
        "import duckdb, sys, time; c = duckdb.connect(sys.argv[1]); "
        "print('held', flush=True); time.sleep(60)"
    )
    path = str(duckdb_warehouse.engine.url.database)
    holder = subprocess.Popen([sys.executable, "-c", code, path], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        started = time.monotonic()
        found = look(orders, duckdb_warehouse)
        assert time.monotonic() - started < 15
        assert "another process has the file open" in found.skip_message
    finally:
        holder.kill()
        holder.communicate()


# -- what is wrong ----------------------------------------------------------------------------


def test_a_missing_table_or_column_is_an_error_that_names_it(orders, duckdb_warehouse):
    with pytest.raises(ValidationError, match=r"orders has no column 'nope' to be watched; it has"):
        look(orders, duckdb_warehouse, "nope")
    missing = ExtractionIntent("sqlite", dict(orders.source_config), "no_orders")
    with pytest.raises(TableNotFound, match="no_orders"):
        look(missing, duckdb_warehouse)


def test_a_cursor_that_is_read_as_text_is_refused_by_name(fresh_postgres, warehouse, tmp_path):
    """As texts '10' comes before '9': rows would be left behind without a word."""
    make(
        fresh_postgres,
        "CREATE TABLE orders (id numeric NOT NULL PRIMARY KEY)",
        "INSERT INTO orders VALUES (9), (10)",
    )
    intent = intent_for(fresh_postgres, "orders", tmp_path / "files")
    with pytest.raises(ValidationError, match=r"orders\.id is numeric, which is read as text"):
        look(intent, warehouse)
    both = [ixd.extraction_asset(intent), ixd.ingest_extraction(intent, cursor="id")]
    with pytest.raises(dg.Failure, match=r"the cursor id of .*orders is numeric"):
        dg.materialize(both, resources={"warehouse": warehouse, "planner": ixd.PlannerResource()})
