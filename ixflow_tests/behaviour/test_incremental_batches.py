"""Ingests of what is new in another database: none lost, none doubled, whatever the source."""

from __future__ import annotations

import datetime as dt
import json
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from ixflow import (
    Delete,
    Exclusive,
    HighWatermark,
    Inclusive,
    Overlap,
    Settled,
    incremental_batches,
    ingest,
)
from ixflow.dialects import dialect_of, run
from ixflow.dialects.postgres import transactions
from ixflow.errors import ColumnMismatch, IngestError, TableNotFound, ValidationError
from ixflow.ingestion.options import IngestResult
from ixflow.tables.declared import name_of
from ixflow_tests.servers import PostgresServer, make_engine
from ixflow_tests.sources import make

EVERY = ["postgres", "duckdb", "sqlite", "mariadb", "sqlserver"]


@pytest.fixture(params=EVERY)
def source(request) -> sa.Engine:
    """Give a fresh database of each kind."""
    engine: sa.Engine = request.getfixturevalue(f"fresh_{request.param}")
    return engine


@pytest.fixture
def warehouse(tmp_path: Path):
    """Give an empty DuckDB warehouse, for tests that are not about the warehouse."""
    engine = make_engine(f"duckdb:///{tmp_path}/warehouse.duckdb")
    yield engine
    engine.dispose()


def url_of(engine: sa.Engine) -> str:
    """Write the URL of a source, as users give it."""
    return engine.url.render_as_string(hide_password=False)


def target(*columns: sa.Column[Any], key: bool = True, name: str = "t") -> sa.Table:
    """Declare a table of the warehouse: id, and what else is given."""
    identity = sa.Column("id", sa.BIGINT, primary_key=key, autoincrement=False)
    return sa.Table(name, sa.MetaData(), identity, *columns, schema="app")


def ingested(engine: sa.Engine, table: sa.Table, batches: Any, **options: Any) -> IngestResult:
    """Ingest once."""
    with engine.connect() as conn:
        return ingest(conn, table.metadata, batches, **options)


def ids(engine: sa.Engine, table: sa.Table) -> list[int]:
    """Give the ids that have arrived, sorted."""
    with engine.connect() as conn:
        name = dialect_of(conn).qualified(name_of(table))
        return sorted(run(conn, f"SELECT id FROM {name}").scalars())


# -- every source ---------------------------------------------------------------------------------


def test_each_run_brings_what_is_new(source, warehouse_engine):
    table = target(sa.Column("k", sa.INTEGER), key=False)
    make(
        source,
        "CREATE TABLE t (id integer PRIMARY KEY, k integer)",
        "INSERT INTO t VALUES (1, 10), (2, 20)",
    )
    new = incremental_batches(
        url_of(source), table, cursor="k", semantics=Exclusive(), source_table="t"
    )
    assert ingested(warehouse_engine, table, new).rows_inserted == 2
    assert ingested(warehouse_engine, table, new).batches == 0
    make(source, "INSERT INTO t VALUES (3, 20), (4, 30), (5, 30)")
    result = ingested(warehouse_engine, table, new)
    assert ids(warehouse_engine, table) == [1, 2, 4, 5]
    assert result.high_watermark_after == {"cursor": "k", "after": "30"}


def test_an_overlap_brings_late_rows_and_doubles_none(source, warehouse):
    table = target(sa.Column("k", sa.INTEGER))
    make(
        source,
        "CREATE TABLE t (id integer PRIMARY KEY, k integer NOT NULL)",
        "INSERT INTO t VALUES (1, 10), (2, 20)",
    )
    new = incremental_batches(
        url_of(source), table, cursor="k", semantics=Overlap(5), source_table="t"
    )
    ingested(warehouse, table, new)
    make(source, "INSERT INTO t VALUES (3, 16), (4, 12)")
    result = ingested(warehouse, table, new)
    assert ids(warehouse, table) == [1, 2, 3]
    assert (result.rows_inserted, result.rows_updated) == (1, 0)


def test_rows_at_the_mark_come_again_where_it_is_included(source, warehouse):
    table = target(sa.Column("k", sa.INTEGER))
    make(
        source,
        "CREATE TABLE t (id integer PRIMARY KEY, k integer NOT NULL)",
        "INSERT INTO t VALUES (1, 10)",
    )
    new = incremental_batches(
        url_of(source), table, cursor="k", semantics=Inclusive(), source_table="t"
    )
    ingested(warehouse, table, new)
    make(source, "INSERT INTO t VALUES (2, 10), (3, 9)")
    ingested(warehouse, table, new)
    assert ids(warehouse, table) == [1, 2]


def test_rows_of_one_cursor_value_are_never_parted(source, warehouse):
    keys = [1, 2, 2, 2, 2, 3, 4, 4, 5]
    make(
        source,
        "CREATE TABLE t (id integer PRIMARY KEY, k integer NOT NULL)",
        f"INSERT INTO t VALUES {', '.join(f'({n}, {k})' for n, k in enumerate(keys))}",
    )
    counts = {}
    for rows in (1, 3, 100):
        table = target(sa.Column("k", sa.INTEGER), key=False, name=f"t{rows}")
        options: dict[str, Any] = {"cursor": "k", "semantics": Exclusive(), "batch_rows": rows}
        new = incremental_batches(source, table, source_table="t", **options)
        counts[rows] = ingested(warehouse, table, new).batches
        assert ids(warehouse, table) == list(range(len(keys)))
        assert ingested(warehouse, table, new).batches == 0
    assert counts == {1: 5, 3: 3, 100: 1}


def test_a_run_that_dies_goes_on_where_the_rows_end(source, warehouse):
    table = target(sa.Column("k", sa.INTEGER), key=False)
    make(
        source,
        "CREATE TABLE t (id integer PRIMARY KEY, k integer NOT NULL)",
        f"INSERT INTO t VALUES {', '.join(f'({n}, {n // 2})' for n in range(12))}",
    )
    options: dict[str, Any] = {"cursor": "k", "semantics": Exclusive(), "batch_rows": 2}
    new = incremental_batches(url_of(source), table, source_table="t", **options)
    runs = 0
    while runs < 20:
        runs += 1
        try:
            ingested(warehouse, table, new, on_before_visible=dies_second())
        except RuntimeError:
            continue
        break
    assert (ids(warehouse, table), runs) == (list(range(12)), 6)


def dies_second() -> Any:
    """Make a callback that lets one batch pass."""
    passed: list[Any] = []

    def called(conn: sa.Connection, told: Any) -> None:
        if passed:
            raise RuntimeError("dies")
        passed.append(told)

    return called


def test_rows_without_a_cursor_are_refused_or_read_as_told(source, warehouse):
    make(
        source,
        "CREATE TABLE t (id integer PRIMARY KEY, k integer)",
        "INSERT INTO t VALUES (1, 10), (2, NULL)",
    )
    found = {}
    for nulls in ("refuse", "first run", "each run"):
        table = target(sa.Column("k", sa.INTEGER), name=f"t_{nulls[:4]}")
        options: dict[str, Any] = {"cursor": "k", "semantics": Exclusive(), "nulls": nulls}
        new = incremental_batches(url_of(source), table, source_table="t", **options)
        if nulls == "refuse":
            with pytest.raises(ValidationError, match="k is NULL"):
                ingested(warehouse, table, new)
            continue
        ingested(warehouse, table, new)
        make(source, f"INSERT INTO t VALUES ({len(nulls)}, NULL)")
        ingested(warehouse, table, new)
        found[nulls] = ids(warehouse, table)
    assert found == {"first run": [1, 2], "each run": [1, 2, 8, 9]}


def test_a_query_and_a_condition_choose_the_rows(any_engine, warehouse):
    table = target(sa.Column("twice", sa.INTEGER))
    make(
        any_engine,
        "CREATE TABLE t (id integer PRIMARY KEY, k integer NOT NULL)",
        "INSERT INTO t VALUES (1, 10), (2, 20), (3, 30)",
    )
    query = "SELECT id, k, 2 * k AS twice FROM t;"
    new = incremental_batches(
        any_engine, table, cursor="k", semantics=Exclusive(), query=query, where="id <> 2"
    )
    ingested(warehouse, table, new)
    assert ids(warehouse, table) == [1, 3]


# -- marks ----------------------------------------------------------------------------------------

CURSORS = {
    "bigint": (str(2**62 + 1), str(2**62 + 2)),
    "numeric(38,9)": ("12345678901234567890.123456789", "12345678901234567890.123456790"),
    "numeric": ("1e30", "1000000000000000000000000000000.5"),
    "date": ("2024-02-29", "9999-12-31"),
    "timestamp": ("2024-02-29 23:59:59.999999", "2024-03-01"),
    "timestamptz": ("2024-02-29 23:59:59.999999+05:30", "2024-02-29 23:59:59.999999-08"),
    "uuid": (str(uuid.UUID(int=1)), str(uuid.UUID(int=2**127))),
    "text": ('o\'clock \\ "a"', "ø"),
}


@pytest.mark.parametrize("semantics", [Exclusive(), Inclusive()])
def test_marks_of_every_type_survive_being_stored(fresh_postgres, warehouse, semantics):
    for number, (sql_type, values) in enumerate(CURSORS.items()):
        table = target(name=f"t{number}")
        first, second = (value.replace("'", "''") for value in values)
        make(
            fresh_postgres,
            f"CREATE TABLE t{number} (id bigint PRIMARY KEY, k {sql_type} NOT NULL)",
            f"INSERT INTO t{number} VALUES (1, '{first}')",
        )
        new = incremental_batches(
            fresh_postgres, table, cursor="k", semantics=semantics, source_table=f"t{number}"
        )
        ingested(warehouse, table, new)
        make(fresh_postgres, f"INSERT INTO t{number} VALUES (2, '{second}')")
        mark = ingested(warehouse, table, new).high_watermark_after
        assert ids(warehouse, table) == [1, 2], sql_type
        assert json.loads(json.dumps(mark)) == mark
        assert isinstance(mark["after"], str)
        again = ingested(warehouse, table, new)
        assert (again.rows_inserted, again.rows_updated) == (0, 0)
        assert again.batches == (1 if isinstance(semantics, Inclusive) else 0)


def test_a_plain_value_is_a_mark(fresh_postgres, warehouse):
    table = target()
    make(
        fresh_postgres,
        "CREATE TABLE t (id bigint PRIMARY KEY, n numeric, ts timestamptz DEFAULT '2024-01-01')",
        "INSERT INTO t VALUES (1, 1), (2, 2), (3, 3)",
    )
    for cursor, semantics, mark in (
        ("id", Exclusive(), 1),
        ("id", Settled(), "1"),
        ("n", Exclusive(), "1.0"),
        ("n", Inclusive(), "1.5"),
    ):
        new = incremental_batches(
            fresh_postgres, table, cursor=cursor, semantics=semantics, source_table="t"
        )
        make(warehouse, "DROP TABLE IF EXISTS app.t")
        ingested(warehouse, table, new, high_watermark=mark)
        assert ids(warehouse, table) == [2, 3]


def test_what_is_no_mark_of_the_cursor_is_refused(fresh_sqlite, warehouse):
    make(fresh_sqlite, "CREATE TABLE t (id bigint PRIMARY KEY)")
    table = target()
    new = incremental_batches(
        fresh_sqlite, table, cursor="id", semantics=Exclusive(), source_table="t"
    )
    other = {"cursor": "other", "after": "1"}
    for mark in (1.5, True, [1], {"id": 1}, {"cursor": "id", "server": "x"}, other):
        with pytest.raises(ValidationError, match="cannot be used"):
            ingested(warehouse, table, new, high_watermark=mark)


def test_what_could_lose_or_double_rows_is_refused(fresh_sqlite, fresh_postgres, warehouse):
    keyed, bare = target(), target(key=False)
    make(fresh_sqlite, "CREATE TABLE t (id bigint PRIMARY KEY, ts timestamp)")
    make(fresh_postgres, "CREATE TABLE t (id bigint PRIMARY KEY, ts timestamp)")

    def asked(engine, table, **options):
        new = incremental_batches(engine, table, source_table="t", **options)
        return ingested(warehouse, table, new)

    for engine, table, options, said in (
        (fresh_postgres, bare, {"cursor": "ts", "semantics": Overlap()}, "has no primary key"),
        (fresh_postgres, bare, {"cursor": "ts", "semantics": Inclusive()}, "has no primary key"),
        (fresh_postgres, bare, {"cursor": "id", "nulls": "each run"}, "has no primary key"),
        (fresh_sqlite, bare, {"cursor": "ts"}, "has no primary key"),
        (fresh_sqlite, keyed, {"cursor": "id"}, "say what id"),
        (fresh_sqlite, keyed, {"cursor": "id", "semantics": Settled()}, "'settled' is for"),
        (fresh_sqlite, keyed, {}, "needs a cursor"),
        (fresh_postgres, keyed, {"cursor": ""}, "name of a column"),
        (fresh_postgres, keyed, {"semantics": "settled"}, "give Settled"),
        (fresh_postgres, keyed, {"cursor": "id", "nulls": "refuse"}, "like all others"),
        (fresh_postgres, keyed, {"cursor": "id", "nulls": "no"}, "nulls is 'no'"),
        (fresh_postgres, keyed, {"cursor": "id", "batch_rows": 0}, "batch_rows is 0"),
        (fresh_postgres, keyed, {"batch_rows": 5}, "needs a cursor"),
        (fresh_postgres, keyed, {"query": "SELECT 1"}, "give one of them"),
    ):
        with pytest.raises(ValidationError, match=said):
            asked(engine, table, **options)
    with pytest.raises(ColumnMismatch, match=r"no columns \['nope'\]"):
        asked(fresh_postgres, keyed, cursor="nope")
    with pytest.raises(TableNotFound):
        ingested(warehouse, keyed, incremental_batches(fresh_postgres, keyed, cursor="id"))
    for wrong in (Overlap, Settled):
        with pytest.raises(ValidationError, match="over 0"):
            wrong(dt.timedelta(0))


def test_no_password_is_shown(fresh_postgres, warehouse):
    url = fresh_postgres.url.set(password="s3cret/@:")
    make(fresh_postgres, "CREATE TABLE t (id bigint PRIMARY KEY)")
    table = target()
    new = incremental_batches(url, table, query="SELECT 1 / (id - id) AS id, 1 AS k FROM t")
    make(fresh_postgres, "INSERT INTO t VALUES (7)")
    with pytest.raises(ValidationError) as refused:
        ingested(warehouse, table, new)
    bad = incremental_batches(
        url,
        table,
        cursor="k",
        semantics=Exclusive(),
        query="SELECT 1 / (id - id) AS id, id AS k FROM t",
    )
    with pytest.raises(IngestError, match="division by zero") as failed:
        ingested(warehouse, table, bad)
    assert "s3cret" not in f"{refused.value!r}{failed.value!r}"


# -- settled --------------------------------------------------------------------------------------

STAMPED = "CREATE TABLE t (id bigint PRIMARY KEY, ts timestamptz DEFAULT now())"


def settled(engine: sa.Engine, table: sa.Table, cursor: str | None = "ts", **options: Any) -> Any:
    """Make the batches of a table ``t`` of PostgreSQL."""
    return incremental_batches(engine, table, cursor=cursor, source_table="t", **options)


@pytest.mark.parametrize("cursor", ["ts", "id", None])
def test_what_is_committed_comes_at_once(fresh_postgres, warehouse, cursor):
    table = target(key=False)
    new = settled(fresh_postgres, table, cursor)
    make(fresh_postgres, STAMPED)
    for number in range(1, 4):
        make(fresh_postgres, f"INSERT INTO t VALUES ({number})")
        assert ingested(warehouse, table, new).rows_inserted == 1
    assert ingested(warehouse, table, new).batches == 0
    assert ids(warehouse, table) == [1, 2, 3]


@pytest.mark.parametrize("cursor", ["ts", "id", None])
def test_what_commits_late_is_neither_lost_nor_doubled(fresh_postgres, warehouse, cursor):
    table = target(key=False)
    new = settled(fresh_postgres, table, cursor)
    make(fresh_postgres, STAMPED, "INSERT INTO t VALUES (10)")
    with fresh_postgres.connect() as slow, fresh_postgres.connect() as idle:
        run(idle, "SELECT now()")  # its transaction has begun, and has no number yet
        run(slow, "INSERT INTO t VALUES (2)")
        with slow.begin_nested():
            run(slow, "INSERT INTO t VALUES (3)")
        make(fresh_postgres, "INSERT INTO t VALUES (14)")
        ingested(warehouse, table, new)
        assert ids(warehouse, table) == [10]
        slow.commit()
        ingested(warehouse, table, new)
        assert ids(warehouse, table) == [2, 3, 10, 14]
        run(idle, "INSERT INTO t VALUES (5)")
        idle.commit()
    ingested(warehouse, table, new)
    assert ids(warehouse, table) == [2, 3, 5, 10, 14]


def test_an_updated_row_comes_again_though_nobody_stamped_it(fresh_postgres, warehouse):
    table = target(sa.Column("v", sa.TEXT))
    make(fresh_postgres, "CREATE TABLE t (id bigint PRIMARY KEY, v text)")
    make(fresh_postgres, "INSERT INTO t VALUES (1, 'a'), (2, 'b')")
    new = settled(fresh_postgres, table, None)
    ingested(warehouse, table, new)
    make(fresh_postgres, "UPDATE t SET v = 'c' WHERE id = 2")
    result = ingested(warehouse, table, new)
    assert (result.rows_inserted, result.rows_updated) == (0, 1)


def test_rows_without_a_cursor_come_like_all_others(fresh_postgres, warehouse):
    table = target(key=False)
    make(fresh_postgres, STAMPED, "INSERT INTO t VALUES (1, NULL), (2, now())")
    for rows in (None, 1):
        new = settled(fresh_postgres, table, batch_rows=rows)
        ingested(warehouse, table, new)
        make(fresh_postgres, f"INSERT INTO t VALUES ({rows or 3}0, NULL), ({rows or 3}1, now())")
        ingested(warehouse, table, new)
    assert ids(warehouse, table) == [1, 2, 10, 11, 30, 31]


def test_batches_of_a_settled_run_can_die_and_go_on(fresh_postgres, warehouse):
    table = target(key=False)
    make(
        fresh_postgres,
        STAMPED,
        "INSERT INTO t SELECT n, CASE WHEN n % 5 > 0 THEN now() - n % 3 * interval '1 hour' END "
        "FROM generate_series(0, 29) n",
    )
    new = settled(fresh_postgres, table, batch_rows=4)
    for number in range(30, 36):

        def one_batch(high_watermark):
            for count, batch in enumerate(new(high_watermark)):
                if count:
                    return
                yield batch

        ingested(warehouse, table, one_batch)
        make(fresh_postgres, f"INSERT INTO t VALUES ({number})")
    ingested(warehouse, table, new)
    assert ids(warehouse, table) == list(range(36))
    assert ingested(warehouse, table, new).batches == 0


def test_every_partition_is_read(fresh_postgres, warehouse):
    table = target(key=False)
    make(
        fresh_postgres,
        "CREATE TABLE t (id bigint, ts timestamptz DEFAULT now()) PARTITION BY HASH (id)",
        "CREATE TABLE t0 PARTITION OF t FOR VALUES WITH (MODULUS 2, REMAINDER 0)",
        "CREATE TABLE t1 PARTITION OF t FOR VALUES WITH (MODULUS 2, REMAINDER 1)",
        "INSERT INTO t SELECT generate_series(1, 9)",
    )
    new = settled(fresh_postgres, table)
    ingested(warehouse, table, new)
    make(fresh_postgres, "INSERT INTO t VALUES (10), (11)")
    ingested(warehouse, table, new)
    assert ids(warehouse, table) == list(range(1, 12))


def test_stamps_that_are_old_need_a_lookback(fresh_postgres, warehouse):
    table = target(key=False)
    make(fresh_postgres, STAMPED)
    runs = {
        "one hour": settled(fresh_postgres, table),
        "a day": settled(fresh_postgres, table, semantics=Settled(dt.timedelta(days=1))),
        "no cursor": settled(fresh_postgres, table, None),
    }
    found = {}
    for name, new in runs.items():
        make(warehouse, "DROP TABLE IF EXISTS app.t")
        make(fresh_postgres, "TRUNCATE t", "INSERT INTO t VALUES (1)")
        ingested(warehouse, table, new)
        hours = (
            "INSERT INTO t VALUES (2, now() - interval '50 minutes'), (3, now() - interval '5h')"
        )
        make(fresh_postgres, hours)
        ingested(warehouse, table, new)
        found[name] = ids(warehouse, table)
    assert found == {"one hour": [1, 2], "a day": [1, 2, 3], "no cursor": [1, 2, 3]}


def test_numbers_are_looked_for_below_the_greatest(fresh_postgres, warehouse):
    table = target(key=False)
    make(fresh_postgres, STAMPED, "INSERT INTO t VALUES (100)")
    new = settled(fresh_postgres, table, "id", semantics=Settled(10))
    ingested(warehouse, table, new)
    make(fresh_postgres, "INSERT INTO t VALUES (95), (80), (101)")
    result = ingested(warehouse, table, new)
    assert ids(warehouse, table) == [95, 100, 101]
    assert result.high_watermark_after["since"] == "91"


def test_a_role_that_sees_no_transactions_reads_all_of_the_table(fresh_postgres, warehouse, caplog):
    make(
        fresh_postgres,
        STAMPED,
        "DROP ROLE IF EXISTS batch_reader",
        "CREATE ROLE batch_reader LOGIN",
        "GRANT SELECT ON t TO batch_reader",
        "INSERT INTO t VALUES (1, '2020-01-01')",
    )
    table = target(key=False)
    role = fresh_postgres.url.set(username="batch_reader")
    new = incremental_batches(role, table, cursor="ts", source_table="t")
    try:
        assert ingested(warehouse, table, new).high_watermark_after["since"] is None
        make(fresh_postgres, "INSERT INTO t VALUES (2, '2020-01-01')")
        ingested(warehouse, table, new)
        assert ids(warehouse, table) == [1, 2]
        assert "GRANT pg_read_all_stats" in caplog.text
    finally:
        make(fresh_postgres, "DROP OWNED BY batch_reader", "DROP ROLE batch_reader")


def test_a_first_run_with_a_key_misses_nothing_that_is_committed(fresh_postgres, warehouse):
    table = target()
    make(fresh_postgres, STAMPED, "INSERT INTO t VALUES (1), (2)")
    new = settled(fresh_postgres, table)
    ingested(warehouse, table, new)
    with fresh_postgres.connect() as slow:
        run(slow, "INSERT INTO t VALUES (3)")
        make(fresh_postgres, "UPDATE t SET ts = now() WHERE id = 2", "INSERT INTO t VALUES (4)")
        everything = {"high_watermark": HighWatermark.EARLIEST, "delete": Delete.MISSING}
        result = ingested(warehouse, table, new, **everything)
        assert ids(warehouse, table) == [1, 2, 4]
        assert sum(counts.deleted for counts in result.tables.values()) == 0
        slow.commit()
    ingested(warehouse, table, new)
    assert ids(warehouse, table) == [1, 2, 3, 4]


def test_who_cannot_be_seen_is_not_settled(fresh_postgres, warehouse, caplog):
    database = fresh_postgres.url.database
    make(
        fresh_postgres,
        STAMPED,
        "INSERT INTO t VALUES (1)",
        f"ALTER DATABASE {database} SET track_activities = off",
    )
    table = target(key=False)
    mark = ingested(warehouse, table, settled(fresh_postgres, table)).high_watermark_after
    assert mark["since"] is None
    assert "track_activities is off" in caplog.text


def test_a_view_is_settled_by_its_stamps(fresh_postgres, warehouse):
    table = target(key=False)
    make(
        fresh_postgres,
        STAMPED,
        "CREATE VIEW v AS SELECT * FROM t",
        "INSERT INTO t VALUES (1, now() - interval '1 hour'), (2, now() - interval '1 min')",
    )
    new = incremental_batches(fresh_postgres, table, cursor="ts", source_table="v", nulls="refuse")
    late = incremental_batches(
        fresh_postgres,
        table,
        cursor="ts",
        source_table="v",
        nulls="refuse",
        semantics=Settled(dt.timedelta(minutes=30)),
    )
    ingested(warehouse, table, late)
    assert ids(warehouse, table) == [1]
    with fresh_postgres.connect() as slow:
        run(slow, "INSERT INTO t VALUES (3)")
        make(fresh_postgres, "INSERT INTO t VALUES (4)")
        ingested(warehouse, table, new)
        assert ids(warehouse, table) == [1, 2]
        slow.commit()


def test_another_server_is_noticed(fresh_postgres, warehouse, monkeypatch):
    make(fresh_postgres, STAMPED, "INSERT INTO t VALUES (1)")
    bare, keyed = target(key=False, name="bare"), target(name="keyed")
    for table in (bare, keyed):
        ingested(warehouse, table, settled(fresh_postgres, table))
    make(fresh_postgres, "INSERT INTO t VALUES (2)")
    before = transactions._ENDED
    other = str(before).replace("concat_ws('.',", "concat_ws('.', 'other',")
    monkeypatch.setattr(transactions, "_ENDED", sa.text(other))
    with pytest.raises(ValidationError, match="another server"):
        ingested(warehouse, bare, settled(fresh_postgres, bare))
    result = ingested(warehouse, keyed, settled(fresh_postgres, keyed))
    assert (result.rows_inserted, result.rows_updated) == (1, 0)
    assert result.high_watermark_after["server"].startswith("other")
    restart = {"high_watermark": HighWatermark.EARLIEST, "delete": "__BEFORE_FIRST_BATCH__"}
    ingested(warehouse, bare, settled(fresh_postgres, bare), **restart)
    assert ids(warehouse, bare) == [1, 2]


def test_prepared_transactions_are_waited_for(reachable_tmp_path, warehouse):
    data = reachable_tmp_path / "data"
    with PostgresServer(data_dir=data) as server:
        engine = sa.create_engine(server.url, isolation_level="AUTOCOMMIT")
        with engine.connect() as conn:
            run(conn, "ALTER SYSTEM SET max_prepared_transactions = 2")
        engine.dispose()
    with PostgresServer(data_dir=data) as server:
        engine = make_engine(server.url)
        table = target(key=False)
        new = settled(engine, table)
        make(engine, STAMPED, "INSERT INTO t VALUES (1)")
        make(engine, "INSERT INTO t VALUES (2)", "PREPARE TRANSACTION 'half done'")
        make(engine, "INSERT INTO t VALUES (3)")
        ingested(warehouse, table, new)
        assert ids(warehouse, table) == [1]
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
            run(conn, "COMMIT PREPARED 'half done'")
        ingested(warehouse, table, new)
        assert ids(warehouse, table) == [1, 2, 3]


def test_numbers_that_run_over_are_told_apart(fresh_postgres):
    make(fresh_postgres, "CREATE TABLE t (id bigint)")
    numbers = {0: 3, 1: 2**32 - 2, 2: 2**32 + 5, 3: 2**33 + 1}
    with fresh_postgres.connect() as conn:
        for first, end, expected in (
            (3, 4, {0}),
            (2**32 - 3, 2**32 + 6, {0, 1, 2, 3}),  # 0 and 3 look like 2^32 + 3 and + 1
            (2**32 + 5, 2**32 + 6, {2}),
            (2**33, 2**33 + 2, {3}),
            (9, 9, set()),
        ):
            found = set()
            for name, number in numbers.items():
                condition = transactions.made_by(first, end).replace(
                    "xmin", f"'{number % 2**32}'::xid"
                )
                if run(conn, f"SELECT {condition}").scalar():
                    found.add(name)
            assert expected == found


# -- whatever dies --------------------------------------------------------------------------------


class Vanished(BaseException):
    """Stands for a process that is gone."""


def test_dying_before_any_statement_and_running_again_gives_each_row_once(fresh_postgres, tmp_path):
    table = target(key=False)
    make(fresh_postgres, STAMPED, "INSERT INTO t SELECT generate_series(1, 5)")
    new = settled(fresh_postgres, table)
    left = 10**9

    def one_more(*_: Any) -> None:
        nonlocal left
        left -= 1
        if left == -1:
            raise Vanished

    into = make_engine(url_of(fresh_postgres))
    sa.event.listen(into, "before_cursor_execute", one_more)
    sa.event.listen(into, "commit", one_more)
    point, alive = 0, False
    while not alive:
        make(fresh_postgres, "DROP SCHEMA IF EXISTS app CASCADE")
        left, alive = point, True
        try:
            ingested(into, table, new)
        except Vanished:
            alive = False
        left = 10**9
        ingested(into, table, new)
        assert ids(fresh_postgres, table) == [1, 2, 3, 4, 5]
        point += 1
    assert point > 10


def test_the_types_of_the_source_arrive_exactly(fresh_mariadb, warehouse):
    table = target(
        sa.Column("price", sa.DECIMAL(12, 2)),
        sa.Column("ts", sa.TIMESTAMP),
        sa.Column("s", sa.TEXT),
    )
    make(
        fresh_mariadb,
        "CREATE TABLE t (id bigint PRIMARY KEY, price decimal(12,2), ts datetime(6), s text)",
        "INSERT INTO t VALUES (1, 9999999999.99, '2024-02-29 23:59:59.999999', 'é')",
    )
    new = incremental_batches(fresh_mariadb, table, cursor="ts", source_table="t")
    ingested(warehouse, table, new)
    with warehouse.connect() as conn:
        row = run(conn, "SELECT price, ts::text, s FROM app.t").one()
    assert tuple(row) == (Decimal("9999999999.99"), "2024-02-29 23:59:59.999999", "é")
