"""What a user who tries everything may rely on: errors that say what to do, and no surprise."""

from __future__ import annotations

import datetime as dt
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from ixflow.cli import main
from ixflow.errors import (
    ExecutionError,
    PlanCorruptionError,
    UnsupportedPlanVersion,
    ValidationError,
)
from ixflow.extraction.api import execute, explain, plan, published
from ixflow.extraction.history import history
from ixflow.extraction.migrations import plans
from ixflow.extraction.state import StatePlace
from ixflow.extraction.table_run import TableRun
from ixflow.tables.cursor import Cursor
from ixflow_tests.sources import extract, intent_for, make

ROOT = Path(__file__).parents[2]


@pytest.fixture
def numbers(fresh_sqlite):
    """Give a database with a table of one row."""
    make(fresh_sqlite, "CREATE TABLE t (id integer PRIMARY KEY)", "INSERT INTO t VALUES (1)")
    return fresh_sqlite


def incremental(engine, output, key, **options):
    """Make the intent of an incremental extraction of `t`."""
    return intent_for(engine, "t", output, mode="incremental", incremental_key=key, **options)


def test_a_path_with_a_nul_character_is_refused_by_the_intent(numbers):
    with pytest.raises(ValidationError, match="output_dir"):
        intent_for(numbers, "t", "a\0b")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("stored", "error"),
    [
        ("no JSON at all", PlanCorruptionError),
        ("[]", PlanCorruptionError),
        ('{"plan": null}', UnsupportedPlanVersion),
    ],
)
def test_a_last_plan_that_is_none_is_not_explained(numbers, tmp_path, stored, error):
    intent = intent_for(numbers, "t", tmp_path)
    plan(intent)
    with StatePlace.of(tmp_path).open() as state, state.writing() as conn:
        conn.execute(sa.update(plans).values(result_json=stored))
    with pytest.raises(error, match="plan"):
        explain(intent)
    plan(intent)
    assert "Verdict" in str(explain(intent))


def test_a_run_says_which_rows_it_holds_back(fresh_postgres, tmp_path, monkeypatch, capsys):
    make(
        fresh_postgres,
        "CREATE TABLE t (id int PRIMARY KEY, ts timestamptz NOT NULL)",
        "INSERT INTO t VALUES (1, now() + interval '1 hour')",
    )
    intent = incremental(fresh_postgres, tmp_path, Cursor("ts", "settled"))
    first = execute(plan(intent))
    assert first.rows_extracted == 0
    assert "rows of t whose ts is" in first.notes[0]
    assert "a later run reads them" in first.notes[0]
    make(fresh_postgres, "INSERT INTO t VALUES (2, now() - interval '1 hour')")
    second = execute(plan(intent))
    assert (second.rows_extracted, len(second.notes)) == (1, 1)
    third = execute(plan(intent))
    assert (third.rows_extracted, len(third.notes)) == (0, 1)
    monkeypatch.chdir(tmp_path)
    url = fresh_postgres.url.render_as_string(hide_password=False)
    with pytest.raises(SystemExit):
        main(
            ["execute", "t", "--connection-string", url, "--output", "cli", "--incremental", "ts"],
        )
    assert "\nNote: rows of t whose ts is" in capsys.readouterr().out
    make(fresh_postgres, "DELETE FROM t WHERE id = 1")
    assert execute(plan(intent)).notes == ()


def test_other_semantics_hold_nothing_back(fresh_postgres, tmp_path):
    make(
        fresh_postgres,
        "CREATE TABLE t (id int PRIMARY KEY, ts timestamptz NOT NULL)",
        "INSERT INTO t VALUES (1, now() + interval '1 hour')",
    )
    result = execute(plan(incremental(fresh_postgres, tmp_path, Cursor("ts", "exclusive"))))
    assert (result.rows_extracted, result.notes) == (1, ())


@pytest.mark.parametrize("before", ["nothing", "a full run"])
def test_a_first_run_does_not_take_the_place_of_one_that_came_before_it(
    numbers, tmp_path, monkeypatch, before
):
    if before == "a full run":
        extract(numbers, "t", tmp_path)
    intent, publish = incremental(numbers, tmp_path, "id"), TableRun.publish

    def late(self, *given):
        monkeypatch.setattr(TableRun, "publish", publish)
        make(numbers, "INSERT INTO t VALUES (2)")
        execute(plan(intent))
        return publish(self, *given)

    monkeypatch.setattr(TableRun, "publish", late)
    # Its watermark is 1: published now, the row 2 would be new a second time.
    with pytest.raises(ExecutionError, match="Run it again"):
        execute(plan(intent))
    manifest = published(intent)
    assert manifest is not None
    assert manifest.window is not None
    assert (manifest.total_rows, manifest.window.high_watermark) == (2, "2")
    assert execute(plan(intent)).rows_extracted == 0


def test_a_full_run_takes_the_place_of_whatever_came_before_it(numbers, tmp_path, monkeypatch):
    publish = TableRun.publish

    def late(self, *given):
        monkeypatch.setattr(TableRun, "publish", publish)
        extract(numbers, "t", tmp_path)
        return publish(self, *given)

    monkeypatch.setattr(TableRun, "publish", late)
    result = extract(numbers, "t", tmp_path)
    manifest = published(intent_for(numbers, "t", tmp_path))
    assert manifest is not None
    assert manifest.run_id == result.run_id


@pytest.mark.parametrize(
    "start",
    [
        "2024-02-01",
        "2024-02-01 00:00",
        dt.date(2024, 2, 1),
        dt.datetime(2024, 2, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=1))),
    ],
    ids=str,
)
def test_mysql_reads_every_way_to_write_where_a_timestamp_begins(fresh_mariadb, tmp_path, start):
    make(
        fresh_mariadb,
        "SET time_zone = '+00:00'",
        "CREATE TABLE t (id int PRIMARY KEY, ts timestamp NOT NULL)",
        "INSERT INTO t VALUES (1, '2024-01-31 23:59:59'), (2, '2024-02-01 00:00:00'), "
        "(3, '2024-02-01 00:00:01')",
    )
    cursor = Cursor("ts", "exclusive")
    result = execute(plan(incremental(fresh_mariadb, tmp_path, cursor, incremental_value=start)))
    assert result.rows_extracted == 1


@pytest.mark.parametrize("database", ["postgres", "mariadb", "duckdb"])
def test_a_start_that_is_no_value_of_the_column_is_refused_by_the_plan(request, tmp_path, database):
    engine = request.getfixturevalue(f"fresh_{database}")
    make(engine, "CREATE TABLE t (id integer PRIMARY KEY, d date NOT NULL)")
    with pytest.raises(ValidationError, match=r"incremental_value 'soon' is no (date|DATE)"):
        plan(incremental(engine, tmp_path, "d", incremental_value="soon"))


_ACTIVE = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND state = 'active' AND pid <> pg_backend_pid()
      AND wait_event = 'PgSleep'
"""


def _active(engine: sa.Engine, wanted: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with engine.connect() as conn:
            if conn.exec_driver_sql(_ACTIVE).scalar_one() == wanted:
                return
        time.sleep(0.1)
    pytest.fail(f"there are not {wanted} queries that sleep")


def test_a_command_that_is_asked_to_end_leaves_nothing_behind(fresh_postgres, tmp_path):
    make(fresh_postgres, "CREATE VIEW v AS SELECT 1 AS id, pg_sleep(600)::text AS nothing")
    url = fresh_postgres.url.render_as_string(hide_password=False)
    command = [sys.executable, "-W", "ignore", "-m", "ixflow.cli", "execute", "v"]
    process = subprocess.Popen(
        [*command, "--connection-string", url, "--json"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        _active(fresh_postgres, 1)
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=100)[1]
    finally:
        process.kill()
    assert (process.returncode, said.strip()) == (128 + signal.SIGTERM, "ixflow: stopped")
    _active(fresh_postgres, 0)
    (run,) = history(tmp_path / "output")
    assert (run.status, run.error) == ("failed", "KeyboardInterrupt")
    assert list((tmp_path / "output" / ".ixflow" / "v").glob("ix-*")) == []


def test_signals_are_heard_again_as_before(numbers, tmp_path, capsys):
    before = signal.getsignal(signal.SIGTERM)
    url = numbers.url.render_as_string()
    with pytest.raises(SystemExit):
        main(["profile", "t", "--connection-string", url, "--json"])
    assert signal.getsignal(signal.SIGTERM) == before
    assert json.loads(capsys.readouterr().out)["row_count_estimate"] == 1
