"""Values of one plain type take a short way, which gives what the careful one gives."""

from __future__ import annotations

import datetime as dt
import decimal
import functools
import zoneinfo
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ixflow.dialects.postgres.copy import encode
from ixflow.dialects.postgres.numeric import numeric_fields
from ixflow.errors import ColumnMismatch, ValidationError, ValueDoesNotFit
from ixflow.ingestion.pieces import Piece, Slices
from ixflow.ingestion.plain_values import plain_array
from ixflow.ingestion.router import Router, _Waiting
from ixflow.ingestion.rows import columns_to_arrow
from ixflow.values import Column

NOON = dt.datetime.fromisoformat("2024-01-01T12:00:00.000001")
FIRST, LAST = NOON.replace(year=1), NOON.replace(year=9999)
BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")
AUTUMN = dt.datetime(2024, 10, 27, 2, 30, tzinfo=BERLIN)
UTC = pa.timestamp("us", "UTC")
NUMBER = Column("n", "integer", pa.int32())


@pytest.mark.parametrize(
    ("values", "type_"),
    [
        ([1, None, -5], pa.int16()),
        ([1.5, None, float("inf")], pa.float64()),
        ([1.5, None, 1e-50], pa.float32()),
        ([None], pa.decimal128(12, 2)),
        (["a", None, ""], pa.string()),
        ([decimal.Decimal("1.50"), None, decimal.Decimal(-7)], pa.decimal128(12, 2)),
        ([True, None, False], pa.bool_()),
        ([b"\0", None, b""], pa.binary()),
        ([NOON, None, FIRST, LAST], pa.timestamp("us")),
        ([NOON.date(), None, FIRST.date(), LAST.date()], pa.date32()),
        ([NOON.replace(tzinfo=dt.UTC), None, AUTUMN, AUTUMN.replace(fold=1)], UTC),
    ],
)
def test_the_short_way_gives_what_arrow_gives(values, type_):
    found = plain_array(values, type_)
    assert found is not None
    assert found.equals(pa.array(values, type_))


@pytest.mark.parametrize(
    ("values", "type_"),
    [
        ([1, True], pa.int32()),
        ([1, 2.0], pa.int32()),
        ([40_000], pa.int16()),
        ([1], pa.float64()),
        ([2**60 + 1], pa.float32()),
        ([decimal.Decimal("0.125")], pa.decimal128(12, 2)),
        ([decimal.Decimal("NaN")], pa.decimal128(12, 2)),
        (["1"], pa.int32()),
        (["\ud800"], pa.string()),
        ([NOON, NOON.date()], pa.timestamp("us")),
        ([NOON.date(), NOON], pa.date32()),
        ([NOON], UTC),
        ([NOON.replace(tzinfo=dt.UTC)], pa.timestamp("us")),
        ([NOON], pa.timestamp("s")),
        ([1e300], pa.float32()),
        ([np.int32(1)], pa.int32()),
        ([b"a", "b"], pa.binary()),
        ([b"a", "b"], pa.string()),
        ([True, 1], pa.bool_()),
        ([decimal.Decimal(1), True], pa.decimal128(12, 2)),
        ([1.5], pa.decimal128(12, 2)),
        ([None], pa.int32()),
    ],
)
def test_what_is_odd_or_does_not_fit_is_left_to_the_careful_way(values, type_):
    assert plain_array(values, type_) is None


def test_a_bad_value_behind_the_first_slice_is_named_with_its_row():
    def read(_table, rows, _later):
        rows.reader().read_all()

    router = Router(lambda named: named, lambda _: [NUMBER], read, 10_000)
    given = (("t", (n if n != 19_999 else "x",)) for n in range(20_000))
    with pytest.raises(ValueDoesNotFit, match=r"t.n in row 19999 \(value 'x'\)"):
        router.feed(given)


def test_rows_wait_for_their_table_and_come_in_its_order():
    seen: dict[str, list[int]] = {"a": [], "b": []}

    def read(table, rows, _later):
        seen[table].extend(rows.reader().read_all().column("n").to_pylist())

    router = Router(lambda n: n if n in seen else None, lambda _: [NUMBER], read, 100)
    rows = [("ab"[n % 2], (n,) if n % 3 else [n]) for n in range(1000)]
    router.feed([*rows, ("elsewhere", (0,)), ("elsewhere", (1,))])
    assert router.skipped == 2
    assert np.array_equal(seen["a"], range(0, 1000, 2))
    assert np.array_equal(seen["b"], range(1, 1000, 2))


def test_slices_have_one_type_also_where_a_moment_is_infinite():
    column = Column("at", "timestamp without time zone", pa.timestamp("us"))
    rows = [(NOON,)] * 6000 + [("infinity",)]
    piece = Piece(1)
    for start in range(0, len(rows), 250):
        piece.add(rows[start : start + 250])
    convert = functools.partial(columns_to_arrow, columns=[column], table="t", binders={})
    made = Slices(piece, [column], lambda some, n: convert(some, first_row=n)).reader().read_all()
    assert made.num_rows == 6001
    assert str(made.column("at")[6000].as_py()) == "infinity"


def test_neighbours_with_nulls_are_laid_side_by_side():
    columns = [
        Column("a", "smallint", pa.int16()),
        Column("b", "boolean", pa.bool_()),
        Column("c", "jsonb", pa.string()),
        Column("d", "text", pa.string()),
    ]
    batch = pa.RecordBatch.from_arrays(
        [
            pa.array([1, None, 3], pa.int16()),
            pa.array([None, True, None]),
            pa.array(["{}", None, "[]"]),
            pa.array(["x", "yz", None]),
        ],
        names=["a", "b", "c", "d"],
    )
    null, fields = b"\xff" * 4, b"\0\4"
    one = fields + b"\0\0\0\2\0\1" + null + b"\0\0\0\3\1{}" + b"\0\0\0\1x"
    two = fields + null + b"\0\0\0\1\1" + null + b"\0\0\0\2yz"
    three = fields + b"\0\0\0\2\0\3" + null + b"\0\0\0\3\1[]" + null
    assert encode(batch, columns) == one + two + three
    assert encode(batch.slice(1, 1), columns) == two


@pytest.mark.parametrize("scale", [0, 1, 2, 6, 10])
def test_numerics_that_fit_64_bits_are_written_as_those_that_do_not(scale):
    kind = pa.decimal128(38, scale)
    factor = 10 ** (-scale % 4)
    most = (2**63 - 1) // factor
    numbers = [0, 1, -1, 9_999, 10_000, -123_456_789, most, -most]
    exact = decimal.Context(prec=38)
    small = [decimal.Decimal(n).scaleb(-scale, exact) for n in numbers]
    fitting = numeric_fields(pa.array([*small, None], kind))
    for larger in (most + 1, -most - 1, 2**63, -(2**63) - 1, 10**38 - 1, 1 - 10**38):
        beside = decimal.Decimal(larger).scaleb(-scale, exact)
        all_of_them = numeric_fields(pa.array([*small, None, beside], kind))
        assert all_of_them[:-1].tobytes() == fitting.tobytes()
        assert all_of_them["sign"][-1] == (0x4000 if larger < 0 else 0)
        digits = int("".join(f"{digit:04}" for digit in all_of_them["digits"][-1]))
        assert digits == abs(larger) * factor


def test_a_row_that_the_database_refuses_is_shown_from_among_those_that_waited():
    def refuse(_table, _rows, _later):
        msg = "t.n in row 300 is refused"
        raise ValueDoesNotFit(msg, table="t", column="n", row=300)

    router = Router(lambda named: named, lambda _: [NUMBER], refuse, 1000)
    router._waiting["t"] = _Waiting("t", 1000)
    with pytest.raises(ValueDoesNotFit, match=r"row 300 \(value -300\)"):
        router.feed(("t", (-n,)) for n in range(600))


def test_what_giving_the_rows_raises_is_told_apart_from_loading_them():
    def rows():
        yield ("t", (1,))
        raise KeyError("theirs")

    noticed: list[Exception] = []
    router = Router(lambda named: named, lambda _: [NUMBER], lambda *_: None, 10)
    with pytest.raises(KeyError, match="theirs"):
        router.feed(rows(), noticed.append)
    assert [str(error) for error in noticed] == ["'theirs'"]
    pairs: list[list[Any]] = [[("t", "text")] * 20, ["no pair"]]
    for bad in pairs:
        noticed.clear()
        with pytest.raises((ColumnMismatch, ValidationError)):
            router.feed(bad, noticed.append)
        assert noticed == []
