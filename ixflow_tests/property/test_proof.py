"""Whatever rows are sent in whatever form, the proof holds; and whatever is changed, it fails."""

from __future__ import annotations

import contextlib
import itertools
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from ixflow.dialects import run
from ixflow.dialects.canonical import RowHasher
from ixflow.dialects.checksums import Checksum
from ixflow.errors import ArrivalDiffers
from ixflow.tables.declared import name_of
from ixflow.values import Column
from ixflow_tests.behaviour.ingesting import ingested
from ixflow_tests.property.test_round_trip import NAIVE, TEXT, column_of, decimals

TYPES: dict[str, tuple[Any, pa.DataType, st.SearchStrategy[Any]]] = {
    "number": (sa.BIGINT, pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    "price": (sa.NUMERIC(30, 12), pa.decimal128(30, 12), decimals(30, 12)),
    "ratio": (sa.DOUBLE_PRECISION, pa.float64(), st.floats()),
    "name": (sa.TEXT, pa.string(), TEXT | st.sampled_from(["", "|", "1:|", "\\N"])),
    "data": (sa.LargeBinary, pa.binary(), st.binary(max_size=9)),
    "day": (sa.DATE, pa.date32(), st.dates()),
    "at": (sa.TIMESTAMP, pa.timestamp("us"), NAIVE),
}
_numbers = itertools.count()


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    rows = draw(st.integers(0, 6))
    # Few keys, so that some come twice.
    columns = {"id": pa.array(draw(st.lists(st.integers(1, 4), min_size=rows, max_size=rows)))}
    columns["id"] = columns["id"].cast(pa.int32())
    for name, (_, type_, values) in TYPES.items():
        columns[name] = draw(column_of(type_, values, rows))
    return pa.table(columns)


@pytest.fixture(params=["psycopg", "psycopg2", "duckdb"])
def engine(request):
    if request.param == "duckdb":
        made = request.getfixturevalue("fresh_duckdb")
    else:
        url = request.getfixturevalue("fresh_postgres").url
        made = sa.create_engine(url.set(drivername=f"postgresql+{request.param}"))
    # Held open, a DuckDB file need not be written out for each connection.
    with made.connect():
        yield made
    made.dispose()


def new_table(*, key: bool) -> sa.Table:
    return sa.Table(
        f"proof_{next(_numbers)}",
        sa.MetaData(),
        sa.Column("id", sa.INTEGER, primary_key=key, autoincrement=False),
        *(sa.Column(name, type_) for name, (type_, _, _) in TYPES.items()),
    )


@given(first=tables(), second=tables(), key=st.booleans(), kind=st.sampled_from(["rows", "polars"]))
@settings(max_examples=4)
def test_every_row_that_is_sent_is_proved(engine, first, second, key, kind):
    table = new_table(key=key)
    for data in (first, second):
        rows = [tuple(row.values()) for row in data.to_pylist()]
        given_rows = rows if kind == "rows" else [pl.from_arrow(data)]
        result = ingested(engine, table, given_rows, prove_arrival=True)
        arrival = result.tables[str(name_of(table))].arrival
        assert arrival is not None
        assert arrival.rows_sent == data.num_rows
        distinct = len(set(data["id"].to_pylist()))
        assert arrival.rows_there == (distinct if key else data.num_rows)


@given(data=tables().filter(len), column=st.sampled_from(list(TYPES)), key=st.booleans())
@settings(max_examples=4)
def test_whatever_value_is_changed_is_found(engine, data, column, key):
    """A callback makes NULL of a value, or a value of NULL."""
    table = new_table(key=key)

    def tamper(conn, made, _):
        name = conn.dialect.identifier_preparer.format_table(made)
        other = {"name": "'x'", "data": "CAST('x' AS {})", "day": "DATE '2000-01-01'"}.get(
            column, "TIMESTAMP '2000-01-01'" if column == "at" else "7"
        )
        other = other.format("bytea" if conn.dialect.name == "postgresql" else "blob")
        change = f"CASE WHEN {column} IS NULL THEN {other} END"
        run(conn, f"UPDATE {name} SET {column} = {change} WHERE id = (SELECT min(id) FROM {name})")

    with pytest.raises(ArrivalDiffers):
        ingested(engine, table, [data], prove_arrival=True, on_before_visible=tamper)


@given(data=tables(), seed=st.randoms())
@settings(max_examples=15)
def test_a_checksum_depends_on_the_rows_but_not_on_their_order_or_batches(data, seed):
    columns = [Column("id", "integer", pa.int32())]
    columns += [Column(name, str(type_), type_) for name, (_, type_, _) in TYPES.items()]
    order = list(range(data.num_rows))
    seed.shuffle(order)
    with contextlib.closing(RowHasher()) as hasher:

        def checksum(table: pa.Table) -> Checksum:
            found = (
                hasher.checksum(b, columns, columns) for b in table.to_batches(max_chunksize=2)
            )
            return sum(found, Checksum())

        whole = checksum(data)
        assert checksum(data.take(pa.array(order, pa.int64()))) == whole
        assert whole.rows == data.num_rows
        if data.num_rows:
            assert checksum(data.slice(1)) != whole
