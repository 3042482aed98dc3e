"""Tables that are read by ranges of a key: what is planned, what planning asks, what arrives."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import sqlalchemy as sa

from ixflow.dialects import dialect_of, run
from ixflow.dialects.duckdb import split as duckdb_split
from ixflow.dialects.postgres import split as postgres_split
from ixflow.extraction import profile as profiling
from ixflow.extraction.api import execute, explain, plan
from ixflow.extraction.context import RuntimeContext
from ixflow.extraction.plan import ExecutionPlan
from ixflow.values import TableName
from ixflow_tests.sources import intent_for, make, rows_of

TWO = RuntimeContext(min_workers=2)
ROWS = 3_000


@pytest.fixture
def no_table_is_small(monkeypatch):
    """Let tables of a test's size be split as great ones are."""
    monkeypatch.setattr(profiling, "SMALL_BYTES", 1)
    monkeypatch.setattr(profiling, "SMALL_ROWS", 1)
    monkeypatch.setattr(duckdb_split, "_ROW_GROUP", 100)


@contextmanager
def statements(engine: sa.Engine, kind: str) -> Iterator[list[str]]:
    """List every statement that any engine of this kind of database runs in the block."""
    heard: list[str] = []

    def hear(conn, cursor, statement, *_) -> None:
        if conn.dialect.name == kind:
            heard.append(statement)

    sa.event.listen(sa.Engine, "before_cursor_execute", hear)
    try:
        yield heard
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", hear)


def make_mariadb(engine: sa.Engine) -> None:
    make(
        engine,
        "CREATE TABLE t (a int, b varchar(20), v text, PRIMARY KEY (a, b))",
        f"INSERT INTO t SELECT seq % 7, concat('b', seq), 'x' FROM seq_1_to_{ROWS}",
        "ANALYZE TABLE t",
    )


def make_elsewhere(engine: sa.Engine) -> None:
    series = "(WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < {}) "
    make(
        engine,
        "CREATE TABLE t (a integer, b varchar(20), v text)",
        f"INSERT INTO t SELECT n % 7, 'b' || n, 'x' FROM {series.format(ROWS)} SELECT * FROM s) x",
    )


MAKERS = {"mariadb": make_mariadb, "sqlite": make_elsewhere, "duckdb": make_elsewhere}


@pytest.fixture(params=MAKERS)
def source(request) -> sa.Engine:
    """Give a database with a table of 3,000 rows."""
    engine: sa.Engine = request.getfixturevalue(f"fresh_{request.param}")
    MAKERS[request.param](engine)
    return engine


def test_a_great_table_is_read_in_ranges_of_a_key(source, tmp_path, no_table_is_small):
    intent = intent_for(source, "t", tmp_path)
    made = plan(intent)
    assert made.plan.strategy == "key_ranges"
    assert len(made.plan.tasks) >= 4
    assert all(task.keys for task in made.plan.tasks)
    rows = rows_of(execute(made))
    assert sorted(rows["b"].to_pylist()) == sorted(f"b{n}" for n in range(1, ROWS + 1))
    said = str(explain(intent))
    assert "key_ranges" in said
    assert re.search(r"001: t, (a, b|rowid)( from \w+)?( before)?", said)


def test_a_stored_plan_reads_the_same_ranges(source, tmp_path, no_table_is_small):
    made = plan(intent_for(source, "t", tmp_path)).plan
    stored = ExecutionPlan.from_dict(made.to_dict())
    assert stored.tasks == made.tasks
    assert stored.fingerprint == made.fingerprint


def test_a_small_table_is_not_cut_and_its_index_not_asked(source, tmp_path):
    with statements(source, source.dialect.name) as heard:
        made = plan(intent_for(source, "t", tmp_path))
    assert (made.plan.strategy, len(made.plan.tasks)) == ("single_pass", 1)
    assert not [said for said in heard if "ixflow_key" in said]


def test_planning_neither_counts_nor_skips_rows(source, tmp_path, no_table_is_small):
    with statements(source, source.dialect.name) as heard:
        plan(intent_for(source, "t", tmp_path))
    assert heard
    of_table = [s for s in heard if re.search(r"FROM \S*[\"`]t[\"`]", s)]
    assert not [s for s in of_table if re.search(r"(?i)\b(count|offset|min|max|group by)\b", s)]
    reads = [s for s in of_table if not s.startswith(("EXPLAIN", "SHOW"))]
    assert all(s.endswith("LIMIT 1") for s in reads)


def test_planning_walks_down_an_index_and_reads_no_rows_on_the_way(fresh_mariadb):
    make(
        fresh_mariadb,
        "CREATE TABLE t (a int, b int, c int, v char(200), PRIMARY KEY (a, b), KEY (c))",
        "INSERT INTO t SELECT seq % 3, seq, seq * 7 % 1000, 'x' FROM seq_1_to_20000",
        "ANALYZE TABLE t",
    )
    dialect = dialect_of(fresh_mariadb)
    with fresh_mariadb.connect() as conn:
        (part,) = dialect.parts(conn, TableName("t"))
        run(conn, "FLUSH STATUS")
        cuts = dialect.cut_keys(conn, part, 16)
        asked = "SHOW SESSION STATUS LIKE 'Handler_read%'"
        reads = {name: int(count) for name, count in run(conn, asked).all()}
    assert cuts is not None
    assert len(cuts.bounds) >= 12
    # The catalogue's own little tables are scanned, ours is not: two entries for each bound.
    assert reads["Handler_read_key"] <= 3 * 16
    assert reads["Handler_read_next"] + reads["Handler_read_prev"] <= 3 * 16
    assert reads["Handler_read_rnd_next"] < 100


def test_a_range_is_read_by_the_index(fresh_mariadb):
    make_mariadb(fresh_mariadb)
    dialect = dialect_of(fresh_mariadb)
    with fresh_mariadb.connect() as conn:
        (part,) = dialect.parts(conn, TableName("t"))
        columns = dialect.columns(conn, TableName("t"))
        cuts = dialect.cut_keys(conn, part, 16)
        assert cuts is not None
        for keys, _ in cuts.ranges(16):
            sql = dialect.select_part(part, columns, keys=keys)
            said = run(conn, f"EXPLAIN {sql}").mappings().one()
            assert (said["type"], said["key"]) == ("range", "PRIMARY")
            assert int(said["rows"]) < ROWS / 2


def test_rows_without_a_key_have_a_task_of_their_own(fresh_mariadb, tmp_path):
    make(
        fresh_mariadb,
        "CREATE TABLE t (a int UNIQUE, v int)",
        "INSERT INTO t SELECT nullif(seq % 500, 0) + seq, seq FROM seq_1_to_400",
        "INSERT INTO t SELECT NULL, seq FROM seq_1_to_300",
        "ANALYZE TABLE t",
    )
    made = plan(intent_for(fresh_mariadb, "t", tmp_path), TWO)
    assert [str(task.keys) for task in made.plan.tasks if task.keys and task.keys.nulls] == [
        "a is NULL"
    ]
    assert rows_of(execute(made)).num_rows == 700


def test_a_collation_that_changes_after_the_plan_changes_no_range(fresh_mariadb, tmp_path):
    make(
        fresh_mariadb,
        "CREATE TABLE t (a varchar(40) COLLATE utf8mb4_bin PRIMARY KEY)",
        "INSERT INTO t SELECT concat(if(seq % 2, 'K', 'k'), md5(seq)) FROM seq_1_to_600",
        "ANALYZE TABLE t",
    )
    made = plan(intent_for(fresh_mariadb, "t", tmp_path), TWO)
    assert len(made.plan.tasks) > 2
    make(fresh_mariadb, "ALTER TABLE t MODIFY a varchar(40) COLLATE utf8mb4_general_ci")
    rows = rows_of(execute(made))["a"].to_pylist()
    assert (len(rows), len(set(rows))) == (600, 600)


def test_what_no_index_orders_is_read_in_one_task(fresh_mariadb, tmp_path):
    make(
        fresh_mariadb,
        "CREATE TABLE t (a enum('x', 'y'), b double, c text, KEY (a), KEY (b), KEY (c(5)))",
        "INSERT INTO t SELECT 'x', seq / 3, md5(seq) FROM seq_1_to_500",
    )
    made = plan(intent_for(fresh_mariadb, "t", tmp_path), TWO)
    assert (made.plan.strategy, made.plan.worker_count) == ("single_pass", 1)
    assert execute(made).rows_extracted == 500


def test_a_role_that_may_not_see_the_key_gets_its_columns_in_one_task(fresh_mariadb, tmp_path):
    make_mariadb(fresh_mariadb)
    place = fresh_mariadb.url.database
    make(fresh_mariadb, f"CREATE USER few_{place}", f"GRANT SELECT (v) ON {place}.t TO few_{place}")
    engine = sa.create_engine(fresh_mariadb.url.set(username=f"few_{place}"))
    try:
        made = plan(intent_for(engine, "t", tmp_path, columns=["v"]), TWO)
        assert execute(made, force=True).rows_extracted == ROWS
    finally:
        engine.dispose()
        make(fresh_mariadb, f"DROP USER few_{place}")


def test_a_heap_without_tid_ranges_is_read_by_its_key(fresh_postgres, tmp_path, monkeypatch):
    monkeypatch.setattr(postgres_split, "_TID_RANGE_SCAN", 10**9)
    make(
        fresh_postgres,
        "CREATE TABLE t (a date, b uuid, PRIMARY KEY (a, b))",
        "INSERT INTO t SELECT date '2000-01-01' + n % 50, gen_random_uuid() "
        f"FROM generate_series(1, {ROWS}) n",
        "ANALYZE t",
    )
    made = plan(intent_for(fresh_postgres, "t", tmp_path), TWO)
    assert (made.plan.strategy, made.plan.worker_count) == ("key_ranges", 2)
    rows = rows_of(execute(made))
    assert (rows.num_rows, len(set(rows["b"].to_pylist()))) == (ROWS, ROWS)


def test_sparse_rowids_are_cut_where_the_rows_are(fresh_sqlite, tmp_path, no_table_is_small):
    make(
        fresh_sqlite,
        "CREATE TABLE t (id INTEGER PRIMARY KEY)",
        "INSERT INTO t VALUES (-9000000000000000000), (9000000000000000000)",
        "INSERT INTO t WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s LIMIT 4000) "
        "SELECT n FROM s",
    )
    made = plan(intent_for(fresh_sqlite, "t", tmp_path))
    files = execute(made).manifest.files
    assert sum(file.rows for file in files) == 4_002
    assert max(file.rows for file in files) < 2_500


def test_an_analysed_sqlite_table_is_estimated_by_what_was_counted(fresh_sqlite, tmp_path):
    make(fresh_sqlite, "CREATE TABLE t (a int)", "CREATE INDEX i ON t (a)")
    make(fresh_sqlite, "INSERT INTO t VALUES (1), (2), (3)", "ANALYZE")
    make(fresh_sqlite, "DELETE FROM t WHERE a > 1")
    assert plan(intent_for(fresh_sqlite, "t", tmp_path)).profile.row_count_estimate == 3
