"""Infinite dates and timestamps arrive in databases that have them."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pyarrow as pa
import pytest
import sqlalchemy as sa

from ixflow.dialects import run
from ixflow.errors import ValueDoesNotFit
from ixflow_tests.behaviour.ingesting import ingested

COLUMNS: dict[str, tuple[Any, Any]] = {
    "d": (sa.DATE, dt.date(2024, 1, 2)),
    "t": (sa.TIMESTAMP, dt.datetime(2024, 1, 2, 3, 4, 5, 6)),  # noqa: DTZ001 - a naive one
    "z": (sa.TIMESTAMP(timezone=True), dt.datetime(2024, 1, 2, 3, tzinfo=dt.UTC)),
}
FINITE = tuple(value for _, value in COLUMNS.values())


@pytest.fixture(params=["psycopg", "psycopg2", "duckdb"])
def engine(request):
    if request.param == "duckdb":
        return request.getfixturevalue("fresh_duckdb")
    url = request.getfixturevalue("fresh_postgres").url
    return sa.create_engine(
        url.set(drivername=f"postgresql+{request.param}"), poolclass=sa.NullPool
    )


def moments(*, key: bool) -> sa.Table:
    return sa.Table(
        "moments",
        sa.MetaData(),
        sa.Column("id", sa.INTEGER, primary_key=key, autoincrement=False),
        *(sa.Column(name, type_) for name, (type_, _) in COLUMNS.items()),
        schema="app",
    )


def texts(engine: sa.Engine) -> dict[int, tuple[str | None, ...]]:
    with engine.connect() as conn:
        utc = "SET TimeZone = 'UTC'"
        run(conn, utc)
        shown = ", ".join(f"CAST({name} AS varchar)" for name in COLUMNS)
        found = run(conn, f"SELECT id, {shown} FROM app.moments").all()
    return {row[0]: tuple(row[1:]) for row in found}


@pytest.mark.parametrize("key", [True, False])
def test_texts_say_infinite_moments(engine, key):
    table = moments(key=key)
    given = [
        (1, *FINITE),
        (2, "infinity", "infinity", "infinity"),
        (3, "-infinity", "-infinity", " -Infinity"),
        (4, None, None, None),
        (5, dt.date(1, 1, 1), "infinity", "2024-01-02 03:00:00+00:00"),
    ]
    for _ in range(2):
        ingested(engine, table, given, prove_arrival=True)
        found = texts(engine)
        assert found[2] == ("infinity",) * 3
        assert found[3] == ("-infinity",) * 3
        assert found[4] == (None,) * 3
        assert found[1][:2] == ("2024-01-02", "2024-01-02 03:04:05.000006")
        assert found[5] == ("0001-01-01", "infinity", found[1][2])


def test_a_text_column_of_arrow_says_them_too(engine):
    columns = {
        "d": ["infinity", "2024-01-02", None],
        "t": ["2024-01-02T03:04:05.000006", "-infinity", None],
        "z": ["2024-01-02T05:00:00+02:00", "INFINITY", None],
    }
    data = pa.table({"id": pa.array([1, 2, 3], pa.int32())} | columns)
    ingested(engine, moments(key=True), [data], prove_arrival=True)
    found = texts(engine)
    assert found[1][:2] == ("infinity", "2024-01-02 03:04:05.000006")
    assert str(found[1][2]).startswith("2024-01-02 03:00:00")
    assert found[2] == ("2024-01-02", "-infinity", "infinity")
    assert found[3] == (None,) * 3


@pytest.mark.parametrize("kind", ["tuples", "arrow"])
def test_other_texts_beside_an_infinite_one_are_refused_by_row(engine, kind):
    values = ["infinity", "2024-01-02", "soon"]
    rows: list[object] = [(number, value, None, None) for number, value in enumerate(values)]
    if kind == "arrow":
        rows = [pa.table({"id": pa.array([0, 1, 2], pa.int32()), "d": values})]
    with pytest.raises(ValueDoesNotFit, match="soon") as caught:
        ingested(engine, moments(key=False), rows)
    assert (caught.value.column, caught.value.row) == ("d", 2)
