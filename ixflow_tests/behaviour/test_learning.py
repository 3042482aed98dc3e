"""What runs teach the next plans, with real runs."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import threading
from itertools import pairwise
from pathlib import Path

import pytest
import sqlalchemy as sa

from ixflow.errors import OutputNotWritable
from ixflow.extraction import learning, recording
from ixflow.extraction.api import (
    execute,
    execute_plan,
    execute_together,
    explain,
    hold_snapshot,
    plan,
)
from ixflow.extraction.backoff import Backoff, Rest
from ixflow.extraction.context import RuntimeContext
from ixflow.extraction.diagnosis import RunFacts
from ixflow.extraction.experience import Lesson
from ixflow.extraction.learning import add_lesson, forget, running_now
from ixflow.extraction.migrations import (
    MIGRATIONS,
    benchmarks,
    controller,
    deviations,
    runs,
    state_version,
)
from ixflow.extraction.notes import learned, note_of
from ixflow.extraction.replay import replay
from ixflow.extraction.state import StatePlace, now
from ixflow.extraction.storage import RunDirectory
from ixflow_tests.sources import intent_for, make

ROOT = Path(__file__).parents[2]

ORDERS = (
    "CREATE TABLE orders AS SELECT i AS id, repeat('x', 600) AS note "
    "FROM generate_series(1, 100000) AS i"
)


@pytest.fixture(autouse=True)
def no_rest(monkeypatch):
    """Let no run rest, however busy the machine of the tests is: such a run teaches nothing."""
    monkeypatch.setattr(Backoff, "saw", lambda *_: None)


@pytest.fixture
def wide(fresh_postgres, tmp_path, monkeypatch):
    """Give an intent for a table that several workers read, on a machine of four processors."""
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    make(fresh_postgres, ORDERS)
    with fresh_postgres.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
        conn.exec_driver_sql("VACUUM ANALYZE orders")
    return intent_for(fresh_postgres, "orders", tmp_path / "out", columns=["id"])


@pytest.fixture
def few(any_engine, tmp_path):
    """Give an intent for a table of a few rows."""
    make(any_engine, "CREATE TABLE t (a integer)", "INSERT INTO t VALUES (1), (2), (3)")
    make(any_engine, "ANALYZE")
    return intent_for(any_engine, "t", tmp_path / "out")


def place_of(intent) -> StatePlace:
    return StatePlace.of(intent.output_dir)


def taught(intent) -> list[tuple[int, bool]]:
    """Give where each search of the intent's table stands."""
    known = learned(intent.identity(), place_of(intent))
    return [(found.workers, found.converged) for found in known]


def why_not(run_id: str, intent) -> str | None:
    note = note_of(run_id, place_of(intent))
    assert note is not None
    return note.not_learned


@pytest.fixture
def speeds(monkeypatch):
    """Let a run take as long as its number of workers says, in thousandths of a second."""
    seconds = {1: 4.0, 2: 2.0, 3: 1.0, 4: 1.5}
    measured = RunFacts

    def told(**facts):
        return measured(**{**facts, "seconds": seconds[facts["workers"]]})

    monkeypatch.setattr(recording, "RunFacts", told)
    return seconds


def test_the_number_of_workers_moves_and_settles(wide, speeds):
    seen = []
    for _ in range(12):
        result = plan(wide)
        seen.append((result.plan.worker_count, result.worker_source))
        execute(result)
    workers = [count for count, _ in seen]
    assert seen[0][1] == "profiler recommended"
    assert {source for _, source in seen[1:]} == {"controller exploring", "controller converged"}
    assert set(workers[-3:]) == {3}
    assert seen[-1][1] == "controller converged"
    assert all(abs(b - a) <= 2 for a, b in pairwise(workers))
    assert taught(wide) == [(3, True)]
    chain = plan(wide).worker_resolution.steps
    assert [what for what, _ in chain] == ["profiler recommended", "controller converged", "base"]
    assert "controller converged: 3" in str(explain(wide))


def test_real_runs_come_to_an_end_of_the_search_within_bounds(wide):
    workers = []
    for _ in range(4 * 4):
        result = plan(wide)
        workers.append(result.plan.worker_count)
        execute(result)
        if taught(wide)[0][1]:
            break
    assert taught(wide)[0][1]
    assert set(workers) <= {1, 2, 3, 4}


def test_a_table_for_one_worker_is_settled_by_its_first_run(few):
    execute(plan(few))
    assert taught(few) == [(1, True)]
    assert plan(few).worker_source == "controller converged"


def test_the_estimate_comes_from_earlier_runs(few):
    assert plan(few).throughput_method == "cold start"
    done = [execute(plan(few)) for _ in range(3)]
    result = plan(few)
    assert result.throughput_method == "blended"
    speeds = [run.throughput_rows_sec for run in done]
    assert min(speeds) * 0.99 <= result.throughput_estimate <= max(speeds) * 1.01
    assert "blended" in str(explain(few))
    assert "of 3 comparable runs" in str(explain(few))


def test_what_an_estimate_rests_on_is_remembered(few):
    for _ in range(2):
        execute(plan(few))
    basis = plan(few).throughput_basis
    assert basis is not None
    assert (basis.runs, basis.matched_runs, basis.excluded_runs) == (2, 2, 0)
    assert basis.similarity is not None
    assert basis.blend_weight == pytest.approx(basis.similarity * 0.2, abs=1e-4)
    again = explain(few)
    assert again.result.throughput_basis == basis
    assert again.result.lesson is not None
    assert again.result.lesson.circumstances is not None
    assert "2 of them in circumstances like now" in str(again)


def test_the_circumstances_of_a_run_are_noted_with_it(few):
    note = note_of(execute(plan(few)).run_id, place_of(few))
    assert note is not None
    assert note.circumstances is not None
    assert note.circumstances.concurrent_extractions == 0
    assert note.circumstances.row_estimate == plan(few).plan.estimated_rows
    replayed = execute_plan(plan(few).plan, few)
    assert note_of(replayed.run_id, place_of(few)).circumstances is None  # type: ignore[union-attr]


def test_other_runs_of_the_same_database_are_counted(fresh_sqlite, tmp_path):
    make(fresh_sqlite, "CREATE TABLE t (a integer)")
    intent = intent_for(fresh_sqlite, "t", tmp_path / "out")
    done = execute(plan(intent))
    elsewhere = json.dumps({**intent.source(), "database": "elsewhere.db"})
    changes: list[dict[str, object]] = [{}, {}, {"status": "success"}]
    changes += [{"source_json": elsewhere}, {"process_started": -1}]
    changes += [{"seen_at": "2020-01-01T00:00:00.000000+00:00"}]
    with place_of(intent).open() as state:
        (row,) = state.runs_like(done.run_id)
        for number, change in enumerate(changes):
            running = {**row, "run_id": f"ix-{number}", "status": "running", "seen_at": now()}
            state.begin_run({**running, **change})
        with state.reading() as conn:
            assert running_now(conn, intent) == 2
    note = note_of(execute(plan(intent)).run_id, place_of(intent))
    assert note is not None
    assert note.circumstances is not None
    assert note.circumstances.concurrent_extractions == 2


def test_circumstances_that_cannot_be_read_only_match_nothing(few):
    execute(plan(few))
    with place_of(few).open() as state, state.writing() as conn:
        conn.execute(sa.update(deviations).values(circumstances_json="{broken"))
    result = plan(few)
    assert (result.throughput_method, result.throughput_confidence) == ("history", "low")
    assert result.worker_source == "controller converged"


def test_a_filter_is_estimated_by_its_own_runs(fresh_sqlite, tmp_path):
    rows = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)"
    make(fresh_sqlite, "CREATE TABLE t (a integer)", f"INSERT INTO t {rows} SELECT i FROM n")
    make(fresh_sqlite, "ANALYZE")
    intent = intent_for(fresh_sqlite, "t", tmp_path / "out", where="a <= 2000")
    done = [execute(plan(intent)) for _ in range(2)]
    result = plan(intent)
    assert result.throughput_method == "blended"
    assert result.throughput_basis is not None
    assert result.throughput_basis.rows_share == pytest.approx(0.1, rel=0.2)
    slowest = max(run.duration_seconds for run in done)
    assert result.plan.estimated_seconds <= 2 * slowest + 0.1


def test_equal_knowledge_gives_equal_plans(wide, speeds):
    execute(plan(wide))
    first, second = plan(wide), plan(wide)
    assert first.plan.fingerprint == second.plan.fingerprint
    assert first.worker_source == second.worker_source
    assert first.throughput_estimate == second.throughput_estimate


@pytest.mark.parametrize(
    "context", [RuntimeContext(max_workers=1), RuntimeContext(target_duration_seconds=1000)]
)
def test_a_run_with_a_runtime_context_teaches_nothing(few, context):
    done = execute(plan(few, context))
    assert taught(few) == []
    assert why_not(done.run_id, few) == "it had a runtime context"
    assert plan(few).worker_source == "profiler recommended"


def test_a_run_that_the_intent_holds_back_teaches_nothing(wide, speeds):
    for _ in range(3):
        execute(plan(wide))
    before = taught(wide)
    assert before == [(2, False)]
    bound = intent_for_again(wide, max_workers=1)
    done = execute(plan(bound))
    assert taught(wide) == before
    assert "max_workers" in str(why_not(done.run_id, bound))
    # One that takes nothing away is no reason.
    done = execute(plan(intent_for_again(wide, max_workers=3)))
    assert why_not(done.run_id, wide) is None


def intent_for_again(intent, **changes):
    return dataclasses.replace(intent, **changes)


def test_replays_and_plans_that_are_given_teach_nothing(few):
    made = plan(few)
    given = execute_plan(made.plan, few)
    again = replay(run_id=given.run_id, intent=few)
    assert taught(few) == []
    for done in (given, again):
        assert "a replay, or a plan that was given" in str(why_not(done.run_id, few))


def test_a_run_that_was_forced_teaches_nothing(few):
    result = plan(few, RuntimeContext(disk_budget_gb=0))
    assert result.is_not_recommended
    done = execute(result, force=True)
    assert "NOT RECOMMENDED" in str(why_not(done.run_id, few))


def test_tables_that_are_read_together_teach_nothing(any_engine, tmp_path):
    make(any_engine, "CREATE TABLE a (x integer)", "CREATE TABLE b (x integer)")
    both = [intent_for(any_engine, name, tmp_path / "out") for name in "ab"]
    for done, intent in zip(execute_together([plan(i) for i in both]), both, strict=True):
        assert taught(intent) == []
        assert "other tables" in str(why_not(done.run_id, intent))


def test_a_run_that_gets_fewer_connections_than_planned_teaches_nothing(wide, speeds, monkeypatch):
    for _ in range(3):
        execute(plan(wide))
    result = plan(wide)
    assert result.plan.worker_count == 2
    monkeypatch.setenv("IXFLOW_MAX_SOURCE_CONNECTIONS", "2")
    done = execute(result)
    assert "other runs had some of its connections" in str(why_not(done.run_id, wide))
    # A plan that knows the cap keeps to it, and its run counts.
    capped = plan(wide)
    assert capped.plan.worker_count == 1
    assert capped.worker_source == "controller exploring, capped by the cap on connections"
    assert why_not(execute(capped).run_id, wide) is None


def test_a_run_that_goes_on_where_another_has_ended_teaches_nothing(wide, monkeypatch):
    result = plan(wide)
    publish = RunDirectory.publish

    def full(*_: object) -> str:
        raise OutputNotWritable("the disk is full")

    with hold_snapshot(result) as moment:
        monkeypatch.setattr(RunDirectory, "publish", full)
        with pytest.raises(OutputNotWritable):
            execute(result, moment=moment)
        monkeypatch.setattr(RunDirectory, "publish", publish)
        done = execute(result, moment=moment)
    assert done.resumed_from is not None
    assert taught(wide) == []
    assert "it went on where" in str(why_not(done.run_id, wide))


def test_a_run_that_rested_for_the_source_teaches_nothing(wide, monkeypatch):
    monkeypatch.setattr(Backoff, "saw", lambda *_: Rest(99.0, 50.0, 0.0))
    done = execute(plan(wide))
    assert taught(wide) == []
    assert "answered slowly" in str(why_not(done.run_id, wide))


def test_a_failed_run_teaches_nothing_and_has_no_note(fresh_postgres, tmp_path):
    make(fresh_postgres, "CREATE VIEW broken AS SELECT 1 / (random() * 0)::integer AS x")
    intent = intent_for(fresh_postgres, "broken", tmp_path)
    with pytest.raises(Exception, match="division by zero") as caught:
        execute(plan(intent))
    assert taught(intent) == []
    assert note_of(caught.value.run_id, place_of(intent)) is None  # type: ignore[attr-defined]


def test_other_columns_are_learned_apart(wide, speeds):
    execute(plan(wide))
    both = intent_for_again(wide, columns=["id", "note"])
    assert plan(both).worker_source == "profiler recommended"
    execute(plan(both))
    assert len(taught(wide)) == 2


def test_the_same_name_in_another_database_is_learned_apart(few, fresh_duckdb, tmp_path):
    execute(plan(few))
    make(fresh_duckdb, "CREATE OR REPLACE TABLE t (a integer)")
    if few.dialect.name != "duckdb":
        other = intent_for(fresh_duckdb, "t", tmp_path / "out")
        assert plan(other).worker_source == "profiler recommended"


def test_what_was_learned_can_be_forgotten(few):
    first = execute(plan(few))
    forget(few)
    assert taught(few) == []
    result = plan(few)
    assert (result.worker_source, result.throughput_method) == (
        "profiler recommended",
        "cold start",
    )
    assert note_of(first.run_id, place_of(few)) is not None
    execute(result)
    assert taught(few) == [(1, True)]


def test_a_slow_run_is_noted_before_it_counts_as_usual(few, speeds):
    for _ in range(5):
        execute(plan(few))
    speeds[1] = 40.0
    slow = execute(plan(few))
    note = note_of(slow.run_id, place_of(few))
    assert note is not None
    assert note.categories == ("throughput_drop",)
    assert note.baseline_runs == 5
    assert note.baseline_mean == pytest.approx(3 / 4.0)
    assert note.deviation_ratio is not None or note.predicted_seconds == 0


def test_a_state_that_cannot_be_read_is_done_without(few, tmp_path, caplog):
    execute(plan(few))
    place = place_of(few)
    Path(str(place.url.database)).write_text("this is no database\n" * 99)
    result = plan(few)
    assert result.worker_source == "profiler recommended"
    assert "does without what earlier runs tell" in caplog.text


def test_what_makes_no_sense_in_the_state_is_done_without(few, caplog):
    execute(plan(few))
    with place_of(few).open() as state, state.writing() as conn:
        values = {"identity": few.identity(), "object_name": "t", "benchmarked_at": "yesterday"}
        numbers = dict.fromkeys(("optimal_workers", "confidence", "signal_strength"), 1)
        more = {"curve": "x", "row_estimate": 3, "result_json": "{}"}
        conn.execute(sa.insert(benchmarks).values(**values, **numbers, **more))
    assert plan(few).worker_source == "profiler recommended"
    assert "does without what earlier runs tell" in caplog.text


def test_a_lesson_that_another_run_was_in_the_way_of_is_written_again(few, monkeypatch):
    count, tried = learning._count, []

    def late(*given):
        tried.append(given)
        if len(tried) < 3:
            raise sa.exc.IntegrityError("INSERT", {}, Exception("it is there now"))
        return count(*given)

    monkeypatch.setattr(learning, "_count", late)
    done = execute(plan(few))
    assert len(tried) == 3
    assert why_not(done.run_id, few) is None
    assert taught(few) == [(1, True)]
    with place_of(few).open() as state:
        assert len(state.task_rows(done.run_id)) == 1


def test_what_cannot_be_learned_does_not_undo_the_run(few, monkeypatch, caplog):
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("ixflow.extraction.learning.evaluate", broken)
    done = execute(plan(few))
    assert "nothing is learned from" in caplog.text
    with place_of(few).open() as state:
        (row,) = state.run_rows()
        assert (row["run_id"], row["status"]) == (done.run_id, "success")
        assert len(state.task_rows(done.run_id)) == 1
    assert note_of(done.run_id, place_of(few)) is None
    assert taught(few) == []


@pytest.fixture(params=["sqlite", "postgres", "mariadb"])
def state_url(request, tmp_path) -> str:
    """Give the URL of an empty database of each kind that keeps states."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/elsewhere.sqlite"
    engine = request.getfixturevalue(f"fresh_{request.param}")
    return str(engine.url.render_as_string(hide_password=False))


def test_a_state_of_version_3_is_gone_on_with(fresh_sqlite, state_url, tmp_path):
    make(fresh_sqlite, "CREATE TABLE t (a integer)", "INSERT INTO t VALUES (1)")
    intent = intent_for(fresh_sqlite, "t", tmp_path / "out")
    place = StatePlace.of("", state_url)

    def planned():
        return plan(intent, state_url=state_url)

    execute(planned(), state_url=state_url)
    with place.open() as state, state.writing() as conn:
        of_runs = " ON ixflow_extraction_runs" * (conn.dialect.name in ("mysql", "mariadb"))
        conn.exec_driver_sql("DELETE FROM ixflow_extraction_state WHERE version > 3")
        conn.exec_driver_sql(f"DROP INDEX ixflow_extraction_runs_alive{of_runs}")
        conn.exec_driver_sql(
            "ALTER TABLE ixflow_extraction_deviations DROP COLUMN circumstances_json"
        )
    result = planned()
    assert (result.throughput_method, result.worker_source) == ("history", "controller converged")
    execute(result, state_url=state_url)
    assert planned().throughput_method == "blended"
    with place.open() as state, state.reading() as conn:
        indexes = {index["name"] for index in sa.inspect(conn).get_indexes(runs.name)}
        assert state_version(conn) == len(MIGRATIONS)
    assert "ixflow_extraction_runs_alive" in indexes


TEACHES = """
import json, sys
from ixflow_tests.behaviour.test_learning import teach
teach(*json.loads(sys.argv[1]))
"""


def teach(state_url: str, who: str, count: int) -> None:
    """End runs of one table, one after the other, each of which teaches."""
    facts = RunFacts(workers=2, rows=1_000, seconds=1.0)
    for number in range(count):
        run_id = f"{who}-{number}"
        with StatePlace.of("", state_url).open() as state:

            def also(conn, run_id=run_id):
                return add_lesson(conn, run_id, "t", Lesson("s", cap=1), facts)

            state.end_run(run_id, {"status": "success"}, [], also)


def test_runs_that_end_at_the_same_moment_all_count(state_url):
    with StatePlace.of("", state_url).open():
        pass
    command = [sys.executable, "-W", "ignore", "-c", TEACHES]
    told = [json.dumps([state_url, who, 20]) for who in ("a", "b", "c")]
    started = [subprocess.Popen([*command, text], cwd=ROOT) for text in told]
    assert [process.wait(100) for process in started] == [0, 0, 0]
    with StatePlace.of("", state_url).open() as state, state.reading() as conn:
        row = conn.execute(sa.select(controller)).mappings().one()
        numbers = sorted(conn.execute(sa.select(deviations.c.number)).scalars())
    assert row["runs"] == 60
    assert numbers == list(range(1, 61))


def test_two_extractions_at_once_both_teach(wide):
    results = [plan(wide), plan(intent_for_again(wide, output_dir=wide.output_dir))]
    threads = [threading.Thread(target=execute, args=(result,)) for result in results]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (known,) = learned(wide.identity(), place_of(wide))
    assert known.runs == 2


def test_a_run_counts_once_however_often_its_end_is_written(few):
    done = execute(plan(few))
    with place_of(few).open() as state:
        state.settle(done.run_id, {"status": "success"})
        with state.reading() as conn:
            assert conn.execute(sa.select(controller.c.runs)).scalar_one() == 1
            query = sa.select(sa.func.count()).select_from(deviations)
            assert conn.execute(query).scalar_one() == 1
            assert conn.execute(sa.select(runs.c.status)).scalar_one() == "success"
