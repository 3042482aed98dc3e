"""Whatever Arrow value is loaded into whatever database comes back the same, or is refused."""

from __future__ import annotations

import datetime as dt
import decimal
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pytest
import sqlalchemy as sa
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from ixflow.dialects import dialect_of, run
from ixflow.errors import DataError, ValueDoesNotFit
from ixflow.tables.load import append, create_and_load
from ixflow.tables.read import read_table
from ixflow.values import TableName

DATABASES = ["psycopg", "psycopg2", "duckdb", "sqlite"]
_numbers = itertools.count()


@dataclass(frozen=True)
class Database:
    """One database, and what it cannot hold."""

    kind: str
    engine: sa.Engine

    @property
    def is_postgres(self) -> bool:
        return self.engine.dialect.name == "postgresql"

    def new_table(self) -> TableName:
        return TableName(f"t{next(_numbers)}")


@pytest.fixture(params=DATABASES)
def database(request: pytest.FixtureRequest) -> Iterator[Database]:
    """Give each database, PostgreSQL through both drivers."""
    kind = request.param
    fixture = "fresh_postgres" if kind.startswith("psycopg") else f"fresh_{kind}"
    engine = request.getfixturevalue(fixture)
    if kind == "psycopg2":
        url = engine.url.set(drivername="postgresql+psycopg2")
        engine = sa.create_engine(url, poolclass=sa.NullPool)
    # Held open, a DuckDB file need not be opened and written out for each connection.
    with engine.connect():
        yield Database(kind, engine)


# -- values ---------------------------------------------------------------------------------------

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=20)
NAIVE = st.datetimes(dt.datetime(1, 1, 1), dt.datetime(9999, 12, 31, 23, 59, 59, 999_999))  # noqa: DTZ001
VALUES: dict[pa.DataType, st.SearchStrategy[Any]] = {
    pa.bool_(): st.booleans(),
    pa.int8(): st.integers(-(2**7), 2**7 - 1),
    pa.int16(): st.integers(-(2**15), 2**15 - 1),
    pa.int32(): st.integers(-(2**31), 2**31 - 1),
    pa.int64(): st.integers(-(2**63), 2**63 - 1),
    pa.uint8(): st.integers(0, 2**8 - 1),
    pa.uint16(): st.integers(0, 2**16 - 1),
    pa.uint32(): st.integers(0, 2**32 - 1),
    pa.float32(): st.floats(width=32),
    pa.float64(): st.floats(),
    pa.string(): TEXT | st.sampled_from(["", "😀", "\\N", '"', "'", "%s", ":x", "\n\r\t", "NULL"]),
    pa.large_string(): TEXT,
    pa.binary(): st.binary(max_size=20),
    pa.binary(4): st.binary(min_size=4, max_size=4),
    pa.date32(): st.dates(),
    pa.time64("us"): st.times(),
    pa.timestamp("us"): NAIVE,
    pa.timestamp("us", "UTC"): NAIVE.map(lambda moment: moment.replace(tzinfo=dt.UTC)),
    pa.dictionary(pa.int32(), pa.string()): TEXT,
    pa.null(): st.none(),
}
NAMES = [
    "id",
    "Name",
    "order date",
    'say "hi"',
    "50%",
    "%s",
    "a:b",
    ":c",
    "select",
    "'",
    "ü",
    "a.b",
]


def decimals(precision: int, scale: int) -> st.SearchStrategy[decimal.Decimal]:
    most = 10**precision - 1
    unscaled = st.integers(-most, most) | st.sampled_from([0, most, -most, 1, -1])
    return unscaled.map(lambda n: decimal.Decimal((n < 0, _digits(abs(n)), -scale)))


def _digits(number: int) -> tuple[int, ...]:
    return tuple(int(digit) for digit in str(number))


def column_of(type_: pa.DataType, values: st.SearchStrategy[Any], rows: int):
    made = st.lists(st.none() | values, min_size=rows, max_size=rows)
    return made.map(lambda found: pa.array(found, type_))


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    rows = draw(st.integers(0, 8))
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=6, unique=True))
    types = [draw(st.sampled_from(list(VALUES))) for _ in names]
    columns = [draw(column_of(type_, VALUES[type_], rows)) for type_ in types]
    return pa.table(columns, names=names)


def plain(value: Any) -> Any:
    """Make NaN equal to NaN, and tell 0.0 from -0.0 nowhere."""
    return "NaN" if isinstance(value, float) and math.isnan(value) else value


def rows_of(table: pa.Table) -> list[tuple[Any, ...]]:
    columns = [[plain(value) for value in column.to_pylist()] for column in table.columns]
    return sorted(zip(*columns, strict=True), key=repr)


def round_trip(database: Database, data: pa.Table) -> pa.Table:
    name = database.new_table()
    with database.engine.begin() as conn:
        assert create_and_load(conn, name, data).rows == data.num_rows
    return read_table(database.engine, name)


# -- properties -----------------------------------------------------------------------------------


@given(data=tables())
@settings(max_examples=10)
def test_every_type_with_nulls_and_odd_names_comes_back_equal(database, data):
    if database.kind == "sqlite":
        assume(not any("NaN" in row for row in rows_of(data)))
    back = round_trip(database, data)
    assert back.column_names == data.column_names
    assert rows_of(back) == rows_of(data)


@st.composite
def decimal_columns(draw: st.DrawFn, most: int = 76) -> pa.Array:
    precision = draw(st.integers(1, most))
    scale = draw(st.integers(0, precision))
    kind = pa.decimal128 if precision <= 38 else pa.decimal256
    return draw(column_of(kind(precision, scale), decimals(precision, scale), 5))


@given(data=st.data())
@settings(max_examples=10)
def test_decimals_of_every_precision_and_scale_come_back_equal(database, data):
    most = {"duckdb": 38, "sqlite": 15}.get(database.kind, 76)
    array = data.draw(decimal_columns(most))
    back = round_trip(database, pa.table({"n": array}))
    assert back["n"].type == array.type
    assert rows_of(back) == rows_of(pa.table({"n": array}))


def test_every_precision_and_scale_keeps_its_extremes_on_postgres(fresh_postgres):
    """Both ends and the smallest steps of 365 types, a hundred columns a table."""
    types = [(p, s) for p in range(1, 77) for s in sorted({0, 1, p // 2, p - 1, p})]
    for start in range(0, len(types), 100):
        columns = {f"n{p}_{s}": extremes(p, s) for p, s in types[start : start + 100]}
        data = pa.table(columns)
        assert rows_of(round_trip(Database("psycopg", fresh_postgres), data)) == rows_of(data)


def extremes(precision: int, scale: int) -> pa.Array:
    most = 10**precision - 1
    values = [most, -most, 1, -1, 0, most // 7, -(most // 3)]
    exact = [decimal.Decimal((v < 0, _digits(abs(v)), -scale)) for v in values]
    kind = pa.decimal128 if precision <= 38 else pa.decimal256
    return pa.array([*exact, None], kind(precision, scale))


@given(value=decimals(38, 10))
@settings(max_examples=10)
def test_decimals_that_sqlite_has_no_number_for_become_exact_text(fresh_sqlite, value):
    data = pa.table({"n": pa.array([value], pa.decimal128(38, 10))})
    back = round_trip(Database("sqlite", fresh_sqlite), data)
    assert [decimal.Decimal(text) for text in back["n"].to_pylist()] == [value]


def test_nan_is_refused_by_sqlite_which_would_store_null(fresh_sqlite):
    data = pa.table({"x": [1.0, math.nan]})
    with pytest.raises(
        ValueDoesNotFit, match=r"x in row 1 \(value nan\): SQLite would store NaN as"
    ):
        round_trip(Database("sqlite", fresh_sqlite), data)


def test_nul_characters_are_kept_or_refused_with_their_row(database):
    data = pa.table({"t": ["fine", None, "a\x00b"]})
    if not database.is_postgres:
        assert rows_of(round_trip(database, data)) == rows_of(data)
        return
    with pytest.raises(ValueDoesNotFit, match="NUL") as caught:
        round_trip(database, data)
    assert (caught.value.column, caught.value.row) == ("t", 2)


@pytest.mark.parametrize(("days", "type_"), [(-2_440_588, pa.date32()), (-800_000, pa.date32())])
def test_dates_before_the_first_year_are_exact_or_refused(database, days, type_):
    data = pa.table({"d": pa.array([days], pa.int32()).view(type_)})
    try:
        back = round_trip(database, data)
    except DataError:
        assert not database.is_postgres
        return
    assert back["d"].combine_chunks().view(pa.int32()).to_pylist() == [days]


def test_dates_that_no_database_knows_are_refused(database):
    data = pa.table({"d": pa.array([0, -(2**31)], pa.int32()).view(pa.date32())})
    with pytest.raises(DataError):
        round_trip(database, data)


def test_the_last_moments_arrow_knows_are_exact_or_refused(database):
    data = pa.table({"m": pa.array([2**63 - 1], pa.int64()).view(pa.timestamp("us"))})
    try:
        back = round_trip(database, data)
    except DataError:
        assert not database.is_postgres
        return
    assert back["m"].combine_chunks().view(pa.int64()).to_pylist() == [2**63 - 1]


def test_microseconds_that_look_like_other_limits_are_only_numbers(database):
    """2**31 - 1 microseconds is half past midnight in 1970, not infinity."""
    numbers = [2**31 - 1, -(2**31) + 1, 2**31, 0, -1]
    data = pa.table({"m": pa.array(numbers, pa.int64()).view(pa.timestamp("us"))})
    assert rows_of(round_trip(database, data)) == rows_of(data)


@pytest.mark.parametrize("database", ["psycopg", "duckdb"], indirect=True)
def test_infinite_moments_are_refused_when_they_are_read(database):
    zone = "timestamp with time zone"
    for number, sql_type in enumerate(["date", "timestamp", zone]):
        for value in ("infinity", "-infinity"):
            with database.engine.begin() as conn:
                name = f"i{number}"
                run(conn, f"DROP TABLE IF EXISTS {name}")
                run(conn, f"CREATE TABLE {name} AS SELECT CAST('{value}' AS {sql_type}) AS m")
            with pytest.raises(ValueDoesNotFit, match="infinity"):
                read_table(database.engine, TableName(f"i{number}"))


# -- types that only a table can declare ----------------------------------------------------------

DECLARED: dict[str, tuple[list[str], st.SearchStrategy[str]]] = {
    "uuid": (["psycopg", "psycopg2", "duckdb"], st.uuids().map(str)),
    "varchar(20)": (DATABASES, TEXT),
    "char(3)": (["psycopg", "psycopg2"], st.text("abcß😀", min_size=3, max_size=3)),
    "inet": (["psycopg", "psycopg2"], st.ip_addresses(v=4).map(lambda a: f"{a}/32")),
    "integer[]": (
        ["psycopg", "psycopg2"],
        st.lists(st.integers(-5, 5), min_size=1).map(lambda n: "{" + ",".join(map(str, n)) + "}"),
    ),
    "numeric": (["psycopg", "psycopg2"], decimals(60, 30).map(lambda n: f"{n:f}")),
    "interval": (["psycopg", "psycopg2"], st.integers(2, 99).map(lambda n: f"{n} days")),
}


@pytest.mark.parametrize(
    ("database", "sql_type"),
    [(kind, sql_type) for sql_type, (kinds, _) in DECLARED.items() for kind in kinds],
    indirect=["database"],
)
@given(data=st.data())
@settings(max_examples=8)
def test_types_that_travel_as_text_come_back_equal(database, sql_type, data):
    _, values = DECLARED[sql_type]
    array = data.draw(column_of(pa.string(), values, 4))
    name = database.new_table()
    with database.engine.begin() as conn:
        run(conn, f"CREATE TABLE {name} (v {sql_type}, n integer)")
        append(conn, name, pa.table({"n": [1, 2, 3, 4], "v": array}))
    back = read_table(database.engine, name).sort_by("n")["v"].to_pylist()
    assert back == array.to_pylist()


@pytest.mark.parametrize("sql_type", ["json", "jsonb"])
@pytest.mark.parametrize("kind", ["psycopg", "psycopg2"])
def test_json_is_kept_as_it_was_written_and_jsonb_as_the_server_writes_it(request, kind, sql_type):
    engine = request.getfixturevalue("fresh_postgres")
    if kind == "psycopg2":
        engine = sa.create_engine(engine.url.set(drivername="postgresql+psycopg2"))
    texts = ['{"a":1}', '"\\u00e9 😀"', "null", None, "[1.10, 2e3]"]
    with engine.begin() as conn:
        run(conn, f"CREATE TABLE t (v {sql_type}, n integer)")
        append(conn, TableName("t"), pa.table({"v": texts, "n": range(5)}))
    back = read_table(engine, TableName("t")).sort_by("n")["v"].to_pylist()
    engine.dispose()
    expected = texts if sql_type == "json" else ['{"a": 1}', '"é 😀"', "null", None, "[1.10, 2000]"]
    assert back == expected


@pytest.mark.parametrize("text", ["", "{", "nul"])
def test_what_is_no_json_is_refused(fresh_postgres, text):
    with fresh_postgres.begin() as conn:
        run(conn, "CREATE TABLE t (v jsonb)")
    with pytest.raises(ValueDoesNotFit, match="invalid input"), fresh_postgres.begin() as conn:
        append(conn, TableName("t"), pa.table({"v": [text]}))


def test_what_is_no_uuid_is_refused_by_row(fresh_postgres):
    with fresh_postgres.begin() as conn:
        run(conn, "CREATE TABLE t (v uuid)")
    values = [None, "6b3c5a2e-0f0b-4f6e-9a57-d6c3b8c0b0c1", "not one"]
    with (
        pytest.raises(ValueDoesNotFit, match=r"in row 2 \(value 'not one'\)"),
        fresh_postgres.begin() as conn,
    ):
        append(conn, TableName("t"), pa.table({"v": values}))


@given(name=TEXT.filter(bool), column=TEXT.filter(bool))
@example(name='a"b', column="50%")
@example(name="%(x)s", column="':x'")
@example(name="Table", column="Order By")
@settings(max_examples=10)
def test_any_table_and_column_name_works(database, name, column):
    assume(len(name.encode()) < 60 and len(column.encode()) < 60)
    assume(not name.lower().startswith("sqlite_"))
    table = TableName(name)
    with database.engine.begin() as conn:
        create_and_load(conn, table, pa.table({column: [1, 2]}), primary_key=[column])
        assert dialect_of(conn).columns(conn, table)[0].name == column
    assert rows_of(read_table(database.engine, table)) == [(1,), (2,)]
    with database.engine.begin() as conn:
        dialect_of(conn).drop_table(conn, table)
