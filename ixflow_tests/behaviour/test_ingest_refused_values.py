"""Values that the server refuses are named with their value; run-end encoded columns arrive."""

from __future__ import annotations

import datetime as dt
import decimal
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from ixflow.errors import ValueDoesNotFit
from ixflow_tests.behaviour.ingesting import ingested, rows

FRAMES: dict[str, Any] = {
    "table": lambda table: table,
    "batches": lambda table: pa.Table.from_batches(table.to_batches(max_chunksize=2)),
    "batch": lambda table: table.combine_chunks().to_batches()[0],
    "polars": pl.from_arrow,
    "lazy": lambda table: pl.DataFrame(pl.from_arrow(table)).lazy(),
    "pandas": lambda table: table.to_pandas(),
}
REFUSED = {
    "NUL": (sa.TEXT(), "a\0b", r"'a\\x00b'"),
    "too long": (sa.VARCHAR(3), "abcdef", "'abcdef'"),
    "not JSON": (pg.JSONB(), "{nonsense", "'{nonsense'"),
}


def declared(type_: Any, *, key: bool) -> sa.Table:
    return sa.Table(
        "refused",
        sa.MetaData(schema="app"),
        sa.Column("id", sa.INTEGER, primary_key=key, autoincrement=False),
        sa.Column("v", type_),
    )


@pytest.mark.parametrize("key", [True, False], ids=["key", "no key"])
@pytest.mark.parametrize("kind", FRAMES)
@pytest.mark.parametrize("name", REFUSED)
def test_a_frames_refused_value_is_shown(fresh_postgres, name, kind, key):
    type_, bad, shown = REFUSED[name]
    table = declared(type_, key=key)
    good = "{}" if name == "not JSON" else "ok"
    values = [good, None, good, bad, good]
    frame = FRAMES[kind](pa.table({"id": pa.array(range(5), pa.int32()), "v": values}))
    with pytest.raises(ValueDoesNotFit) as caught:
        ingested(fresh_postgres, table, [frame])
    assert f"app.refused.v in row 3 (value {shown})".replace("\\\\", "\\") in caught.value.message
    assert caught.value.fields["row"] == 3
    assert "value" in caught.value.fields


def test_of_a_stream_row_and_column_are_named(fresh_postgres):
    table = declared(sa.TEXT(), key=True)
    frame = pa.table({"id": [1, 2], "v": ["ok", "a\0b"]})
    with pytest.raises(ValueDoesNotFit, match=r"app\.refused\.v in row 1 "):
        ingested(fresh_postgres, table, [frame.to_reader()])


ENCODED: dict[str, tuple[Any, list[Any], pa.DataType]] = {
    "text": (sa.TEXT(), ["a", "a", None, "b"], pa.string()),
    "large text": (sa.TEXT(), ["a", "a", None, "b"], pa.large_string()),
    "varchar array as text": (pg.ARRAY(sa.TEXT), ["{a}", "{a}", None, "{b}"], pa.string()),
    "integer": (sa.BIGINT(), [1, 1, None, 2], pa.int32()),
    "numeric": (sa.NUMERIC(5, 2), [decimal.Decimal("1.25")] * 2, pa.decimal128(5, 2)),
    "moment": (sa.TIMESTAMP(), [dt.datetime(2024, 1, 1)] * 3, pa.timestamp("us")),  # noqa: DTZ001
    "boolean": (sa.BOOLEAN(), [True, True, None], pa.bool_()),
}


@pytest.mark.parametrize("key", [True, False], ids=["key", "no key"])
@pytest.mark.parametrize("name", ENCODED)
def test_run_end_encoded_columns_arrive(fresh_postgres, name, key):
    type_, values, arrow = ENCODED[name]
    table = declared(type_, key=key)
    plain = pa.array(values, arrow)
    encoded = pc.run_end_encode(plain)
    ids = pa.array(np.arange(len(values)), pa.int32())
    frame = pa.table({"id": ids, "v": encoded})
    ingested(fresh_postgres, table, [frame.slice(1), frame.slice(0, 1)], prove_arrival=True)
    expected = [["a"], ["a"], None, ["b"]] if "array" in name else values
    found = [row[1] for row in rows(fresh_postgres, table)]
    assert found == expected


def test_pandas_and_numpy_values_are_shown_too(fresh_postgres):
    table = declared(sa.VARCHAR(2), key=True)
    frame = pd.DataFrame({"id": np.array([1, 2], dtype="int32"), "v": ["ab", "abc"]})
    with pytest.raises(ValueDoesNotFit, match=r"in row 1 \(value 'abc'\)"):
        ingested(fresh_postgres, table, [frame])
