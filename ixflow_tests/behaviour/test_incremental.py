"""Incremental runs: every new row once, or as often as the semantics declare, and never lost."""

from __future__ import annotations

import datetime as dt
import decimal
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa

from ixflow.dialects import dialect_of, run
from ixflow.errors import ExecutionError, LockNotAvailable, ValidationError
from ixflow.extraction.api import execute, execute_plan, explain, plan, published
from ixflow.extraction.context import RuntimeContext
from ixflow.extraction.history import history
from ixflow.extraction.plan import ExecutionPlan
from ixflow.extraction.replay import replay
from ixflow.extraction.table_run import TableRun
from ixflow.extraction.together import hold_snapshot
from ixflow.tables.cursor import Cursor
from ixflow.values import Column, TableName, TablePart
from ixflow_tests.servers import PostgresServer
from ixflow_tests.sources import intent_for, make

EVERY = ["postgres", "duckdb", "sqlite", "mariadb"]


@pytest.fixture(params=EVERY)
def source(request) -> sa.Engine:
    """Give a fresh database of each kind."""
    engine: sa.Engine = request.getfixturevalue(f"fresh_{request.param}")
    return engine


def incremental(engine, name, output, key, **options):
    """Plan and execute an incremental run."""
    return execute(plan(on(engine, name, output, key, **options)))


def on(engine, name, output, key, **options):
    """Make the intent of an incremental extraction."""
    return intent_for(engine, name, output, mode="incremental", incremental_key=key, **options)


def everything(output: Path, name: str = "t") -> list[dict[str, Any]]:
    """Read the directory that is published, as any reader does."""
    manifest = published(output / name)
    assert manifest is not None
    files = {path.name for path in (output / name).glob("*.parquet")}
    assert files == {file.name for file in manifest.files}
    rows = pa.concat_tables([pq.read_table(output / name / file) for file in sorted(files)])
    assert rows.num_rows == manifest.total_rows
    listed: list[dict[str, Any]] = rows.to_pylist()
    return listed


def ids(output: Path) -> list[int]:
    """Give the ids of all rows that are published."""
    return sorted(row["id"] for row in everything(output))


def test_only_new_rows_are_read_and_all_are_published(source, tmp_path):
    out = tmp_path / "out"
    make(
        source,
        "CREATE TABLE t (id integer PRIMARY KEY, v varchar(9))",
        "INSERT INTO t VALUES (1, 'a'), (2, 'b')",
    )
    first = incremental(source, "t", out, "id")
    assert (first.rows_extracted, ids(out)) == (2, [1, 2])
    make(source, "INSERT INTO t VALUES (3, 'c'), (4, 'd')")
    second = incremental(source, "t", out, "id")
    assert second.rows_extracted == 2
    assert [row["id"] for p in second.output_files for row in pq.read_table(p).to_pylist()] == [
        3,
        4,
    ]
    assert ids(out) == [1, 2, 3, 4]
    window = second.manifest.window
    assert window is not None
    assert (window.low, window.high_watermark, window.semantics) == ("2", "4", "exclusive")
    assert second.manifest.base_run_id == first.run_id
    assert {file.run_id for file in second.manifest.files} == {None, first.run_id}


def test_without_new_rows_nothing_is_published(source, tmp_path):
    out = tmp_path / "out"
    make(source, "CREATE TABLE t (id integer PRIMARY KEY)", "INSERT INTO t VALUES (1)")
    first = incremental(source, "t", out, "id")
    again = incremental(source, "t", out, "id")
    assert (again.status, again.rows_extracted, again.output_files) == ("success", 0, [])
    assert again.manifest == first.manifest
    assert again.manifest_path == first.manifest_path
    assert published(out / "t") == first.manifest
    assert len(list((out / ".ixflow" / "t").glob("ix-*"))) == 1


def test_an_empty_table_begins_later(source, tmp_path):
    out = tmp_path / "out"
    make(source, "CREATE TABLE t (id integer PRIMARY KEY)")
    empty = incremental(source, "t", out, "id")
    assert (empty.rows_extracted, everything(out)) == (0, [])
    assert empty.manifest.window is not None
    assert empty.manifest.window.high_watermark is None
    make(source, "INSERT INTO t VALUES (5)")
    assert incremental(source, "t", out, "id").rows_extracted == 1
    assert ids(out) == [5]


def test_an_updated_row_comes_once_a_version(source, tmp_path):
    out = tmp_path / "out"
    make(
        source,
        "CREATE TABLE t (id integer PRIMARY KEY, version integer NOT NULL)",
        "INSERT INTO t VALUES (1, 1), (2, 2)",
    )
    incremental(source, "t", out, "version")
    make(source, "UPDATE t SET version = 3 WHERE id = 1")
    assert incremental(source, "t", out, "version").rows_extracted == 1
    assert sorted((row["id"], row["version"]) for row in everything(out)) == [
        (1, 1),
        (1, 3),
        (2, 2),
    ]


def test_a_full_run_starts_over(source, tmp_path):
    out = tmp_path / "out"
    make(source, "CREATE TABLE t (id integer PRIMARY KEY)", "INSERT INTO t VALUES (1), (2)")
    incremental(source, "t", out, "id")
    make(source, "DELETE FROM t WHERE id = 1", "INSERT INTO t VALUES (3)")
    incremental(source, "t", out, "id")
    assert ids(out) == [1, 2, 3]
    full = execute(plan(intent_for(source, "t", out)))
    assert (ids(out), full.manifest.window) == ([2, 3], None)
    anew = incremental(source, "t", out, "id")
    assert (anew.rows_extracted, ids(out)) == (2, [2, 3])


def test_the_watermark_never_goes_back(source, tmp_path):
    out = tmp_path / "out"
    make(source, "CREATE TABLE t (id integer PRIMARY KEY)", "INSERT INTO t VALUES (1), (9)")
    incremental(source, "t", out, "id")
    make(source, "DELETE FROM t WHERE id = 9", "INSERT INTO t VALUES (5)")
    assert incremental(source, "t", out, "id").rows_extracted == 0
    make(source, "INSERT INTO t VALUES (10)")
    assert incremental(source, "t", out, "id").rows_extracted == 1
    assert ids(out) == [1, 9, 10]


def test_semantics_say_what_repeats(source, tmp_path):
    make(
        source,
        "CREATE TABLE t (id integer PRIMARY KEY, k integer NOT NULL)",
        "INSERT INTO t VALUES (1, 10), (2, 20)",
    )
    cursors = {
        "exclusive": Cursor("k", "exclusive"),
        "inclusive": Cursor("k", "inclusive"),
        "overlap": Cursor("k", overlap=15),
    }
    for name, cursor in cursors.items():
        incremental(source, "t", tmp_path / name, cursor)
    make(source, "INSERT INTO t VALUES (3, 20), (4, 12), (5, 30)")
    found = {}
    for name, cursor in cursors.items():
        result = incremental(source, "t", tmp_path / name, cursor)
        found[name] = ids(tmp_path / name)
        assert result.manifest.window is not None
        assert ("repeat" in result.manifest.window.declares) == (name != "exclusive")
    assert found == {
        "exclusive": [1, 2, 5],
        "inclusive": [1, 2, 2, 3, 5],
        "overlap": [1, 1, 2, 2, 3, 4, 5],
    }


def test_timestamps_overlap_by_an_hour_unless_told_otherwise(source, tmp_path):
    out = tmp_path / "out"
    make(
        source,
        "CREATE TABLE t (id integer PRIMARY KEY, ts timestamp NOT NULL)",
        "INSERT INTO t VALUES (1, '2024-01-01 10:00:00'), (2, '2024-01-01 12:00:00')",
    )
    incremental(source, "t", out, "ts")
    make(
        source,
        "INSERT INTO t VALUES (3, '2024-01-01 11:30:00'), (4, '2024-01-01 10:30:00'), "
        "(5, '2024-01-01 13:00:00.123456')",
    )
    result = incremental(source, "t", out, "ts")
    assert ids(out) == [1, 2, 2, 3, 5]
    assert result.manifest.window is not None
    assert result.manifest.window.overlap == "1:00:00"
    assert incremental(source, "t", out, Cursor("ts", overlap=dt.timedelta(days=1)))
    assert Counter(ids(out))[4] == 1


def test_dates_are_declared_and_advised(source, tmp_path):
    make(
        source,
        "CREATE TABLE t (id integer PRIMARY KEY, day date NOT NULL)",
        "INSERT INTO t VALUES (1, '2024-02-29')",
    )
    exclusive = Cursor("day", "exclusive")
    advice = plan(on(source, "t", tmp_path / "a", exclusive)).advisories
    assert any("rows of the same day" in text for text in advice)
    for name, cursor in (("a", exclusive), ("b", "day")):
        incremental(source, "t", tmp_path / name, cursor)
    make(source, "INSERT INTO t VALUES (2, '2024-02-29'), (3, '2024-03-01')")
    for name, cursor in (("a", exclusive), ("b", "day")):
        incremental(source, "t", tmp_path / name, cursor)
    assert (ids(tmp_path / "a"), ids(tmp_path / "b")) == ([1, 3], [1, 1, 2, 3])


def test_text_and_decimals_are_cursors(source, tmp_path):
    make(
        source,
        "CREATE TABLE t (id integer PRIMARY KEY, s varchar(9) NOT NULL, n decimal(12,3) NOT NULL)",
        "INSERT INTO t VALUES (1, 'a''b', 1.5), (2, 'b', 1.25)",
    )
    for key in ("s", "n"):
        incremental(source, "t", tmp_path / key, Cursor(key, "exclusive"))
    make(source, "INSERT INTO t VALUES (3, 'c', 1.501), (4, 'aa', 1.3)")
    for key in ("s", "n"):
        incremental(source, "t", tmp_path / key, Cursor(key, "exclusive"))
        assert ids(tmp_path / key) == [1, 2, 3]


def test_floats_are_no_cursors(source, tmp_path):
    make(source, "CREATE TABLE t (id integer PRIMARY KEY, f double precision)")
    with pytest.raises(ValidationError, match=r"f is .* which is no cursor"):
        plan(on(source, "t", tmp_path, "f"))
    with pytest.raises(ValidationError, match="has no column nope"):
        plan(on(source, "t", tmp_path, "nope"))


def test_a_first_run_may_begin_later(source, tmp_path):
    out = tmp_path / "out"
    make(source, "CREATE TABLE t (id integer PRIMARY KEY)", "INSERT INTO t VALUES (1), (2), (3)")
    incremental(source, "t", out, "id", incremental_value=1)
    assert ids(out) == [2, 3]
    make(source, "INSERT INTO t VALUES (4)")
    incremental(source, "t", out, "id", incremental_value=1)
    assert ids(out) == [2, 3, 4]
    with pytest.raises(ValidationError, match="incremental_value"):
        plan(on(source, "t", tmp_path / "b", "id", incremental_value=1.5))


def test_rows_without_a_key_are_never_lost_unsaid(source, tmp_path):
    make(
        source,
        "CREATE TABLE t (id integer PRIMARY KEY, k integer)",
        "INSERT INTO t VALUES (1, 1), (2, NULL)",
    )
    with pytest.raises(ValidationError, match=r"k is NULL.*first run"):
        incremental(source, "t", tmp_path / "refuse", "k")
    assert not (tmp_path / "refuse" / "t").exists()
    for nulls in ("first run", "each run"):
        incremental(source, "t", tmp_path / nulls, Cursor("k", nulls=nulls))
    make(source, "INSERT INTO t VALUES (3, NULL), (4, 2)")
    for nulls in ("first run", "each run"):
        planned = plan(on(source, "t", tmp_path / nulls, Cursor("k", nulls=nulls)))
        assert any("NULL" in text for text in planned.advisories) == (nulls == "first run")
        execute(planned)
    assert ids(tmp_path / "first run") == [1, 2, 4]
    assert ids(tmp_path / "each run") == [1, 2, 2, 3, 4]


def test_what_does_not_fit_to_the_rows_before_is_refused(source, tmp_path):
    out = tmp_path / "out"
    make(
        source,
        "CREATE TABLE t (id integer PRIMARY KEY, v integer NOT NULL)",
        "INSERT INTO t VALUES (1, 1)",
    )
    incremental(source, "t", out, "id")
    for options in (
        {"where": "id > 0"},
        {"columns": ["id"]},
        {"mask": {"v": "hash"}},
        {"mask_salt": "another salt"},
        {"output_format": "csv"},
    ):
        with pytest.raises(ValidationError, match="mode='full'"):
            plan(on(source, "t", out, "id", **options))
    with pytest.raises(ValidationError, match="incremental key"):
        plan(on(source, "t", out, "v"))
    make(source, "ALTER TABLE t ADD COLUMN w integer")
    with pytest.raises(ValidationError, match="choice of columns"):
        plan(on(source, "t", out, "id"))
    assert ids(out) == [1]


def test_filters_masks_and_queries_go_with_it(source, tmp_path):
    out = tmp_path / "out"
    make(
        source,
        "CREATE TABLE t (id integer PRIMARY KEY, v varchar(9))",
        "INSERT INTO t VALUES (1, 'a'), (2, 'b')",
    )
    options = {"where": "v <> 'b' OR id > 100", "mask": {"v": "redact"}}
    query = "SELECT id AS n, v FROM t"
    for more in ("INSERT INTO t SELECT id + 10, v FROM t", "DELETE FROM t"):
        incremental(source, "t", out, "id", **options)
        others = {**options, "where": "n <> 2"}
        incremental(source, "q", out, Cursor("n", nulls="first run"), query=query, **others)
        make(source, more)
    assert sorted((r["id"], r["v"]) for r in everything(out)) == [(1, "***"), (11, "***")]
    assert sorted(r["n"] for r in everything(out, "q")) == [1, 11, 12]


def test_a_hidden_column_is_no_cursor(source, tmp_path):
    for options in ({"drop": ["id"]}, {"mask": {"id": "hash"}}):
        with pytest.raises(ValidationError, match="dropped or masked"):
            on(source, "t", tmp_path, "id", **options)


def test_a_column_without_index_is_advised(fresh_postgres, tmp_path):
    make(fresh_postgres, "CREATE TABLE t (id int PRIMARY KEY, k int NOT NULL)")
    planned = plan(on(fresh_postgres, "t", tmp_path, Cursor("k", "exclusive")))
    assert any("k has no index" in text for text in planned.advisories)
    make(fresh_postgres, "CREATE INDEX ON t (k)")
    assert plan(on(fresh_postgres, "t", tmp_path, Cursor("k", "exclusive"))).is_safe


def test_plan_and_explanation_say_what_is_read(source, tmp_path):
    make(source, "CREATE TABLE t (id integer PRIMARY KEY)", "INSERT INTO t VALUES (7)")
    intent = on(source, "t", tmp_path / "out", Cursor("id", "inclusive"))
    made = plan(intent).plan
    assert (made.mode, made.cursor and made.cursor.semantics) == ("incremental", "inclusive")
    assert ExecutionPlan.from_dict(made.to_dict()) == made
    assert "inclusive: rows at the boundary repeat" in str(explain(intent))
    assert "from the beginning" in str(explain(intent))
    result = execute_plan(made, intent)
    plan(intent)
    assert "from 7 to the greatest key" in str(explain(intent))
    make(source, "INSERT INTO t VALUES (8)")
    again = replay(result.run_id, intent)
    assert again.rows_extracted == 2
    assert [run.rows for run in history(intent)] in ([1, 2], [2, 1])


def test_another_publication_meanwhile_is_not_overwritten(fresh_postgres, tmp_path, monkeypatch):
    make(fresh_postgres, "CREATE TABLE t (id int PRIMARY KEY)", "INSERT INTO t VALUES (1)")
    incremental(fresh_postgres, "t", tmp_path, "id")
    make(fresh_postgres, "INSERT INTO t VALUES (2)")
    publish = TableRun.publish

    def late(self, *given):
        monkeypatch.setattr(TableRun, "publish", publish)
        incremental(fresh_postgres, "t", tmp_path, "id")
        return publish(self, *given)

    monkeypatch.setattr(TableRun, "publish", late)
    with pytest.raises(ExecutionError, match="Run it again"):
        incremental(fresh_postgres, "t", tmp_path, "id")
    assert ids(tmp_path) == [1, 2]


def test_page_ranges_read_the_window_too(fresh_postgres, tmp_path):
    make(
        fresh_postgres,
        "CREATE TABLE t (id bigint NOT NULL, pad text)",
        "INSERT INTO t SELECT n, repeat('x', 300) FROM generate_series(1, 20000) n",
        "ANALYZE t",
    )
    intent = on(fresh_postgres, "t", tmp_path, Cursor("id", "exclusive"))
    for total in (20_000, 20_500):
        planned = plan(intent, RuntimeContext(min_workers=2))
        assert len(planned.plan.tasks) > 1
        execute(planned)
        assert ids(tmp_path) == list(range(1, total + 1))
        make(
            fresh_postgres,
            "INSERT INTO t SELECT n, repeat('x', 300) FROM generate_series(20001, 20500) n",
        )


def test_with_an_index_only_the_window_is_read(fresh_postgres, tmp_path):
    make(
        fresh_postgres,
        "CREATE TABLE t (id bigint PRIMARY KEY, pad text)",
        "INSERT INTO t SELECT n, repeat('x', 300) FROM generate_series(1, 20000) n",
        "ANALYZE t",
    )
    intent = on(fresh_postgres, "t", tmp_path, Cursor("id", "exclusive"))
    assert len(plan(intent, RuntimeContext(min_workers=2)).plan.tasks) > 1
    execute(plan(intent))
    (task,) = plan(intent, RuntimeContext(min_workers=2)).plan.tasks
    assert (task.pages, task.keys) == (None, None)


@pytest.mark.parametrize(
    ("sql_type", "values"),
    [
        ("uuid", [f"0000000{n}-0000-4000-8000-000000000000" for n in (1, 2, 3)]),
        ("numeric", ["1e-30", "99999999999999999999.5", "1e60"]),
        ("bigint", ["-9223372036854775808", "0", "9223372036854775807"]),
        ("timestamptz", ["0044-03-15 BC", "2024-03-31 02:30:00.000001+02", "2024-03-31 03:00+00"]),
        ("timestamp(3)", ["2024-01-01 00:00:00.001", "2024-01-01 00:00:00.002", "9999-12-31"]),
        ("text", ["", "Ä'\\", "ö"]),
    ],
)
def test_postgres_keys_are_exact(fresh_postgres, tmp_path, sql_type, values):
    make(fresh_postgres, f"CREATE TABLE t (id int, k {sql_type} NOT NULL)")
    cursor = Cursor("k", "exclusive")
    with fresh_postgres.begin() as conn:
        order = "SELECT v FROM unnest(CAST(:v AS text[])) v ORDER BY v::" + sql_type
        ordered = list(conn.execute(sa.text(order), {"v": values}).scalars())
    for number, value in enumerate(ordered, 1):
        text = value.replace("'", "''")
        make(fresh_postgres, f"INSERT INTO t VALUES ({number}, '{text}')")
        assert incremental(fresh_postgres, "t", tmp_path, cursor, as_text=["k"]).rows_extracted == 1
        assert incremental(fresh_postgres, "t", tmp_path, cursor, as_text=["k"]).rows_extracted == 0
    assert ids(tmp_path) == [1, 2, 3]


@pytest.mark.parametrize("semantics", ["exclusive", "settled"])
def test_infinity_is_refused_by_name(fresh_postgres, tmp_path, semantics):
    make(
        fresh_postgres,
        "CREATE TABLE t (id int, k timestamptz)",
        "INSERT INTO t VALUES (1, 'infinity')",
    )
    with pytest.raises(ValidationError, match="k has the value infinity"):
        incremental(fresh_postgres, "t", tmp_path, Cursor("k", semantics))


def test_settled_is_for_postgres_timestamps_with_zone(source, tmp_path):
    make(source, "CREATE TABLE t (id integer PRIMARY KEY, ts timestamp NOT NULL)")
    for key in ("id", "ts"):
        with pytest.raises(ValidationError, match="'settled' is for timestamps with time zone"):
            plan(on(source, "t", tmp_path, Cursor(key, "settled")))


def test_who_may_not_see_transactions_is_told_which_grant_is_missing(fresh_postgres, tmp_path):
    make(
        fresh_postgres,
        "CREATE TABLE t (id int PRIMARY KEY, ts timestamptz NOT NULL DEFAULT now())",
        'DROP ROLE IF EXISTS "some reader"',
        'CREATE ROLE "some reader" LOGIN',
        'GRANT SELECT ON t TO "some reader"',
    )
    url = fresh_postgres.url.set(username="some reader")
    role = sa.create_engine(url)
    try:
        with pytest.raises(ValidationError, match='GRANT pg_read_all_stats TO "some reader"'):
            incremental(role, "t", tmp_path, "ts")
        make(fresh_postgres, 'GRANT pg_read_all_stats TO "some reader"')
        assert incremental(role, "t", tmp_path, "ts").rows_extracted == 0
    finally:
        role.dispose()
        make(fresh_postgres, 'DROP OWNED BY "some reader"', 'DROP ROLE "some reader"')


def test_settled_waits_for_transactions_that_are_open(fresh_postgres, tmp_path):
    make(
        fresh_postgres,
        "CREATE TABLE t (id int PRIMARY KEY, ts timestamptz NOT NULL DEFAULT now())",
        "INSERT INTO t VALUES (1, now() - interval '1 hour')",
    )
    with fresh_postgres.connect() as slow:
        run(slow, "INSERT INTO t (id) VALUES (2)")
        make(fresh_postgres, "INSERT INTO t (id) VALUES (3)")
        result = incremental(fresh_postgres, "t", tmp_path, "ts")
        assert result.manifest.window is not None
        assert result.manifest.window.semantics == "settled"
        assert ids(tmp_path) == [1]
        slow.commit()
    run_after_a_second(fresh_postgres)
    incremental(fresh_postgres, "t", tmp_path, "ts")
    assert ids(tmp_path) == [1, 2, 3]


def run_after_a_second(engine: sa.Engine) -> None:
    """Let what was stamped just now be settled."""
    with engine.connect() as conn:
        run(conn, "SELECT pg_sleep(1.1)")


def test_a_moment_that_others_hold_is_no_settled_one(fresh_postgres, tmp_path):
    make(fresh_postgres, "CREATE TABLE t (id int PRIMARY KEY, ts timestamptz NOT NULL)")
    intent = on(fresh_postgres, "t", tmp_path, "ts")
    planned = plan(intent)
    with hold_snapshot(planned) as moment, pytest.raises(ValidationError, match="moment"):
        execute(planned, moment=moment)


def test_manifests_keep_the_watermark_exactly(source, tmp_path):
    make(
        source,
        "CREATE TABLE t (id integer PRIMARY KEY, n decimal(15,5) NOT NULL)",
        "INSERT INTO t VALUES (1, 1234567890.12345)",
    )
    result = incremental(source, "t", tmp_path / "out", Cursor("n", "exclusive"))
    window = json.loads(Path(result.manifest_path).read_text())["window"]
    assert decimal.Decimal(window["high_watermark"]) == decimal.Decimal("1234567890.12345")


def test_prepared_transactions_are_waited_for(reachable_tmp_path, tmp_path):
    data = reachable_tmp_path / "data"
    with PostgresServer(data_dir=data) as server:
        engine = sa.create_engine(server.url, isolation_level="AUTOCOMMIT")
        with engine.connect() as conn:
            run(conn, "ALTER SYSTEM SET max_prepared_transactions = 2")
        engine.dispose()
    with PostgresServer(data_dir=data) as server:
        engine = sa.create_engine(server.url)
        make(
            engine,
            "CREATE TABLE t (id int PRIMARY KEY, ts timestamptz NOT NULL DEFAULT now())",
            "CREATE TABLE other (id int)",
        )
        make(engine, "INSERT INTO other VALUES (1)", "PREPARE TRANSACTION 'elsewhere'")
        assert incremental(engine, "t", tmp_path, "ts").rows_extracted == 0
        make(engine, "INSERT INTO t (id) VALUES (1)", "PREPARE TRANSACTION 'half done'")
        with pytest.raises(LockNotAvailable, match="half done"):
            incremental(engine, "t", tmp_path, "ts")
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
            run(conn, "COMMIT PREPARED 'half done'")
            run(conn, "ROLLBACK PREPARED 'elsewhere'")
        run_after_a_second(engine)
        assert incremental(engine, "t", tmp_path, "ts").rows_extracted == 1
        engine.dispose()


def test_the_greatest_key_and_its_window_come_from_the_index(fresh_postgres):
    make(
        fresh_postgres,
        "CREATE TABLE t (id bigint, ts timestamptz, pad text)",
        "INSERT INTO t SELECT n, timestamptz '2024-01-01 00:00+00' + n * interval '1 s', "
        "repeat('x', 300) FROM generate_series(1, 20000) n",
        "CREATE INDEX ON t (ts)",
        "ANALYZE t",
    )
    dialect, part = dialect_of(fresh_postgres), TablePart(TableName("t"))
    column = Column("ts", "timestamp with time zone", pa.string(), as_text=True)
    mark = "'2024-01-01 05:00+00'::timestamptz"
    queries = [
        dialect.greatest(part, column),
        dialect.greatest(part, column, where=[f'"ts" >= {mark}']),
        dialect.select_part(part, [column], where=f'"ts" <= now() AND "ts" > {mark}'),
    ]
    with fresh_postgres.connect() as conn:
        for query in queries:
            shown = "\n".join(run(conn, f"EXPLAIN {query}").scalars())
            assert "Index" in shown
            assert "Seq Scan" not in shown
