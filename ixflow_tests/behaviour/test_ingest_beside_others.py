"""Ingests beside other sessions, other objects and other settings: nothing is lost or doubled."""

from __future__ import annotations

import random
import threading

import pytest
import sqlalchemy as sa

from ixflow import IngestError, ReplacementRefused, ingest
from ixflow.dialects import dialect_of, run
from ixflow.values import TableName
from ixflow_tests.behaviour.ingesting import ingested, people, rows


def test_a_row_that_others_insert_while_the_table_is_replaced_is_not_lost(fresh_postgres):
    """Writers wait until the new table is there; the old one was read by then."""
    ingested(fresh_postgres, people(), [(1, "a")])
    wider = people(sa.Column("age", sa.Integer))
    inserted: list[Exception | None] = []

    def insert() -> None:
        try:
            with fresh_postgres.begin() as conn:
                run(conn, "INSERT INTO app.people (id, name) VALUES (99, 'other')")
            inserted.append(None)
        except sa.exc.DBAPIError as error:
            inserted.append(error)

    def source(high_watermark):
        other = threading.Thread(target=insert)

        def some():
            yield wider, (2, "b", 30)
            other.start()
            other.join(0.5)
            yield wider, (3, "c", 31)

        yield 2, None, some()
        other.join(10)

    with fresh_postgres.connect() as conn:
        ingest(conn, wider.metadata, source)
    found = [row[0] for row in rows(fresh_postgres, wider)]
    assert inserted == [None]
    assert sorted(found) == [1, 2, 3, 99]


@pytest.mark.parametrize("fresh", [True, False], ids=["new table", "existing table"])
def test_the_last_row_of_a_key_wins_whatever_the_width_of_the_rows(fresh_postgres, fresh):
    """Types that COPY cannot write go another way into the table, which must keep the order."""
    made = random.Random(3)
    table = people(sa.Column("tags", sa.ARRAY(sa.Text)))
    if not fresh:
        ingested(fresh_postgres, table, [(number, "old", ["x"]) for number in range(400)])
    loaded = [
        (made.randrange(400), f"{number:06d}" + "x" * made.randrange(1900), ["t"])
        for number in range(4000)
    ]
    ingested(fresh_postgres, table, loaded)
    last = {key: name for key, name, _ in loaded}
    found = {row[0]: row[1] for row in rows(fresh_postgres, table)}
    assert {key: found[key] for key in last} == last


def test_the_last_row_of_a_key_wins_also_in_the_batch_that_migrates(fresh_postgres):
    made = random.Random(5)
    old = [(number, "x" * made.randrange(1900)) for number in range(2000)]
    ingested(fresh_postgres, people(), old)
    wider = people(sa.Column("age", sa.Integer))
    ingested(fresh_postgres, wider, [(number, "new", 1) for number in range(0, 2000, 7)])
    found = {row[0]: row[1] for row in rows(fresh_postgres, wider)}
    assert len(found) == 2000
    assert all(found[number] == "new" for number in range(0, 2000, 7))


def test_two_ingests_at_once_never_double_under_repeatable_read(fresh_postgres):
    table = people(key=False)
    ingested(fresh_postgres, table, [(1, "a")])
    engine = sa.create_engine(fresh_postgres.url, isolation_level="REPEATABLE READ")
    both, outcomes = threading.Barrier(2), []

    def one() -> None:
        def source(high_watermark):
            both.wait(10)
            yield 2, None, [(table, (2, "b"))]

        try:
            with engine.connect() as conn:
                ingest(conn, table.metadata, source)
            outcomes.append("in")
        except IngestError:
            outcomes.append("refused")

    threads = [threading.Thread(target=one) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    engine.dispose()
    assert sorted(outcomes) == ["in", "refused"]
    assert rows(fresh_postgres, table) == [(1, "a"), (2, "b")]


def test_a_view_of_the_name_is_not_replaced_by_a_table(fresh_postgres):
    with fresh_postgres.begin() as conn:
        run(conn, "CREATE SCHEMA app; CREATE TABLE app.base (id int, name text)")
        run(conn, "CREATE VIEW app.people AS SELECT * FROM app.base")
    with pytest.raises(ReplacementRefused, match=r"people is a view"):
        ingested(fresh_postgres, people(), [(1, "a")])
    with fresh_postgres.connect() as conn:
        kind = "SELECT relkind::text FROM pg_class WHERE oid = 'app.people'::regclass"
        assert run(conn, kind).scalar_one() == "v"


def test_a_table_without_a_schema_is_replaced_where_it_was_found(fresh_postgres):
    with fresh_postgres.begin() as conn:
        run(conn, "CREATE SCHEMA app; CREATE TABLE public.people (id int)")
    url = fresh_postgres.url.update_query_dict({"options": "-csearch_path=app,public"})
    engine = sa.create_engine(url)
    ingested(engine, people(schema=None), [(1, "a")])
    engine.dispose()
    with fresh_postgres.connect() as conn:
        assert dialect_of(conn).tables_in(conn, "app") == ()
    assert rows(fresh_postgres, TableName("people", "public")) == [(1, "a")]


@pytest.mark.parametrize(
    ("sql_type", "before", "after"),
    [
        (sa.Interval, "30 days", "1 mon"),
        (sa.Numeric, "1.0", "1.00"),
        (sa.ARRAY(sa.JSON), ['{"a": 1}'], ['{"a": 2}']),
    ],
    ids=["interval", "numeric", "json array"],
)
def test_a_value_that_is_equal_but_not_the_same_is_updated(fresh_postgres, sql_type, before, after):
    table = people(sa.Column("value", sql_type))
    ingested(fresh_postgres, table, [(1, "a", before)])
    result = ingested(fresh_postgres, table, [(1, "a", after)])
    assert result.rows_updated == 1


@pytest.mark.parametrize("watermark", [(1, 2), {1: "a"}], ids=["tuple", "number as key"])
def test_a_watermark_that_json_changes_does_not_stop_the_next_batch(fresh_postgres, watermark):
    table = people()

    def source(high_watermark):
        yield watermark, None, [(table, (1, "a"))]
        yield watermark, None, [(table, (2, "b"))]

    with fresh_postgres.connect() as conn:
        assert ingest(conn, table.metadata, source).batches == 2


def test_the_source_may_change_the_watermark_it_was_given(fresh_postgres):
    table = people()

    def source(high_watermark):
        state = high_watermark or {"n": 0}
        for number in range(2):
            state["n"] += 1
            yield state, None, [(table, (state["n"], f"{number}"))]

    for _ in range(2):
        with fresh_postgres.connect() as conn:
            ingest(conn, table.metadata, source)
    assert [row[0] for row in rows(fresh_postgres, table)] == [1, 2, 3, 4]


def test_one_list_may_serve_for_all_rows(warehouse_engine):
    table, one = people(), [0, ""]

    def some():
        for number in range(5):
            one[0], one[1] = number, f"n{number}"
            yield table, one

    with warehouse_engine.connect() as conn:
        ingest(conn, table.metadata, lambda _: [(1, None, some())])
    assert [row[0] for row in rows(warehouse_engine, table)] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("added", ["CHECK (id > 0)", "FOREIGN KEY (id) REFERENCES app.other (id)"])
def test_a_constraint_that_somebody_added_is_not_lost(fresh_postgres, added):
    ingested(fresh_postgres, people(), [(1, "a")])
    with fresh_postgres.begin() as conn:
        run(conn, "CREATE TABLE app.other (id int PRIMARY KEY); INSERT INTO app.other VALUES (1)")
        run(conn, f"ALTER TABLE app.people ADD CONSTRAINT theirs {added}")
    with pytest.raises(ReplacementRefused, match="theirs"):
        ingested(fresh_postgres, people(sa.Column("age", sa.Integer)), [(2, "b", 1)])
    assert rows(fresh_postgres, people()) == [(1, "a")]
