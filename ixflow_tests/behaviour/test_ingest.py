"""`ingest`: batches, callbacks, visibility, watermarks and errors, on every database it knows."""

from __future__ import annotations

import itertools
import json
import logging
import math
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import sqlalchemy as sa

from ixflow.dialects import run
from ixflow.errors import (
    ColumnMismatch,
    IngestError,
    IxflowError,
    UnsupportedDatabase,
    ValidationError,
    ValueDoesNotFit,
)
from ixflow.events import listen
from ixflow.ingestion.ingest import ingest
from ixflow.ingestion.options import Delete, HighWatermark, Upsert, Visibility
from ixflow_tests.behaviour.ingesting import (
    batches,
    comment,
    ingested,
    oid,
    people,
    relations,
    rows,
)
from ixflow_tests.servers import PostgresServer, make_engine


@pytest.fixture(scope="module")
def shared_postgres(postgres_server: PostgresServer) -> Iterator[sa.URL]:
    """Give a database for all tests of this module, which are many."""
    server = make_engine(postgres_server.url).execution_options(isolation_level="AUTOCOMMIT")
    with server.connect() as conn:
        run(conn, "CREATE DATABASE ingests")
    yield sa.make_url(postgres_server.url).set(database="ingests")
    with server.connect() as conn:
        run(conn, "DROP DATABASE ingests WITH (FORCE)")


SCHEMAS = """
    SELECT format('DROP SCHEMA %I CASCADE', nspname) FROM pg_namespace
    WHERE nspname NOT LIKE 'pg\\_%' AND nspname <> 'information_schema'
"""


def empty(engine: sa.Engine) -> None:
    """Drop every schema of a PostgreSQL database, and make the default one anew."""
    with engine.begin() as conn:
        for statement in [*run(conn, SCHEMAS).scalars(), "CREATE SCHEMA public"]:
            run(conn, statement)


@pytest.fixture(params=["psycopg", "psycopg2", "duckdb"])
def engine(request: pytest.FixtureRequest) -> Iterator[sa.Engine]:
    """Give each database that `ingest` writes to, PostgreSQL through both drivers."""
    if request.param == "duckdb":
        found = request.getfixturevalue("fresh_duckdb")
        # Held open, the file need not be opened and written out for each connection.
        with found.connect():
            yield found
        return
    url = request.getfixturevalue("shared_postgres")
    engine = sa.create_engine(url.set(drivername=f"postgresql+{request.param}"))
    yield engine
    empty(engine)
    engine.dispose()


ANN, BOB, CY = (1, "Ann"), (2, "Bob"), (3, "Cy")


# -- batches and what they become -----------------------------------------------------------------


def test_rows_arrive_with_their_watermark_and_a_result_that_counts_them(engine):
    table = people()
    result = ingested(engine, table, [ANN, BOB], [(2, "Bill"), CY, ANN])
    assert rows(engine, table) == [ANN, (2, "Bill"), CY]
    assert (result.high_watermark_before, result.high_watermark_after) == (None, 2)
    counts = result.tables["app.people"]
    assert (counts.inserted, counts.updated, counts.unchanged) == (3, 1, 1)
    assert (result.batches, result.rows_inserted, result.rows_updated) == (2, 3, 1)
    assert counts.replaced_because == ("the table is new",)
    assert set(result.phases) >= {"prepare", "load", "merge", "swap"}


def test_nothing_is_visible_before_the_commit_and_each_batch_alone_after_it(engine):
    table, seen = people(key=False), []

    def look() -> None:
        with engine.connect() as other:
            there = sa.inspect(other).has_table("people", schema="app")
        seen.append(rows(engine, table) if there else None)

    def slow(high_watermark):
        def pairs(row):
            yield table, row
            look()

        yield 1, None, pairs(ANN)
        look()
        yield 2, None, pairs(BOB)

    with engine.connect() as conn:
        ingest(conn, table.metadata, slow)
    look()
    assert seen == [None, [ANN], [ANN], [ANN, BOB]]


def test_no_batches_make_a_bare_table_and_nothing_else(engine):
    """One relation: no key, no index, no watermark, no helper table."""
    table = people(sa.Index("by_name", "name"))
    with engine.begin() as conn:
        conn.execute(sa.schema.CreateSchema("app"))
    before = relations(engine)
    called = []
    result = ingested(engine, table, on_before_visible=lambda *a: called.append(a))
    assert relations(engine) - before == {"app.people"}
    assert (comment(engine, table), called, result.batches) == (None, [], 0)


def test_no_batches_neither_delete_nor_migrate(engine):
    ingested(engine, people(), [ANN])
    kept = comment(engine, people())
    wider = people(sa.Column("age", sa.INTEGER))
    result = ingested(engine, wider, delete=Delete.BEFORE_FIRST_BATCH)
    assert rows(engine, people()) == [ANN]
    assert comment(engine, people()) == kept
    assert result.high_watermark_after == result.high_watermark_before == 1


def test_an_empty_batch_migrates_calls_back_and_stores_its_watermark(engine):
    ingested(engine, people(), [ANN])
    wider = people(sa.Column("age", sa.INTEGER))
    called = []
    result = ingested(engine, wider, [], on_before_visible=lambda _conn, meta: called.append(meta))
    assert rows(engine, wider) == [(1, "Ann", None)]
    assert (called, result.high_watermark_after) == (["batch 1"], 1)


@pytest.mark.parametrize("as_a", [list, tuple, iter])
def test_batches_and_pairs_may_be_any_iterable(engine, as_a):
    table = people()
    with engine.connect() as conn:
        ingest(conn, table.metadata, lambda _: as_a([(1, None, as_a([(table, ANN)]))]))
    assert rows(engine, table) == [ANN]


def test_the_metadata_and_the_connection_are_left_as_they_were(engine):
    table = people(sa.Index("by_name", "name"), sa.UniqueConstraint("name", name="one_name"))
    before = (set(table.metadata.tables), {i.name for i in table.indexes})
    with engine.connect() as conn:
        ingest(conn, table.metadata, batches(table, [ANN]))
        assert not conn.in_transaction()
        ingest(conn, table.metadata, batches(table, [BOB]))
    assert (set(table.metadata.tables), {i.name for i in table.indexes}) == before
    assert rows(engine, table) == [ANN, BOB]


def test_no_helper_is_left_in_the_catalogue(engine):
    table = people(sa.Index("by_name", "name"), sa.Column("code", sa.VARCHAR, unique=True))
    ingested(engine, table, [(1, "Ann", "a")], [(1, "Anna", "a")])
    ingested(engine, table, [(2, "Bob", "b")])
    left = {name for name in relations(engine) if "tmp" in name or "ixflow" in name}
    assert left == set()


def test_the_last_of_two_rows_with_one_key_wins(engine):
    """Within a batch, across batches, and across kinds of rows."""
    table = people()
    frame = pa.table({"id": [1, 1], "name": ["frame 1", "frame 2"]})
    ingested(engine, table, [ANN, (1, "tuple"), frame])
    assert rows(engine, table) == [(1, "frame 2")]
    ingested(engine, table, [frame, {"id": 1, "name": "mapping"}, (1, "last")])
    assert rows(engine, table) == [(1, "last")]
    ingested(engine, table, [(1, "a")], [(1, "b"), (2, "x"), (2, "y")])
    assert rows(engine, table) == [(1, "b"), (2, "y")]


def test_without_upsert_a_duplicate_key_is_an_error_and_nothing_stays(engine):
    table = people()
    ingested(engine, table, [ANN])
    with pytest.raises(IngestError, match=r"batch 1 into app.people was rolled back"):
        ingested(engine, table, [BOB, (1, "again")], upsert=Upsert.OFF)
    assert rows(engine, table) == [ANN]
    with pytest.raises(IngestError):
        ingested(engine, people(schema="other"), [ANN, ANN], upsert=Upsert.OFF)


def test_two_interleaved_tables_of_twenty_thousand_rows_arrive_whole(engine):
    metadata = sa.MetaData(schema="app")
    pair = [
        sa.Table(
            n, metadata, sa.Column("id", sa.INTEGER, primary_key=True), sa.Column("v", sa.TEXT)
        )
        for n in ("a", "b")
    ]
    interleaved = ((t, (i, f"{t.name}{i}")) for i in range(20_000) for t in pair)
    with engine.connect() as conn:
        result = ingest(conn, metadata, lambda _: [(1, None, interleaved)])
        for table in pair:
            found = conn.execute(
                sa.select(sa.func.count(), sa.func.max(table.c.id)).select_from(table)
            )
            assert tuple(found.one()) == (20_000, 19_999)
            assert result.tables[f"app.{table.name}"].inserted == 20_000


def test_rows_of_foreign_tables_are_skipped_with_a_count_and_a_warning(engine, caplog):
    table, foreign = people(), people(schema="elsewhere")
    pairs = [(table, ANN), (foreign, BOB), (foreign, CY)]
    with engine.connect() as conn:
        result = ingest(conn, table.metadata, lambda _: [(1, None, pairs)])
    assert rows(engine, table) == [ANN]
    assert result.skipped_rows == 2
    assert "2 rows for tables outside the metadata were skipped" in caplog.text


def test_a_table_of_the_same_name_from_another_metadata_is_the_same_table(engine):
    table = people()
    with engine.connect() as conn:
        ingest(conn, table.metadata, lambda _: [(1, None, [(people(), ANN)])])
    assert rows(engine, table) == [ANN]


def test_a_table_without_a_schema_goes_to_the_default_one(engine):
    table = people(schema=None)
    ingested(engine, table, [ANN])
    ingested(engine, table, [BOB])
    assert rows(engine, table) == [ANN, BOB]


@pytest.mark.parametrize("name", ["Odd Table", 'say "hi"', "50%", "%s", "a:b", "select", "x" * 63])
def test_odd_names_of_schemas_tables_columns_and_indexes_work(engine, name):
    table = sa.Table(
        name,
        sa.MetaData(schema=name),
        sa.Column(name, sa.INTEGER, primary_key=True, autoincrement=False),
        sa.Column("v" + name[1:], sa.VARCHAR, unique=True),
        sa.Index("i" + name[1:], "v" + name[1:]),
    )
    ingested(engine, table, [ANN])
    before = oid(engine, table)
    ingested(engine, table, [BOB, (1, "Anna")])
    assert rows(engine, table) == [(1, "Anna"), BOB]
    assert oid(engine, table) == before


def test_long_names_with_indexes_do_not_get_in_each_others_way(engine):
    long = "c" * 60
    table = people(
        sa.Column(long + "1", sa.INTEGER, index=True, unique=True),
        sa.Column(long + "2", sa.INTEGER, index=True),
        sa.Column(long + "3", sa.INTEGER, unique=True),
        sa.Column(long + "4", sa.INTEGER, unique=True),
    )
    ingested(engine, table, [(1, "a", 1, 2, 3, 4)])
    before = oid(engine, table)
    ingested(engine, table, [(1, "b", 1, 2, 3, 4)])
    assert oid(engine, table) == before
    assert {n for n in relations(engine) if "tmp" in n} == set()


# -- callbacks ------------------------------------------------------------------------------------


def test_a_callback_with_two_arguments_is_called_once_a_batch(engine):
    table, calls = people(), []
    ingested(engine, table, [ANN], [BOB], on_before_visible=lambda _conn, meta: calls.append(meta))
    assert calls == ["batch 1", "batch 2"]


@pytest.mark.parametrize("shape", ["three", "star"])
def test_a_callback_with_three_arguments_is_called_once_a_table_in_the_metadatas_order(
    engine, shape
):
    metadata = sa.MetaData(schema="app")
    tables = [sa.Table(n, metadata, sa.Column("id", sa.INTEGER, primary_key=True)) for n in "ba"]
    calls = []

    def three(conn, table, meta):
        calls.append((meta, conn.execute(sa.select(table.c.id)).scalars().all()))

    def star(*given):
        three(*given)

    found = three if shape == "three" else star
    with engine.connect() as conn:
        ingest(conn, metadata, batches(tables[1], [(1,)], [(2,)]), on_before_visible=found)
    assert calls == [("batch 1", []), ("batch 1", [1]), ("batch 2", []), ("batch 2", [1, 2])]


def test_the_callback_sees_the_batch_that_nobody_else_sees(engine):
    table, seen = people(), []
    ingested(engine, table, [ANN])

    def look(conn, ingest_table, meta):
        seen.append(sorted(tuple(row) for row in conn.execute(sa.select(ingest_table))))
        seen.append(rows(engine, table))

    wider = people(sa.Column("age", sa.INTEGER))
    ingested(engine, wider, [(2, "Bob", 7)], on_before_visible=look)
    assert seen == [[(1, "Ann", None), (2, "Bob", 7)], [ANN]]


def test_an_exception_in_the_callback_undoes_the_batch_and_its_migration(engine):
    ingested(engine, people(), [ANN])
    before = oid(engine, people()), comment(engine, people()), relations(engine)

    def refuse(conn, meta):
        raise ZeroDivisionError("not good")

    with pytest.raises(ZeroDivisionError, match="not good"):
        ingested(
            engine, people(sa.Column("x", sa.INTEGER)), [(2, "b", 1)], on_before_visible=refuse
        )
    assert (oid(engine, people()), comment(engine, people()), relations(engine)) == before
    assert rows(engine, people()) == [ANN]


def test_a_callback_that_commits_is_refused(engine):
    with pytest.raises(IngestError, match="must not commit"):
        ingested(engine, people(), [ANN], on_before_visible=lambda conn, _meta: conn.commit())


# -- migration ------------------------------------------------------------------------------------

UNCHANGED: dict[str, Callable[[], list[Any]]] = {
    "plain": list,
    "unique": lambda: [sa.Column("x", sa.INTEGER, unique=True)],
    "index": lambda: [sa.Column("x", sa.INTEGER, index=True)],
    "unique index": lambda: [sa.Column("x", sa.INTEGER), sa.Index("u", "x", unique=True)],
    "functional index": lambda: [sa.Index("f", sa.text("lower(name)"))],
    "two columns": lambda: [sa.Column("x", sa.INTEGER), sa.Index("two", "x", "name")],
    "FLOAT": lambda: [sa.Column("x", sa.FLOAT)],
    "DOUBLE": lambda: [sa.Column("x", sa.DOUBLE_PRECISION)],
    "REAL": lambda: [sa.Column("x", sa.REAL)],
    "DECIMAL": lambda: [sa.Column("x", sa.DECIMAL(12, 2))],
    "NUMERIC": lambda: [sa.Column("x", sa.NUMERIC(12, 2, asdecimal=False))],
    "generic": lambda: [
        sa.Column("x", sa.Integer),
        sa.Column("y", sa.String),
        sa.Column("z", sa.Boolean),
    ],
    "more generic": lambda: [
        sa.Column("x", sa.DateTime(timezone=True)),
        sa.Column("y", sa.LargeBinary),
    ],
    "JSON": lambda: [sa.Column("x", sa.JSON)],
    "Uuid": lambda: [sa.Column("x", sa.Uuid)],
    "default": lambda: [sa.Column("x", sa.INTEGER, server_default="5")],
    "not null": lambda: [sa.Column("x", sa.INTEGER, nullable=False, server_default="5")],
    "named unique": lambda: [sa.UniqueConstraint("name", name="one_name")],
    "check": lambda: [sa.CheckConstraint("id > 0", name="positive")],
    "comment": lambda: [sa.Column("x", sa.INTEGER, comment="the x of it")],
}


@pytest.mark.parametrize("engine", ["psycopg", "duckdb"], indirect=True)
@pytest.mark.parametrize("what", UNCHANGED)
def test_an_unchanged_definition_keeps_the_table(engine, what):
    def declare() -> sa.Table:
        return people(*UNCHANGED[what]())

    table = declare()
    more = [None if c.nullable else 5 for c in list(table.columns)[2:]]
    ingested(engine, table, [(1, "Ann", *more)])
    before = oid(engine, table)
    again = declare()
    result = ingested(engine, again, [(2, "Bob", *more)])
    assert result.tables["app.people"].replaced_because == ()
    assert oid(engine, again) == before
    assert [row[:2] for row in rows(engine, again)] == [ANN, BOB]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda: people(sa.Column("x", sa.INTEGER)), "column x is added"),
        (lambda: people(sa.Index("by_name", "name")), "is added"),
        (lambda: people(sa.UniqueConstraint("name")), "is added"),
        (lambda: people(key=False), "the primary key changes"),
    ],
)
def test_a_changed_definition_makes_a_new_table_with_the_old_rows(engine, change, why):
    ingested(engine, people(), [ANN])
    before = oid(engine, people())
    result = ingested(engine, change(), [])
    assert why in "; ".join(result.tables["app.people"].replaced_because)
    if engine.dialect.name == "postgresql":
        assert oid(engine, people()) != before
    assert [row[:2] for row in rows(engine, people())] == [ANN]
    back = ingested(engine, people(), [])
    assert back.tables["app.people"].replaced_because
    assert rows(engine, people()) == [ANN]


def test_unique_is_enforced_from_the_first_ingest_and_when_it_is_added_later(engine):
    for declare in (
        lambda: people(sa.UniqueConstraint("name")),
        lambda: people(sa.Index("u", "name", unique=True)),
    ):
        with pytest.raises(IxflowError, match=r"(?i)unique|duplicate"):
            ingested(engine, declare(), [ANN, (2, "Ann")])
        ingested(engine, people(), [ANN, (2, "Ann")])
        with pytest.raises(IxflowError, match=r"(?i)unique|duplicate"):
            ingested(engine, declare(), [])
        with engine.begin() as conn:
            run(conn, "DROP TABLE app.people")


def test_a_composite_key_is_built_in_the_declared_order(engine):
    def declare() -> sa.Table:
        columns = [sa.Column(n, sa.INTEGER) for n in "abc"]
        return sa.Table("k", sa.MetaData(schema="app"), *columns, sa.PrimaryKeyConstraint("c", "a"))

    ingested(engine, declare(), [(1, 1, 1), (1, 2, 1)])
    before = oid(engine, declare())
    ingested(engine, declare(), [(1, 3, 1), (2, 1, 1)])
    assert oid(engine, declare()) == before
    assert rows(engine, declare()) == [(1, 3, 1), (2, 1, 1)]
    with engine.connect() as conn:
        key = sa.inspect(conn).get_pk_constraint("k", schema="app")["constrained_columns"]
    assert key == ["c", "a"]


def test_a_type_changes_with_its_values(engine):
    ingested(engine, people(sa.Column("x", sa.INTEGER)), [(1, "a", 7)])
    text = people(sa.Column("x", sa.VARCHAR))
    ingested(engine, text, [(2, "b", "eight")])
    assert rows(engine, text) == [(1, "a", "7"), (2, "b", "eight")]


def test_old_rows_that_do_not_fit_the_new_definition_refuse_it_and_stay(engine):
    ingested(engine, people(), [(1, "Ann"), (2, None)])
    narrower = sa.Table(
        "people",
        sa.MetaData(schema="app"),
        sa.Column("id", sa.INTEGER, primary_key=True),
        sa.Column("name", sa.VARCHAR, nullable=False),
    )
    with pytest.raises(IxflowError, match="do not fit its new definition"):
        ingested(engine, narrower, [])
    assert rows(engine, people()) == [(1, "Ann"), (2, None)]


# -- delete ---------------------------------------------------------------------------------------


def test_delete_before_first_batch_replaces_all_tables_in_that_batch_only(engine):
    table = people()
    ingested(engine, table, [ANN, BOB])
    seen = []
    result = ingested(
        engine,
        table,
        [CY],
        [ANN],
        delete=Delete.BEFORE_FIRST_BATCH,
        on_before_visible=lambda _conn, _meta: seen.append(rows(engine, table)),
    )
    assert seen == [[ANN, BOB], [CY]]
    assert rows(engine, table) == [ANN, CY]
    assert result.tables["app.people"].deleted == 2


@pytest.mark.parametrize("delete", ["", None, Delete.OFF])
def test_an_empty_delete_means_off_also_when_the_table_changes(engine, delete):
    ingested(engine, people(), [ANN])
    ingested(engine, people(sa.Column("x", sa.INTEGER)), [], delete=delete)
    assert [row[:2] for row in rows(engine, people())] == [ANN]


# -- watermarks -----------------------------------------------------------------------------------

WATERMARKS = [
    0, 7, -1, 1.5, "", "a :b", ":start", "100%", "%s %(x)s", "it's", 'say "hi"', "back\\slash",
    "😀", True, False, None, [1, [2]], {"a": {"b": None}}, "x" * 10_000,
]  # fmt: skip


def test_every_json_value_is_stored_and_given_back(engine):
    table = people()
    given: list[Any] = []

    def source(value):
        def found(high_watermark):
            given.append(high_watermark)
            yield value, None, ()

        return found

    with engine.connect() as conn:
        for value in WATERMARKS:
            ingest(conn, table.metadata, source(value))
    assert given == [None, *WATERMARKS[:-1]]


def test_a_callable_watermark_is_called_once_after_the_rows(engine):
    table, order = people(), []

    def pairs():
        yield table, ANN
        order.append("rows")

    def mark():
        order.append("mark")
        return 42

    with engine.connect() as conn:
        result = ingest(
            conn,
            table.metadata,
            lambda _: [(mark, None, pairs())],
            on_before_visible=lambda _conn, _meta: order.append("callback"),
        )
    assert order == ["rows", "callback", "mark"]
    assert result.high_watermark_after == 42


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (HighWatermark.LATEST, 1),
        (HighWatermark.EARLIEST, None),
        ("", ""),
        ({"a": 1}, {"a": 1}),
        (0, 0),
    ],
)
def test_latest_is_the_stored_one_earliest_none_and_any_other_is_given_as_it_is(
    engine, given, expected
):
    table, seen = people(), []
    ingested(engine, table, [ANN])

    def source(high_watermark):
        seen.append(high_watermark)
        yield 9, None, ()

    with engine.connect() as conn:
        result = ingest(conn, table.metadata, source, high_watermark=given)
    assert seen == [expected]
    assert (result.high_watermark_before, result.high_watermark_after) == (1, 9)


@pytest.mark.parametrize("existing", ["Our people: 100% :ok", "[1, 2]", '{"owner": "hr"}', "{"])
def test_what_was_in_the_comment_stays(engine, existing):
    table = people()
    with engine.begin() as conn:
        conn.execute(sa.schema.CreateSchema("app"))
        table.create(conn)
        conn.execute(
            sa.text("COMMENT ON TABLE app.people IS " + "'" + existing.replace(":", "\\:") + "'")
        )
    ingested(engine, table, [ANN], [BOB])
    stored = json.loads(comment(engine, table) or "")
    assert stored["pg-bulk-ingest"] == {"high-watermark": 2}
    assert stored.get("comment", json.dumps({"owner": stored.get("owner")})) == existing


def test_the_watermark_stays_when_the_table_is_made_anew(engine):
    ingested(engine, people(), [ANN])
    seen = []

    def source(high_watermark) -> list[Any]:
        seen.append(high_watermark)
        raise ZeroDivisionError

    with engine.connect() as conn, pytest.raises(ZeroDivisionError):
        ingest(conn, people(sa.Column("x", sa.INTEGER)).metadata, source)
    result = ingested(engine, people(sa.Column("x", sa.INTEGER)))
    assert seen == [1]
    assert result.high_watermark_before == 1


@pytest.mark.parametrize("watermark", [math.nan, math.inf, object(), {1}])
def test_a_watermark_that_is_no_json_undoes_its_batch(engine, watermark):
    table = people()
    ingested(engine, table, [ANN])
    before = comment(engine, table)
    with engine.connect() as conn:
        with pytest.raises(ValidationError, match="not a JSON value"):
            ingest(conn, table.metadata, lambda _: [(watermark, None, [(table, BOB)])])
        assert not conn.in_transaction()
    assert (rows(engine, table), comment(engine, table)) == ([ANN], before)


def test_the_record_of_the_run_is_in_the_comment(engine):
    result = ingested(engine, people(), [ANN], [BOB, CY])
    record = json.loads(comment(engine, people()) or "")["ixflow"]
    assert (record["run_id"], record["batch"], record["rows"]) == (result.run_id, 2, 2)


# -- errors ---------------------------------------------------------------------------------------


def test_an_exception_of_the_source_arrives_unchanged_and_the_connection_can_go_on(engine):
    table = people()
    wrong = ZeroDivisionError("the source is tired")

    def source(high_watermark):
        yield 1, None, [(table, ANN)]

        def pairs():
            yield from ((table, (i, "x")) for i in range(10, 5000))
            raise wrong

        yield 2, None, pairs()

    with engine.connect() as conn:
        with pytest.raises(ZeroDivisionError) as caught:
            ingest(conn, table.metadata, source)
        assert caught.value is wrong
        assert ingest(conn, table.metadata, batches(table, [BOB])).high_watermark_before == 1
    assert rows(engine, table) == [ANN, BOB]


def test_an_exception_inside_an_arrow_stream_arrives_unchanged(engine):
    table = people()
    wrong = ZeroDivisionError("the stream is broken")
    schema = pa.schema({"id": pa.int32(), "name": pa.string()})

    def stream():
        yield pa.record_batch([[1], ["a"]], schema=schema)
        raise wrong

    reader = pa.RecordBatchReader.from_batches(schema, stream())
    with pytest.raises(ZeroDivisionError) as caught:
        ingested(engine, table, [reader])
    assert caught.value is wrong
    assert relations(engine) == set()


def test_what_the_database_refuses_is_an_ingest_error_and_earlier_batches_stay(engine):
    table = people(sa.CheckConstraint("id < 100", name="small"))
    with pytest.raises(IngestError, match="1 earlier batches of this run stay") as caught:
        ingested(engine, table, [ANN], [(2, "b"), (100, "too big")])
    assert caught.value.batch == 2
    assert rows(engine, table) == [ANN]


@pytest.mark.parametrize(
    ("row", "kind", "words"),
    [
        ((1,), ColumnMismatch, r"row 1 for app.people has 1 values for 2 columns"),
        ((1, "a", 3), ColumnMismatch, r"row 1 for app.people has 3 values"),
        ("ab", ColumnMismatch, r"row 1 for app.people is a text"),
        ({"id": 1, "nme": "x"}, ColumnMismatch, r"surplus keys \['nme'\], missing keys \['name'\]"),
        (("one", "a"), ValueDoesNotFit, r"app.people.id in row 1 \(value 'one'\)"),
        ((1.5, "a"), ValueDoesNotFit, r"app.people.id in row 1 \(value 1.5\)"),
        ((2**40, "a"), ValueDoesNotFit, r"app.people.id in row 1 \(value 1099511627776\)"),
        (7, ColumnMismatch, r"row 1 for app.people"),
    ],
)
def test_a_row_that_does_not_fit_is_named(engine, row, kind, words):
    with pytest.raises(kind, match=words) as caught:
        ingested(engine, people(), [ANN, row])
    assert caught.value.row == 1
    assert relations(engine) == set()


def test_the_row_is_counted_over_all_rows_of_the_table_in_the_batch(engine):
    many = ((number, "x") if number != 40_000 else ("no", "x") for number in range(50_000))
    with pytest.raises(ValueDoesNotFit) as caught:
        ingested(engine, people(), many)
    assert caught.value.row == 40_000


@pytest.mark.parametrize(
    "options",
    [
        {"visibility": "later"},
        {"upsert": "yes"},
        {"upsert": None},
        {"delete": "all"},
        {"on_before_visible": 5},
    ],
)
def test_wrong_options_are_refused_before_anything_happens(engine, options):
    with pytest.raises(ValidationError):
        ingested(engine, people(), [ANN], **options)
    assert relations(engine) == set()


def test_an_empty_metadata_is_refused(engine):
    with engine.connect() as conn, pytest.raises(ValidationError, match="has no tables"):
        ingest(conn, sa.MetaData(), lambda _: ())


def test_an_open_transaction_is_refused_and_left_open(engine):
    with engine.connect() as conn:
        conn.execute(sa.text("SELECT 1"))
        with pytest.raises(ValidationError, match="is in a transaction"):
            ingest(conn, people().metadata, lambda _: ())
        assert conn.in_transaction()


@pytest.mark.parametrize("on", ["connection", "engine", "create_engine"])
def test_autocommit_is_refused_wherever_it_was_set(fresh_postgres, on):
    plain = sa.create_engine(fresh_postgres.url)
    if on == "create_engine":
        plain = sa.create_engine(fresh_postgres.url, isolation_level="AUTOCOMMIT")
    engine = plain.execution_options(isolation_level="AUTOCOMMIT") if on == "engine" else plain
    with engine.connect() as conn:
        if on == "connection":
            conn.execution_options(isolation_level="AUTOCOMMIT")
        with pytest.raises(ValidationError, match="AUTOCOMMIT"):
            ingest(conn, people().metadata, batches(people(), [ANN]))
    plain.dispose()


def test_sqlite_is_refused_since_it_has_no_comments(fresh_sqlite):
    with fresh_sqlite.connect() as conn, pytest.raises(UnsupportedDatabase, match="no table comm"):
        ingest(conn, people(schema=None).metadata, batches(people(schema=None), [ANN]))


@pytest.mark.parametrize("batch", [5, (1, 2), (1, 2, 3, 4), None])
def test_a_batch_of_another_shape_is_refused(engine, batch):
    with engine.connect() as conn, pytest.raises(ValidationError, match="a batch is"):
        ingest(conn, people().metadata, lambda _: [batch])


def test_two_ingests_at_once_never_both_write_from_one_watermark(engine):
    """The one that comes second stops, naming both watermarks; nothing is there twice."""
    table = people(key=False)
    ingested(engine, table, [ANN])
    together, outcomes = threading.Barrier(2), []

    def one(number):
        def source(high_watermark):
            together.wait(20)
            yield high_watermark + 1, None, [(table, (number, "new"))]

        try:
            with engine.connect() as conn:
                ingest(conn, people(key=False).metadata, source)
            outcomes.append("written")
        except IngestError as error:
            outcomes.append(f"refused {error.fields.get('expected')}")

    threads = [threading.Thread(target=one, args=(n,)) for n in (10, 11)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count("written") == 1
    assert len(rows(engine, table)) == 2


def test_events_and_logs_tell_of_each_batch(engine, caplog):
    heard: list[Any] = []
    with caplog.at_level(logging.INFO, "ixflow"), listen(heard.append):
        ingested(engine, people(), [ANN], [BOB])
    assert [(e.tables, e.rows, e.high_watermark) for e in heard] == [
        (("app.people",), 1, 1),
        (("app.people",), 1, 2),
    ]
    assert "batch 2 of 1 rows committed up to 2" in caplog.text


# -- kinds of rows --------------------------------------------------------------------------------

TURNED = {"name": ["Ann", "Bob"], "id": [1, 2]}
KINDS: dict[str, Any] = {
    "tuples": lambda: [ANN, BOB],
    "lists": lambda: [list(ANN), list(BOB)],
    "generators": lambda: [iter(ANN), iter(BOB)],
    "mappings": lambda: [{"name": "Ann", "id": 1}, {"id": 2, "name": "Bob"}],
    "pyarrow table": lambda: [pa.table(TURNED)],
    "record batch": lambda: [pa.RecordBatch.from_pydict(TURNED)],
    "record batch reader": lambda: [pa.table(TURNED).to_reader()],
    "polars": lambda: [pl.DataFrame(TURNED)],
    "lazy polars": lambda: [pl.LazyFrame(TURNED)],
    "pandas": lambda: [pd.DataFrame(TURNED, index=[8, 9])],
    "duckdb relation": lambda: [
        duckdb.sql("SELECT 'Ann' AS name, 1 AS id UNION ALL SELECT 'Bob', 2")
    ],
    "a frame and a tuple": lambda: [pl.DataFrame({"id": [1], "name": ["Ann"]}), BOB],
    "int64 into integer": lambda: [pl.DataFrame({"id": [1, 2], "name": ["Ann", "Bob"]})],
    "categorical": lambda: [pd.DataFrame(TURNED).astype({"name": "category"})],
    "objects": lambda: [pd.DataFrame(TURNED).astype(object)],
    "no rows at all": lambda: [ANN, BOB, pl.DataFrame({"id": [], "name": []})],
}  # fmt: skip


@pytest.mark.parametrize("engine", ["psycopg", "duckdb"], indirect=True)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("key", [True, False])
def test_every_kind_of_row_arrives_by_column_name(engine, kind, key):
    table = people(key=key)
    result = ingested(engine, table, KINDS[kind]())
    assert rows(engine, table) == [ANN, BOB]
    assert result.rows_inserted == 2


def test_a_frame_may_leave_out_columns_that_take_null_but_no_others(engine):
    table = people(sa.Column("age", sa.INTEGER), sa.Column("must", sa.INTEGER, nullable=False))
    ingested(engine, table, [pl.DataFrame({"must": [5], "id": [1]})])
    assert rows(engine, table) == [(1, None, None, 5)]
    with pytest.raises(ColumnMismatch, match=r"may not be NULL: \['must'\]"):
        ingested(engine, table, [pl.DataFrame({"id": [1]})])
    with pytest.raises(ColumnMismatch, match=r"columns the table lacks: \['nme'\]"):
        ingested(engine, table, [pl.DataFrame({"id": [1], "must": [5], "nme": ["x"]})])


def test_wide_tuples_are_not_gathered_by_the_thousand(engine):
    """120 rows of 1 MB never fill more than a part of their 120 MB."""
    table = people()
    wide = "x" * 1_000_000
    many = ((number, wide) for number in range(120))
    tracemalloc.start()
    before = pa.total_allocated_bytes()
    peak = []

    def watched() -> Iterator[tuple[int, str]]:
        for row in many:
            peak.append(pa.total_allocated_bytes() - before)
            yield row[0], row[1] + "y"

    ingested(engine, table, watched())
    python_peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert max(peak) < 70_000_000
    assert python_peak < 90_000_000


def test_the_first_flush_is_small_and_pieces_grow_to_the_limit(engine):
    """A source that is slow to give rows does not wait for ten thousand of them."""
    from ixflow.ingestion.router import Router
    from ixflow.values import Column

    sizes: list[int] = []
    columns = [Column("id", "integer", pa.int32())]
    router = Router(
        lambda named: named,
        lambda _table: columns,
        lambda _table, piece, _later: sizes.append(piece.reader().read_all().num_rows),
        10_000,
    )
    router.feed(("t", (n,)) for n in range(40_000))
    assert sizes[0] == 64
    assert max(sizes) == 10_000
    assert sum(sizes) == 40_000
    small: list[int] = []
    router = Router(
        lambda named: named,
        lambda _table: columns,
        lambda _table, piece, _later: small.append(piece.reader().read_all().num_rows),
        10,
    )
    router.feed(("t", (n,)) for n in range(95))
    assert set(itertools.islice(small, 9)) == {10}


def test_visibility_has_one_value_and_it_is_accepted(engine):
    ingested(engine, people(), [ANN], visibility=Visibility.AFTER_EACH_BATCH)
    assert rows(engine, people()) == [ANN]
