"""PostgreSQL: several workers read one snapshot, whatever others do to the table meanwhile."""

from __future__ import annotations

import threading

import pytest
import sqlalchemy as sa

from ixflow.dialects import run
from ixflow.errors import ExecutionError
from ixflow.events import ChunkExtracted, listen
from ixflow.extraction.api import execute, plan, published
from ixflow.extraction.context import RuntimeContext
from ixflow_tests.sources import extract, intent_for, make, rows_of

TWO = RuntimeContext(min_workers=2)
ACCOUNTS = 20_000

# Sessions other than this one, by what they did last.
TERMINATE = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND query LIKE '{}%'
"""


def make_accounts(engine: sa.Engine, name: str = "accounts") -> None:
    """Make 20,000 accounts of 100 each on about 700 pages: enough for several tasks."""
    make(
        engine,
        f"CREATE TABLE {name} (id int PRIMARY KEY, balance int, filler text)",
        f"INSERT INTO {name} SELECT n, 100, repeat('x', 220) FROM generate_series(1, {ACCOUNTS}) n",
        f"ANALYZE {name}",
    )


def storm(engine: sa.Engine, stop: threading.Event) -> int:
    """Move money between random accounts, and replace accounts, until told to stop."""
    moves = 0
    with engine.connect() as conn:
        while not stop.is_set():
            with conn.begin() as transaction:
                moved = run(
                    conn,
                    "WITH pair AS (SELECT (random() * 9999)::int + 1 AS a, "
                    "(random() * 9998)::int + 10001 AS b) UPDATE accounts SET balance = balance + "
                    "CASE id WHEN a THEN -1 ELSE 1 END FROM pair WHERE id IN (a, b)",
                )
                if moved.rowcount != 2:
                    # The other writer has just replaced one of the two accounts.
                    transaction.rollback()
                    continue
                run(
                    conn,
                    "WITH gone AS (DELETE FROM accounts WHERE id = (random() * 19999)::int + 1 "
                    "RETURNING *) INSERT INTO accounts SELECT id + 100000, balance, filler "
                    "FROM gone",
                )
                run(conn, "UPDATE accounts SET id = id - 100000 WHERE id > 100000")
            moves += 1
    return moves


def test_two_workers_under_a_writer_storm_read_one_snapshot(fresh_postgres, tmp_path):
    make_accounts(fresh_postgres)
    stop = threading.Event()
    moves: list[int] = []
    writers = [
        threading.Thread(target=lambda: moves.append(storm_safely(fresh_postgres, stop)))
        for _ in range(2)
    ]
    for writer in writers:
        writer.start()
    try:
        for _ in range(10):
            made = plan(intent_for(fresh_postgres, "accounts", tmp_path), TWO)
            assert made.plan.worker_count == 2
            assert len(made.plan.tasks) >= 8
            rows = rows_of(execute(made))
            assert rows.num_rows == ACCOUNTS
            assert len(set(rows["id"].to_pylist())) == ACCOUNTS
            assert sum(rows["balance"].to_pylist()) == ACCOUNTS * 100
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    assert sum(moves) > 100


def storm_safely(engine: sa.Engine, stop: threading.Event) -> int:
    """Storm again after a deadlock of two writers."""
    moves = 0
    while not stop.is_set():
        try:
            moves += storm(engine, stop)
        except sa.exc.DBAPIError:
            moves += 100
    return moves


class AtFirstChunk:
    """A listener that does something once, in the middle of a run."""

    def __init__(self, act) -> None:
        self.act, self.done = act, threading.Lock()

    def __call__(self, event: object) -> None:
        if isinstance(event, ChunkExtracted) and self.done.acquire(blocking=False):
            self.act()


def test_a_run_whose_connections_were_cut_reads_on_in_the_same_snapshot(
    fresh_postgres, tmp_path, caplog
):
    make_accounts(fresh_postgres)
    cut: list[int] = []

    def cut_readers_and_change_rows() -> None:
        with fresh_postgres.begin() as conn:
            cut.extend(run(conn, TERMINATE.format("COPY (SELECT")).scalars())
            run(conn, "DELETE FROM accounts")

    with listen(AtFirstChunk(cut_readers_and_change_rows)):
        result = execute(plan(intent_for(fresh_postgres, "accounts", tmp_path), TWO))
    assert cut
    rows = rows_of(result)
    assert rows.num_rows == ACCOUNTS
    assert len(set(rows["id"].to_pylist())) == ACCOUNTS
    assert "is read again" in caplog.text


def test_a_run_without_its_snapshot_fails_and_publishes_nothing(fresh_postgres, tmp_path):
    make_accounts(fresh_postgres)
    intent = intent_for(fresh_postgres, "accounts", tmp_path)
    first = execute(plan(intent, TWO))

    def cut_all() -> None:
        make(fresh_postgres, TERMINATE.format(""))

    with listen(AtFirstChunk(cut_all)), pytest.raises(ExecutionError) as caught:
        execute(plan(intent, TWO))
    assert "snapshot" in str(caught.value)
    assert caught.value.tasks_done < caught.value.tasks_planned
    now = published(intent)
    assert now is not None
    assert now.run_id == first.run_id
    assert [p.name for p in (tmp_path / ".ixflow" / "accounts").iterdir() if p.is_dir()] == [
        first.run_id
    ]


def test_a_lost_leader_alone_fails_the_run_too(fresh_postgres, tmp_path):
    make_accounts(fresh_postgres)

    def cut_leader() -> None:
        with fresh_postgres.begin() as conn:
            idle = TERMINATE.format("") + " AND state = 'idle in transaction'"
            assert run(conn, idle + " AND query NOT LIKE 'COPY%'").scalars().all() == [True]

    with listen(AtFirstChunk(cut_leader)), pytest.raises(ExecutionError, match="snapshot"):
        execute(plan(intent_for(fresh_postgres, "accounts", tmp_path), TWO))


def test_nobody_can_rewrite_the_table_during_a_run(fresh_postgres, tmp_path):
    make_accounts(fresh_postgres)
    refused: list[str] = []

    def try_to_truncate() -> None:
        for statement in ("TRUNCATE accounts", "ALTER TABLE accounts ADD COLUMN x int"):
            with pytest.raises(sa.exc.OperationalError, match="lock timeout") as caught:
                make(fresh_postgres, "SET LOCAL lock_timeout = '50ms'", statement)
            refused.append(str(caught.value))

    with listen(AtFirstChunk(try_to_truncate)):
        result = execute(plan(intent_for(fresh_postgres, "accounts", tmp_path), TWO))
    assert len(refused) == 2
    assert result.rows_extracted == ACCOUNTS
    make(fresh_postgres, "SET LOCAL lock_timeout = '1s'", "TRUNCATE accounts")


@pytest.fixture
def partitioned(fresh_postgres):
    """Give a table of three partitions, one of them divided again."""
    make(
        fresh_postgres,
        'CREATE TABLE "Sales" (id int, region text) PARTITION BY LIST (region)',
        "CREATE TABLE north PARTITION OF \"Sales\" FOR VALUES IN ('n')",
        "CREATE TABLE south PARTITION OF \"Sales\" FOR VALUES IN ('s') PARTITION BY RANGE (id)",
        "CREATE TABLE south_low PARTITION OF south FOR VALUES FROM (0) TO (50)",
        "CREATE TABLE south_high PARTITION OF south FOR VALUES FROM (50) TO (MAXVALUE)",
        'CREATE TABLE other PARTITION OF "Sales" DEFAULT',
        "INSERT INTO \"Sales\" SELECT n, (array['n', 's', 'x'])[n % 3 + 1] "
        "FROM generate_series(0, 299) n",
    )
    return fresh_postgres


def test_each_partition_is_read_once(partitioned, tmp_path):
    made = plan(intent_for(partitioned, "Sales", tmp_path))
    assert made.plan.strategy == "partitions"
    assert {task.part.table.name for task in made.plan.tasks} == {
        "north",
        "south_low",
        "south_high",
        "other",
    }
    assert sorted(rows_of(execute(made))["id"].to_pylist()) == list(range(300))


def test_a_partition_that_is_new_since_the_plan_stops_the_run(partitioned, tmp_path):
    made = plan(intent_for(partitioned, "Sales", tmp_path))
    make(partitioned, "CREATE TABLE east PARTITION OF \"Sales\" FOR VALUES IN ('e')")
    with pytest.raises(ExecutionError, match=r"public\.east is new"):
        execute(made)


def test_tables_that_inherit_belong_to_their_parent(fresh_postgres, tmp_path):
    make(
        fresh_postgres,
        "CREATE TABLE base AS SELECT n AS id FROM generate_series(1, 10) n",
        "CREATE TABLE child (extra text) INHERITS (base)",
        "INSERT INTO child SELECT n, 'x' FROM generate_series(11, 20) n",
    )
    rows = rows_of(extract(fresh_postgres, "base", tmp_path))
    assert sorted(rows["id"].to_pylist()) == list(range(1, 21))
    assert rows.schema.names == ["id"]


def test_a_role_that_may_read_only_the_parent_gets_all_partitions(partitioned, tmp_path):
    engine = as_new_role(partitioned, 'GRANT SELECT ON "Sales" TO {}')
    assert rows_of(extract(engine, "Sales", tmp_path)).num_rows == 300


def test_row_security_of_the_parent_holds_for_its_partitions(partitioned, tmp_path):
    engine = as_new_role(
        partitioned,
        "GRANT SELECT ON ALL TABLES IN SCHEMA public TO {}",
        'ALTER TABLE "Sales" ENABLE ROW LEVEL SECURITY',
        'CREATE POLICY low ON "Sales" USING (id < 5)',
    )
    assert sorted(rows_of(extract(engine, "Sales", tmp_path))["id"].to_pylist()) == list(range(5))


def test_a_role_that_may_read_only_some_columns_can_extract_them(fresh_postgres, tmp_path):
    make(fresh_postgres, "CREATE TABLE t AS SELECT n AS a, n AS b FROM generate_series(1, 9) n")
    engine = as_new_role(fresh_postgres, "GRANT SELECT (a) ON t TO {}")
    assert extract(engine, "t", tmp_path, columns=["a"]).rows_extracted == 9
    with pytest.raises(ExecutionError, match="permission denied"):
        extract(engine, "t", tmp_path)


def as_new_role(engine: sa.Engine, *statements: str) -> sa.Engine:
    """Make a role with these rights, and an engine that connects as it."""
    role = f"reader_{engine.url.database}"
    make(
        engine,
        f"DROP ROLE IF EXISTS {role}",
        f"CREATE ROLE {role} LOGIN",
        *(statement.format(role) for statement in statements),
    )
    return sa.create_engine(engine.url.set(username=role), poolclass=sa.NullPool)


def test_a_materialized_view_is_read_by_several_workers(fresh_postgres, tmp_path):
    make_accounts(fresh_postgres)
    make(fresh_postgres, "CREATE MATERIALIZED VIEW mv AS SELECT * FROM accounts", "ANALYZE mv")
    made = plan(intent_for(fresh_postgres, "mv", tmp_path), TWO)
    assert made.plan.strategy == "page_ranges"
    assert len(set(rows_of(execute(made))["id"].to_pylist())) == ACCOUNTS


def test_pages_that_came_after_the_plan_are_read(fresh_postgres, tmp_path):
    make_accounts(fresh_postgres)
    made = plan(intent_for(fresh_postgres, "accounts", tmp_path), TWO)
    make(
        fresh_postgres,
        "INSERT INTO accounts SELECT id + 50000, 1, repeat('y', 900) FROM accounts",
        "UPDATE accounts SET balance = 7",
    )
    rows = rows_of(execute(made))
    assert rows.num_rows == 2 * ACCOUNTS
    assert set(rows["balance"].to_pylist()) == {7}
    assert len(set(rows["id"].to_pylist())) == 2 * ACCOUNTS


def test_even_and_skewed_keys_are_told_apart_by_statistics(fresh_postgres, tmp_path):
    make_accounts(fresh_postgres)
    make_accounts(fresh_postgres, "skewed")
    make(fresh_postgres, "UPDATE skewed SET id = id + 10000000 WHERE id > 19000", "ANALYZE skewed")
    assert plan(intent_for(fresh_postgres, "accounts", tmp_path)).profile.cv < 0.1
    assert plan(intent_for(fresh_postgres, "skewed", tmp_path)).profile.cv > 2


def test_a_table_that_was_never_analysed_is_estimated_from_its_size(fresh_postgres, tmp_path):
    make(fresh_postgres, "CREATE TABLE t AS SELECT n FROM generate_series(1, 50000) n")
    seen = plan(intent_for(fresh_postgres, "t", tmp_path)).profile
    assert 5_000 < seen.row_count_estimate < 200_000
