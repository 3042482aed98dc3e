"""Resuming a table: finished tasks are kept when their rows are still those of the rest."""

from __future__ import annotations

import dataclasses
import fcntl
import itertools
import logging
import threading
from pathlib import Path

import pytest

from ixflow import ExtractionIntent, execute, execute_plan, hold_snapshot, plan, published, replay
from ixflow.dialects import run
from ixflow.errors import ExecutionError, SnapshotUnavailable, ValidationError
from ixflow.events import ChunkExtracted, listen
from ixflow.extraction import storage
from ixflow.extraction.context import RuntimeContext
from ixflow.extraction.executor import TaskRun
from ixflow.extraction.history import history, tasks_of
from ixflow.extraction.plan import PlanResult
from ixflow.extraction.state import StatePlace
from ixflow.values import KeyRange
from ixflow_tests.sources import intent_for, make, rows_of

ROWS = 20_000
TWO = RuntimeContext(min_workers=2)


@pytest.fixture
def source(fresh_postgres):
    """Give 20,000 rows on about 700 pages, which are several tasks."""
    make(
        fresh_postgres,
        "CREATE TABLE t (id int PRIMARY KEY, x text)",
        f"INSERT INTO t SELECT n, repeat('x', 220) FROM generate_series(1, {ROWS}) n",
        "ANALYZE t",
    )
    return fresh_postgres


class FailsAfter:
    """A way to let the run fail after so many tasks: the next one finds its table broken."""

    def __init__(self, monkeypatch, tasks: int) -> None:
        self.left, self.lock = tasks, threading.Lock()
        real = TaskRun.finish

        def finish(run, task, session):
            with self.lock:
                self.left -= 1
                fails = self.left < 0
            if fails:
                raise OSError(5, "the network is torn")
            real(run, task, session)

        monkeypatch.setattr(TaskRun, "finish", finish)


def one_worker(intent: ExtractionIntent) -> PlanResult:
    """Plan several tasks for one worker, so that they end in order."""
    made = plan(intent, TWO)
    assert len(made.plan.tasks) >= 4
    return dataclasses.replace(made, plan=dataclasses.replace(made.plan, worker_count=1))


def failed_after(monkeypatch, tasks: int, made: PlanResult, **options) -> None:
    with monkeypatch.context() as patch:
        FailsAfter(patch, tasks)
        with pytest.raises(Exception, match="the network is torn"):
            execute(made, **options)


def executed(made: PlanResult, **options):
    """Execute, and tell the chunks that were read."""
    read: list[str] = []

    def hear(event: object) -> None:
        if isinstance(event, ChunkExtracted):
            read.append(event.chunk_id)

    with listen(hear):
        return execute(made, **options), sorted(read)


def homes(place: Path) -> list[Path]:
    return [path for path in (place / ".ixflow" / "t").iterdir() if path.is_dir()]


def test_a_failed_run_in_a_held_moment_is_resumed_in_it(source, tmp_path, monkeypatch):
    made = one_worker(intent_for(source, "t", tmp_path))
    ids = [task.chunk_id for task in made.plan.tasks]
    with hold_snapshot(made) as moment:
        failed_after(monkeypatch, 2, made, moment=moment)
        make(source, "DELETE FROM t WHERE id % 2 = 0", "UPDATE t SET x = 'new'")
        (failed,) = history(made.intent)
        result, read = executed(made, moment=moment)
    assert read == ids[2:]
    assert (result.resumed_from, result.tasks_resumed) == (failed.run_id, 2)
    rows = rows_of(result)
    assert sorted(rows["id"].to_pylist()) == list(range(1, ROWS + 1))
    assert "new" not in set(rows["x"].to_pylist())
    manifest = published(made.intent)
    assert manifest is not None
    assert (manifest.resumed_from, manifest.consistency) == (failed.run_id, "one snapshot")
    assert [set(one.chunk_ids) for one in manifest.snapshots] == [set(ids)]
    assert manifest.moment == moment.record.id
    assert [path.name for path in homes(tmp_path)] == [result.run_id]


def test_the_state_tells_what_was_resumed(source, tmp_path, monkeypatch):
    made = one_worker(intent_for(source, "t", tmp_path))
    with hold_snapshot(made) as moment:
        failed_after(monkeypatch, 2, made, moment=moment)
        result, _ = executed(made, moment=moment)
    newest, oldest = history(made.intent)
    assert (newest.status, oldest.status) == ("success", "failed")
    place = StatePlace.of(tmp_path)
    with place.look() as state:
        assert state is not None
        (row,) = [r for r in state.run_rows() if r["run_id"] == result.run_id]
    assert row["resumed_from"] == oldest.run_id
    told = [task.status for task in tasks_of(newest, place)]
    assert told.count("resumed") == 2
    assert sum(task.rows or 0 for task in tasks_of(newest, place)) == ROWS
    assert [task.status for task in tasks_of(oldest, place)].count("success") == 2


def test_a_failed_run_whose_moment_nobody_holds_leaves_nothing(source, tmp_path, monkeypatch):
    made = one_worker(intent_for(source, "t", tmp_path))
    failed_after(monkeypatch, 2, made)
    assert homes(tmp_path) == []
    result, read = executed(made)
    assert len(read) == len(made.plan.tasks)
    assert result.resumed_from is None


def abandon(made: PlanResult, monkeypatch, tasks: int) -> None:
    """Leave what a killed process leaves: its directory, unlocked."""
    with monkeypatch.context() as patch:
        patch.setattr(storage.RunDirectory, "close", lambda run: run._lock.close())
        failed_after(monkeypatch, tasks, made)


def test_a_dead_run_is_resumed_where_nobody_has_written_since(source, tmp_path, monkeypatch):
    made = one_worker(intent_for(source, "t", tmp_path))
    abandon(made, monkeypatch, 3)
    with source.connect() as conn:
        before = run(conn, "SELECT pg_current_snapshot()::text").scalar_one()
    result, read = executed(made)
    with source.connect() as conn:
        after = run(conn, "SELECT pg_current_snapshot()::text").scalar_one()
    # The server may write by itself in between (autovacuum): then there is nothing to resume.
    assert before != after or len(read) == len(made.plan.tasks) - 3
    assert result.manifest.consistency == "one snapshot"
    assert rows_of(result).num_rows == ROWS


def test_a_dead_run_of_an_older_snapshot_is_removed_and_said(source, tmp_path, monkeypatch, caplog):
    made = one_worker(intent_for(source, "t", tmp_path))
    abandon(made, monkeypatch, 3)
    make(source, "UPDATE t SET x = 'new' WHERE id = 1")
    with caplog.at_level(logging.INFO, "ixflow"):
        result, read = executed(made)
    assert len(read) == len(made.plan.tasks)
    assert result.tasks_resumed == 0
    assert "is read from the start" in caplog.text
    assert "the snapshot that its tasks were read in is gone" in caplog.text
    assert [path.name for path in homes(tmp_path)] == [result.run_id]


def test_pages_are_never_read_on_in_a_newer_snapshot(source, tmp_path, monkeypatch, caplog):
    intent = intent_for(source, "t", tmp_path, resume="newer snapshot")
    made = one_worker(intent)
    assert any("has no effect" in advisory for advisory in made.advisories)
    abandon(made, monkeypatch, 3)
    make(source, "UPDATE t SET x = 'new' WHERE id < 100")
    result, read = executed(made)
    assert len(read) == len(made.plan.tasks)
    assert "a row that changes may move from one task to another" in caplog.text
    assert len(set(rows_of(result)["id"].to_pylist())) == ROWS


def by_key(made: PlanResult, column: str = "id") -> PlanResult:
    """Turn a plan into one of four ranges of a column."""
    (part,) = {task.part for task in made.plan.tasks}
    bounds = [None, ("5001",), ("10001",), ("15001",), None]
    tasks = tuple(
        dataclasses.replace(
            made.plan.tasks[0],
            chunk_id=f"{number:03d}",
            part=part,
            pages=None,
            keys=KeyRange((column,), ("int",), low, high),
        )
        for number, (low, high) in enumerate(itertools.pairwise(bounds), 1)
    )
    return dataclasses.replace(
        made, plan=dataclasses.replace(made.plan, tasks=tasks, strategy="key_ranges")
    )


def test_key_ranges_are_read_on_in_a_newer_snapshot_if_allowed(source, tmp_path, monkeypatch):
    made = by_key(one_worker(intent_for(source, "t", tmp_path, resume="newer snapshot")))
    failed_after(monkeypatch, 2, made)
    make(source, "UPDATE t SET x = 'new'", "DELETE FROM t WHERE id IN (1, 20000)")
    result, read = executed(made)
    assert read == ["003", "004"]
    manifest = result.manifest
    assert manifest.consistency == "two snapshots"
    assert [one.chunk_ids for one in manifest.snapshots] == [("001", "002"), ("003", "004")]
    assert manifest.snapshots[0].taken_at < manifest.snapshots[1].taken_at
    rows = rows_of(result).sort_by("id").to_pylist()
    assert [row["id"] for row in rows] == list(range(1, ROWS))
    assert all((row["x"] == "new") == (row["id"] > 10_000) for row in rows)


def test_key_ranges_are_not_mixed_unless_allowed(source, tmp_path, monkeypatch):
    made = by_key(one_worker(intent_for(source, "t", tmp_path)))
    abandon(made, monkeypatch, 2)
    make(source, "UPDATE t SET x = 'new'")
    result, read = executed(made)
    assert len(read) == 4
    assert set(rows_of(result)["x"].to_pylist()) == {"new"}


def test_ranges_outside_the_primary_key_are_not_mixed(source, tmp_path, monkeypatch, caplog):
    make(source, "ALTER TABLE t ADD COLUMN grade int", "UPDATE t SET grade = id", "ANALYZE t")
    intent = intent_for(source, "t", tmp_path, resume="newer snapshot")
    made = by_key(one_worker(intent), "grade")
    abandon(made, monkeypatch, 2)
    make(source, "UPDATE t SET grade = 20001 - grade")
    result, read = executed(made)
    assert len(read) == 4
    assert "since grade is not of the primary key" in caplog.text
    assert len(set(rows_of(result)["id"].to_pylist())) == ROWS


@pytest.mark.parametrize("damage", ["cut", "changed", "gone"])
def test_a_damaged_file_is_read_again(source, tmp_path, monkeypatch, damage):
    made = one_worker(intent_for(source, "t", tmp_path))
    with hold_snapshot(made) as moment:
        failed_after(monkeypatch, 3, made, moment=moment)
        (home,) = homes(tmp_path)
        victim = sorted(home.glob("*.parquet"))[1]
        content = victim.read_bytes()
        if damage == "gone":
            victim.unlink()
        else:
            wrong = content[:-1] if damage == "cut" else content[:-9] + b"x" + content[-8:]
            victim.write_bytes(wrong)
        result, read = executed(made, moment=moment)
    assert result.tasks_resumed == 2
    assert read == [made.plan.tasks[1].chunk_id, *[t.chunk_id for t in made.plan.tasks[3:]]]
    assert rows_of(result).num_rows == ROWS


def test_files_that_no_line_names_are_removed(source, tmp_path, monkeypatch):
    made = one_worker(intent_for(source, "t", tmp_path))
    with hold_snapshot(made) as moment:
        failed_after(monkeypatch, 2, made, moment=moment)
        (home,) = homes(tmp_path)
        (home / "t_999_abcdef.parquet").write_bytes(b"orphan")
        with (home / ".checkpoint").open("a") as lines:
            lines.write('{"task": {"chunk_id": "torn')
        result, read = executed(made, moment=moment)
    assert len(read) == len(made.plan.tasks) - 2
    there = {path.name for path in (tmp_path / "t").glob("*")}
    assert there == {"_manifest.json", *(file.name for file in result.manifest.files)}
    assert not list((tmp_path / "t").resolve().glob(".*"))


def test_a_resumed_run_that_fails_is_resumed_again(source, tmp_path, monkeypatch):
    made = one_worker(intent_for(source, "t", tmp_path))
    with hold_snapshot(made) as moment:
        failed_after(monkeypatch, 1, made, moment=moment)
        failed_after(monkeypatch, 1, made, moment=moment)
        failed_after(monkeypatch, 1, made, moment=moment)
        result, read = executed(made, moment=moment)
    assert read == [task.chunk_id for task in made.plan.tasks[3:]]
    assert result.tasks_resumed == 3
    assert sorted(rows_of(result)["id"].to_pylist()) == list(range(1, ROWS + 1))


def test_another_plan_does_not_go_on(source, tmp_path, monkeypatch, caplog):
    intent = intent_for(source, "t", tmp_path)
    made = one_worker(intent)
    other = one_worker(dataclasses.replace(intent, columns=["id"]))
    with hold_snapshot(made) as moment:
        failed_after(monkeypatch, 2, made, moment=moment)
        result, read = executed(other, moment=moment)
    assert len(read) == len(other.plan.tasks)
    assert "the table is read by another plan now" in caplog.text
    assert result.manifest.schema().names == ["id"]


def test_a_published_run_is_never_taken_over(source, tmp_path, monkeypatch):
    made = one_worker(intent_for(source, "t", tmp_path))
    with hold_snapshot(made) as moment:
        with monkeypatch.context() as patch:
            # As if the process had died right behind the publication.
            patch.setattr(storage.OutputPlace, "_collect", lambda *_: None)
            first, _ = executed(made, moment=moment)
        home = Path(first.output_files[0]).parent
        (home / ".checkpoint").write_text("{}\n")
        (home / ".lock").touch()
        for stays in (True, False):
            result, read = executed(made, moment=moment)
            assert len(read) == len(made.plan.tasks)
            assert result.resumed_from is None
            assert all(Path(path).exists() for path in first.output_files) == stays


def test_a_living_run_is_not_taken_over(source, tmp_path, monkeypatch):
    made = one_worker(intent_for(source, "t", tmp_path))
    with hold_snapshot(made) as moment:
        failed_after(monkeypatch, 2, made, moment=moment)
        (home,) = homes(tmp_path)
        with (home / ".lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            result, read = executed(made, moment=moment)
            assert len(read) == len(made.plan.tasks)
            assert home.exists()
        assert result.resumed_from is None


def test_exactly_one_of_several_runs_takes_over(source, tmp_path, monkeypatch):
    made = one_worker(intent_for(source, "t", tmp_path))
    with hold_snapshot(made) as moment:
        failed_after(monkeypatch, 3, made, moment=moment)
        results = []
        threads = [
            threading.Thread(target=lambda: results.append(execute(made, moment=moment)))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(result.tasks_resumed for result in results) == [0, 0, 0, 3]
    assert all(result.rows_extracted == ROWS for result in results)


def test_a_replay_goes_on_too(source, tmp_path, monkeypatch):
    made = by_key(one_worker(intent_for(source, "t", tmp_path, resume="newer snapshot")))
    failed_after(monkeypatch, 2, made)
    (failed,) = history(made.intent)
    result = replay(failed.run_id, made.intent)
    assert (result.tasks_resumed, result.resumed_from) == (2, failed.run_id)
    assert history(made.intent)[0].replay_of == failed.run_id


def test_a_replay_goes_on_in_a_held_moment(source, tmp_path, monkeypatch):
    made = one_worker(intent_for(source, "t", tmp_path))
    with hold_snapshot(made) as moment:
        failed_after(monkeypatch, 2, made, moment=moment)
        (failed,) = history(made.intent)
        result = replay(failed.run_id, made.intent, moment=moment)
    assert (result.tasks_resumed, result.resumed_from) == (2, failed.run_id)


def test_a_moment_is_joined_by_its_token(source, tmp_path):
    made = plan(intent_for(source, "t", tmp_path), TWO)
    with hold_snapshot(made) as moment:
        make(source, "DELETE FROM t")
        result = execute_plan(made.plan, made.intent, moment=moment.token)
        assert result.rows_extracted == ROWS
        assert result.manifest.moment == moment.record.id
        token = moment.token
    with pytest.raises(SnapshotUnavailable, match="is gone"):
        execute_plan(made.plan, made.intent, moment=token)
    with pytest.raises(ValidationError, match="moment must be"):
        execute_plan(made.plan, made.intent, moment="yesterday")


def test_a_moment_of_another_database_is_refused(source, fresh_sqlite, tmp_path):
    make(fresh_sqlite, "CREATE TABLE t (id integer)")
    made = plan(intent_for(source, "t", tmp_path), TWO)
    other = plan(intent_for(fresh_sqlite, "t", tmp_path / "other"))
    with hold_snapshot(other) as moment:
        with pytest.raises(ValidationError, match="another database"):
            execute(made, moment=moment)
        with pytest.raises(SnapshotUnavailable, match="another process"):
            _ = moment.token


def test_files_that_vanish_before_publication_are_an_error(source, tmp_path):
    made = plan(intent_for(source, "t", tmp_path), TWO)
    first = execute(made)
    gone: list[str] = []

    def vanish(event: object) -> None:
        if isinstance(event, ChunkExtracted) and not gone:
            files = (tmp_path / ".ixflow" / "t").glob("*/*.parquet")
            mine = [p for p in files if str(p) not in first.output_files]
            gone.append(event.chunk_id)
            next(p for p in mine if f"_{event.chunk_id}_" in p.name).unlink()

    with listen(vanish), pytest.raises(ExecutionError, match="lost 1 of its") as caught:
        execute(made)
    error = caught.value
    assert "is missing" in error.fields["errors"][gone[0]]
    assert error.tasks_done == error.tasks_planned == len(made.plan.tasks)
    assert error.run_id.startswith("ix-")
    manifest = published(made.intent)
    assert manifest is not None
    assert manifest.run_id == first.run_id


@pytest.fixture
def keyed(fresh_mariadb):
    """Give 60,000 rows that their key splits, in a database without shared snapshots."""
    numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 60000) "
    make(
        fresh_mariadb,
        "SET max_recursive_iterations = 1000000",
        "CREATE TABLE t (id integer PRIMARY KEY, x varchar(500))",
        f"INSERT INTO t {numbers} SELECT i, '{'x' * 400}' FROM n",
    )
    make(fresh_mariadb, "ANALYZE TABLE t")
    return fresh_mariadb


def test_a_table_split_by_its_key_goes_on_in_a_newer_snapshot(keyed, tmp_path, monkeypatch):
    made = one_worker(intent_for(keyed, "t", tmp_path / "out", resume="newer snapshot"))
    assert all(task.keys is not None for task in made.plan.tasks)
    failed_after(monkeypatch, 2, made)
    make(keyed, "UPDATE t SET x = 'new'")
    result, read = executed(made)
    assert (result.tasks_resumed, len(read)) == (2, len(made.plan.tasks) - 2)
    assert result.manifest.consistency == "two snapshots"
    rows = rows_of(result)
    assert sorted(rows["id"].to_pylist()) == list(range(1, 60_001))
    assert set(rows["x"].to_pylist()) == {"new", "x" * 400}


def test_a_table_split_by_its_key_goes_on_in_a_held_moment(keyed, tmp_path, monkeypatch):
    made = one_worker(intent_for(keyed, "t", tmp_path / "out"))
    with hold_snapshot(made) as moment:
        failed_after(monkeypatch, 2, made, moment=moment)
        make(keyed, "UPDATE t SET x = 'new'")
        result, read = executed(made, moment=moment)
    assert (result.tasks_resumed, len(read)) == (2, len(made.plan.tasks) - 2)
    assert result.manifest.consistency == "one snapshot"
    assert set(rows_of(result)["x"].to_pylist()) == {"x" * 400}
