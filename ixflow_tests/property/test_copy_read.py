"""Whatever rows PostgreSQL's binary COPY holds, they are found and decoded as they were encoded."""

from __future__ import annotations

import datetime as dt
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ixflow.dialects.postgres.copy import encode
from ixflow.dialects.postgres.copy_read import SLACK, decode
from ixflow.dialects.postgres.copy_rows import Even, find_rows
from ixflow.values import Column

MOMENTS = st.datetimes(dt.datetime(1, 1, 1), dt.datetime(9999, 12, 31))  # noqa: DTZ001
TYPES: dict[str, tuple[pa.DataType, st.SearchStrategy[Any]]] = {
    "boolean": (pa.bool_(), st.booleans()),
    "smallint": (pa.int16(), st.integers(-(2**15), 2**15 - 1)),
    "integer": (pa.int32(), st.integers(-(2**31), 2**31 - 1)),
    "bigint": (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    "real": (pa.float32(), st.floats(width=32, allow_nan=False)),
    "double precision": (pa.float64(), st.floats(allow_nan=False)),
    "text": (pa.string(), st.text(st.characters(exclude_categories=["Cs"]), max_size=6)),
    "bytea": (pa.binary(), st.binary(max_size=6)),
    "date": (pa.date32(), st.dates()),
    "time without time zone": (pa.time64("us"), st.times()),
    "timestamp without time zone": (pa.timestamp("us"), MOMENTS),
    "timestamp with time zone": (
        pa.timestamp("us", "UTC"),
        MOMENTS.map(lambda moment: moment.replace(tzinfo=dt.UTC)),
    ),
}
# Few values, so that rows are often equally long and sometimes not.
REPETITIVE = st.sampled_from(["ab", "cd", "abc"])


@st.composite
def batches(draw: st.DrawFn) -> tuple[pa.RecordBatch, list[Column]]:
    rows, kinds = draw(st.integers(1, 12)), draw(st.lists(st.sampled_from(list(TYPES)), min_size=1))
    columns, arrays = [], []
    for number, kind in enumerate(kinds):
        type_, values = TYPES[kind]
        if kind == "text" and draw(st.booleans()):
            values = REPETITIVE
        nullable = draw(st.sampled_from([values, values | st.none(), st.none()]))
        arrays.append(pa.array(draw(st.lists(nullable, min_size=rows, max_size=rows)), type_))
        columns.append(Column(f"c{number}", kind, type_))
    return pa.record_batch(arrays, names=[column.name for column in columns]), columns


def messages(batch: pa.RecordBatch, columns: list[Column]) -> list[bytes]:
    """Write each row as the server sends it: a message of its own."""
    rows = [encode(batch.slice(number, 1), columns) for number in range(batch.num_rows)]
    return [b"d" + (len(row) + 4).to_bytes(4, "big") + row for row in rows]


def as_block(data: bytes) -> np.ndarray:
    return np.frombuffer(bytearray(data + b"\xff" * SLACK), dtype=np.uint8)


def read(data: bytes, schema: pa.Schema) -> pa.Table:
    """Decode the whole rows at the beginning of a block, as the reader does."""
    block, first, found = as_block(data), 0, []
    while (rows := find_rows(block, first, len(data), len(schema))) is not None:
        found.append(pa.record_batch(decode(block, rows, schema.types), schema=schema))
        first = rows.end
    return pa.Table.from_batches(found, schema)


@given(made=batches())
def test_every_row_is_decoded_as_it_was_encoded(made):
    batch, columns = made
    back = read(b"".join(messages(batch, columns)), batch.schema)
    back.validate(full=True)
    assert back.to_pylist() == batch.to_pylist()


@given(made=batches(), data=st.data())
def test_a_row_that_has_not_come_whole_waits(made, data):
    batch, columns = made
    sent = messages(batch, columns)
    whole = b"".join(sent)
    cut = data.draw(st.integers(0, len(whole)))
    rows = sum(len(b"".join(sent[: number + 1])) <= cut for number in range(len(sent)))
    assert read(whole[:cut], batch.schema).to_pylist() == batch.to_pylist()[:rows]


@given(values=st.lists(st.integers(0, 3), min_size=1, max_size=30))
def test_values_that_look_like_rows_are_values(values):
    columns = [Column("a", "bytea", pa.binary())]
    inner = b"".join(messages(pa.record_batch({"a": [b"x", b"yy"]}), columns))
    batch = pa.record_batch({"a": [inner * value + b"d" * value for value in values]})
    back = read(b"".join(messages(batch, columns)), batch.schema)
    assert back.to_pylist() == batch.to_pylist()


def test_a_long_run_of_equal_rows_is_taken_at_once_and_the_rest_after_it():
    columns = [Column("n", "integer", pa.int32()), Column("t", "text", pa.string())]
    texts = ["ab"] * 3000 + ["abc", None, ""] * 10
    batch = pa.record_batch({"n": pa.array(range(len(texts)), pa.int32()), "t": texts})
    data = b"".join(messages(batch, columns))
    assert isinstance(find_rows(as_block(data), 0, len(data), 2), Even)
    assert read(data, batch.schema).to_pylist() == batch.to_pylist()


def test_every_bit_of_a_nan_is_kept():
    bits = pa.array([0x7FF8_0000_0000_0001, 0x7FF0_0000_0000_0001, -1], pa.int64())
    row = b"\x00\x01\x00\x00\x00\x08"
    sent = [row + value.as_py().to_bytes(8, "big", signed=True) for value in bits]
    data = b"".join(b"d" + (len(row) + 4).to_bytes(4, "big") + row for row in sent)
    found = read(data, pa.schema({"x": pa.float64()}))["x"]
    assert found.combine_chunks().view(pa.int64()).to_pylist() == bits.to_pylist()


def test_values_of_another_width_are_refused_and_not_misread():
    data = b"".join(messages(pa.record_batch({"n": [1]}), [Column("n", "bigint", pa.int64())]))
    with pytest.raises(ValueError, match="a value of 8 bytes is not one of 4"):
        read(data, pa.schema({"n": pa.int32()}))


def test_a_row_whose_fields_end_too_early_is_refused():
    sent = messages(pa.record_batch({"n": [1]}), [Column("n", "bigint", pa.int64())])[0]
    longer = b"d" + (len(sent) + 2).to_bytes(4, "big") + sent[5:] + b"\x00\x00\x00"
    with pytest.raises(ValueError, match="do not end where the row does"):
        read(longer, pa.schema({"n": pa.int64()}))
