"""Versions of a dataset: each a partition, the newest under the name, nothing half there."""

from __future__ import annotations

import polars as pl
import pytest
import sqlalchemy as sa

from ixflow.dialects import run
from ixflow.errors import (
    DataError,
    DuplicatePartitionError,
    IngestError,
    ReplacementRefused,
    UnsupportedDatabase,
    ValidationError,
)
from ixflow.ingestion.existence import partition_attached, table_exists, view_exists
from ixflow.ingestion.options import HighWatermark, OnDuplicate
from ixflow.ingestion.versioned import ingest_versioned
from ixflow_tests.behaviour.ingesting import relations


def dataset(*more: sa.Column[str], key: bool = True, name: str = "orders") -> sa.Table:
    return sa.Table(
        name,
        sa.MetaData(),
        sa.Column("id", sa.INTEGER, primary_key=key, autoincrement=False),
        sa.Column("v", sa.VARCHAR, index=True),
        *more,
        schema="app",
    )


def version(engine, name, *rows, table=None, **options):
    """Ingest rows as a version, one batch, whose watermark is the version's name."""
    base = dataset() if table is None else table
    with engine.connect() as conn:
        return ingest_versioned(
            conn, base, lambda _: [(name, None, [(base, row) for row in rows])], name, **options
        )


def shown(engine, query="SELECT * FROM app.orders ORDER BY id"):
    with engine.connect() as conn:
        return [tuple(row) for row in run(conn, query)]


def execute(engine, *statements):
    with engine.begin() as conn:
        for statement in statements:
            run(conn, statement)


@pytest.fixture
def engine(fresh_postgres):
    return fresh_postgres


def test_the_name_shows_the_newest_version_and_all_are_kept(engine):
    first = version(engine, "2026-11-01", (1, "a"))
    second = version(engine, "2026-11-02", (1, "b"), (2, "c"))
    assert (first.outcome, second.outcome) == ("attached", "attached")
    assert shown(engine) == [(1, "b", "2026-11-02"), (2, "c", "2026-11-02")]
    assert len(shown(engine, "SELECT * FROM app.orders__history")) == 3
    with engine.connect() as conn:
        assert view_exists(conn, "app", "orders")
        assert not table_exists(conn, schema_name="app", table_name="orders")
        assert table_exists(conn, "app", "orders__history")
        assert partition_attached(conn, "app", partition_name="orders__20261102")
        assert not partition_attached(conn, "app", "orders__history")


def test_a_version_that_is_there_is_not_asked_for_again(engine):
    version(engine, "1", (1, "a"))

    def never(_):
        raise AssertionError

    base = dataset()
    with engine.connect() as conn:
        assert ingest_versioned(conn, base, never, "1").outcome == "exists"
        assert not conn.in_transaction()


def test_latest_goes_on_from_the_version_before_and_its_watermark(engine):
    version(engine, "1", (1, "a"), (2, "b"))
    seen = []
    base = dataset()

    def more(watermark):
        seen.append(watermark)
        yield "w2", None, [(base, {"id": 2, "v": "B"}), (base, (3, "c"))]

    with engine.connect() as conn:
        ingest_versioned(conn, base, more, "2")
    assert seen == ["1"]
    assert shown(engine) == [(1, "a", "2"), (2, "B", "2"), (3, "c", "2")]


def test_earliest_begins_empty(engine):
    version(engine, "1", (1, "a"), (2, "b"))
    version(engine, "2", (3, "c"), high_watermark=HighWatermark.EARLIEST)
    assert shown(engine) == [(3, "c", "2")]


def test_frames_get_the_version_too(engine):
    base = dataset()
    frame = pl.DataFrame({"v": ["x", None], "id": [1, 2]})
    with engine.connect() as conn:
        ingest_versioned(conn, base, lambda _: [(1, None, [(base, frame)])], "f")
    assert shown(engine) == [(1, "x", "f"), (2, None, "f")]


def test_a_duplicate_is_skipped_and_leaves_nothing(engine):
    version(engine, "1", (1, "a"), (2, "b"))
    before = relations(engine)
    found = version(engine, "2", (2, "b"), (1, "a"), high_watermark=HighWatermark.EARLIEST)
    assert (found.outcome, found.rows) == ("duplicate", 2)
    assert relations(engine) == before
    assert shown(engine)[0] == (1, "a", "1")


def test_a_duplicate_can_be_an_error_or_kept_or_handled(engine):
    version(engine, "1", (1, "a"))
    before = relations(engine)
    with pytest.raises(DuplicatePartitionError, match=r"exactly the rows of app\.orders__1"):
        version(engine, "2", on_duplicate=OnDuplicate.ERROR)
    assert relations(engine) == before
    calls: list[object] = []

    def handle(*given):
        calls.append(given[1:])
        return True

    handled = version(engine, "3", on_duplicate=handle)
    assert (handled.outcome, calls) == ("handled", [("app", "orders__3", "orders__1")])
    assert version(engine, "4", on_duplicate=OnDuplicate.KEEP).outcome == "attached"
    assert shown(engine) == [(1, "a", "4")]


def test_rows_that_are_there_twice_are_no_duplicate_of_one(engine):
    table = dataset(key=False)
    version(engine, "1", (1, "a"), (2, "b"), (2, "b"), table=table)
    found = version(
        engine, "2", (1, "a"), (1, "a"), (2, "b"),
        table=table, high_watermark=HighWatermark.EARLIEST,
    )  # fmt: skip
    assert found.outcome == "attached"


def test_an_empty_version_is_dropped(engine):
    assert version(engine, "1").outcome == "empty"
    assert relations(engine) == set()


def test_columns_come_and_go_and_the_view_keeps_its_grants_and_views(engine):
    version(engine, "1", (1, "a"))
    execute(
        engine,
        "DROP ROLE IF EXISTS reader; CREATE ROLE reader; GRANT SELECT ON app.orders TO reader",
        "CREATE VIEW app.ids AS SELECT id FROM app.orders",
    )
    wider = dataset(sa.Column("note", sa.VARCHAR))
    version(engine, "2", (2, "b", "new"), table=wider)
    assert shown(engine) == [(1, "a", None, "2"), (2, "b", "new", "2")]
    assert shown(engine, "SELECT id FROM app.ids ORDER BY 1") == [(1,), (2,)]
    narrow = sa.Table(
        "orders", sa.MetaData(), sa.Column("id", sa.INTEGER, primary_key=True), schema="app"
    )
    version(engine, "3", (3,), table=narrow)
    assert shown(engine) == [(1, "3"), (2, "3"), (3, "3")]
    assert len(shown(engine, "SELECT * FROM app.orders__history")) == 6
    assert shown(engine, "SELECT has_table_privilege('reader', 'app.orders', 'SELECT')") == [
        (True,)
    ]
    execute(engine, "DROP OWNED BY reader; DROP ROLE reader")


def test_a_column_that_changes_its_type_is_refused_and_the_view_stays(engine):
    version(engine, "1", (1, "a"))
    changed = sa.Table(
        "orders",
        sa.MetaData(),
        sa.Column("id", sa.VARCHAR, primary_key=True),
        sa.Column("v", sa.VARCHAR),
        schema="app",
    )
    with pytest.raises(DataError, match="not change their type"):
        version(engine, "2", ("x", "y"), table=changed)
    assert shown(engine) == [(1, "a", "1")]
    assert version(engine, "2", (2, "b")).outcome == "attached"


@pytest.mark.parametrize("odd", ["o'x", '"; DROP TABLE x; --', "ü" * 70, "%s :v", "a/b c"])
def test_any_text_is_a_version(engine, odd):
    assert version(engine, odd, (1, "a")).outcome == "attached"
    assert version(engine, odd, (2, "b")).outcome == "exists"
    assert shown(engine) == [(1, "a", odd)]


def test_versions_that_look_alike_are_two(engine):
    version(engine, "20240101", (1, "a"))
    assert version(engine, "2024-01-01", (2, "b")).outcome == "attached"
    assert len(shown(engine, "SELECT DISTINCT _version FROM app.orders__history")) == 2


def test_a_failed_try_is_not_seen_and_is_begun_anew(engine):
    version(engine, "1", (1, "a"))
    base = dataset()

    def breaks(_):
        yield "w", None, [(base, (2, "b"))]
        raise RuntimeError

    with engine.connect() as conn, pytest.raises(RuntimeError):
        ingest_versioned(conn, base, breaks, "2")
    assert shown(engine) == [(1, "a", "1")]
    assert version(engine, "2", (3, "c")).outcome == "attached"
    assert [row[0] for row in shown(engine)] == [1, 3]


def test_two_processes_do_not_ingest_versions_of_one_dataset_at_once(engine):
    base = dataset()

    def nested(_):
        with pytest.raises(IngestError, match="another process"):
            version(engine, "2", (2, "b"))
        yield 1, None, [(base, (1, "a"))]

    with engine.connect() as conn:
        ingest_versioned(conn, base, nested, "1")
    assert version(engine, "2", (2, "b")).outcome == "attached"


def test_a_table_of_the_views_name_is_kept_as_legacy(engine):
    execute(
        engine,
        "CREATE SCHEMA app; CREATE TABLE app.orders (id int); GRANT SELECT ON app.orders TO PUBLIC",
    )
    version(engine, "1", (1, "a"))
    with engine.connect() as conn:
        assert table_exists(conn, "app", "orders_legacy")
    assert shown(engine, "SELECT has_table_privilege('public', 'app.orders', 'SELECT')") == [
        (True,)
    ]


def test_somebody_elses_table_is_not_dropped(engine):
    execute(engine, "CREATE SCHEMA app; CREATE TABLE app.orders__1 (id int)")
    with pytest.raises(ReplacementRefused, match="in the way"):
        version(engine, "1", (1, "a"))


def test_the_callback_is_in_the_transaction_that_shows_the_version(engine):
    seen = []

    def attached(conn, table, name, facts):
        seen.append((conn.in_transaction(), table.name, name, facts["row_count"]))
        seen.append(shown(engine, "SELECT count(*) FROM pg_views WHERE viewname = 'orders'"))

    version(engine, "1", (1, "a"), on_partition_attached=attached)
    assert seen == [(True, "orders__1", "1", 1), [(0,)]]


@pytest.mark.parametrize("bad", ["", None, 7])
def test_a_version_that_is_no_text_is_refused(engine, bad):
    with pytest.raises(ValidationError, match="must be a text"):
        version(engine, bad, (1, "a"))


def test_duckdb_is_refused(fresh_duckdb):
    with pytest.raises(UnsupportedDatabase, match="partitions of PostgreSQL"):
        version(fresh_duckdb, "1", (1, "a"))
