"""Several tables in one moment: read together, published together or not at all."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa

from ixflow import execute, execute_together, hold_snapshot, plan, published
from ixflow.dialects import run
from ixflow.errors import (
    ExecutionError,
    NotRecommendedError,
    OutputNotWritable,
    SnapshotUnavailable,
    ValidationError,
)
from ixflow.events import ChunkExtracted, listen
from ixflow.extraction import storage
from ixflow.extraction.context import RuntimeContext
from ixflow.extraction.executor import TaskRun
from ixflow.extraction.history import history
from ixflow.extraction.plan import PlanResult
from ixflow_tests.sources import intent_for, make, rows_of

TABLES = ("a", "b", "c")
ROWS, EACH = 6_000, 100
TWO = RuntimeContext(min_workers=2)


def make_tables(engine: sa.Engine) -> None:
    """Make three tables of 6,000 accounts with 100 each."""
    numbers = f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {ROWS}) "
    filler = "x" * 200
    most = ["SET max_recursive_iterations = 1000000"] * (engine.dialect.name == "mysql")
    for name in TABLES:
        make(
            engine,
            *most,
            f"CREATE TABLE {name} (id integer, balance integer, filler varchar(200))",
            f"INSERT INTO {name} {numbers} SELECT i, {EACH}, '{filler}' FROM n",
        )


@pytest.fixture(params=["postgres", "mariadb", "duckdb", "sqlite"])
def source(request):
    """Give three tables between which money moves, in a database of each kind."""
    engine = request.getfixturevalue(f"fresh_{request.param}")
    if request.param == "sqlite":
        # Otherwise readers keep writers out, and there is no storm.
        with contextlib.closing(sqlite3.connect(engine.url.database)) as conn:
            conn.execute("PRAGMA journal_mode = WAL")
    make_tables(engine)
    return engine


def plans(
    engine: sa.Engine, place: Path, context: RuntimeContext | None = None
) -> list[PlanResult]:
    return [plan(intent_for(engine, name, place), context) for name in TABLES]


class Storm:
    """Writers that move money from one table to another, until the block ends."""

    def __init__(self, engine: sa.Engine, writers: int = 1) -> None:
        self.engine, self.stop, self.moves = engine, threading.Event(), 0
        self.threads = [threading.Thread(target=self._blow, args=(n,)) for n in range(writers)]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join()

    def _blow(self, number: int) -> None:
        while not self.stop.is_set():
            self.moves += 1
            giver, taker = TABLES[self.moves % 3], TABLES[(self.moves + 1 + number) % 3]
            row = (self.moves * 7919) % ROWS + 1
            try:
                make(
                    self.engine,
                    f"UPDATE {giver} SET balance = balance - 1 WHERE id = {row}",
                    f"UPDATE {taker} SET balance = balance + 1 WHERE id = {row}",
                )
            except sa.exc.DBAPIError:
                continue


def balance(results) -> int:
    return sum(sum(rows_of(result)["balance"].to_pylist()) for result in results)


def test_sums_across_tables_balance_under_a_writer_storm(source, tmp_path):
    with Storm(source) as storm:
        for _ in range(4):
            results = execute_together(plans(source, tmp_path / "out"))
            assert [result.rows_extracted for result in results] == [ROWS] * 3
            assert balance(results) == 3 * ROWS * EACH
    assert storm.moves > 5


def test_two_workers_share_three_tables_in_one_snapshot(fresh_postgres, tmp_path):
    make_tables(fresh_postgres)
    make(fresh_postgres, *[f"ANALYZE {name}" for name in TABLES])
    sessions: set[str] = set()
    with Storm(fresh_postgres, 2) as storm:
        for _ in range(4):
            made = plans(fresh_postgres, tmp_path, TWO)
            assert all(result.plan.worker_count == 2 for result in made)
            read: list[str] = []

            def hear(event: object, read: list[str] = read) -> None:
                if isinstance(event, ChunkExtracted):
                    read.append(event.chunk_id)
                    sessions.add(threading.current_thread().name)

            with listen(hear):
                results = execute_together(made)
            assert len(read) == sum(len(result.plan.tasks) for result in made)
            assert balance(results) == 3 * ROWS * EACH
            manifests = [result.manifest for result in results]
            assert len({manifest.snapshot for manifest in manifests}) == 1
            assert len({manifest.moment for manifest in manifests}) == 1
    assert len(sessions) == 2
    assert storm.moves > 20


def test_no_table_is_published_before_all_were_read(source, tmp_path, monkeypatch):
    before = [execute(made) for made in plans(source, tmp_path)]
    real = TaskRun.finish

    def fails_for_c(tasks, task, session):
        if tasks.plan.object_name == "c":
            raise OSError(5, "the network is torn")
        real(tasks, task, session)

    with monkeypatch.context() as patch:
        patch.setattr(TaskRun, "finish", fails_for_c)
        with pytest.raises(Exception, match="the network is torn"):
            execute_together(plans(source, tmp_path))
    for name, first in zip(TABLES, before, strict=True):
        manifest = published(intent_for(source, name, tmp_path))
        assert manifest is not None
        assert manifest.run_id == first.run_id
        homes = [p.name for p in (tmp_path / ".ixflow" / name).iterdir() if p.is_dir()]
        assert homes == [first.run_id]
        assert history(intent_for(source, name, tmp_path))[0].status == "failed"


def test_a_task_that_fails_names_its_table(source, tmp_path):
    kind = source.dialect.name
    broken = {
        "postgresql": "CREATE VIEW bad AS SELECT 1 / (id - id) AS x FROM a",
        "duckdb": "CREATE VIEW bad AS SELECT error('division by zero')::integer AS x FROM a",
        "mysql": "CREATE VIEW bad AS SELECT (SELECT 1 UNION SELECT 2) AS x FROM a",
        "sqlite": "CREATE TABLE bad AS SELECT CAST('division by zero' AS blob) AS x",
    }[kind]
    make(source, broken)
    if kind == "sqlite":
        make(source, "DROP TABLE bad", "CREATE TABLE bad (x date)", "INSERT INTO bad VALUES (1)")
    names = ["a", "bad", "c"]
    made = [plan(intent_for(source, name, tmp_path)) for name in names]
    with pytest.raises(ExecutionError, match=r"extraction of .*bad failed in task"):
        execute_together(made)
    assert [published(result.intent) for result in made] == [None] * 3


def test_a_publication_that_fails_says_which_tables_are_new(source, tmp_path, monkeypatch):
    real = storage.RunDirectory.publish

    def fails_for_b(directory, manifest):
        if manifest.object_name == "b":
            raise OutputNotWritable("the disk is full", path="b")
        return real(directory, manifest)

    with monkeypatch.context() as patch:
        patch.setattr(storage.RunDirectory, "publish", fails_for_b)
        with pytest.raises(OutputNotWritable) as caught:
            execute_together(plans(source, tmp_path))
    assert "published: a; not published: b, c" in "".join(caught.value.__notes__)
    found = [published(intent_for(source, name, tmp_path)) for name in TABLES]
    assert [manifest is not None for manifest in found] == [True, False, False]
    said = [history(intent_for(source, name, tmp_path))[0].status for name in TABLES]
    assert said == ["success", "failed", "failed"]


def test_a_held_moment_shows_the_same_rows_again_and_again(source, tmp_path):
    made = plans(source, tmp_path)
    with hold_snapshot(made) as moment, Storm(source) as storm:
        first = execute_together(made, moment=moment)
        tables = [rows_of(result) for result in first]
        for _ in range(2):
            again = [execute(result, moment=moment) for result in made]
            for table, result in zip(tables, again, strict=True):
                assert rows_of(result).sort_by("id").equals(table.sort_by("id"))
            assert {result.manifest.moment for result in again} == {moment.record.id}
    assert storm.moves > 0
    assert "Moment(id=" in repr(moment)


def test_runs_at_once_in_one_moment_see_the_same(source, tmp_path):
    made, results = plans(source, tmp_path), []
    with hold_snapshot(made) as moment, Storm(source):
        threads = [
            threading.Thread(target=lambda r=r: results.append(execute(r, moment=moment)))
            for r in made
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(results) == 3
    assert balance(results) == 3 * ROWS * EACH


def test_what_cannot_be_read_together_is_refused(source, request, tmp_path):
    made = plans(source, tmp_path)
    with pytest.raises(ValidationError, match="at least one"):
        execute_together([])
    with pytest.raises(ValidationError, match="several plans write to"):
        execute_together([made[0], made[0]])
    kind = "duckdb" if source.dialect.name == "sqlite" else "sqlite"
    elsewhere = request.getfixturevalue(f"fresh_{kind}")
    make(elsewhere, "CREATE TABLE a (id integer)")
    other = plan(intent_for(elsewhere, "a", tmp_path / "other"))
    with pytest.raises(ValidationError, match="several databases"):
        execute_together([made[1], other])
    with pytest.raises(ValidationError, match="several databases"), hold_snapshot([made[1], other]):
        pass


def test_a_table_that_the_moment_does_not_hold_is_refused(source, tmp_path):
    made = plans(source, tmp_path)
    with hold_snapshot(made[:2]) as moment:
        with pytest.raises(ValidationError, match=r"does not hold .*c; give hold_snapshot"):
            execute(made[2], moment=moment)
        if source.dialect.name == "postgresql":
            with pytest.raises(ValidationError, match=r"does not hold .*c; give hold_snapshot"):
                execute(made[2], moment=moment.token)
        assert execute(made[1], moment=moment).rows_extracted == ROWS


def test_a_verdict_of_one_table_stops_all(source, tmp_path):
    strict = RuntimeContext(disk_budget_gb=1e-9)
    made = [*plans(source, tmp_path)[:2], plan(intent_for(source, "c", tmp_path), strict)]
    with pytest.raises(NotRecommendedError, match="c: NOT RECOMMENDED"):
        execute_together(made)
    assert len(execute_together(made, force=True)) == 3


def test_a_table_that_no_snapshot_holds_is_not_read_together(fresh_mariadb, tmp_path):
    make(
        fresh_mariadb,
        "CREATE TABLE a (id integer) ENGINE = MyISAM",
        "CREATE TABLE b (id integer)",
    )
    made = [plan(intent_for(fresh_mariadb, name, tmp_path)) for name in ("a", "b")]
    with pytest.raises(SnapshotUnavailable, match="a: its rows cannot be of one snapshot"):
        execute_together(made)


def test_a_table_that_changes_its_columns_stops_all(source, tmp_path):
    made = plans(source, tmp_path)
    make(source, "ALTER TABLE b ADD COLUMN extra integer")
    with pytest.raises(ExecutionError, match="column extra is new"):
        execute_together(made)
    assert [published(result.intent) for result in made] == [None] * 3


def test_a_moment_holds_writers_off_nowhere_but_in_a_sqlite_journal(fresh_postgres, tmp_path):
    make_tables(fresh_postgres)
    made = plans(fresh_postgres, tmp_path)
    with hold_snapshot(made):
        with fresh_postgres.connect() as conn:
            run(conn, "UPDATE a SET balance = 0")
        with pytest.raises(sa.exc.OperationalError, match="lock timeout"):
            make(fresh_postgres, "SET LOCAL lock_timeout = '50ms'", "TRUNCATE b")
