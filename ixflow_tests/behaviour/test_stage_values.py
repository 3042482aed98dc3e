"""What is in the tables: types, NULLs, nothing at all, from frame to database and back."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from zoneinfo import ZoneInfo

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import sqlalchemy as sa

from ixflow.errors import TaskError, ValidationError
from ixflow.pipeline import ConfigContext, Flow, Stage, Table, materialize, run_stage
from ixflow.store import SQLTableStore
from ixflow_tests.stages import one_stage, rows

BERLIN = ZoneInfo("Europe/Berlin")
# Without a zone on purpose.
LOCAL = [dt.datetime.fromisoformat(text) for text in ("2024-02-29T01:02:03.000004", "0001-01-01")]
COLUMNS = pa.table(
    {
        "small": pa.array([1, None, -3], pa.int16()),
        "big": pa.array([2**62, None, -(2**62)], pa.int64()),
        "flag": pa.array([True, None, False]),
        "ratio": pa.array([0.1, None, float("nan")], pa.float64()),
        "money": pa.array([Decimal("12345678901234567890.12"), None, Decimal("-0.01")]),
        "text": pa.array(["\\N", None, ""]),
        "bytes": pa.array([b"\x00\xff", None, b""]),
        "day": pa.array([dt.date(1, 1, 1), None, dt.date(9999, 12, 31)]),
        "local": pa.array([LOCAL[0], None, LOCAL[1]], pa.timestamp("us")),
        "zoned": pa.array(
            [
                dt.datetime(2024, 10, 27, 2, 30, fold=1, tzinfo=BERLIN),
                None,
                dt.datetime(1969, 12, 31, 23, tzinfo=dt.UTC),
            ],
            pa.timestamp("us", "Europe/Berlin"),
        ),
        "nothing": pa.nulls(3, pa.string()),
    }
)


@pytest.fixture
def store(warehouse_engine):
    made = SQLTableStore(warehouse_engine.url)
    yield made
    made.dispose()


def _source(frame):
    @materialize(version="1")
    def source():
        return Table(frame, "source")

    return source


@pytest.mark.parametrize("kind", [pd.DataFrame, pl.DataFrame, pl.LazyFrame, pa.Table, sa.Table])
def test_every_value_survives_the_way_through_a_task(store, kind):
    @materialize(version="1", input_type=kind)
    def copy(source):
        return Table(source)

    with Flow("f") as flow, Stage("staging"):
        result = copy(_source(COLUMNS)())
    flow.run(config=ConfigContext.of_store(store, fail_fast=True))
    expected = [{name: _utc(value) for name, value in row.items()} for row in COLUMNS.to_pylist()]
    found = [
        {name: _utc(value) for name, value in row.items()} for row in rows(store, "staging", "copy")
    ]
    assert repr(found) == repr(expected)
    assert result.name == "copy"


def _utc(value):
    zoned = isinstance(value, dt.datetime) and value.tzinfo is not None
    return value.astimezone(dt.UTC) if zoned else value


@pytest.mark.parametrize("kind", [pd.DataFrame, pl.DataFrame, pl.LazyFrame, pa.Table, sa.Table])
def test_an_empty_frame_is_a_table_with_its_columns(store, kind):
    @materialize(version="1", input_type=kind)
    def copy(source):
        return Table(source, primary_key="small")

    with Flow("f") as flow, Stage("staging"):
        copy(_source(COLUMNS.slice(0, 0))())
    result = run_stage(flow["staging"], store)
    assert result["copy"].rows == 0
    assert [c.name for c in result["copy"].columns] == COLUMNS.column_names
    types = {c.name: c.type for c in result["source"].columns}
    assert {c.name: c.type for c in result["copy"].columns} == types


def test_a_column_of_only_nulls_without_a_type_is_text(store):
    frame = pl.DataFrame({"x": [1, 2], "unknown": [None, None]})
    run_stage(one_stage(_source(frame)), store)
    assert rows(store, "staging", "source")[0] == {"x": 1, "unknown": None}


def test_an_index_of_pandas_is_not_written_and_nan_is_not_null(store):
    frame = pd.DataFrame(
        {"x": pd.array([float("nan"), None], dtype=pd.ArrowDtype(pa.float64()))}, index=[7, 8]
    )
    run_stage(one_stage(_source(frame)), store)
    assert list(rows(store, "staging", "source")[0]) == ["x"]


def test_type_map_key_and_indexes_are_applied_to_frames_and_queries(store):
    @materialize(version="1")
    def framed():
        frame = pl.DataFrame({"id": [1, 2], "n": [3, None]})
        return Table(
            frame,
            primary_key=["id"],
            indexes=[["n"], ["n", "id"]],
            type_map={"id": sa.Integer(), "n": "smallint"},
        )

    @materialize(version="1", input_type=sa.Table)
    def queried(framed):
        return Table(
            sa.select(framed),
            primary_key="id",
            indexes=[["n"]],
            type_map={"id": sa.BigInteger(), "n": "integer"},
        )

    with Flow("f") as flow, Stage("staging"):
        queried(framed())
    result = run_stage(flow["staging"], store)
    kinds = [[(c.type.lower(), c.nullable) for c in t.columns] for t in result.tables]
    assert kinds == [
        [("integer", False), ("smallint", True)],
        [("bigint", False), ("integer", True)],
    ]
    assert rows(store, "staging", "queried") == [{"id": 1, "n": 3}, {"id": 2, "n": None}]


def test_a_key_that_does_not_hold_fails_the_task(store):
    @materialize(version="1")
    def twice():
        return Table(pl.DataFrame({"id": [1, 1]}), primary_key="id")

    @materialize(version="1")
    def unknown():
        return Table(sa.text("SELECT 1 AS x"), primary_key="id")

    with pytest.raises(TaskError, match=r"staging\.twice failed"):
        run_stage(one_stage(twice), store)
    with pytest.raises((TaskError, ValidationError), match="id"):
        run_stage(one_stage(unknown), store)


def test_a_query_with_typed_values_keeps_them(store):
    moment = dt.datetime(2024, 5, 1, 12, tzinfo=dt.UTC)

    @materialize(version="1", input_type=sa.Table)
    def found(source):
        return Table(
            sa.select(source.c.small, source.c.money).where(
                source.c.money > Decimal("1.5"),
                source.c.zoned > moment,
                source.c.day < dt.date(2000, 1, 1),
                source.c.text == "\\N",
                source.c.flag,
            )
        )

    with Flow("f") as flow, Stage("staging"):
        found(_source(COLUMNS)())
    run_stage(flow["staging"], store)
    assert [row["small"] for row in rows(store, "staging", "found")] == [1]
