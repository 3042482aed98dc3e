"""An ingest beside sessions that hold its table: it waits, ends them, or gives up, and says so."""

from __future__ import annotations

import contextlib
import datetime as dt
import logging
import logging.handlers
import queue
import threading
import time

import pytest
import sqlalchemy as sa

from ixflow.dialects import run
from ixflow.errors import LockNotAvailable
from ixflow.ingestion import blockers
from ixflow.ingestion.blockers import ForceExecute
from ixflow_tests.behaviour.ingesting import ingested, people, rows

SOON = ForceExecute(after=dt.timedelta(seconds=1))


def migrated() -> sa.Table:
    """Declare the table with one column more."""
    return people(sa.Column("note", sa.VARCHAR))


@pytest.fixture
def engine(fresh_postgres):
    ingested(fresh_postgres, people(), [(1, "a")])
    return fresh_postgres


def run_on(engine, statement):
    with engine.begin() as conn:
        run(conn, statement)


@contextlib.contextmanager
def reading(engine):
    """Hold the table as a reader that forgets to end its transaction."""
    with engine.connect() as conn:
        run(conn, "SELECT * FROM app.people").all()
        yield conn
        conn.invalidate()


def test_a_session_that_never_lets_go_is_terminated_after_the_delay(engine, caplog):
    with reading(engine) as blocker:
        ingested(engine, migrated(), [(2, "b", "x")], get_pg_force_execute=SOON)
        with pytest.raises(sa.exc.OperationalError, match=r"terminat|closed"):
            run(blocker, "SELECT 1")
    assert [row[0] for row in rows(engine, people())] == [1, 2]
    assert "which held app.people for too long" in caplog.text


def test_the_given_logger_hears_of_terminations_and_views(engine):
    run_on(engine, "CREATE VIEW app.names AS SELECT name FROM app.people")
    run_on(engine, "CREATE MATERIALIZED VIEW app.copies AS SELECT name FROM app.names")
    said: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
    heard = logging.getLogger("ixflow_tests.mine")
    heard.setLevel(logging.DEBUG)
    heard.addHandler(logging.handlers.QueueHandler(said))
    with reading(engine):
        ingested(engine, migrated(), [(2, "b", "x")], get_pg_force_execute=SOON, logger=heard)
    lines = [said.get().getMessage() for _ in range(said.qsize())]
    assert [line for line in lines if "which held app.people for too long" in line]
    assert "making 2 views over app.people again: app.names, app.copies" in lines
    assert [line for line in lines if line.startswith("made them again in ")]


def test_readers_that_come_and_go_are_left_alone(engine):
    stop, errors = threading.Event(), []

    def read():
        while not stop.is_set():
            try:
                with engine.connect() as conn:
                    run(conn, "SELECT pg_sleep(0.3) FROM app.people")
            except sa.exc.DBAPIError as error:
                errors.append(error)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    time.sleep(0.2)
    try:
        # Together they keep the table busy for longer than anybody may alone.
        with contextlib.suppress(LockNotAvailable):
            ingested(engine, migrated(), [(2, "b", "x")], get_pg_force_execute=SOON)
    finally:
        stop.set()
        for reader in readers:
            reader.join()
    assert errors == []


def test_without_termination_the_ingest_gives_up_and_names_the_session(engine, monkeypatch):
    monkeypatch.setattr(blockers, "_GRACE_SECONDS", 1)
    new = migrated()
    with reading(engine) as blocker:
        pid = run(blocker, "SELECT pg_backend_pid()").scalar()
        with pytest.raises(LockNotAvailable) as caught:
            ingested(engine, new, [(2, "b", "x")], get_pg_force_execute=None)
    assert caught.value.blockers[0].startswith(f"pid {pid} ")
    assert rows(engine, people()) == [(1, "a")]


def test_a_role_that_may_not_terminate_waits_and_loses_nothing_when_the_session_ends(
    engine, caplog
):
    with engine.begin() as conn:
        run(conn, "DROP ROLE IF EXISTS loader; CREATE ROLE loader LOGIN")
        run(conn, "GRANT ALL ON SCHEMA app TO loader; ALTER TABLE app.people OWNER TO loader")
    loader = sa.create_engine(engine.url.set(username="loader"), poolclass=sa.NullPool)
    ended = threading.Event()

    def hold():
        with reading(engine):
            ended.wait(20)

    holder = threading.Thread(target=hold)
    holder.start()
    time.sleep(0.3)
    threading.Timer(3, ended.set).start()
    try:
        ingested(loader, migrated(), [(2, "b", "x")], get_pg_force_execute=SOON)
    finally:
        ended.set()
        holder.join()
    assert "GRANT pg_signal_backend" in caplog.text
    assert [row[0] for row in rows(engine, people())] == [1, 2]
    with engine.begin() as conn:
        run(conn, "REASSIGN OWNED BY loader TO postgres; DROP OWNED BY loader; DROP ROLE loader")


def test_the_callers_own_context_manager_is_entered_around_the_locks(engine):
    seen: list[object] = []

    @contextlib.contextmanager
    def around(conn, logger):
        seen.append(("in", conn.in_transaction(), logger.name))
        yield
        seen.append("out")

    ingested(engine, migrated(), [(2, "b", "x")], get_pg_force_execute=around)
    assert seen == [("in", True, "ixflow"), "out"] * 2


def test_plain_loading_does_not_wait_for_a_lock_without_end(engine, monkeypatch):
    monkeypatch.setattr(blockers, "_GRACE_SECONDS", 1)
    with engine.connect() as conn, conn.begin():
        run(conn, "LOCK TABLE app.people IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(Exception, match="lock timeout"):
            ingested(engine, people(), [(2, "b")], get_pg_force_execute=None)
    assert rows(engine, people()) == [(1, "a")]
