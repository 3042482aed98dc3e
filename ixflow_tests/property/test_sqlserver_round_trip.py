"""Any value of a type comes out of SQL Server as it went in, over Microsoft's driver."""

from __future__ import annotations

import datetime as dt
import decimal
import itertools
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from ixflow.dialects import dialect_named
from ixflow.values import TableName
from ixflow_tests.sources import make

DIALECT = dialect_named("sqlserver")
_numbers = itertools.count(1)

# NUL would end the text for some tools on the way of a statement; half pairs are no text.
texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=60)
moments = st.datetimes(dt.datetime(1, 1, 1), dt.datetime(9999, 12, 31, 23, 59, 59, 999_999))  # noqa: DTZ001
digits = st.decimals(-(10**27), 10**27, allow_nan=False, allow_infinity=False, places=10).map(
    lambda value: value.quantize(decimal.Decimal("1.0000000000"), context=decimal.Context(40))
)


def _text(value: str) -> str:
    escaped = value.replace("'", "''")
    return f"N'{escaped}'"


def _moment(value: dt.datetime) -> str:
    # Years before 1000 are written without zeros in front.
    return f"'{value.year:04d}-{value:%m-%d %H:%M:%S.%f}'"


# Type, values, and how T-SQL writes one.
KINDS: dict[str, tuple[st.SearchStrategy[Any], Any]] = {
    "nvarchar(max)": (texts, _text),
    "nvarchar(200)": (texts, _text),
    "varchar(300) COLLATE Latin1_General_100_CI_AS_SC_UTF8": (texts, _text),
    "varbinary(max)": (st.binary(min_size=1, max_size=100), lambda value: f"0x{value.hex()}"),
    "varbinary(100)": (st.binary(min_size=1, max_size=100), lambda value: f"0x{value.hex()}"),
    "bigint": (st.integers(-(2**63) + 1, 2**63 - 1), str),
    "decimal(38,10)": (digits, str),
    "float": (
        st.floats(allow_nan=False, allow_infinity=False, allow_subnormal=False),
        lambda value: f"CAST('{value!r}' AS float)",
    ),
    "datetime2(6)": (moments, _moment),
    "time(6)": (st.times(), lambda value: f"'{value:%H:%M:%S.%f}'"),
    "date": (st.dates(), lambda value: f"'{value.isoformat()}'"),
}


@pytest.mark.parametrize("sql_type", KINDS)
def test_a_value_comes_out_as_it_went_in(sql_type, fresh_sqlserver):
    values, write = KINDS[sql_type]

    @hypothesis.given(st.lists(st.none() | values, min_size=1, max_size=30))
    @hypothesis.settings(max_examples=10)
    def round_trip(given: list[Any]) -> None:
        table = TableName(f"t{next(_numbers)}")
        rows = [
            f"({place}, {'NULL' if value is None else write(value)})"
            for place, value in enumerate(given)
        ]
        make(
            fresh_sqlserver,
            f"CREATE TABLE {table} (place int, v {sql_type})",
            f"INSERT INTO {table} VALUES {', '.join(rows)}",
        )
        with fresh_sqlserver.connect() as conn:
            columns = DIALECT.columns(conn, table)
        with DIALECT.reader(fresh_sqlserver.url) as reader:
            found = reader.read(DIALECT.select(table, columns), columns).read_all()
        assert found.sort_by("place")["v"].to_pylist() == given

    round_trip()
