"""How an extraction behaves at its source: it writes nothing, waits in bounds, says who it is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from ixflow.dialects import dialect_of
from ixflow.dialects.guest import Guest, visiting
from ixflow.errors import (
    ExecutionError,
    LockNotAvailable,
    NoConnectionLeft,
    ReadNotAllowed,
    SnapshotTooOld,
    StatementTimeout,
    ValidationError,
)
from ixflow.events import ChunkExtracted, listen
from ixflow.extraction import slots, workers
from ixflow.extraction.api import execute, plan, published
from ixflow.extraction.backoff import Backoff
from ixflow.extraction.context import RuntimeContext
from ixflow.extraction.intent import ExtractionIntent
from ixflow.extraction.limits import seconds_of
from ixflow.extraction.slots import connection_cap, connection_slots
from ixflow.tables.cursor import Cursor
from ixflow.values import TableName
from ixflow_tests.servers import PostgresServer, ReplicaServer, make_engine
from ixflow_tests.sources import extract, intent_for, make

TWO = RuntimeContext(min_workers=2)


@pytest.fixture(params=["postgres", "mariadb", "duckdb", "sqlite"])
def source(request: pytest.FixtureRequest) -> sa.Engine:
    """Give a fresh database of each kind."""
    engine: sa.Engine = request.getfixturevalue(f"fresh_{request.param}")
    return engine


@pytest.fixture(autouse=True)
def own_slots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no test meet the slots of another."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


# -- what it does at the source ----------------------------------------------------------------


def test_the_session_that_reads_cannot_write(source):
    make(source, "CREATE TABLE t (id int)", "INSERT INTO t VALUES (1)")
    dialect = dialect_of(source)
    table = TableName("t")
    delete = "DELETE FROM t RETURNING id"
    with visiting(Guest()), dialect.hold(source.url, [table]) as held:
        columns = dialect.columns(held.conn, table)
        with (
            pytest.raises(Exception, match=r"(?i)read.?only"),
            held.open_reader() as reader,
            reader.read(delete, columns) as batches,
        ):
            list(batches)
    with source.connect() as conn:
        assert conn.exec_driver_sql("SELECT count(*) FROM t").scalar() == 1


def test_others_may_read_a_duckdb_file_meanwhile(fresh_duckdb, tmp_path):
    make(fresh_duckdb, "CREATE TABLE t AS SELECT n AS id FROM range(10) t(n)")
    path = fresh_duckdb.url.database
    asks = f"import duckdb; duckdb.connect({path!r}, read_only=True).execute('FROM t').fetchall()"
    seen: list[int] = []

    def ask(event: object) -> None:
        if isinstance(event, ChunkExtracted):
            seen.append(subprocess.run([sys.executable, "-c", asks], check=False).returncode)

    with listen(ask):
        extract(fresh_duckdb, "t", tmp_path)
    assert seen == [0]


def test_a_duckdb_file_that_this_process_writes_is_shared_with_it(fresh_duckdb, tmp_path):
    make(fresh_duckdb, "CREATE TABLE t AS SELECT n AS id FROM range(10) t(n)")
    with fresh_duckdb.connect() as writer:
        writer.exec_driver_sql("INSERT INTO t VALUES (99)")
        writer.commit()
        assert extract(fresh_duckdb, "t", tmp_path).rows_extracted == 11


def test_an_administrator_sees_which_run_reads(fresh_postgres, tmp_path):
    make(fresh_postgres, "CREATE TABLE t AS SELECT n AS id FROM generate_series(1, 1000) n")
    names: list[str] = []

    def look(event: object) -> None:
        if isinstance(event, ChunkExtracted):
            query = (
                "SELECT application_name FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            with fresh_postgres.connect() as conn:
                names.extend(conn.exec_driver_sql(query).scalars())

    with listen(look):
        result = extract(fresh_postgres, "t", tmp_path)
    assert set(names) == {f"ixflow {result.run_id}"}


# -- how long it waits -------------------------------------------------------------------------

ENDLESS = {
    "postgresql": "SELECT n AS id, pg_sleep(0.05)::text AS v FROM generate_series(1, 10000) n",
    "mysql": "SELECT seq AS id, sleep(0.05) AS v FROM seq_1_to_10000",
    "duckdb": "SELECT count(*) AS id, 'x' AS v FROM range(1000000) a, range(1000000000) b "
    "WHERE a.range * b.range % 7 = 3",
    # Planning counts the rows of a view, and so must not need its values.
    "sqlite": "SELECT 1 AS id, (WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t) "
    "SELECT max(n) FROM t) AS v",
}


def test_a_query_that_takes_too_long_names_the_setting(source, tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "_SERVER_FIRST_SECONDS", 2.0)
    make(source, f"CREATE VIEW endless AS {ENDLESS[source.dialect.name]}")
    intent = intent_for(source, "endless", tmp_path, statement_timeout="500ms")
    made = plan(intent)
    with pytest.raises(ExecutionError, match="statement_timeout") as caught:
        execute(made)
    assert isinstance(caught.value.__cause__, StatementTimeout)
    assert caught.value.__cause__.table.endswith("endless")


def test_a_snapshot_that_grows_too_old_ends_the_run_and_says_why(fresh_postgres, tmp_path):
    make(fresh_postgres, f"CREATE VIEW endless AS {ENDLESS['postgresql']}")
    limits = {"max_snapshot_age": "700ms", "statement_timeout": "1min"}
    intent = intent_for(fresh_postgres, "endless", tmp_path, **limits)
    with pytest.raises(ExecutionError, match="max_snapshot_age") as caught:
        execute(plan(intent))
    assert isinstance(caught.value.__cause__, SnapshotTooOld)
    assert "clean up" in str(caught.value)


def test_a_locked_table_is_waited_for_in_bounds(fresh_postgres, tmp_path):
    make(fresh_postgres, "CREATE TABLE t AS SELECT 1 AS id")
    made = plan(intent_for(fresh_postgres, "t", tmp_path, lock_timeout="200ms"))
    with fresh_postgres.begin() as conn:
        conn.exec_driver_sql("LOCK TABLE t IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(LockNotAvailable, match="lock_timeout"):
            execute(made)
    assert execute(made).rows_extracted == 1


@pytest.mark.parametrize(
    ("given", "seconds"), [("500ms", 0.5), (90, 90.0), ("4h", 14400.0), ("1.5 min", 90.0)]
)
def test_a_time_is_seconds_or_a_text(given, seconds):
    assert seconds_of("x", given) == seconds


@pytest.mark.parametrize("given", ["", "soon", 0, -1, "1d", True])
@pytest.mark.parametrize("name", ["statement_timeout", "lock_timeout", "max_snapshot_age"])
def test_a_time_that_cannot_work_is_refused(name, given):
    with pytest.raises(ValidationError, match=name):
        ExtractionIntent("sqlite", {"database": "x.db"}, "t", **{name: given})


# -- what it may not ---------------------------------------------------------------------------


def test_a_missing_right_names_the_grant(fresh_postgres, tmp_path):
    role = f"poor_{fresh_postgres.url.database}"
    make(fresh_postgres, "CREATE TABLE t AS SELECT 1 AS id", f"CREATE ROLE {role} LOGIN")
    engine = sa.create_engine(fresh_postgres.url.set(username=role), poolclass=sa.NullPool)
    with pytest.raises(ExecutionError, match="GRANT SELECT ON t") as caught:
        extract(engine, "t", tmp_path)
    assert isinstance(caught.value.__cause__, ReadNotAllowed)


def test_too_few_connections_name_the_setting(fresh_postgres, tmp_path):
    role = f"single_{fresh_postgres.url.database}"
    make(
        fresh_postgres,
        "CREATE TABLE t AS SELECT 1 AS id",
        f"CREATE ROLE {role} LOGIN CONNECTION LIMIT 1",
        f"GRANT SELECT ON t TO {role}",
    )
    engine = sa.create_engine(fresh_postgres.url.set(username=role), poolclass=sa.NullPool)
    with pytest.raises(ExecutionError, match="CONNECTION LIMIT"):
        extract(engine, "t", tmp_path)


# -- back-off ----------------------------------------------------------------------------------


def test_rests_grow_and_are_bounded_in_length_number_and_density():
    now = 0.0
    backoff = Backoff(20.0, clock=lambda: now)
    assert backoff.threshold_ms == 200.0
    assert backoff.saw(200.0) is None
    rests = [backoff.saw(201.0) for _ in range(100)]
    found = [rest.seconds for rest in rests if rest is not None]
    assert found == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0, 30.0, 30.0]
    assert [number for number, rest in enumerate(rests) if rest][:3] == [0, 4, 8]
    assert backoff.count == 10
    assert backoff.seconds_left() == 30.0


# -- the cap on connections --------------------------------------------------------------------

SOURCE = {"type": "postgresql", "host": "db", "port": 5432, "database": "shop"}
HOLDS = """
import sys
from ixflow.extraction.slots import connection_slots
source = {"type": "postgresql", "host": "db", "port": 5432, "database": "shop"}
with connection_slots(source, int(sys.argv[1]), 3):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder() -> Iterator[subprocess.Popen[str]]:
    """Give another process that holds two of three slots."""
    command = [sys.executable, "-c", HOLDS, "2"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_slots_that_others_hold_are_waited_for_and_their_holders_named(holder):
    with (
        pytest.raises(NoConnectionLeft, match=str(holder.pid)) as caught,
        connection_slots(SOURCE, 2, 3, patience=0.2),
    ):
        raise AssertionError
    assert caught.value.pids == [str(holder.pid)]


def test_the_slots_of_a_killed_process_are_free(holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with connection_slots(SOURCE, 3, 3, patience=10) as count:
        assert count == 3


def test_another_database_has_slots_of_its_own(holder):
    with connection_slots({**SOURCE, "database": "other"}, 3, 3, patience=0.2) as count:
        assert count == 3


def test_two_runs_never_have_more_connections_than_the_cap(fresh_postgres, tmp_path, monkeypatch):
    make(
        fresh_postgres,
        "CREATE TABLE t AS SELECT n AS id, repeat('x', 200) AS v FROM generate_series(1, 20000) n",
        "ANALYZE t",
    )
    monkeypatch.setenv(slots.ENVIRONMENT, "3")
    query = (
        "SELECT count(*) FROM pg_stat_activity WHERE starts_with(application_name, 'ixflow ix-')"
    )
    most: list[int] = []

    def count(event: object) -> None:
        if isinstance(event, ChunkExtracted):
            with fresh_postgres.connect() as conn:
                most.append(conn.exec_driver_sql(query).scalar_one())

    def run_one(number: int) -> None:
        with listen(count):
            execute(plan(intent_for(fresh_postgres, "t", tmp_path / str(number)), TWO))

    threads = [threading.Thread(target=run_one, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(most) > 6
    assert max(most) <= 3
    # Each run could have two workers, so the cap was reached.
    assert max(most) == 3


def test_the_cap_is_the_context_else_the_environment(monkeypatch):
    assert connection_cap(None) is None
    monkeypatch.setenv(slots.ENVIRONMENT, "7")
    assert (connection_cap(None), connection_cap(4)) == (7, 4)
    monkeypatch.setenv(slots.ENVIRONMENT, "many")
    with pytest.raises(ValidationError, match=slots.ENVIRONMENT):
        connection_cap(None)


def test_a_directory_of_somebody_else_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    theirs = tmp_path / f"ixflow-{os.getuid()}"
    theirs.mkdir()
    theirs.chmod(0o777)
    with pytest.raises(Exception, match="belongs to somebody else"), connection_slots(SOURCE, 1, 3):
        raise AssertionError


# -- replicas ----------------------------------------------------------------------------------


def test_a_replica_that_ends_every_query_is_told_by_its_setting(tmp_path):
    table = "CREATE TABLE t AS SELECT n AS id, repeat('x', 220) AS v FROM generate_series(1, {}) n"
    with PostgresServer() as primary:
        engine = make_engine(primary.url)
        make(engine, table.format(20_000), "ANALYZE t")
        with ReplicaServer(primary) as replica:
            made = plan(intent_for(make_engine(replica.url), "t", tmp_path), TWO)
            assert len(made.plan.tasks) > 4

            def clean_up(event: object) -> None:
                if isinstance(event, ChunkExtracted):
                    make(engine, "DELETE FROM t")
                    vacuum = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
                    with vacuum as conn:
                        conn.exec_driver_sql("VACUUM t")
                    caught_up(engine, make_engine(replica.url))

            with listen(clean_up), pytest.raises(ExecutionError) as caught:
                execute(made)
    assert "max_standby_streaming_delay" in str(caught.value)


def test_what_is_settled_cannot_be_asked_of_a_standby(tmp_path):
    with PostgresServer() as primary:
        engine = make_engine(primary.url)
        made_at = "now() - interval '1 day'"
        make(
            engine,
            f"CREATE TABLE t AS SELECT n AS id, {made_at} AS at FROM generate_series(1, 9) n",
        )
        with ReplicaServer(primary) as replica:
            caught_up(engine, make_engine(replica.url))
            settled = {"mode": "incremental", "incremental_key": Cursor("at", "settled")}
            intent = intent_for(make_engine(replica.url), "t", tmp_path, **settled)
            with pytest.raises(ValidationError, match="a standby does not know") as caught:
                execute(plan(intent))
            assert "semantics='overlap'" in str(caught.value)
            assert published(intent) is None
            # The same rows can be read without the promise.
            assert extract(make_engine(replica.url), "t", tmp_path).rows_extracted == 9


def caught_up(primary: sa.Engine, replica: sa.Engine) -> None:
    """Wait until the replica has replayed what the primary has written."""
    with primary.connect() as conn:
        written = conn.exec_driver_sql("SELECT pg_current_wal_lsn()::text").scalar_one()
    ask = sa.text("SELECT pg_last_wal_replay_lsn() >= CAST(:written AS pg_lsn)")
    for _ in range(200):
        with replica.connect() as conn:
            if conn.execute(ask, {"written": written}).scalar_one():
                return
        time.sleep(0.05)
