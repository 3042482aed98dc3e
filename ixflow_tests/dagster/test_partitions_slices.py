"""Which rows are a partition: each row is in exactly one, whatever its value and its type."""

import datetime as dt
import zoneinfo
from itertools import pairwise

import dagster as dg
import duckdb
import hypothesis
import pyarrow as pa
import pytest
from hypothesis import strategies as st

from ixflow.dagster.partitions import partitioning
from ixflow.dialects import dialect_named, dialect_of, run
from ixflow.errors import ValidationError
from ixflow.tables.slices import PartitionBy, RowsOfKey, Slice, TimeWindow, inside, outside
from ixflow.values import Column, TableName
from ixflow_tests.sources import make

DUCKDB = dialect_named("duckdb")
ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe"]
TYPES = {
    "TIMESTAMP WITH TIME ZONE": pa.timestamp("us", "UTC"),
    "TIMESTAMP": pa.timestamp("us"),
    "DATE": pa.date32(),
    "BIGINT": pa.int64(),
}
# As clocks show them, without a zone.
FIRST, LAST = (dt.datetime.fromisoformat(day) for day in ("2024-03-25", "2024-04-14"))
MOMENTS = st.datetimes(FIRST, LAST)


def windows(definition, by):
    """Give the slices of all windows that begin in some weeks with a change of the clock."""
    parted = partitioning(definition, by, "t")
    assert parted is not None
    return [parted.slice(key) for key in definition.get_partition_keys()]


def counts(column, values, slices):
    """Count, for each value, the slices that it is in, and those that it is outside of."""
    conn = duckdb.connect()
    conn.execute("SET TimeZone = 'UTC'")
    conn.execute(f"CREATE TABLE t (n integer, c {column.sql_type})")
    conn.executemany("INSERT INTO t VALUES (?, ?)", list(enumerate(values)))
    inner = [inside(DUCKDB, one, [column]) for one in slices]
    outer = [outside(DUCKDB, one, [column]) for one in slices]
    sums = " + ".join(f"coalesce(CAST(({text}) AS integer), 0)" for text in inner)
    rest = " + ".join(f"CAST(({text}) AS integer)" for text in outer)
    return conn.execute(f"SELECT {sums}, {rest} FROM t ORDER BY n").fetchall()


@hypothesis.settings(max_examples=25)
@hypothesis.given(
    zone=st.sampled_from(ZONES),
    sql_type=st.sampled_from(sorted(TYPES)),
    daily=st.booleans(),
    values=st.lists(st.one_of(st.none(), MOMENTS), min_size=1, max_size=12),
)
def test_a_moment_is_in_exactly_one_window_and_a_null_in_none(zone, sql_type, daily, values):
    kind = dg.DailyPartitionsDefinition if daily else dg.WeeklyPartitionsDefinition
    definition = kind(start_date="2024-03-17", end_date="2024-04-21", timezone=zone)
    column = Column("c", sql_type, TYPES[sql_type])
    by = PartitionBy("c", unit="us" if sql_type == "BIGINT" else None)
    slices = windows(definition, by)
    edges = [one.window.start for one in slices[8:-8] if one.window]
    given = [*values, *(edge.replace(tzinfo=None) for edge in edges[:3])]
    found = counts(column, [as_stored(value, sql_type) for value in given], slices)
    expected = [(0, len(slices)) if value is None else (1, len(slices) - 1) for value in given]
    assert found == expected


def as_stored(value, sql_type):
    if value is None or sql_type == "TIMESTAMP":
        return value
    if sql_type == "DATE":
        return value.date()
    zoned = value.replace(tzinfo=dt.UTC)
    return zoned if "ZONE" in sql_type else round(zoned.timestamp() * 1_000_000)


@hypothesis.settings(max_examples=25)
@hypothesis.given(
    keys=st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8))
)
def test_a_text_is_in_the_slice_of_its_key_alone(keys):
    column = Column("c", "VARCHAR", pa.string())
    some = sorted({*keys, "a", "A", "a ", "ä", "it's", "\\", "%"})
    slices = [Slice((key,), (RowsOfKey(PartitionBy("c"), key),)) for key in some]
    assert counts(column, some, slices) == [(1, len(some) - 1)] * len(some)


@pytest.mark.parametrize("zone", ZONES)
def test_windows_of_an_hour_follow_each_other_without_a_gap_or_are_refused(zone):
    definition = dg.HourlyPartitionsDefinition(
        start_date="2024-03-31-00:00", end_date="2024-04-01-00:00", timezone=zone
    )
    column = Column("c", "TIMESTAMP WITH TIME ZONE", TYPES["TIMESTAMP WITH TIME ZONE"])
    slices = windows(definition, "c")
    texts = [inside(DUCKDB, one, [column]) for one in slices]
    assert all(a.split("< ")[1] == b.split(">= ")[1].split(" AND ")[0] for a, b in pairwise(texts))


def test_a_midnight_that_a_clock_shows_twice_is_refused_for_a_clock():
    zone = zoneinfo.ZoneInfo("America/Havana")
    twice = dt.datetime(2024, 11, 3, 0, tzinfo=zone)
    window = TimeWindow(PartitionBy("c"), twice - dt.timedelta(days=1), twice)
    slice_ = Slice(("x",), (window,))
    with pytest.raises(ValidationError, match="shows 2024-11-03 00:00:00 twice"):
        inside(DUCKDB, slice_, [Column("c", "TIMESTAMP", pa.timestamp("us"))])
    zoned = Column("c", "TIMESTAMP WITH TIME ZONE", pa.timestamp("us", "UTC"))
    assert "2024-11-03 04:00:00+00:00" in inside(DUCKDB, slice_, [zoned])


@pytest.mark.parametrize(
    ("sql_type", "type_", "key", "said"),
    [
        ("BIGINT", pa.int64(), "042", "is not written as a whole number"),
        ("BIGINT", pa.int64(), "4.0", "is not written as a whole number"),
        ("DATE", pa.date32(), "2024-5-1", "is not written as a date"),
        ("BOOLEAN", pa.bool_(), "yes", "is not written as true or false"),
        ("DOUBLE", pa.float64(), "1", "only texts, whole numbers, dates and booleans"),
        ("TIMESTAMP", pa.timestamp("us"), "2024-05-01", "only texts, whole numbers"),
        ("JSON", pa.string(), "{}", "only texts, whole numbers"),
    ],
)
def test_a_key_that_could_mean_what_another_means_is_refused(sql_type, type_, key, said):
    slice_ = Slice((key,), (RowsOfKey(PartitionBy("c"), key),))
    with pytest.raises(ValidationError, match=said):
        inside(DUCKDB, slice_, [Column("c", sql_type, type_)])


@pytest.mark.parametrize(
    ("sql_type", "type_", "key", "value"),
    [
        ("BIGINT", pa.int64(), "-42", -42),
        ("DECIMAL(20,0)", pa.decimal128(20, 0), "42", 42),
        ("DATE", pa.date32(), "2024-05-01", dt.date(2024, 5, 1)),
        ("BOOLEAN", pa.bool_(), "true", True),
        ("UUID", pa.string(), "0b2d3f5e-0000-4000-8000-000000000000", None),
    ],
)
def test_numbers_dates_and_booleans_can_be_keys(sql_type, type_, key, value):
    slice_ = Slice((key,), (RowsOfKey(PartitionBy("c"), key),))
    stored = key if value is None else value
    assert counts(Column("c", sql_type, type_), [stored, None], [slice_]) == [(1, 0), (0, 1)]


def test_collations_that_take_texts_for_equal_do_not_join_their_slices(fresh_mariadb, fresh_sqlite):
    texts = ["a", "A", "ä", "a ", "b"]
    for engine, type_ in (
        (fresh_mariadb, "varchar(9) COLLATE utf8mb4_general_ci"),
        (fresh_mariadb, "varchar(9) CHARACTER SET latin1"),
        (fresh_sqlite, "text COLLATE NOCASE"),
    ):
        rows = ", ".join(f"('{text}')" for text in texts)
        make(engine, "DROP TABLE IF EXISTS t", f"CREATE TABLE t (c {type_})")
        make(engine, f"INSERT INTO t VALUES {rows}")
        dialect = dialect_of(engine)
        column = Column("c", type_.partition(" ")[0], pa.string())
        with engine.connect() as conn:
            for text in texts:
                slice_ = Slice((text,), (RowsOfKey(PartitionBy("c"), text),))
                where = inside(dialect, slice_, [column])
                assert run(conn, f"SELECT count(*) FROM t WHERE {where}").scalar_one() == 1, text


def test_nondeterministic_collations_and_enumerations_of_postgres_are_exact(fresh_postgres):
    make(
        fresh_postgres,
        "CREATE COLLATION loose "
        "(provider = icu, locale = 'und-u-ks-level1', deterministic = false)",
        "CREATE TYPE mood AS ENUM ('ok', 'Ok')",
        "CREATE TABLE t (a text COLLATE loose, b mood, c char(5))",
        "INSERT INTO t VALUES ('x', 'ok', 'de'), ('X', 'Ok', 'DE')",
    )
    dialect = dialect_of(fresh_postgres)
    with fresh_postgres.connect() as conn:
        columns = dialect.columns(conn, dialect.resolved(conn, TableName("t")))
        for name, key in (("a", "x"), ("b", "Ok"), ("c", "DE"), ("b", "of no such label")):
            where = inside(dialect, Slice((key,), (RowsOfKey(PartitionBy(name), key),)), columns)
            found = run(conn, f"SELECT count(*) FROM t WHERE {where}").scalar_one()
            assert found == (0 if " " in key else 1), (name, key)


def test_moments_that_are_texts_are_cut_by_days_whatever_their_form(fresh_sqlite):
    make(
        fresh_sqlite,
        "CREATE TABLE t (c datetime)",
        "INSERT INTO t VALUES ('2024-05-01'), ('2024-05-01T23:59:59'), ('2024-05-02 00:00:00')",
    )
    dialect = dialect_of(fresh_sqlite)
    column = Column("c", "datetime", pa.timestamp("us"))
    days = dg.DailyPartitionsDefinition(start_date="2024-05-01", end_date="2024-05-03")
    with fresh_sqlite.connect() as conn:
        found = [
            run(conn, f"SELECT count(*) FROM t WHERE {inside(dialect, one, [column])}").scalar_one()
            for one in windows(days, "c")
        ]
    assert found == [2, 1]
    hours = dg.HourlyPartitionsDefinition(
        start_date="2024-05-01-00:00", end_date="2024-05-01-02:00"
    )
    with pytest.raises(ValidationError, match="within a day"):
        inside(dialect, windows(hours, "c")[1], [column])


def test_sql_server_compares_bytes_and_blanks_at_the_end():
    dialect = dialect_named("mssql")
    slice_ = Slice(("de",), (RowsOfKey(PartitionBy("c"), "de"),))
    text = inside(dialect, slice_, [Column("c", "nvarchar(9)", pa.string())])
    assert text.startswith("[c] = N'de' AND CONVERT(varbinary(max), CONVERT(nvarchar(max), [c]))")
    assert "RTRIM([c])" in inside(dialect, slice_, [Column("c", "char(9)", pa.string())])


def test_a_column_whose_clock_is_of_another_time_zone_says_so():
    days = dg.DailyPartitionsDefinition(start_date="2024-05-01", timezone="Europe/Berlin")
    parted = partitioning(days, PartitionBy("c", zone="UTC"), "t")
    assert parted is not None
    slice_ = parted.slice("2024-05-01")
    text = inside(DUCKDB, slice_, [Column("c", "TIMESTAMP", pa.timestamp("us"))])
    assert "'2024-04-30 22:00:00'" in text
    assert "'2024-05-01 22:00:00'" in text
    with pytest.raises(ValidationError, match="at 2024-04-30 22:00:00, within a day"):
        inside(DUCKDB, slice_, [Column("c", "DATE", pa.date32())])


def test_windows_that_are_none_are_refused():
    day, by = dt.datetime(2024, 5, 1, tzinfo=dt.UTC), PartitionBy("c")
    for start, end, said in (
        (day, day, "not behind"),
        (day.replace(tzinfo=None), day, "with a time zone"),
        (day, day + dt.timedelta(seconds=1.5), "whole seconds"),
    ):
        with pytest.raises(ValidationError, match=said):
            TimeWindow(by, start, end)
    with pytest.raises(ValidationError, match="the unit of c is 'ns'"):
        PartitionBy("c", unit="ns")
