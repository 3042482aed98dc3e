"""A swap that nobody notices: readers, views, grants, and two runs at once."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
import time

import polars as pl
import pytest
import sqlalchemy as sa

from ixflow.dialects import dialect_of, run
from ixflow.errors import InputChanged, ReplacementRefused, SourceUnavailable
from ixflow.pipeline import Flow, Stage, Table, materialize, run_stage
from ixflow.store import SQLTableStore
from ixflow.store.transaction import StageTransaction
from ixflow_tests.stages import execute, one_stage, rows


@pytest.fixture
def store(warehouse_engine):
    made = SQLTableStore(warehouse_engine.url)
    yield made
    made.dispose()


def numbered(version):
    """Declare a stage with two tables that hold the version, the second from the first."""

    @materialize(version=str(version))
    def first():
        return Table(pl.DataFrame({"v": [version] * 1000}))

    @materialize(version="1", input_type=sa.Table)
    def second(first):
        return Table(sa.select(first.c.v))

    with Flow("f") as flow, Stage("staging"):
        second(first())
    return flow["staging"]


def test_readers_see_old_or_new_tables_never_an_error_and_never_a_mixture(store):
    run_stage(numbered(0), store)
    stop, seen, errors = threading.Event(), [], []
    both = sa.text(
        "SELECT (SELECT min(v) FROM staging.first), (SELECT max(v) FROM staging.first), "
        "(SELECT min(v) FROM staging.second), (SELECT count(*) FROM staging.second)"
    )
    second = sa.text("SELECT min(v), max(v), count(*) FROM staging.second")

    def read(way):
        engine = dialect_of(store.url).engine(store.url)
        try:
            while not stop.is_set():
                with engine.connect() as conn, conn.begin():
                    low, high, other, count = conn.execute(both).one()
                    if way == "one transaction":
                        again = tuple(conn.execute(second).one())
                        assert again == (other, other, count)
                    seen.append((low, high, other))
                    assert low == high == other, (low, high, other)
                    assert count == 1000
        except Exception as error:  # noqa: BLE001 - any error at all is the finding
            errors.append(error)
        finally:
            engine.dispose()

    ways = ("one statement", "one transaction")
    readers = [threading.Thread(target=read, args=(way,)) for way in ways]
    with store.held_open():
        for reader in readers:
            reader.start()
        for version in range(1, 31):
            assert run_stage(numbered(version), store).published
        stop.set()
        for reader in readers:
            reader.join()
    assert errors == []
    assert len({low for low, _, _ in seen}) > 5


def test_a_view_and_grants_outside_the_stage_survive(fresh_postgres):
    store = SQLTableStore(fresh_postgres.url)
    run_stage(numbered(1), store)
    reader = f"reader_{time.time_ns()}"
    execute(
        fresh_postgres,
        f"CREATE ROLE {reader}",
        f"GRANT USAGE ON SCHEMA staging TO {reader}",
        f"GRANT SELECT ON staging.first TO {reader}",
        "CREATE VIEW public.report AS SELECT count(*) n, max(v) v FROM staging.second",
        f"GRANT SELECT ON public.report TO {reader}",
        "COMMENT ON TABLE staging.second IS 'the second'",
    )
    try:
        run_stage(numbered(2), store)
        with fresh_postgres.begin() as conn:
            assert tuple(conn.execute(sa.text("SELECT * FROM public.report")).one()) == (1000, 2)
            comment = conn.execute(sa.text("SELECT obj_description('staging.second'::regclass)"))
            assert comment.scalar_one() == "the second"
            conn.exec_driver_sql(f"SET LOCAL ROLE {reader}")
            assert conn.execute(sa.text("SELECT max(v) FROM staging.first")).scalar_one() == 2
            assert conn.execute(sa.text("SELECT v FROM public.report")).scalar_one() == 2
    finally:
        execute(fresh_postgres, f"DROP OWNED BY {reader}", f"DROP ROLE {reader}")
        store.dispose()


def test_two_runs_of_one_stage_at_once_publish_one_after_the_other(store):
    results, errors = [], []

    def run(version):
        try:
            results.append(run_stage(numbered(version), store))
        except Exception as error:  # noqa: BLE001 - shown by the assertion
            errors.append(error)

    for _ in range(5):
        threads = [threading.Thread(target=run, args=(v,)) for v in (1, 2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        found = {row["v"] for table in ("first", "second") for row in rows(store, "staging", table)}
        assert len(found) == 1
    published = [result.version for result in results if result.published]
    assert sorted(published) == list(range(1, len(published) + 1))


def test_a_stage_whose_input_moved_is_computed_again_from_what_is_there(store):
    moves = [2]

    def flow(version):
        @materialize(version=str(version))
        def source():
            return Table(pl.DataFrame({"v": [version]}))

        @materialize(version="1", input_type=pl.DataFrame)
        def slow(source):
            if moves:
                run_stage(flow(moves.pop())["a"], store)
            return Table(source)

        with Flow("f") as made:
            with Stage("a"):
                first = source()
            with Stage("b"):
                slow(first)
        return made

    run_stage(flow(1)["a"], store)
    result = run_stage(flow(1)["b"], store)
    assert rows(store, "b", "slow") == [{"v": 2}]
    assert result.version == 1
    run_stage(flow(3)["a"], store)
    moves[:] = [9, 8, 7, 6]
    with pytest.raises(InputChanged, match="results of a that another run has replaced"):
        run_stage(flow(3)["b"], store)
    assert rows(store, "b", "slow") == [{"v": 2}]


def test_a_carried_over_table_that_another_run_replaced_is_noticed(store):
    def stage(first_version, second_version, during=lambda: None):
        @materialize(version=first_version)
        def first():
            return Table(pl.DataFrame({"v": [first_version]}))

        @materialize(version=second_version, input_type=pl.DataFrame)
        def second(first):
            during()
            return Table(first)

        with Flow("f") as flow, Stage("staging"):
            second(first())
        return flow["staging"]

    run_stage(stage("1", "1"), store)
    others = [stage("2", "1")]
    result = run_stage(
        stage("1", "2", during=lambda: others and run_stage(others.pop(), store)), store
    )
    assert rows(store, "staging", "first") == rows(store, "staging", "second") == [{"v": "1"}]
    assert result.version == 3


def test_two_processes_with_one_transaction_do_not_disturb_each_other(store):
    stage = numbered(1)
    one = StageTransaction(store, "staging", "same")
    one.begin()
    assert run_stage(stage, store, transaction_id="same").version == 1
    with pytest.raises(InputChanged, match="another process has committed"):
        StageTransaction.begin(_unbegun(one))
    assert {row["v"] for row in rows(store, "staging", "second")} == {1}


def _unbegun(transaction):
    transaction._begun = False
    return transaction


def test_a_duckdb_file_that_another_process_holds_is_a_typed_error(fresh_duckdb, monkeypatch):
    monkeypatch.setattr(type(dialect_of(fresh_duckdb)), "busy_seconds", 0.3)
    path = fresh_duckdb.url.database
    code = textwrap.dedent(f"""
        import duckdb, time
        connection = duckdb.connect({path!r})
        print("open", flush=True)
        time.sleep(60)
    """)
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        with pytest.raises(SourceUnavailable, match="another process has the file open"):
            run_stage(numbered(1), SQLTableStore(fresh_duckdb.url))
    finally:
        holder.kill()
        holder.communicate()


def test_a_run_in_another_process_waits_for_the_duckdb_file(fresh_duckdb):
    store = SQLTableStore(fresh_duckdb.url)
    code = textwrap.dedent(f"""
        from ixflow.pipeline import run_stage
        from ixflow.store import SQLTableStore
        from ixflow_tests.behaviour.test_stage_swap import numbered
        print("up", flush=True)
        for version in (11, 12, 13):
            run_stage(numbered(version), SQLTableStore({str(fresh_duckdb.url)!r}))
    """)
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "up\n"
    for version in (1, 2, 3):
        run_stage(numbered(version), store)
    other.communicate(timeout=60)
    assert other.returncode == 0
    assert store.published("staging").version == 6
    found = {row["v"] for table in ("first", "second") for row in rows(store, "staging", table)}
    assert len(found) == 1


def test_a_stage_of_one_task_of_many_uses_several_threads(store):
    barrier = threading.Barrier(3, timeout=10)

    def task(name):
        @materialize(name=name, version="1")
        def fn():
            barrier.wait()
            return Table(pl.DataFrame({"x": range(1000)}))

        return fn

    result = run_stage(one_stage(*(task(f"t{i}") for i in range(3))), store, max_workers=3)
    assert [table.rows for table in result.tables] == [1000] * 3


def test_duckdb_schemas_that_differ_in_capitals_are_one(fresh_duckdb):
    """DuckDB takes them for one; a store that did not would lose sight of its own tables."""
    with fresh_duckdb.begin() as conn:
        run(conn, "CREATE SCHEMA SHOP")
        run(conn, "CREATE TABLE shop.foreign_table (x int)")

    def stage(value: int, name: str) -> Stage:
        @materialize(version=str(value))
        def made():
            return Table(pl.DataFrame({"n": [value]}), name=name)

        with Flow("f"), Stage("Shop") as found:
            made()
        return found

    store = SQLTableStore(fresh_duckdb.url)
    for value in (1, 2):
        run_stage(stage(value, "numbers"), store)
        with fresh_duckdb.connect() as conn:
            assert run(conn, "SELECT n FROM shop.numbers").scalar() == value
    with pytest.raises(ReplacementRefused, match=r"(?i)foreign_table"):
        run_stage(stage(3, "FOREIGN_table"), store)
    store.dispose()
