"""What users of pg-bulk-ingest may do to `ingest`, and what it must not let pass."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import json
import logging
import uuid
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from ixflow.dialects import run
from ixflow.errors import (
    ColumnMismatch,
    DataError,
    IngestError,
    UnsupportedType,
    ValidationError,
    ValueDoesNotFit,
)
from ixflow.ingestion.ingest import ingest
from ixflow.ingestion.options import Delete, HighWatermark
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

ANN, BOB = (1, "Ann"), (2, "Bob")


@pytest.fixture(scope="module")
def database(postgres_server: PostgresServer) -> Iterator[sa.URL]:
    """Give a database for all tests of this module; each has a schema of its own."""
    server = make_engine(postgres_server.url).execution_options(isolation_level="AUTOCOMMIT")
    with server.connect() as conn:
        run(conn, "CREATE DATABASE suites")
    yield sa.make_url(postgres_server.url).set(database="suites")
    with server.connect() as conn:
        run(conn, "DROP DATABASE suites WITH (FORCE)")


@pytest.fixture(params=["psycopg", "psycopg2"])
def engine(request: pytest.FixtureRequest, database: sa.URL) -> Iterator[sa.Engine]:
    """Give PostgreSQL through both drivers."""
    made = sa.create_engine(database.set(drivername=f"postgresql+{request.param}"))
    yield made
    with made.begin() as conn:
        run(conn, "DROP SCHEMA IF EXISTS app CASCADE")
    made.dispose()


def execute(engine: sa.Engine, *statements: str) -> None:
    with engine.begin() as conn:
        for statement in statements:
            run(conn, statement)


def scalar(engine: sa.Engine, query: str) -> Any:
    with engine.connect() as conn:
        return run(conn, query).scalar()


def one_column(type_: Any, *, key: bool = False) -> sa.Table:
    """Declare a table of an id and a column c."""
    return sa.Table(
        "things",
        sa.MetaData(),
        sa.Column("id", sa.INTEGER, primary_key=key, autoincrement=False),
        sa.Column("c", type_),
        schema="app",
    )


# -- what is given instead of rows ------------------------------------------------------------


@pytest.mark.parametrize(
    "row",
    [{1, "a"}, frozenset([1, "a"]), bytearray(b"ab"), memoryview(b"ab"), "ab", None, 5],
    ids=lambda row: type(row).__name__,
)
def test_what_has_no_order_of_values_is_no_row(engine, row):
    with pytest.raises(ColumnMismatch, match=r"row 0 for app\.people"):
        ingested(engine, people(), [row])


@pytest.mark.parametrize(
    "column", [pd.Series([1, 2]), pl.Series([1, 2]), pa.array([1, 2]), pa.chunked_array([[1]])]
)
def test_a_column_is_no_frame(engine, column):
    with pytest.raises(UnsupportedType, match="cannot read rows from a"):
        ingested(engine, people(), [column])


def test_rows_without_their_table_are_refused_and_not_skipped(engine):
    table = people()
    wrong: list[Any] = [[ANN], [("people", ANN)], [(table, 1, "Ann")], [5], None, table]
    given: dict[str, Any] = {}
    for given["pairs"] in wrong:
        with engine.connect() as conn, pytest.raises(ValidationError, match="pair"):
            ingest(conn, table.metadata, lambda _: [(1, None, given["pairs"])])
    no_yield: Any = given.get
    with engine.connect() as conn, pytest.raises(ValidationError, match="batches returns"):
        ingest(conn, table.metadata, no_yield)


def test_what_is_no_connection_metadata_or_function_is_said(engine):
    table = people()
    with engine.connect() as conn:
        wrong: list[Any] = [
            (engine, table.metadata, batches(table)),
            (conn, table, batches(table)),
            (conn, table.metadata, [(1, None, [])]),
        ]
        for given in wrong:
            with pytest.raises(ValidationError, match="; give a"):
                ingest(*given)


class Option(str, enum.Enum):  # noqa: UP042 - str() of a StrEnum is its value
    """Members are texts, but str() of them is not their value."""

    UPSERT = "__IF_PRIMARY_KEY__"
    DELETE = "__BEFORE_FIRST_BATCH__"


def test_members_of_a_text_enumeration_are_the_constants_they_equal(engine):
    table = people()
    ingested(engine, table, [ANN], upsert=Option.UPSERT)
    result = ingested(engine, table, [(1, "Anna")], upsert=Option.UPSERT)
    assert result.tables["app.people"].updated == 1
    ingested(engine, table, [BOB], delete=Option.DELETE)
    assert rows(engine, table) == [BOB]


# -- functions of the caller's that use the ingest's own connection -----------------------------


def test_a_row_generator_that_ends_the_transaction_is_named(engine):
    table = people()
    with engine.connect() as conn:

        def pairs():
            yield table, ANN
            conn.commit()
            yield table, BOB

        with pytest.raises(IngestError, match="the generator of rows ended the transaction"):
            ingest(conn, table.metadata, lambda _: [(1, None, pairs())])


@pytest.mark.parametrize("key", [True, False])
def test_a_row_generator_that_rolls_back_is_named_and_leaves_the_connection_usable(engine, key):
    table = people(key=key)
    with engine.connect() as conn:
        ingest(conn, table.metadata, lambda _: [(1, None, [(table, ANN)])])

        def pairs():
            for n in range(200):
                if n == 150:
                    conn.rollback()
                yield table, (n + 10, "x")

        with pytest.raises(IngestError, match="the generator of rows ended the transaction"):
            ingest(
                conn,
                table.metadata,
                lambda _: [(2, None, pairs())],
                max_rows_per_table_buffer=20,
            )
        assert not conn.in_transaction()
    assert rows(engine, table) == [ANN]


@pytest.mark.parametrize("ending", ["COMMIT", "ROLLBACK"])
def test_a_row_generator_that_ends_the_transaction_by_sql_loses_no_row_silently(engine, ending):
    table = people(key=False)
    with engine.connect() as conn:
        ingest(conn, table.metadata, lambda _: [(1, None, [(table, ANN)])])

        def pairs():
            yield table, BOB
            conn.execute(sa.text(ending))
            yield table, BOB

        with pytest.raises(IngestError, match="ended the transaction"):
            ingest(conn, table.metadata, lambda _: [(2, None, pairs())])
    with engine.connect() as conn:
        done = ingest(conn, table.metadata, lambda _: [])
    assert done.high_watermark_before == 1


def test_a_watermark_function_that_commits_is_named(engine):
    table = people()
    with engine.connect() as conn:
        batch = (lambda: conn.commit() or 1, None, [(table, ANN)])
        with pytest.raises(IngestError, match="the function that gives the high watermark"):
            ingest(conn, table.metadata, lambda _: [batch])


def test_a_transaction_that_batches_left_open_is_named(engine):
    table = people()
    with engine.connect() as conn:

        def found(_):
            conn.execute(sa.text("SELECT 1"))
            yield 1, None, [(table, ANN)]

        with pytest.raises(ValidationError, match="left a transaction open"):
            ingest(conn, table.metadata, found)


def test_a_database_error_of_the_source_arrives_unchanged(engine):
    table = people()
    source = sa.exc.OperationalError("SELECT 1", None, Exception("the source is down"))

    def pairs():
        yield table, ANN
        raise source

    def callback(conn, metadata):
        raise source

    with engine.connect() as conn:
        with pytest.raises(sa.exc.OperationalError) as raised:
            ingest(conn, table.metadata, lambda _: [(1, None, pairs())])
        assert raised.value is source
        with pytest.raises(sa.exc.OperationalError) as raised:
            ingest(conn, table.metadata, batches(table, [ANN]), on_before_visible=callback)
        assert raised.value is source


# -- the watermark's comment ------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    ["{}", "[1]", "null", '"x"', '{"pg-bulk-ingest": 7}', '{"ixflow": {"changed_by": 5}}'],
)
def test_any_comment_takes_a_watermark(engine, text):
    table = people()
    ingested(engine, table, [ANN])
    execute(engine, f"COMMENT ON TABLE app.people IS '{text}'")
    ingested(engine, table, [BOB])
    found = json.loads(comment(engine, table) or "")
    assert found["pg-bulk-ingest"] == {"high-watermark": 1}
    assert ("comment" in found) == (text in {"[1]", "null", '"x"'})


def test_a_nan_that_the_peer_stored_does_not_stop_the_next_batch(engine):
    table = people()
    ingested(engine, table, [ANN])
    stored = '{"x": NaN, "pg-bulk-ingest": {"high-watermark": NaN}}'
    execute(engine, f"COMMENT ON TABLE app.people IS '{stored}'")
    assert ingested(engine, table, [BOB]).high_watermark_after == 1
    assert rows(engine, table) == [ANN, BOB]


# -- values -------------------------------------------------------------------------------------

LOSSY: list[tuple[Any, Any, str]] = [
    (sa.TIMESTAMP, pd.Timestamp("2024-01-01 00:00:00.000000001"), "nanoseconds"),
    (sa.TIMESTAMP, np.datetime64("2024-01-01T00:00:00.000000001"), "microseconds"),
    (sa.TIME, dt.time(1, 2, tzinfo=dt.UTC), "zone"),
    (sa.TIME, "25:00", "hour"),
    (sa.FLOAT, 2**53 + 1, "no float"),
    (sa.BOOLEAN, "maybe", "boolean"),
    (pg.BYTEA, "abc", "not bytes"),
    (pg.JSONB, dt.date(2024, 1, 1), "JSON"),
    (pg.JSON, float("nan"), "JSON"),
    (pg.ARRAY(sa.INTEGER), 5, "iterable"),
    (pg.ARRAY(sa.INTEGER), [1.5], "integer"),
    (pg.ARRAY(sa.VARCHAR(2)), ["abc"], "too long"),
    (pg.BIT(3), "1010", "length 4"),
    (pg.INET, "x", "inet"),
    (pg.UUID, "zz", "uuid"),
    (sa.VARCHAR(3), "abcd", "too long"),
    (sa.VARCHAR, "a\0b", "NUL"),
    (pg.JSONB, {"a": "\0"}, "Unicode escape"),
]


@pytest.mark.parametrize("key", [False, True])
@pytest.mark.parametrize(("type_", "value", "why"), LOSSY)
def test_a_value_that_would_be_changed_names_table_column_row_and_value(
    engine, type_, value, why, key
):
    table = one_column(type_, key=key)
    ingested(engine, table)
    for _ in range(2):  # into a new table, and into one that is there
        with pytest.raises(ValueDoesNotFit, match=why) as raised:
            ingested(engine, table, [(1, None), (2, value), (3, None)])
        assert "app.things.c in row 1 (value" in str(raised.value)
        assert "_tmp_" not in str(raised.value)
        ingested(engine, table, [(0, None)])
    assert rows(engine, table)[0] == (0, None)


def test_a_timestamp_with_a_zone_among_others_without_is_refused_in_any_order(engine):
    naive, aware = dt.datetime.fromisoformat("2024-01-01"), dt.datetime.now(dt.UTC)
    for type_, bad in ((sa.TIMESTAMP(), aware), (sa.TIMESTAMP(timezone=True), naive)):
        for order in ([naive, aware], [aware, naive]):
            with pytest.raises(ValueDoesNotFit, match="some have none") as raised:
                ingested(engine, one_column(type_), list(enumerate(order)))
            assert raised.value.row == order.index(bad)


TAKEN: list[tuple[Any, Any, str | None]] = [
    (sa.TIMESTAMP, np.datetime64("2024-01-01"), "2024-01-01 00:00:00"),
    (sa.TIMESTAMP, pd.Timestamp("2024-01-01 01:00"), "2024-01-01 01:00:00"),
    (sa.TIMESTAMP, pd.NaT, None),
    (sa.DATE, pd.NaT, None),
    (sa.DATE, np.datetime64("NaT"), None),
    (sa.INTEGER, pd.NA, None),
    (sa.VARCHAR, pd.NA, None),
    (pg.JSONB, pd.NA, None),
    (sa.BOOLEAN, "t", "true"),
    (sa.BOOLEAN, "No", "false"),
    (sa.TIME, "01:02:03", "01:02:03"),
    (pg.BIT(3), "101", "101"),
    (pg.ARRAY(sa.VARCHAR(3)), ["abc"], "{abc}"),
]


@pytest.mark.parametrize(("type_", "value", "text"), TAKEN)
def test_values_of_pandas_and_numpy_and_texts_arrive(engine, type_, value, text):
    ingested(engine, one_column(type_), [(1, value), (2, None)])
    assert scalar(engine, "SELECT c::text FROM app.things WHERE id = 1") == text


FRAMES: list[tuple[Any, pa.Array, str]] = [
    (pg.ARRAY(sa.INTEGER), pa.array([[1, None], None]), "{1,NULL}"),
    (pg.ARRAY(sa.INTEGER), pa.array([[[1], [2]], None]), "{{1},{2}}"),
    (pg.ARRAY(sa.TEXT), pa.array([['a,"b'], None], pa.large_list(pa.string())), '{"a,\\"b"}'),
    (pg.ARRAY(sa.FLOAT), pa.array([[1.5], None], pa.list_(pa.float64(), 1)), "{1.5}"),
    (pg.JSONB, pa.array([{"a": [1, None]}, None]), '{"a": [1, null]}'),
    (pg.JSONB, pa.array([[1, 2], None]), "[1, 2]"),
    (pg.JSON, pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int64())), '{"k": 1}'),
    (sa.Uuid, pa.array([uuid.UUID(int=9).bytes, None], pa.uuid()), str(uuid.UUID(int=9))),
    (sa.Uuid, pa.array([uuid.UUID(int=9).bytes, None], pa.binary(16)), str(uuid.UUID(int=9))),
]


@pytest.mark.parametrize("key", [False, True])
@pytest.mark.parametrize(("type_", "array", "text"), FRAMES)
def test_nested_columns_of_frames_arrive(engine, type_, array, text, key):
    frame = pa.table({"c": array, "id": [1, 2]})
    ingested(engine, one_column(type_, key=key), [frame])
    with engine.connect() as conn:
        found = run(conn, "SELECT c::text FROM app.things ORDER BY id").scalars().all()
    assert found == [text, None]


def test_lists_of_polars_arrive_and_structs_that_are_no_json_are_named(engine):
    frame = pl.DataFrame({"id": [1], "c": [["a", None]]})
    ingested(engine, one_column(pg.ARRAY(sa.TEXT)), [frame])
    assert scalar(engine, "SELECT c::text FROM app.things") == "{a,NULL}"
    frame = pa.table({"id": [1, 2], "c": [None, {"on": dt.date(2024, 1, 1)}]})
    with pytest.raises(ValueDoesNotFit, match=r"app\.things\.c in row 1 .*JSON"):
        ingested(engine, one_column(pg.JSONB), [frame], delete=Delete.BEFORE_FIRST_BATCH)


# -- old rows and a new definition --------------------------------------------------------------

CHANGES: list[tuple[Any, Any, Any]] = [
    (sa.VARCHAR, sa.VARCHAR(3), "abcdef"),
    (sa.VARCHAR, sa.CHAR(3), "abcdef"),
    (sa.NUMERIC(10, 4), sa.NUMERIC(10, 2), decimal.Decimal("1.2345")),
    (sa.NUMERIC, sa.INTEGER, decimal.Decimal("1.5")),
    (sa.FLOAT, sa.INTEGER, 1.5),
    (sa.INTEGER, sa.BOOLEAN, 5),
    (sa.BIGINT, sa.FLOAT, 2**53 + 1),
    (sa.TIMESTAMP, sa.DATE, dt.datetime.fromisoformat("2024-01-01T05:00")),
    (sa.TIMESTAMP, pg.TIMESTAMP(precision=0), dt.datetime(2024, 1, 1, 0, 0, 0, 5)),  # noqa: DTZ001
    (pg.ARRAY(sa.VARCHAR), pg.ARRAY(sa.VARCHAR(2)), ["abc"]),
    (pg.BIT(5), pg.BIT(3), "10101"),
]


@pytest.mark.parametrize(("old", "new", "value"), CHANGES)
def test_a_new_type_does_not_cut_off_or_round_the_old_rows(engine, old, new, value):
    table = one_column(old)
    ingested(engine, table, [(1, value), (2, None)])
    before = rows(engine, table)
    with pytest.raises(DataError, match="do not fit its new definition"):
        ingested(engine, one_column(new), [(3, None)])
    assert rows(engine, table) == before


@pytest.mark.parametrize(
    ("old", "new", "value", "text"),
    [
        (sa.VARCHAR(5), sa.VARCHAR(3), "abc", "abc"),
        (sa.VARCHAR, sa.INTEGER, "007", "7"),
        (sa.INTEGER, sa.VARCHAR(5), 7, "7"),
        (sa.NUMERIC(10, 4), sa.NUMERIC(10, 2), decimal.Decimal("1.2500"), "1.25"),
        (sa.FLOAT, sa.REAL, 0.1, "0.1"),
        (sa.FLOAT, sa.NUMERIC, 0.1, "0.1"),
        (sa.TIMESTAMP, sa.DATE, dt.datetime.fromisoformat("2024-01-01"), "2024-01-01"),
        (pg.JSON, pg.JSONB, {"b": 1}, '{"b": 1}'),
        (sa.BOOLEAN, sa.INTEGER, True, "1"),
    ],
)
def test_a_new_type_takes_the_old_rows_that_fit(engine, old, new, value, text):
    ingested(engine, one_column(old), [(1, value)])
    ingested(engine, one_column(new), [])
    assert scalar(engine, "SELECT c::text FROM app.things") == text


# -- tables -------------------------------------------------------------------------------------


def test_a_bare_table_with_a_serial_key_is_one_relation(engine):
    execute(engine, "CREATE SCHEMA app")
    table = people()
    table.columns["id"].autoincrement = "auto"
    before = relations(engine)
    ingested(engine, table)
    assert relations(engine) - before == {"app.people"}


def test_computed_columns_are_left_to_the_database(engine):
    def declared(*more):
        twice = sa.Column("twice", sa.INTEGER, sa.Computed("a * 2", persisted=True))
        return people(sa.Column("a", sa.INTEGER), twice, *more)

    table = declared()
    ingested(engine, table, [(1, "Ann", 5), {"id": 2, "name": "Bob", "a": 6}])
    frame = pa.table({"id": [2, 3], "name": ["Bob", "Cy"], "a": [7, 8]})
    identity = oid(engine, table)
    ingested(engine, table, [frame])
    assert oid(engine, table) == identity
    ingested(engine, declared(sa.Column("b", sa.INTEGER)), [(4, "Di", 9, 1)])
    found = [(1, "Ann", 5, 10, None), (2, "Bob", 7, 14, None), (3, "Cy", 8, 16, None)]
    assert rows(engine, table) == [*found, (4, "Di", 9, 18, 1)]


@pytest.mark.parametrize("partitioned", [{"postgresql_partition_by": "RANGE (id)"}, {}])
def test_rows_are_upserted_into_partitions_and_counted(engine, partitioned):
    execute(
        engine,
        "CREATE SCHEMA app",
        "CREATE TABLE app.people (id int PRIMARY KEY, name varchar) PARTITION BY RANGE (id)",
        "CREATE TABLE app.few PARTITION OF app.people FOR VALUES FROM (0) TO (2)",
        "CREATE TABLE app.more PARTITION OF app.people FOR VALUES FROM (2) TO (9)",
    )
    table = people(**partitioned)
    ingested(engine, table, [ANN, BOB])
    changed = [(1, "Anna"), BOB, (3, "C"), (3, "Cy")]
    counts = ingested(engine, table, changed).tables["app.people"]
    assert (counts.inserted, counts.updated, counts.unchanged) == (1, 1, 2)
    assert rows(engine, table) == [(1, "Anna"), BOB, (3, "Cy")]


def test_a_key_that_is_unique_too_does_not_rebuild_the_table(engine):
    def declared():
        key = sa.Column("id", sa.INTEGER, primary_key=True, unique=True, autoincrement=False)
        return sa.Table("things", sa.MetaData(), key, schema="app")

    ingested(engine, declared(), [(1,)])
    identity = oid(engine, declared())
    ingested(engine, declared(), [(2,)])
    assert oid(engine, declared()) == identity
    assert scalar(engine, "SELECT count(*) FROM pg_indexes WHERE schemaname = 'app'") == 1


def test_an_index_to_be_made_concurrently_is_made_in_the_transaction(engine):
    table = people(sa.Index("by_name", "name", postgresql_concurrently=True))
    ingested(engine, table, [ANN])
    identity = oid(engine, table)
    ingested(engine, table, [BOB])
    assert oid(engine, table) == identity
    assert scalar(engine, "SELECT 1 FROM pg_indexes WHERE indexname = 'by_name'") == 1


def test_an_unlogged_table_stays_unlogged_and_its_sequence_keeps_grants(engine):
    table = people()
    table.columns["id"].autoincrement = "auto"
    ingested(engine, table, [ANN])
    execute(
        engine,
        "ALTER TABLE app.people SET UNLOGGED",
        "GRANT USAGE ON SEQUENCE app.people_id_seq TO PUBLIC",
        "COMMENT ON SEQUENCE app.people_id_seq IS 'it''s counted'",
    )
    kept = (
        "SELECT relpersistence::text || s.relacl::text || obj_description(s.oid) FROM pg_class c, "
        "(SELECT oid, relacl FROM pg_class WHERE oid = to_regclass('app.people_id_seq')) s "
        "WHERE c.oid = to_regclass('app.people')"
    )
    before = scalar(engine, kept)
    new = people(sa.Column("more", sa.VARCHAR))
    new.columns["id"].autoincrement = "auto"
    ingested(engine, new, [(2, "Bob", "x")])
    assert before is not None
    assert scalar(engine, kept) == before


# -- rights, and what is told -------------------------------------------------------------------


def test_a_role_without_rights_gets_a_typed_error(engine, database):
    with engine.begin() as conn:
        run(conn, "DROP ROLE IF EXISTS poor; CREATE ROLE poor LOGIN; CREATE SCHEMA app")
    poor = sa.create_engine(engine.url.set(username="poor"), poolclass=sa.NullPool)
    with pytest.raises(IngestError, match="permission denied for schema app"):
        ingested(poor, people(), [ANN])
    execute(engine, "GRANT USAGE ON SCHEMA app TO poor")
    for given in ([[ANN]], []):
        with pytest.raises(IngestError, match="permission denied for schema app"):
            ingested(poor, people(), *given)
    assert scalar(engine, "SELECT to_regclass('app.people')") is None


def test_messages_go_to_the_given_logger(engine, caplog):
    table, foreign = people(), people(schema="elsewhere")
    pairs = [(table, (n, "x")) for n in range(250)] + [(foreign, ANN)]
    log = logging.getLogger("someones.own")
    with caplog.at_level(logging.INFO, "someones.own"), engine.connect() as conn:
        ingest(conn, table.metadata, lambda _: [(7, None, pairs)], logger=log)
    said = [record.getMessage() for record in caplog.records if record.name == "someones.own"]
    for part in (
        "from watermark None",
        "batch 1 begins",
        "app.people is made anew: the table is new",
        "rows for app.people so far",
        "1 rows for tables outside the metadata were skipped",
        "batch 1 of 250 rows committed up to 7",
    ):
        assert any(part in line for line in said), part


def test_a_null_in_the_key_names_the_table_and_not_the_one_in_the_making(engine):
    table = people()
    with pytest.raises(IngestError, match=r"null value in column .id. of relation .app\.people"):
        ingested(engine, table, [(None, "Ann")])


def test_the_result_counts_every_row_once(engine):
    table = people()
    given = [(1, "a"), (1, "b"), (2, "c"), (2, "c"), (1, "d")]
    for many, expected in ((given, (2, 3, 0)), (given, (0, 0, 5)), ([(9, "x")] * 3, (1, 0, 2))):
        counts = ingested(engine, table, many).tables["app.people"]
        found = (counts.inserted, counts.updated, counts.unchanged)
        assert found == expected
        assert sum(found) == len(many)
    emptied = ingested(engine, table, [], delete=Delete.BEFORE_FIRST_BATCH)
    assert emptied.tables["app.people"].deleted == 3
    assert ingested(engine, table, high_watermark=HighWatermark.EARLIEST).batches == 0
