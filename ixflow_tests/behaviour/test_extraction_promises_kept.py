"""What a plan promises of views and locked files, and what the functions say of wrong arguments."""

from __future__ import annotations

import sqlite3
from typing import Any

import pytest

import ixflow
from ixflow.dialects import run
from ixflow.dialects.sqlite import dialect as sqlite_dialect
from ixflow.errors import (
    LockNotAvailable,
    SnapshotUnavailable,
    SourceUnavailable,
    ValidationError,
)
from ixflow.extraction.api import execute, plan
from ixflow.extraction.context import RuntimeContext
from ixflow.extraction.intent import ExtractionIntent
from ixflow_tests.sources import intent_for, make


@pytest.mark.parametrize(
    ("view", "consistency"),
    [
        ("versioned", "one snapshot"),
        ("unversioned", "per connection"),
        ("of_a_view", "per connection"),
        ("joined", "per connection"),
    ],
)
def test_a_mysql_view_is_in_a_snapshot_if_all_its_tables_are(
    fresh_mariadb, tmp_path, view, consistency
):
    make(
        fresh_mariadb,
        "CREATE TABLE `in``no` (id int)",
        "CREATE TABLE my (id int) ENGINE=MyISAM",
        "INSERT INTO my VALUES (1)",
        "INSERT INTO `in``no` VALUES (1)",
        "CREATE VIEW versioned AS SELECT * FROM `in``no`",
        "CREATE VIEW unversioned AS SELECT * FROM my",
        "CREATE VIEW of_a_view AS SELECT * FROM (SELECT id FROM unversioned) AS a",
        "CREATE VIEW joined AS SELECT a.id FROM `in``no` AS a JOIN my AS b ON a.id = b.id",
    )
    planned = plan(intent_for(fresh_mariadb, view, tmp_path))
    assert planned.plan.consistency == consistency
    query = f"SELECT * FROM {view}"
    asked = plan(intent_for(fresh_mariadb, "q", tmp_path, query=query))
    assert asked.plan.consistency == consistency
    assert execute(planned).rows_extracted == 1
    if consistency != "one snapshot":
        with pytest.raises(SnapshotUnavailable):
            plan(intent_for(fresh_mariadb, view, tmp_path, require_snapshot=True))


def test_a_view_whose_tables_a_role_may_not_see_is_promised_nothing(fresh_mariadb, tmp_path):
    url = fresh_mariadb.url
    make(
        fresh_mariadb,
        "CREATE TABLE t (id int)",
        "INSERT INTO t VALUES (1)",
        "CREATE VIEW v AS SELECT * FROM t",
        "CREATE USER 'looker'@'%' IDENTIFIED BY 'p@ss:w/rd'",
        f"GRANT SELECT ON {url.database}.v TO 'looker'@'%'",
    )
    try:
        config = {"host": url.host, "port": url.port, "database": url.database}
        who = {"user": "looker", "password": "p@ss:w/rd"}
        planned = plan(ExtractionIntent("mysql", {**config, **who}, "v", tmp_path))
        assert planned.plan.consistency == "per connection"
        assert execute(planned).rows_extracted == 1
    finally:
        make(fresh_mariadb, "DROP USER 'looker'@'%'")


@pytest.mark.parametrize("view", ["outside", "of_a_view", "inside"])
def test_a_postgres_view_is_in_a_snapshot_unless_it_reads_foreign_tables(
    fresh_postgres, tmp_path, view
):
    make(
        fresh_postgres,
        "CREATE EXTENSION file_fdw",
        "CREATE SERVER files FOREIGN DATA WRAPPER file_fdw",
        "CREATE FOREIGN TABLE host (name text) SERVER files OPTIONS (filename '/etc/hostname')",
        "CREATE VIEW outside AS SELECT name FROM host",
        "CREATE VIEW of_a_view AS SELECT name FROM outside",
        "CREATE VIEW inside AS SELECT relname::text AS name FROM pg_class LIMIT 1",
    )
    planned = plan(intent_for(fresh_postgres, view, tmp_path))
    expected = "one snapshot" if view == "inside" else "per connection"
    assert planned.plan.consistency == expected
    assert execute(planned).rows_extracted == 1


def test_a_plan_waits_for_a_lock_no_longer_than_a_run(fresh_postgres, tmp_path):
    make(fresh_postgres, "CREATE TABLE t (id int PRIMARY KEY)")
    intent = intent_for(fresh_postgres, "t", tmp_path, lock_timeout="100ms")
    with fresh_postgres.begin() as conn:
        run(conn, "LOCK TABLE t IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(LockNotAvailable, match="give the intent a longer lock_timeout"):
            plan(intent)
    assert plan(intent).is_safe


def test_a_sqlite_file_that_is_locked_is_not_called_empty(fresh_sqlite, tmp_path, monkeypatch):
    make(fresh_sqlite, "CREATE TABLE t (id integer PRIMARY KEY)", "INSERT INTO t VALUES (1)")
    monkeypatch.setattr(sqlite_dialect, "BUSY_SECONDS", 0.01)
    intent = intent_for(fresh_sqlite, "t", tmp_path / "out")
    writer = sqlite3.connect(str(fresh_sqlite.url.database))
    try:
        writer.execute("BEGIN EXCLUSIVE")
        with pytest.raises(SourceUnavailable, match="database is locked"):
            plan(intent)
    finally:
        writer.close()
    assert execute(plan(intent)).rows_extracted == 1


def test_a_schema_that_sqlite_does_not_know_is_a_table_that_is_not_there(fresh_sqlite, tmp_path):
    make(fresh_sqlite, 'CREATE TABLE "a.b" (id integer)')
    assert plan(intent_for(fresh_sqlite, "a.b", tmp_path)).plan.table.name == "a.b"
    with pytest.raises(ixflow.TableNotFound):
        plan(intent_for(fresh_sqlite, "a.c", tmp_path))


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("plan", ("t",)),
        ("profile", (None,)),
        ("explain", (1,)),
        ("execute", ("t",)),
        ("execute_plan", ({}, {})),
        ("replay", ("run", {})),
        ("published", (3,)),
    ],
)
def test_every_function_names_an_argument_of_a_wrong_kind(name, arguments):
    with pytest.raises(ValidationError, match=r"must be an? "):
        getattr(ixflow, name)(*arguments)


def test_what_the_functions_give_can_be_named_from_the_top():
    names = ["ExecutionPlan", "ExecutionResult", "PlanResult", "SourceProfile", "CostEstimate"]
    assert {getattr(ixflow, name).__name__ for name in names} == set(names)


def test_a_context_can_be_read_from_a_file(tmp_path):
    path = tmp_path / "c.json"
    path.write_text('{"priority": "low", "max_workers": 3}')
    assert RuntimeContext.from_file(path) == RuntimeContext(priority="low", max_workers=3)
    given: dict[str, Any] = {"context_file": str(path), "max_workers": 2, "verbose": True}
    assert RuntimeContext.from_cli_args(given) == RuntimeContext(priority="low", max_workers=2)
    assert RuntimeContext.from_cli_args({"verbose": True, "max_workers": None}) is None
    path.write_text('{"prority": "low"}')
    with pytest.raises(ValidationError, match="keys among"):
        RuntimeContext.from_file(path)
    with pytest.raises(ValidationError, match="No such file"):
        RuntimeContext.from_file(tmp_path / "none.json")
