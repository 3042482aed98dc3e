"""Parquet files as batches: what lies behind the watermark, once, whatever the cursor's type."""

from __future__ import annotations

import datetime as dt
import decimal
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa

from ixflow.errors import ColumnMismatch, ValidationError
from ixflow.ingestion.files import as_watermark, parquet_batches

KEYED = sa.Table("t", sa.MetaData(), sa.Column("id", sa.INTEGER, primary_key=True))
UNKEYED = sa.Table("u", sa.MetaData(), sa.Column("id", sa.INTEGER))
BERLIN = dt.timezone(dt.timedelta(hours=2))


@pytest.fixture
def write(tmp_path):
    """Write lists of cursor values to a Parquet file each, and give their paths."""

    def written(*files: pa.Array) -> list[str]:
        paths = []
        for number, values in enumerate(files):
            path = tmp_path / f"{number}.parquet"
            pq.write_table(pa.table({"c": values, "v": [str(v) for v in values]}), path)
            paths.append(str(path))
        return paths

    return written


def run(batches, watermark=None):
    """Give (new watermark, sorted cursor values) of the one batch; None without one."""
    found = list(batches(watermark))
    assert len(found) <= 1
    if not found:
        return None
    after, _, pairs = found[0]
    values = [v for _, reader in pairs for v in reader.read_all()["c"].to_pylist()]
    return after, sorted(values, key=lambda v: (v is None, v if v is not None else 0))


VALUES = {
    "integer": pa.array([3, 1, 2]),
    "decimal": pa.array([decimal.Decimal(n) for n in ("3.10", "1.00", "2.05")]),
    "text": pa.array(["c", "a", "b"]),
    "date": pa.array([dt.date(2026, 1, n) for n in (3, 1, 2)]),
    "timestamp": pa.array([dt.datetime(2026, 1, 1, 0, 0, 0, n) for n in (3, 1, 2)]),  # noqa: DTZ001
    "zoned": pa.array(
        [dt.datetime(2026, 1, 1, n, tzinfo=dt.UTC) for n in (3, 1, 2)], pa.timestamp("us", "UTC")
    ),
    "elsewhere": pa.array(
        [dt.datetime(2026, 1, 1, n, tzinfo=dt.UTC) for n in (3, 1, 2)],
        pa.timestamp("us", "America/New_York"),
    ),
    "milliseconds": pa.array(
        [dt.datetime(2026, 1, 1, n) for n in (3, 1, 2)], pa.timestamp("ms")  # noqa: DTZ001
    ),
    "year one": pa.array([dt.date(n, 1, 1) for n in (3, 1, 2)]),
    "float": pa.array([3.5, 1.25, 2.5]),
}  # fmt: skip


@pytest.mark.parametrize("kind", VALUES)
def test_rows_strictly_beyond_the_watermark_come_and_the_next_time_none(write, kind):
    ordered = sorted(VALUES[kind].to_pylist())
    paths = write(VALUES[kind])
    batches = parquet_batches(paths, UNKEYED, cursor="c")
    after, values = run(batches) or (None, None)
    assert values == ordered
    assert json.loads(json.dumps(after)) == after
    assert run(batches, after) is None
    middle = as_watermark(ordered[1])
    assert run(batches, middle) == (after, ordered[2:])


def test_several_files_are_one_batch(write):
    batches = parquet_batches(write(pa.array([5, 1]), pa.array([4, 9])), UNKEYED, cursor="c")
    assert run(batches, 4) == (9, [5, 9])
    assert [meta for _, meta, _ in batches(None)] == [{"files": 2}]


def test_files_may_be_a_function_that_is_asked_at_each_run(write):
    paths: list[str] = []
    batches = parquet_batches(lambda: paths, UNKEYED, cursor="c")
    assert run(batches) is None
    paths += write(pa.array([1]))
    assert run(batches) == (1, [1])


def test_no_files_and_empty_files_give_no_batch(write):
    assert run(parquet_batches([], UNKEYED, cursor="c")) is None
    assert run(parquet_batches(write(pa.array([], pa.int64())), UNKEYED, cursor="c")) is None
    assert run(parquet_batches(write(pa.array([], pa.int64())), UNKEYED, cursor="c"), 5) is None


def test_rows_without_a_cursor_always_come_for_a_table_with_a_key(write):
    batches = parquet_batches(write(pa.array([1, None, 3])), KEYED, cursor="c")
    assert run(batches) == (3, [1, 3, None])
    assert run(batches, 3) == (3, [None])
    nothing_else = parquet_batches(write(pa.array([None, None], pa.int64())), KEYED, cursor="c")
    assert run(nothing_else) == (None, [None, None])
    assert run(nothing_else, 7) == (7, [None, None])


def test_not_a_number_is_beyond_every_watermark_as_null_is(write):
    nan = float("nan")
    paths = write(pa.array([2.0, nan, 1.0]), pa.array([nan]))
    ((after, _, pairs),) = parquet_batches(paths, KEYED, cursor="c")(None)
    assert after == 2.0
    assert sum(reader.read_all().num_rows for _, reader in pairs) == 4
    ((again, _, pairs),) = parquet_batches(paths, KEYED, cursor="c")(2.0)
    assert again == 2.0
    assert sum(reader.read_all().num_rows for _, reader in pairs) == 2
    with pytest.raises(ValidationError, match="2 rows have no c"):
        list(parquet_batches(paths, UNKEYED, cursor="c")(None))


@pytest.mark.parametrize("watermark", [None, 1])
@pytest.mark.parametrize("values", [[1, None], [None]])
def test_rows_without_a_cursor_are_refused_for_a_table_without_a_key(write, watermark, values):
    """Also at the first run: the second would double them or stop."""
    batches = parquet_batches(write(pa.array(values, pa.int64())), UNKEYED, cursor="c")
    with pytest.raises(ValidationError, match="1 rows have no c and u has no primary key"):
        run(batches, watermark)


@pytest.mark.parametrize(
    ("values", "overlap", "watermark", "expected"),
    [
        ([1, 5, 10, 11], 5, 10, (11, [10, 11])),
        ([1, 5, 10], 5, 10, (10, [10])),
        ([1, 6, 10], 5, 10, (10, [6, 10])),
        ([1, 5, 10], 100, None, (10, [1, 5, 10])),
    ],
)
def test_an_overlap_reaches_back_behind_the_watermark(write, values, overlap, watermark, expected):
    batches = parquet_batches(write(pa.array(values)), KEYED, cursor="c", overlap=overlap)
    assert run(batches, watermark) == expected


def test_an_overlap_in_time(write):
    moments = [dt.datetime(2026, 1, 1, n, tzinfo=dt.UTC) for n in range(4)]
    paths = write(pa.array(moments, pa.timestamp("us", "UTC")))
    batches = parquet_batches(paths, KEYED, cursor="c", overlap=dt.timedelta(hours=2))
    after = as_watermark(moments[3])
    assert run(batches, after) == (after, moments[2:])


def test_an_overlap_needs_a_primary_key():
    with pytest.raises(ValidationError, match="an overlap would double its rows"):
        parquet_batches([], UNKEYED, cursor="c", overlap=1)


def test_the_watermark_never_moves_back(write):
    """The row that set it may be gone from the source, or lie within the overlap."""
    assert run(parquet_batches(write(pa.array([1, None])), KEYED, cursor="c"), 50) == (50, [None])
    batches = parquet_batches(write(pa.array([45])), KEYED, cursor="c", overlap=10)
    assert run(batches, 50) == (50, [45])


def test_a_watermark_of_the_same_moment_in_another_zone_is_the_same(write):
    moment = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)
    batches = parquet_batches(write(pa.array([moment])), UNKEYED, cursor="c")
    assert run(batches, moment.astimezone(BERLIN).isoformat()) is None


def test_a_missing_cursor_names_the_columns_there_are(write):
    with pytest.raises(ColumnMismatch, match=r"no column 'x'; they have \['c', 'v'\]"):
        run(parquet_batches(write(pa.array([1])), KEYED, cursor="x"))


@pytest.mark.parametrize(
    ("values", "watermark"),
    [
        (pa.array([1]), "abc"),
        (VALUES["date"], 5),
        (VALUES["zoned"], "2026-01-01T00:00:00"),
        (VALUES["timestamp"], "2026-01-01T00:00:00+00:00"),
        (VALUES["decimal"], "x"),
    ],
)
def test_a_watermark_of_another_type_is_refused(write, values, watermark):
    with pytest.raises(ValidationError, match="is not a value of the cursor's"):
        run(parquet_batches(write(values), KEYED, cursor="c"), watermark)


def test_nanoseconds_are_refused_rather_than_cut(write):
    values = pa.array([1_700_000_000_000_000_001], pa.timestamp("ns"))
    with pytest.raises(ValidationError, match="nanoseconds"):
        run(parquet_batches(write(values), KEYED, cursor="c"))
