"""Type maps and casts: exact, or refused by table, column, row and value."""

from __future__ import annotations

import datetime as dt
import decimal
import math

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ixflow.dialects import dialect_named
from ixflow.dialects.types import cast_column, decimal_type, split_sql_type
from ixflow.errors import UnsupportedDatabase, UnsupportedType, ValueDoesNotFit
from ixflow.values import Column

Dec = decimal.Decimal
NOON = dt.datetime(2026, 1, 1, 12)  # noqa: DTZ001 - naive on purpose
MIDNIGHT = dt.datetime(2026, 1, 1)  # noqa: DTZ001
UTC_NOON = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)
DATABASES = ["postgresql", "duckdb", "sqlite"]


def cast(array: pa.Array, type_: pa.DataType) -> pa.Array:
    return cast_column(array, Column("c", "some type", type_), table="shop.t")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("integer", ("integer", ())),
        ("numeric(12,2)", ("numeric", (12, 2))),
        ("NUMERIC( 12 , 2 )", ("numeric", (12, 2))),
        ("numeric(3,-2)", ("numeric", (3, -2))),
        ("timestamp(3) with time zone", ("timestamp with time zone", (3,))),
        ("character varying(10)", ("character varying", (10,))),
        ("integer[]", ("integer[]", ())),
        ("ENUM('a', 'b')", ("enum", ())),
        ("STRUCT(a INTEGER, b DECIMAL(3,1))", ("struct(a integer, b decimal(3,1))", ())),
        ("", ("", ())),
    ],
)
def test_a_type_name_is_split_into_base_and_arguments(text, expected):
    assert split_sql_type(text) == expected


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ((12, 2), pa.decimal128(12, 2)),
        ((5,), pa.decimal128(5, 0)),
        ((38, 38), pa.decimal128(38, 38)),
        ((39, 1), pa.decimal256(39, 1)),
        ((76, 0), pa.decimal256(76, 0)),
        ((77, 0), None),
        ((3, -2), None),
        ((2, 3), None),
        ((), None),
    ],
)
def test_a_numeric_gets_an_exact_decimal_or_none(args, expected):
    assert decimal_type(args) == expected


@pytest.mark.parametrize(
    ("array", "type_", "expected"),
    [
        (pa.array([1, 0, None]), pa.bool_(), [True, False, None]),
        (pa.array([0.1]), pa.decimal128(3, 1), [Dec("0.1")]),
        (pa.array([True]), pa.decimal128(3, 1), [Dec(1)]),
        (pa.array([2**64 - 1], pa.uint64()), pa.decimal128(38, 10), [Dec(2**64 - 1)]),
        (pa.array([MIDNIGHT]), pa.date32(), [MIDNIGHT.date()]),
        (pa.array([MIDNIGHT.date()]), pa.timestamp("us"), [MIDNIGHT]),
        (pa.array(["a", None]).dictionary_encode(), pa.string(), ["a", None]),
        (pa.array([None, None]), pa.timestamp("us", "UTC"), [None, None]),
        (pa.array([None], pa.int64()), pa.date32(), [None]),
        (pa.array([dt.timedelta(hours=1)]), pa.string(), ["3600000000 microseconds"]),
        (pa.array([math.inf, -math.inf, 0.0]), pa.float32(), [math.inf, -math.inf, 0.0]),
        (pa.array(["12"]), pa.int32(), [12]),
        (pa.array([UTC_NOON]), pa.timestamp("ns", "Europe/Berlin"), [UTC_NOON]),
    ],
)
def test_what_fits_is_cast(array, type_, expected):
    assert cast(array, type_).to_pylist() == expected


@pytest.mark.parametrize(
    ("values", "given", "type_"),
    [
        ([0, 1, 2], pa.int64(), pa.bool_()),
        ([0.0, 1.0, 0.5], pa.float64(), pa.bool_()),
        ([1, 2, 300], pa.int64(), pa.int8()),
        ([1, 2, 2**64 - 1], pa.uint64(), pa.int64()),
        ([1.0, 2.0, 2.5], pa.float64(), pa.int32()),
        ([1.0, 2.0, math.nan], pa.float64(), pa.int32()),
        ([1.0, 2.0, math.nan], pa.float64(), pa.decimal128(5, 2)),
        ([1.0, 2.0, 0.125], pa.float64(), pa.decimal128(5, 2)),
        ([1.0, math.inf, 1e300], pa.float64(), pa.float32()),
        ([1.0, 0.0, 1e-300], pa.float64(), pa.float32()),
        ([1, 2, 2**60 + 1], pa.int64(), pa.float64()),
        ([Dec("1.0"), Dec("2.0"), Dec("1.5")], pa.decimal128(3, 1), pa.int64()),
        ([Dec("1.00"), Dec("2.00"), Dec("1.05")], pa.decimal128(3, 2), pa.decimal128(3, 1)),
        ([MIDNIGHT, None, NOON], pa.timestamp("us"), pa.date32()),
        ([None, None, NOON], pa.timestamp("us"), pa.time64("us")),
        ([None, None, NOON], pa.timestamp("us"), pa.timestamp("us", "UTC")),
        ([None, None, UTC_NOON], pa.timestamp("us", "UTC"), pa.timestamp("us")),
        ([None, None, UTC_NOON], pa.timestamp("us", "UTC"), pa.date32()),
        ([None, None, NOON.date()], pa.date32(), pa.timestamp("us", "UTC")),
        ([None, None, 5], pa.int64(), pa.timestamp("us")),
        ([None, None, 5], pa.int32(), pa.date32()),
        ([None, None, dt.timedelta(1)], pa.duration("us"), pa.int64()),
        (["1", "2", "x"], pa.string(), pa.int32()),
        (["1.0", "2.0", "1.005"], pa.string(), pa.decimal128(5, 2)),
        ([b"a", b"b", b"\xff"], pa.binary(), pa.string()),
    ],
)
def test_what_would_lose_something_is_refused_by_row_and_value(values, given, type_):
    with pytest.raises(ValueDoesNotFit) as caught:
        cast(pa.array(values, given), type_)
    assert (caught.value.table, caught.value.column, caught.value.row) == ("shop.t", "c", 2)
    assert caught.value.value is not None
    assert "shop.t.c in row 2 (value " in str(caught.value)


@pytest.mark.parametrize(
    "array",
    [
        pa.array([[1]]),
        pa.array([{"a": 1}]),
        pa.array([[[(1, 2)]]], pa.list_(pa.map_(pa.int8(), pa.int8()))),
    ],
)
@pytest.mark.parametrize("type_", [pa.int32(), pa.string(), pa.timestamp("us"), pa.bool_()])
def test_types_that_never_become_the_columns_are_named(array, type_):
    with pytest.raises(UnsupportedType, match=r"shop\.t\.c: no value of Arrow's .* becomes"):
        cast(array, type_)


@pytest.mark.parametrize("database", DATABASES)
@pytest.mark.parametrize(
    "type_",
    [
        pa.list_(pa.int8()),
        pa.struct({"a": pa.int8()}),
        pa.map_(pa.int8(), pa.int8()),
        pa.duration("us"),
        pa.month_day_nano_interval(),
        pa.decimal128(5, -2),
    ],
)
def test_a_type_without_an_exact_column_type_is_refused_by_name(database, type_):
    with pytest.raises(UnsupportedType) as caught:
        dialect_named(database).sql_type(type_)
    assert (caught.value.type, caught.value.database) == (str(type_), database)


@pytest.mark.parametrize("database", DATABASES)
@pytest.mark.parametrize(
    "type_",
    [
        pa.large_string(), pa.string_view(), pa.large_binary(), pa.binary_view(), pa.binary(3),
        pa.dictionary(pa.int8(), pa.string()), pa.date64(), pa.time32("ms"), pa.null(),
        pa.timestamp("ns"), pa.timestamp("s", "Europe/Berlin"), pa.float16(), pa.uint32(),
    ],
)  # fmt: skip
def test_every_spelling_of_an_arrow_type_has_a_column_type(database, type_):
    assert dialect_named(database).sql_type(type_)


@given(st.text(min_size=1).filter(lambda name: "\x00" not in name))
def test_quoting_doubles_quotes(name):
    for database in DATABASES:
        quoted = dialect_named(database).quote(name)
        assert quoted[1:-1].replace('""', '"') == name


@pytest.mark.parametrize("database", DATABASES)
def test_a_nul_in_a_name_is_refused(database):
    with pytest.raises(ValueError, match="NUL"):
        dialect_named(database).quote("a\x00b")


def test_an_unknown_database_is_refused_with_the_known_ones():
    with pytest.raises(UnsupportedDatabase, match="duckdb, mysql, postgresql, sqlite"):
        dialect_named("oracle")
