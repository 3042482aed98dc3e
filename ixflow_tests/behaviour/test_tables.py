"""Tables on every database: loading by name, exact casts, reading, replacing, merging."""

from __future__ import annotations

import datetime as dt
import decimal
import math

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import sqlalchemy as sa

from ixflow.dialects import dialect_of, run
from ixflow.errors import (
    ColumnMismatch,
    IxflowError,
    ReplacementRefused,
    TableNotFound,
    UnsupportedDatabase,
    UnsupportedType,
    ValidationError,
    ValueDoesNotFit,
)
from ixflow.tables.load import append, create_and_load, create_index, object_name
from ixflow.tables.read import read, read_table
from ixflow.values import TableName

T = TableName("orders")
DATA = pa.table({"id": pa.array([1, 2], pa.int32()), "v": ["a", None]})


def load(engine: sa.Engine, data: object, table: TableName = T, **options: object) -> int:
    with engine.begin() as conn:
        return create_and_load(conn, table, data, **options).rows  # type: ignore[arg-type] # any option


def add(engine: sa.Engine, data: object, table: TableName = T) -> int:
    with engine.begin() as conn:
        return append(conn, table, data)


def rows(engine: sa.Engine, table: TableName = T) -> list[tuple[object, ...]]:
    found = read_table(engine, table)
    return sorted(zip(*[c.to_pylist() for c in found.columns], strict=True), key=repr)


# -- loading --------------------------------------------------------------------------------------


def test_columns_are_matched_by_name(any_engine):
    load(any_engine, DATA)
    assert add(any_engine, pa.table({"v": ["c"], "id": [3]})) == 1
    assert rows(any_engine) == [(1, "a"), (2, None), (3, "c")]


def test_a_column_that_takes_null_may_be_missing(any_engine):
    load(any_engine, DATA)
    add(any_engine, pa.table({"id": [3]}))
    assert rows(any_engine)[-1] == (3, None)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (pa.table({"v": ["x"]}), r"may not be NULL: \['id'\]"),
        (pa.table({"id": [1], "w": [1], "x": [1]}), r"the table lacks: \['w', 'x'\]"),
        (pa.table([[1], ["a"], ["b"]], names=["id", "v", "v"]), r"given twice: \['v'\]"),
    ],
)
def test_surplus_missing_and_doubled_columns_are_refused_by_name(any_engine, data, words):
    load(any_engine, DATA, primary_key=["id"])
    with pytest.raises(ColumnMismatch, match=words) as caught:
        add(any_engine, data)
    assert caught.value.table == "orders"
    assert len(rows(any_engine)) == 2


def test_data_without_any_column_are_refused(any_engine):
    with pytest.raises(ValidationError, match="no columns"):
        load(any_engine, pa.table({}))
    load(any_engine, DATA)
    with pytest.raises(ColumnMismatch, match="no columns"):
        add(any_engine, pa.table({}))


def test_a_cast_that_would_lose_something_names_table_column_row_and_value(any_engine):
    load(any_engine, DATA)
    with pytest.raises(ValueDoesNotFit, match=r"orders\.id in row 1 \(value 1\.5\)") as caught:
        add(any_engine, pa.table({"id": [5.0, 1.5]}))
    error = caught.value
    assert (error.table, error.column, error.row, error.value) == ("orders", "id", 1, "1.5")
    assert len(rows(any_engine)) == 2


def test_the_row_of_a_failed_cast_is_counted_over_all_batches(any_engine):
    load(any_engine, DATA)
    schema = pa.schema({"id": pa.float64()})
    pieces = [pa.record_batch([[float(n)] * 100], schema=schema) for n in range(5)]
    pieces.append(pa.record_batch([[1.0, 2.0, 0.5]], schema=schema))
    with pytest.raises(ValueDoesNotFit) as caught:
        add(any_engine, pa.RecordBatchReader.from_batches(schema, pieces))
    assert (caught.value.row, caught.value.value) == (502, "0.5")
    assert len(rows(any_engine)) == 2


def test_the_row_that_the_server_refuses_is_counted_over_all_batches(fresh_postgres):
    """Also when the encoder, not the cast, finds it, and over the pieces of one batch."""
    with fresh_postgres.begin() as conn:
        run(conn, "CREATE TABLE orders (u uuid, t text)")
    good = "6b3c5a2e-0f0b-4f6e-9a57-d6c3b8c0b0c1"
    batch = pa.table({"u": [good] * 70_000}).to_batches()[0]
    bad = pa.table({"u": [good] * 69_000 + ["bad"]}).to_batches()[0]
    for column, last in (("u", bad), ("t", pa.table({"t": ["x"] * 69_000 + ["\x00"]}))):
        first = pa.table({column: batch.column(0)})
        data = pa.concat_tables([first, pa.table({column: last.column(0)})])
        with pytest.raises(ValueDoesNotFit) as caught:
            add(fresh_postgres, data)
        assert (caught.value.column, caught.value.row) == (column, 139_000)


def test_types_that_never_fit_are_named(any_engine):
    load(any_engine, DATA)
    with pytest.raises(UnsupportedType, match=r"orders\.v: no value of Arrow's list"):
        add(any_engine, pa.table({"id": [1], "v": [[1]]}))
    with pytest.raises(UnsupportedType, match="no column type that holds Arrow's struct"):
        load(any_engine, pa.table({"s": [{"a": 1}]}), TableName("other"))


@pytest.mark.parametrize("how", ["table", "reader", "polars", "lazy", "pandas"])
def test_no_rows_make_a_table_with_the_right_columns(any_engine, how):
    data = pa.table({"id": pa.array([], pa.int64()), "m": pa.array([], pa.timestamp("us"))})
    given = {
        "table": lambda: data,
        "reader": data.to_reader,
        "polars": lambda: pl.from_arrow(data),
        "lazy": lambda: pl.DataFrame(pl.from_arrow(data)).lazy(),
        "pandas": data.to_pandas,
    }[how]()
    assert load(any_engine, given) == 0
    back = read_table(any_engine, T)
    assert (back.num_rows, back.schema.types) == (0, data.schema.types)


def test_values_beyond_the_limits_of_a_column_are_refused(any_engine):
    load(any_engine, pa.table({"n": pa.array([decimal.Decimal("1.50")], pa.decimal128(5, 2))}))
    for bad in (decimal.Decimal("1000.00"), decimal.Decimal("1.005"), math.nan):
        with pytest.raises(ValueDoesNotFit, match=r"orders\.n in row 0"):
            add(any_engine, pa.table({"n": [bad]}))


def test_an_unknown_table_is_named_with_its_database(any_engine):
    for call in (lambda: add(any_engine, DATA), lambda: read_table(any_engine, T)):
        with pytest.raises(TableNotFound, match="there is no table orders in this") as caught:
            call()
        assert caught.value.table == "orders"


def test_an_object_without_arrow_is_refused_by_its_kind(any_engine):
    with pytest.raises(UnsupportedType, match=r"cannot read rows from a builtins\.int"):
        load(any_engine, 5)


@pytest.mark.parametrize("option", [{"primary_key": ["no"]}, {"type_map": {"no": "text"}}])
def test_keys_and_types_for_columns_that_are_not_there_are_refused(any_engine, option):
    with pytest.raises(ValidationError, match=r"no columns \['no'\]"):
        load(any_engine, DATA, **option)


def test_a_type_map_overrides_by_name(any_engine):
    load(any_engine, DATA, type_map={"id": sa.BigInteger(), "v": "varchar(9)"})
    assert read_table(any_engine, T).schema == pa.schema({"id": pa.int64(), "v": pa.string()})


def test_keys_and_indexes_are_there_and_two_of_one_name_are_not(any_engine):
    long = TableName("t" * 40)
    wide = pa.table({"a" * 30: [1, 2], "b" * 30: [1, 2]})
    load(any_engine, wide, long, primary_key=["a" * 30], indexes=[["b" * 30], ["a" * 30, "b" * 30]])
    with any_engine.connect() as conn:
        assert len(dialect_of(conn).indexes(conn, long)) == 2
        columns = dialect_of(conn).columns(conn, long)
    assert [(c.key_position, c.nullable) for c in columns] == [(1, False), (None, True)]


def test_a_duplicate_key_is_refused_and_leaves_no_table(any_engine):
    with pytest.raises(sa.exc.IntegrityError):
        load(any_engine, pa.table({"id": [1, 1]}), primary_key=["id"])
    with any_engine.connect() as conn:
        assert not dialect_of(conn).exists(conn, T)


@pytest.mark.parametrize("columns", [["id"], ["ü" * 40, "x"]])
def test_names_of_keys_fit_and_differ(columns):
    names = {object_name(kind, "t" * 30, columns, 63) for kind in ("pk", "idx")}
    assert len(names) == 2
    assert all(len(name.encode()) <= 63 for name in names)


def test_everything_happens_in_the_callers_transaction(any_engine):
    with any_engine.connect() as conn:
        transaction = conn.begin()
        create_and_load(conn, T, DATA, primary_key=["id"], indexes=[["v"]])
        append(conn, T, pa.table({"id": [3]}))
        transaction.rollback()
        conn.rollback()
        assert not dialect_of(conn).exists(conn, T)


# -- reading --------------------------------------------------------------------------------------


def test_reading_some_columns_and_rows(any_engine):
    load(any_engine, DATA)
    assert read_table(any_engine, T, columns=["v"], where="id = 1").to_pydict() == {"v": ["a"]}
    with pytest.raises(ColumnMismatch, match=r"no columns \['w'\]"):
        read_table(any_engine, T, columns=["w"])


def test_reading_streams_in_batches(any_engine):
    load(any_engine, pa.table({"id": range(60_000), "v": ["x" * 400] * 60_000}))
    with read(any_engine, T) as reader:
        sizes = [batch.num_rows for batch in reader]
    assert sum(sizes) == 60_000
    assert len(sizes) > 1


def test_a_view_is_read_like_a_table(any_engine):
    load(any_engine, DATA)
    with any_engine.begin() as conn:
        run(conn, "CREATE VIEW seen AS SELECT v FROM orders WHERE v = '%s :x' OR v IS NULL")
    assert rows(any_engine, TableName("seen")) == [(None,)]


def test_sqlite_values_of_another_kind_than_declared_are_refused(fresh_sqlite):
    with fresh_sqlite.begin() as conn:
        run(conn, "CREATE TABLE orders (n INTEGER, d DATE, b BOOLEAN, z TIMESTAMP)")
    for column, value in (("n", 1.5), ("n", "'x'"), ("d", 5), ("d", "'5'"), ("b", 2)):
        with fresh_sqlite.begin() as conn:
            run(conn, "DELETE FROM orders")
            run(conn, f"INSERT INTO orders ({column}) VALUES (NULL), ({value})")
        with pytest.raises(ValueDoesNotFit, match="in row 1"):
            read_table(fresh_sqlite, T)


# -- merging and replacing ------------------------------------------------------------------------


def test_merging_counts_what_was_inserted_updated_and_equal(any_engine):
    old = pa.table({"id": [1, 2, 3], "a b": ["x", None, "z"], "n": [1.5, None, math.inf]})
    new = pa.table(
        {"id": [1, 2, 3, 4, 4], "a b": ["x", "y", None, "p", "q"], "n": [1.5, None, 2.0, 1.0, 1.0]}
    )
    load(any_engine, old, primary_key=["id"])
    load(any_engine, new, TableName("new"))
    with any_engine.begin() as conn:
        dialect = dialect_of(conn)
        done = dialect.merge(conn, TableName("new"), T, dialect.columns(conn, T), ["id"])
    assert (done.inserted, done.updated, done.unchanged) == (1, 2, 2)
    assert rows(any_engine) == [
        (1, "x", 1.5), (2, "y", None), (3, None, 2.0), (4, "q", 1.0)
    ]  # fmt: skip


def test_merging_tables_that_are_all_key(any_engine):
    load(any_engine, pa.table({"a": [1], "b": [1]}), primary_key=["b", "a"])
    load(any_engine, pa.table({"b": [1, 2, 2], "a": [1, 1, 1]}), TableName("new"))
    with any_engine.begin() as conn:
        dialect = dialect_of(conn)
        done = dialect.merge(conn, TableName("new"), T, dialect.columns(conn, T), ["b", "a"])
    assert (done.inserted, done.updated, done.unchanged) == (1, 0, 2)
    assert rows(any_engine) == [(1, 1), (1, 2)]


def test_a_swap_puts_the_new_table_in_place_and_views_see_it(any_engine):
    load(any_engine, DATA)
    with any_engine.begin() as conn:
        run(conn, "CREATE VIEW seen AS SELECT id, ':abc %s' AS t FROM orders")
    with any_engine.begin() as conn:
        create_and_load(conn, TableName("_new"), pa.table({"id": [9], "v": ["n"]}))
        create_and_load(conn, TableName("gone"), DATA)
        dialect_of(conn).swap(conn, [(TableName("_new"), T)], drops=[TableName("gone")])
    assert rows(any_engine) == [(9, "n")]
    assert rows(any_engine, TableName("seen")) == [(9, ":abc %s")]
    with any_engine.connect() as conn:
        assert not dialect_of(conn).exists(conn, TableName("gone"))
        assert not dialect_of(conn).exists(conn, TableName("_new"))


def test_a_swap_into_an_empty_place_is_a_rename(any_engine):
    load(any_engine, DATA, TableName("_new"))
    with any_engine.begin() as conn:
        dialect_of(conn).swap(conn, [(TableName("_new"), T)])
    assert len(rows(any_engine)) == 2


def test_a_swap_that_is_rolled_back_changes_nothing(any_engine):
    load(any_engine, DATA)
    with any_engine.connect() as conn:
        transaction = conn.begin()
        create_and_load(conn, TableName("_new"), pa.table({"id": [9]}))
        dialect_of(conn).swap(conn, [(TableName("_new"), T)])
        transaction.rollback()
    assert rows(any_engine) == [(1, "a"), (2, None)]


def test_sqlite_triggers_refuse_a_swap(fresh_sqlite):
    load(fresh_sqlite, DATA)
    load(fresh_sqlite, DATA, TableName("_new"))
    with fresh_sqlite.begin() as conn:
        run(conn, "CREATE TRIGGER tell AFTER INSERT ON orders BEGIN SELECT 1; END")
        with pytest.raises(ReplacementRefused, match="tell"):
            dialect_of(conn).swap(conn, [(TableName("_new"), T)])


def test_comments_are_kept_as_they_are(warehouse_engine):
    load(warehouse_engine, DATA)
    text = 'it\'s 100% of :all \\ "orders"\n😀'
    with warehouse_engine.begin() as conn:
        dialect_of(conn).set_comment(conn, T, text)
        create_and_load(conn, TableName("_new"), DATA)
        dialect_of(conn).swap(conn, [(TableName("_new"), T)])
        assert dialect_of(conn).comment(conn, T) == text
        dialect_of(conn).set_comment(conn, T, None)
        assert dialect_of(conn).comment(conn, T) is None


def test_sqlite_has_no_comments(fresh_sqlite):
    load(fresh_sqlite, DATA)
    with fresh_sqlite.connect() as conn:
        assert dialect_of(conn).comment(conn, T) is None
        with pytest.raises(UnsupportedDatabase, match="no table comments"):
            dialect_of(conn).set_comment(conn, T, "x")


# -- publishing -----------------------------------------------------------------------------------


def publish(engine: sa.Engine, version: int, *names: str, drops: tuple[str, ...] = ()) -> None:
    """Write tables of one version to a schema of their own, then publish them in `mart`."""
    schema = f"tx {version}"
    with engine.begin() as conn:
        dialect = dialect_of(conn)
        dialect.create_schema(conn, schema)
        for name in names:
            create_and_load(conn, TableName(name, schema), pa.table({"version": [version]}))
    with engine.begin() as conn:
        dialect = dialect_of(conn)
        dialect.create_schema(conn, "mart")
        moves = [(TableName(name, schema), TableName(name, "mart")) for name in names]
        dialect.publish(conn, moves, drops=[TableName(name, "mart") for name in drops])
    with engine.begin() as conn:
        dialect_of(conn).drop_schema(conn, schema)


def published(engine: sa.Engine) -> dict[str, object]:
    with engine.connect() as conn:
        names = dialect_of(conn).tables_in(conn, "mart")
        return {
            n: run(conn, f"SELECT version FROM {dialect_of(conn).qualified(TableName(n, 'mart'))}")
            .scalars().first() for n in names
        }  # fmt: skip


def schemas(engine: sa.Engine) -> set[str]:
    with engine.connect() as conn:
        return {name for name in sa.inspect(conn).get_schema_names() if name.startswith("tx")}


def test_tables_appear_are_replaced_and_disappear_together(warehouse_engine):
    publish(warehouse_engine, 1, "a", "Odd b")
    assert published(warehouse_engine) == {"a": 1, "Odd b": 1}
    publish(warehouse_engine, 2, "a", "c", drops=("Odd b",))
    assert published(warehouse_engine) == {"a": 2, "c": 2}
    publish(warehouse_engine, 3, "c")
    assert published(warehouse_engine) == {"a": 2, "c": 3}


def test_publishing_leaves_no_table_behind_that_nobody_sees(fresh_duckdb):
    for version in range(1, 5):
        publish(fresh_duckdb, version, "a", *(["b"] if version < 3 else []))
    with fresh_duckdb.connect() as conn:
        found = run(conn, "SELECT schema_name, table_name FROM duckdb_tables()").all()
    assert {tuple(row) for row in found} == {("tx 4", "a"), ("tx 2", "b")}
    assert {s for s in schemas(fresh_duckdb) if "." not in s} <= {"tx 4", "tx 2"}


def test_what_ixflow_did_not_publish_is_neither_replaced_nor_dropped(fresh_duckdb):
    """A view of the user's own, and the tables of schemas that happen to have a fitting name."""
    with fresh_duckdb.begin() as conn:
        for statement in (
            "CREATE SCHEMA a; CREATE TABLE a.a AS SELECT 7 AS version",
            "CREATE SCHEMA mart; CREATE SCHEMA raw; CREATE TABLE raw.b AS SELECT 7 AS version",
            "CREATE VIEW mart.b AS SELECT * FROM raw.b",
        ):
            run(conn, statement)
    publish(fresh_duckdb, 1, "a")
    publish(fresh_duckdb, 2, "a")
    assert rows(fresh_duckdb, TableName("a", "a")) == [(7,)]
    for drops, names in ((("b",), ()), ((), ("b",))):
        with pytest.raises(ReplacementRefused, match=r"did not publish: \['b'\]"):
            publish(fresh_duckdb, 3 + len(names), *names, drops=drops)
    assert rows(fresh_duckdb, TableName("b", "raw")) == [(7,)]


def test_comments_of_published_tables_stay(warehouse_engine):
    publish(warehouse_engine, 1, "a")
    kind = "VIEW" if warehouse_engine.dialect.name == "duckdb" else "TABLE"
    with warehouse_engine.begin() as conn:
        run(conn, f"COMMENT ON {kind} mart.a IS 'it''s a'")
    publish(warehouse_engine, 2, "a")
    with warehouse_engine.connect() as conn:
        assert dialect_of(conn).comment(conn, TableName("a", "mart")) == "it's a"


def test_sqlite_cannot_publish(fresh_sqlite):
    with pytest.raises(IxflowError, match="SQLite has no schemas"):
        publish(fresh_sqlite, 1, "a")


def test_duckdb_cannot_move_a_table_to_another_schema(fresh_duckdb):
    load(fresh_duckdb, DATA)
    with fresh_duckdb.begin() as conn, pytest.raises(ReplacementRefused, match="cannot move"):
        dialect_of(conn).swap(conn, [(T, TableName("orders", "mart"))])


# -- small things of single dialects --------------------------------------------------------------


def test_copying_is_refused_for_drivers_that_cannot(fresh_postgres):
    with fresh_postgres.begin() as conn:
        run(conn, "CREATE TABLE orders (id int)")
    adrift = sa.create_engine(fresh_postgres.url, poolclass=sa.NullPool)
    adrift.dialect.driver = "pg8000"
    with pytest.raises(UnsupportedDatabase, match="driver pg8000 cannot COPY"):
        add(adrift, pa.table({"id": [1]}))


def test_an_index_says_what_it_is_about_without_its_name(any_engine):
    load(any_engine, DATA)
    load(any_engine, DATA, TableName("other"))
    with any_engine.begin() as conn:
        dialect = dialect_of(conn)
        create_index(conn, dialect, T, ["v", "id"])
        run(conn, "CREATE INDEX named_otherwise ON other (v, id)")
        assert dialect.indexes(conn, T) == dialect.indexes(conn, TableName("other"))
        run(conn, "CREATE UNIQUE INDEX one ON other (id)")
        assert dialect.indexes(conn, T) != dialect.indexes(conn, TableName("other"))


def test_pandas_and_polars_values_arrive_as_they_are(any_engine):
    moment = dt.datetime(2026, 1, 2, 3, 4, 5, 678_901, tzinfo=dt.UTC)
    frames = [
        pd.DataFrame({"m": [pd.Timestamp(moment), None], "s": ["a", None], "n": [1, None]}),
        pl.DataFrame({"m": [moment, None], "s": ["a", None], "n": [1.0, None]}),
    ]
    for number, frame in enumerate(frames):
        name = TableName(f"frame{number}")
        load(any_engine, frame, name)
        assert rows(any_engine, name) == [(None, None, None), (moment, "a", 1.0)]
