"""CSV loses nothing: what is written comes back with the types that the manifest tells."""

from __future__ import annotations

import csv
import datetime as dt
import decimal
import io
import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ixflow.errors import UnsupportedType, ValueDoesNotFit
from ixflow.extraction.csv_text import csv_header, csv_lines, read_csv
from ixflow.extraction.manifest import ColumnRecord, Manifest
from ixflow.values import Column

DAYS = 365_000_000
MICROSECONDS = DAYS // 2_000 * 86_400 * 10**6


def numbers(low: int, high: int, via: pa.DataType):
    """Make integers that are seen as another type of the same width."""
    return st.integers(low, high), via


def decimals(precision: int, scale: int):
    """Make every decimal of a type."""
    most = 10**precision - 1
    exact = decimal.Context(prec=100)
    return st.integers(-most, most).map(lambda n: exact.scaleb(decimal.Decimal(n), -scale)), None


def text() -> st.SearchStrategy[str]:
    plain = st.text(st.characters(exclude_categories=["Cs"]))
    return st.one_of(plain, st.sampled_from(['"', '""', ",", "\r\n", "\n", " ", "NULL", "\\N"]))


TYPES = {
    pa.bool_(): (st.booleans(), None),
    pa.int8(): (st.integers(-(2**7), 2**7 - 1), None),
    pa.int64(): (st.integers(-(2**63), 2**63 - 1), None),
    pa.uint64(): (st.integers(0, 2**64 - 1), None),
    pa.float32(): (st.floats(width=32), None),
    pa.float64(): (st.floats(), None),
    pa.decimal128(12, 2): decimals(12, 2),
    pa.decimal128(38, 37): decimals(38, 37),
    pa.decimal256(76, 0): decimals(76, 0),
    pa.decimal256(76, 76): decimals(76, 76),
    pa.string(): (text(), None),
    pa.large_string(): (text(), None),
    pa.binary(): (st.binary(), None),
    pa.binary(3): (st.binary(min_size=3, max_size=3), None),
    pa.date32(): numbers(-DAYS // 100, DAYS, pa.int32()),
    pa.timestamp("s"): numbers(-(10**12), 10**12, pa.int64()),
    pa.timestamp("us"): numbers(-MICROSECONDS, MICROSECONDS, pa.int64()),
    pa.timestamp("us", "UTC"): numbers(-MICROSECONDS, MICROSECONDS, pa.int64()),
    pa.timestamp("us", "Europe/Berlin"): numbers(-MICROSECONDS, MICROSECONDS, pa.int64()),
    pa.timestamp("ns"): numbers(-(2**63) + 1, 2**63 - 1, pa.int64()),
    pa.time32("ms"): numbers(0, 86_400_000 - 1, pa.int32()),
    pa.time64("us"): numbers(0, 86_400 * 10**6 - 1, pa.int64()),
    pa.duration("us"): numbers(-(2**63) + 1, 2**63 - 1, pa.int64()),
    pa.null(): (st.none(), None),
}


@st.composite
def columns(draw):
    """Make a few columns of any types, with as many rows."""
    kinds = draw(st.lists(st.sampled_from(list(TYPES)), min_size=1, max_size=4))
    rows = draw(st.integers(0, 5))
    arrays = []
    for kind in kinds:
        values, via = TYPES[kind]
        found = draw(st.lists(st.none() | values, min_size=rows, max_size=rows))
        arrays.append(pa.array(found, via).view(kind) if via else pa.array(found, kind))
    names = draw(st.lists(text(), min_size=len(kinds), max_size=len(kinds), unique=True))
    return pa.record_batch(arrays, names=names)


def manifest_of(schema: pa.Schema) -> Manifest:
    """Make a manifest, and let it travel as JSON."""
    records = tuple(ColumnRecord.of(Column(f.name, "it", f.type)) for f in schema)
    made = Manifest(
        "ix-1", "t", "t", {}, "", "", "one snapshot", None, records, (), "", "", output_format="csv"
    )
    return Manifest.parse(made.to_json(), "there")


def equal(left: pa.Array, right: pa.Array) -> bool:
    """Compare, with every NaN equal to itself, and the zeros apart."""
    if pa.types.is_floating(left.type):
        return [repr(v) for v in left.to_pylist()] == [repr(v) for v in right.to_pylist()]
    return bool(left.equals(right))


@given(columns())
def test_what_is_written_comes_back(batch):
    written = csv_header(batch.schema) + bytes(csv_lines(batch))
    schema = manifest_of(batch.schema).schema()
    assert schema.types == batch.schema.types
    table = pa.Table.from_batches(read_csv(io.BytesIO(written), schema), schema)
    assert table.num_rows == batch.num_rows
    for name in schema.names:
        assert equal(table[name].combine_chunks(), batch.column(name)), name


@given(columns(), st.integers(0, 5))
def test_a_part_of_a_batch_is_written_like_the_whole(batch, first):
    whole = bytes(csv_lines(batch))
    assert bytes(csv_lines(batch.slice(0, first))) + bytes(csv_lines(batch.slice(first))) == whole


@given(columns())
def test_any_reader_of_rfc_4180_sees_the_same_cells(batch):
    written = (csv_header(batch.schema) + bytes(csv_lines(batch))).decode()
    lines = list(csv.reader(io.StringIO(written, newline="")))
    assert lines[0] == batch.schema.names
    assert len(lines) == batch.num_rows + 1
    for number, (name, kind) in enumerate(zip(batch.schema.names, batch.schema.types, strict=True)):
        if pa.types.is_string(kind) or pa.types.is_integer(kind):
            cells = [line[number] if line else "" for line in lines[1:]]
            assert cells == ["" if v is None else str(v) for v in batch.column(name).to_pylist()]


def one(values, kind) -> str:
    batch = pa.record_batch({"c": pa.array(values, kind)})
    return bytes(csv_lines(batch)).decode()


def test_the_text_of_each_type_is_what_the_documentation_says():
    assert one(["", None, 'say "hi"'], pa.string()) == '""\r\n\r\n"say ""hi"""\r\n'
    assert one([b"\x00\xff", b""], pa.binary()) == "\\x00ff\r\n\\x\r\n"
    assert one([decimal.Decimal("0E-10")], pa.decimal128(20, 10)) == "0.0000000000\r\n"
    assert one([decimal.Decimal("-1E-10")], pa.decimal128(20, 10)) == "-0.0000000001\r\n"
    assert one([True, False], pa.bool_()) == "true\r\nfalse\r\n"
    assert (
        one([math.nan, math.inf, -math.inf, 0.1], pa.float64()) == "nan\r\ninf\r\n-inf\r\n0.1\r\n"
    )
    assert one([dt.date(2026, 11, 21)], pa.date32()) == "2026-11-21\r\n"
    moment = dt.datetime(2026, 11, 21, 8, 15, 0, 5, dt.UTC)
    text = "2026-11-21 08:15:00.000005Z\r\n"
    assert one([moment], pa.timestamp("us", "UTC")) == text
    assert one([moment], pa.timestamp("us", "Asia/Tokyo")) == text
    assert one([moment.replace(tzinfo=None)], pa.timestamp("ms")) == "2026-11-21 08:15:00.000\r\n"
    assert one([dt.time(8, 15)], pa.time64("us")) == "08:15:00.000000\r\n"
    assert one([dt.timedelta(seconds=-1)], pa.duration("us")) == "-1000000\r\n"


def test_years_far_away_are_astronomical():
    days = np.array(["-0043-03-15", "0000-12-31", "12026-01-01"], "datetime64[D]")
    written = one(pa.array(days), pa.date32())
    assert written == "-0043-03-15\r\n0000-12-31\r\n12026-01-01\r\n"


def test_a_type_without_a_text_is_refused_before_anything_is_written():
    with pytest.raises(UnsupportedType, match=r"column tags has type list<.*as_text=\['tags'\]"):
        csv_header(pa.schema([("tags", pa.list_(pa.string()))]))


def test_a_time_that_is_no_time_of_day_is_refused():
    noon_tomorrow = pa.array([86_400 * 10**6], pa.int64()).view(pa.time64("us"))
    with pytest.raises(ValueDoesNotFit, match="beyond 23:59:59"):
        csv_lines(pa.record_batch({"c": noon_tomorrow}))
