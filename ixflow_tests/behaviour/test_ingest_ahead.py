"""Rows are gathered while the database still works on those before, and nobody can tell."""

from __future__ import annotations

import _thread
import os
import signal
import threading
from typing import Any

import pytest
import sqlalchemy as sa

from ixflow.dialects import run
from ixflow.dialects.later import apart
from ixflow.errors import ValueDoesNotFit
from ixflow.ingestion.ingest import ingest
from ixflow_tests.behaviour.ingesting import people, rows

PIECE = 50


def load(engine: sa.Engine, table: sa.Table, pairs: Any, conn: sa.Connection | None = None) -> None:
    """Ingest one batch in small pieces."""

    def batches(_: Any):
        yield None, None, pairs

    if conn is not None:
        ingest(conn, table.metadata, batches, max_rows_per_table_buffer=PIECE)
        return
    with engine.connect() as own:
        ingest(own, table.metadata, batches, max_rows_per_table_buffer=PIECE)


def test_rows_are_gathered_while_the_database_works_on_those_before(fresh_postgres):
    """The load waits for a lock that only a later row releases."""
    table = people(key=False)
    load(fresh_postgres, table, [(table, (0, "first"))])
    with fresh_postgres.begin() as conn:
        run(
            conn,
            "CREATE FUNCTION app.hold() RETURNS trigger LANGUAGE plpgsql AS "
            "'BEGIN PERFORM pg_advisory_xact_lock(7); RETURN NULL; END'; "
            "CREATE TRIGGER hold AFTER INSERT ON app.people EXECUTE FUNCTION app.hold()",
        )
    with fresh_postgres.connect() as other, fresh_postgres.connect() as conn:
        run(other, "SELECT pg_advisory_lock(7)")
        run(conn, "SET statement_timeout = '60s'")
        conn.commit()

        def pairs():
            for number in range(1, 3 * PIECE):
                if number == 2 * PIECE - 10:
                    run(other, "SELECT pg_advisory_unlock(7)")
                yield table, (number, "x")

        load(fresh_postgres, table, pairs(), conn)
    assert len(rows(fresh_postgres, table)) == 3 * PIECE


@pytest.mark.parametrize("through", ["sqlalchemy", "driver"])
def test_the_generator_may_use_the_connection_between_any_two_rows(fresh_postgres, through):
    table, seen = people(key=False), []
    load(fresh_postgres, table, [])
    with fresh_postgres.connect() as conn:

        def count() -> int:
            query = "SELECT count(*) FROM app.people"
            if through == "sqlalchemy":
                return int(conn.scalar(sa.text(query)) or 0)
            driver: Any = conn.connection.driver_connection
            return int(driver.execute(query).fetchone()[0])

        def pairs():
            for number in range(4 * PIECE):
                yield table, (number, "x")
                seen.append((number, count()))

        load(fresh_postgres, table, pairs(), conn)
    assert all(there <= number + 1 for number, there in seen)
    assert max(there for _, there in seen) >= 3 * PIECE
    assert len(rows(fresh_postgres, table)) == 4 * PIECE


def checked_people() -> sa.Table:
    return people(sa.Column("age", sa.VARCHAR(3)), key=False)


@pytest.mark.parametrize("meddles", [False, True], ids=["silent", "uses the connection"])
def test_a_row_that_the_database_refuses_is_named_though_others_were_gathered(
    fresh_postgres, meddles
):
    table = checked_people()
    with fresh_postgres.connect() as conn:

        def pairs():
            for number in range(6 * PIECE):
                yield table, (number, "x", "four" if number == 2 * PIECE + 7 else "3")
                if meddles:
                    run(conn, "SELECT 1")

        with pytest.raises(ValueDoesNotFit, match=r"app.people.age in row 107 \(value 'four'\)"):
            load(fresh_postgres, table, pairs(), conn)
        conn.rollback()
        assert conn.scalar(sa.text("SELECT to_regclass('app.people')")) is None


def test_the_row_is_counted_in_its_own_table(fresh_postgres):
    table = checked_people()
    other = people(schema="other", key=False).to_metadata(table.metadata)

    def pairs():
        for number in range(3 * PIECE):
            yield other, (number, "x")
            yield table, (number, "x", "four" if number == PIECE + 3 else "3")

    with pytest.raises(ValueDoesNotFit, match=r"app.people.age in row 53 \(value 'four'\)"):
        load(fresh_postgres, table, pairs())


def test_a_generator_that_fails_leaves_nothing_and_the_connection_usable(fresh_postgres):
    table = people(key=False)
    with fresh_postgres.connect() as conn:

        def pairs():
            for number in range(2 * PIECE + 5):
                yield table, (number, "x")
            msg = "theirs"
            raise KeyError(msg)

        with pytest.raises(KeyError, match="theirs"):
            load(fresh_postgres, table, pairs(), conn)
        assert conn.scalar(sa.text("SELECT to_regclass('app.people')")) is None
        conn.rollback()


def test_an_interrupted_wait_cancels_the_work():
    going, cancelled = threading.Event(), threading.Event()

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    def work() -> None:
        going.wait(60)

    before = signal.signal(signal.SIGUSR1, interrupt)
    wait = apart(work, cancelled.set)
    killer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGUSR1))
    killer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            wait()
    finally:
        killer.join()
        signal.signal(signal.SIGUSR1, before)
    assert cancelled.is_set()
    going.set()
    wait()


def test_work_is_done_at_once_where_no_thread_can_be_had(monkeypatch):
    def none_left(*_: Any) -> None:
        msg = "can't start new thread"
        raise RuntimeError(msg)

    done: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(_thread, "start_new_thread", none_left)
        wait = apart(lambda: done.append("done"), lambda: None)
    wait()
    assert done == ["done"]


def test_what_the_work_raises_is_raised_by_whoever_waits():
    def work() -> None:
        msg = "theirs"
        raise KeyError(msg)

    with pytest.raises(KeyError, match="theirs"):
        apart(work, lambda: None)()
