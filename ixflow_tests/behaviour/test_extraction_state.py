"""What the state remembers: every run, however it ended, and the last plan of every table."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from ixflow.errors import (
    ExecutionError,
    SourceUnavailable,
    StateUnavailable,
    UnsupportedState,
    ValidationError,
)
from ixflow.events import listen
from ixflow.extraction import migrations
from ixflow.extraction.api import execute, execute_plan, explain, plan, published
from ixflow.extraction.context import RuntimeContext
from ixflow.extraction.explain import Explanation
from ixflow.extraction.history import history, run_named, tasks_of
from ixflow.extraction.notes import notes_of
from ixflow.extraction.processes import Process, this_process
from ixflow.extraction.recording import Recording
from ixflow.extraction.state import State, StatePlace
from ixflow_tests.servers import make_engine
from ixflow_tests.sources import intent_for, make

ROOT = Path(__file__).parents[2]


@pytest.fixture(params=["postgres", "sqlite"])
def intent(request, tmp_path):
    """Give an intent to extract 1,000 orders."""
    engine = request.getfixturevalue(f"fresh_{request.param}")
    numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000) "
    make(engine, f"CREATE TABLE orders AS {numbers} SELECT i AS id FROM n")
    return intent_for(engine, "orders", tmp_path / "out")


@pytest.fixture(params=["sqlite", "postgres", "mariadb"])
def state_url(request, tmp_path) -> str:
    """Give the URL of an empty database of each kind that keeps states."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/elsewhere.sqlite"
    engine = request.getfixturevalue(f"fresh_{request.param}")
    return str(engine.url.render_as_string(hide_password=False))


def test_a_run_is_remembered_with_its_tasks(intent, state_url):
    made = plan(intent, RuntimeContext(priority="high"), state_url=state_url)
    result = execute(made, state_url=state_url)
    (run,) = history(intent, state_url=state_url)
    assert (run.run_id, run.status, run.rows) == (result.run_id, "success", 1000)
    assert run.bytes == result.bytes_written
    assert run.seconds == pytest.approx(result.duration_seconds)
    assert run.runtime_context is not None
    assert run.runtime_context["priority"] == "high"
    assert run.plan_fingerprint == made.plan.fingerprint
    assert run.source == intent.source()
    assert run.started_at < str(run.finished_at)
    assert not run.comparable
    tasks = tasks_of(run, StatePlace.of(intent.output_dir, state_url))
    assert [task.chunk_id for task in tasks] == [task.chunk_id for task in made.plan.tasks]
    assert sum(task.rows or 0 for task in tasks) == 1000
    assert not (Path(intent.output_dir) / ".ixflow" / ".state.sqlite").exists()


def test_a_failed_run_is_remembered_with_its_errors(fresh_postgres, tmp_path):
    make(fresh_postgres, "CREATE VIEW broken AS SELECT 1 / (random() * 0)::integer AS x")
    intent = intent_for(fresh_postgres, "broken", tmp_path)
    with pytest.raises(ExecutionError) as caught:
        execute(plan(intent))
    (run,) = history(intent)
    assert (run.run_id, run.status, run.rows) == (caught.value.run_id, "failed", 0)
    assert "division by zero" in str(run.error)
    (task,) = tasks_of(run, StatePlace.of(tmp_path))
    assert (task.status, task.rows) == ("failed", None)
    assert "division by zero" in str(task.error)


def test_tasks_that_the_state_did_not_take_at_first_are_told_again(fresh_postgres, tmp_path):
    make(fresh_postgres, "CREATE TABLE orders AS SELECT n AS id FROM generate_series(1, 50000) n")
    made = plan(intent_for(fresh_postgres, "orders", tmp_path), RuntimeContext(min_workers=2))
    assert len(made.plan.tasks) > 2
    place, refused = StatePlace.of(tmp_path), []

    def busy(self, run_id, rows):
        refused.append(len(rows))
        if len(refused) == 1:
            raise sa.exc.OperationalError("INSERT", {}, Exception("database is locked"))
        return real(self, run_id, rows)

    heard: list[object] = []

    def wait_for_the_first_try(event: object) -> None:
        # We hear before the recording does: the events before this one are what it tells.
        heard.append(event)
        deadline = time.monotonic() + 30
        while len(heard) > 2 and not refused and time.monotonic() < deadline:
            time.sleep(0.05)

    real = State.write_tasks
    with pytest.MonkeyPatch.context() as patch, listen(wait_for_the_first_try):
        patch.setattr(State, "write_tasks", busy)
        execute(made)
    (run,) = history(made.intent)
    assert refused[0] >= 1
    told = tasks_of(run, place)
    assert [task.chunk_id for task in told] == [task.chunk_id for task in made.plan.tasks]


def test_a_run_that_could_not_start_reading_is_failed(intent, monkeypatch):
    made = plan(intent)
    gone = intent_for(sa.create_engine("sqlite:///no/such/file.db"), "orders", intent.output_dir)
    if made.plan.source_type == "sqlite":
        with pytest.raises(SourceUnavailable):
            execute_plan(made.plan, gone)
        assert [run.status for run in history(gone)] == ["failed"]


def test_the_last_plan_is_explained_in_another_process(intent, state_url):
    planned = plan(intent, RuntimeContext(target_duration_seconds=9), state_url=state_url)
    config = dict(intent.source_config)
    code = (
        "import json, sys\n"
        "from ixflow import ExtractionIntent, explain\n"
        "kind, config, out, url = json.loads(sys.argv[1])\n"
        "print(explain(ExtractionIntent(kind, config, 'orders', out), state_url=url), end='')\n"
    )
    given = json.dumps([intent.source_type, config, str(intent.output_dir), state_url])
    said = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, given],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
        timeout=60,
    ).stdout
    assert said == str(Explanation(planned))
    assert explain(intent, state_url=state_url).result == planned


def test_looking_makes_nothing(intent, tmp_path):
    assert history(intent) == history(tmp_path / "none") == []
    with pytest.raises(ValidationError, match="call plan"):
        explain(intent)
    with pytest.raises(ValidationError, match="no run x is known"):
        run_named("x", StatePlace.of(intent.output_dir))
    assert not Path(intent.output_dir).exists()


def test_the_environment_names_the_state(intent, tmp_path, monkeypatch):
    monkeypatch.setenv("IXFLOW_STATE_URL", f"sqlite:///{tmp_path}/env.sqlite")
    execute(plan(intent))
    assert len(history(intent)) == 1
    monkeypatch.delenv("IXFLOW_STATE_URL")
    assert history(intent) == []


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("no url", ValidationError),
        ("sqlite:////no/such/directory/state.sqlite", StateUnavailable),
        ("postgresql://app:s3cret@127.0.0.1:1/none", StateUnavailable),
    ],
)
def test_an_unusable_state_is_refused_before_anything_starts(intent, url, error):
    made = plan(intent)
    for call in (lambda: plan(intent, state_url=url), lambda: execute(made, state_url=url)):
        with pytest.raises(error) as caught:
            call()
        assert "s3cret" not in str(caught.value)
    assert published(intent) is None


def test_a_file_that_is_no_database_is_refused(intent, tmp_path):
    (tmp_path / "text").write_text(
        "this is not a database, but it is long enough to be read\n" * 99
    )
    with pytest.raises(StateUnavailable, match="text: file is not a database"):
        plan(intent, state_url=f"sqlite:///{tmp_path}/text")


def test_a_state_that_fails_later_fails_no_load(intent, monkeypatch, caplog):
    def broken(*_: object) -> None:
        raise sa.exc.OperationalError("UPDATE", {}, Exception("disk I/O error"))

    monkeypatch.setattr(State, "end_run", broken)
    result = execute(plan(intent))
    assert result.rows_extracted == 1000
    assert "disk I/O error" in caplog.text
    # Its process lives, so as far as anybody knows it still runs.
    assert [run.status for run in history(intent)] == ["running"]


def _dead(run_id: str, place: StatePlace) -> None:
    with place.open() as state, state._engine.begin() as conn:
        gone = sa.update(migrations.runs).where(migrations.runs.c.run_id == run_id)
        conn.execute(gone.values(process_started=1, status="running", rows_extracted=None))


def test_a_run_that_died_after_publishing_is_a_success(intent):
    result = execute(plan(intent))
    _dead(result.run_id, StatePlace.of(intent.output_dir))
    (run,) = history(intent)
    assert (run.status, run.rows, run.bytes) == ("success", 1000, result.bytes_written)


def test_a_run_that_died_before_publishing_is_abandoned(intent):
    first = execute(plan(intent))
    execute(plan(intent))
    place = StatePlace.of(intent.output_dir)
    _dead(first.run_id, place)
    run = run_named(first.run_id, place)
    assert (run.status, run.rows) == ("abandoned", None)
    # Whoever looks with SQL sees it too.
    with place.open() as state:
        statuses = {row["run_id"]: row["status"] for row in state.run_rows()}
    assert statuses[first.run_id] == "abandoned"


def test_a_run_on_another_machine_is_abandoned_when_its_signs_stop(intent):
    result = execute(plan(intent))
    place = StatePlace.of(intent.output_dir)
    for seen, status in (("2099-01-01", "running"), ("2020-01-01", "success")):
        with place.open() as state, state._engine.begin() as conn:
            values = {
                "machine": "far away",
                "status": "running",
                "seen_at": f"{seen}T00:00:00+00:00",
            }
            conn.execute(sa.update(migrations.runs).values(**values))
        assert run_named(result.run_id, place).status == status


def test_a_running_run_gives_signs_of_life(intent, monkeypatch):
    made = plan(intent)
    heard = threading.Event()
    monkeypatch.setattr("ixflow.extraction.recording.SECONDS_BETWEEN_SIGNS", 0.01)
    monkeypatch.setattr(State, "sign_of_life", lambda *_: heard.set())
    finished = Recording.finished

    def patient(recording: Recording, result: object) -> None:
        assert heard.wait(20)
        finished(recording, result)  # type: ignore[arg-type]

    monkeypatch.setattr(Recording, "finished", patient)
    execute(made)


def test_a_process_is_not_taken_for_a_later_one_of_its_number():
    me = this_process()
    assert me.alive() is True
    assert Process(me.machine, me.pid, me.started - 1).alive() is False
    assert Process("elsewhere", me.pid, me.started).alive() is None


WRITES = """
import sys
from ixflow.extraction.state import StatePlace
from ixflow_tests.behaviour.test_extraction_state import write_runs
write_runs(sys.argv[1], sys.argv[2])
"""


def write_runs(state_url: str, who: str) -> None:
    """Write 25 runs and plans, opening the state anew each time."""
    for number in range(25):
        run_id = f"{who}-{number}"
        texts = "object_name source_type source_json output_dir machine started_at seen_at"
        of_plan = "plan_json plan_fingerprint plan_version"
        values: dict[str, object] = dict.fromkeys(f"{texts} {of_plan}".split(), "x")
        values |= {"run_id": run_id, "identity": "i", "status": "running"}
        values |= {"pid": 1, "process_started": 1, "workers": 1}
        with StatePlace.of("", state_url).open() as state:
            state.begin_run(values)
            state.save_plan("i", "x", {"who": who, "number": number})
        with StatePlace.of("", state_url).open() as state:
            task = {"chunk_id": "1", "status": "success"}
            state.end_run(run_id, {"status": "success", "finished_at": "1"}, [task])


def test_several_processes_make_and_write_one_state_at_once(state_url):
    command = [sys.executable, "-W", "ignore", "-c", WRITES, state_url]
    writers = [subprocess.Popen([*command, who], cwd=ROOT) for who in ("a", "b", "c")]
    assert [writer.wait(100) for writer in writers] == [0, 0, 0]
    with StatePlace.of("", state_url).open() as state:
        rows = state.run_rows(limit=1000)
        assert len(rows) == 75
        assert {row["status"] for row in rows} == {"success"}
        assert all(len(state.task_rows(row["run_id"])) == 1 for row in rows)
        last = state.last_plan("i")
    assert last is not None
    assert last[0]["number"] == 24


def _next_version(conn: sa.Connection) -> None:
    conn.exec_driver_sql("ALTER TABLE ixflow_extraction_runs ADD COLUMN note varchar(9)")


def test_a_state_of_this_version_is_migrated_and_then_refused_by_the_older_code(
    intent, state_url, monkeypatch
):
    result = execute(plan(intent), state_url=state_url)
    with monkeypatch.context() as newer:
        newer.setattr(migrations, "MIGRATIONS", (*migrations.MIGRATIONS, _next_version))
        assert [run.run_id for run in history(intent, state_url=state_url)] == [result.run_id]
        engine = make_engine(state_url)
        with engine.connect() as conn:
            assert conn.exec_driver_sql("SELECT note FROM ixflow_extraction_runs").all() == [
                (None,)
            ]
        execute(plan(intent, state_url=state_url), state_url=state_url)
    for call in (
        lambda: history(intent, state_url=state_url),
        lambda: execute(plan(intent), state_url=state_url),
        lambda: explain(intent, state_url=state_url),
    ):
        with pytest.raises(UnsupportedState, match="version 5, this release reads up to 4"):
            call()


def test_a_state_file_that_version_1_has_made_is_read(tmp_path):
    script = (Path(__file__).parent / "state_version_1.sql").read_text(encoding="utf-8")
    engine = make_engine(f"sqlite:///{tmp_path}/old.sqlite")
    with engine.begin() as conn:
        raw = conn.connection.driver_connection
        raw.executescript(script)  # type: ignore[union-attr] # sqlite3's own connection
    (run,) = history(tmp_path, state_url=str(engine.url))
    assert (run.run_id, run.status, run.rows) == ("ix-20261121-101500-0a1b2c", "success", 3)
    with engine.connect() as conn:
        assert migrations.state_version(conn) == len(migrations.MIGRATIONS)
    # Runs of that time were not noted; those from now on are.
    assert notes_of(run.identity, StatePlace.of(tmp_path, str(engine.url))) == {}
    make(engine, "CREATE TABLE t (a integer)")
    intent = intent_for(engine, "t", tmp_path / "out")
    result = execute(plan(intent, state_url=engine.url), state_url=engine.url)
    assert list(notes_of(intent.identity(), StatePlace.of("", engine.url))) == [result.run_id]


def test_no_password_is_in_the_state(fresh_postgres, tmp_path):
    password = "p@ss:w/r%d s3cr3t"
    make(
        fresh_postgres,
        "DROP ROLE IF EXISTS keeper",
        f"CREATE ROLE keeper LOGIN PASSWORD '{password}'",
        "CREATE TABLE t (a integer)",
        "GRANT SELECT ON t TO keeper",
    )
    try:
        url = fresh_postgres.url.set(username="keeper", password=password)
        engine = sa.create_engine(url)
        intent = intent_for(engine, "t", tmp_path)
        result = execute(plan(intent))
        make(fresh_postgres, "DROP TABLE t")
        with pytest.raises(Exception, match="t"):
            execute_plan(plan_of(result.run_id, tmp_path), intent)
    finally:
        make(fresh_postgres, "DROP OWNED BY keeper", "DROP ROLE keeper")
    content = b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
    assert result.run_id.encode() in content
    assert b"failed" in content
    for spelling in (password, "p%40ss%3Aw%2Fr%25d", "s3cr3t"):
        assert spelling.encode() not in content


def plan_of(run_id: str, output: Path):
    """Read a run's plan from the state."""
    from ixflow.extraction.history import find_row
    from ixflow.extraction.replay import stored_plan

    return stored_plan(find_row(run_id, StatePlace.of(output)))
