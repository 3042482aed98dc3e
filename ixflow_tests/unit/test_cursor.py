"""Windows of a cursor column: what each of the semantics reads, and what is refused."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal

import hypothesis.strategies as st
import pyarrow as pa
import pytest
from hypothesis import given

from ixflow.errors import ValidationError
from ixflow.tables.cursor import SEMANTICS, Cursor, CursorPlan, Window
from ixflow.values import Column

INT = Column("k", "bigint", pa.int64())
STAMP = Column("k", "timestamp with time zone", pa.timestamp("us", "UTC"))
PLAIN = Column("k", "timestamp", pa.timestamp("us"))
DAY = Column("k", "date", pa.date32())
TEXT = Column("k", "text", pa.string())


def planned(column=INT, semantics=None, start=None, settles=True, **options) -> CursorPlan:
    cursor = Cursor("k", semantics, **options)
    return CursorPlan.of(cursor, column, start, settles=settles)


@pytest.mark.parametrize(
    ("column", "settles", "semantics"),
    [
        (STAMP, True, "settled"),
        (STAMP, False, "overlap"),
        (PLAIN, True, "overlap"),
        (DAY, True, "overlap"),
        (INT, True, "exclusive"),
        (TEXT, True, "exclusive"),
        (Column("k", "numeric", pa.string(), as_text=True), True, "exclusive"),
        (Column("k", "uuid", pa.string()), True, "exclusive"),
    ],
)
def test_semantics_have_a_default_for_each_kind_of_key(column, settles, semantics):
    assert planned(column, settles=settles).semantics == semantics


@pytest.mark.parametrize(
    ("sql_type", "type_", "as_text"),
    [
        ("double precision", pa.float64(), False),
        ("real", pa.float32(), False),
        ("boolean", pa.bool_(), False),
        ("bytea", pa.binary(), False),
        ("time", pa.time64("us"), False),
        ("jsonb", pa.string(), False),
        ("interval", pa.string(), True),
        ("integer[]", pa.string(), True),
    ],
)
def test_what_has_no_exact_order_is_no_cursor(sql_type, type_, as_text):
    with pytest.raises(ValidationError, match="no cursor"):
        planned(Column("k", sql_type, type_, as_text=as_text))


def test_a_window_says_its_ends():
    shown = {
        semantics: str(planned(INT, semantics).window("5", "9", first=False))
        for semantics in ("exclusive", "inclusive")
    }
    assert shown == {"exclusive": "5 < k <= 9", "inclusive": "5 <= k <= 9"}
    assert str(planned(INT).window(None, "9", first=True)) == "k <= 9"
    assert str(planned(INT).window(None, None, first=True)) == "no k"
    assert str(planned(INT, overlap=2).window("5", "9", first=False)) == "3 <= k <= 9"


def test_an_overlap_is_exact():
    exact = planned(INT, overlap=1).below("9007199254740993")
    assert exact == "9007199254740992"
    assert planned(INT, overlap=Decimal("0.001")).below("1.5") == "1.499"
    assert planned(DAY).below("2024-03-01") == "2024-02-29"
    minute = dt.timedelta(minutes=1)
    assert planned(STAMP, overlap=minute).below("2024-01-01 00:00:00.000001+00") == (
        "2023-12-31 23:59:00.000001+00:00"
    )
    with pytest.raises(ValidationError, match="no overlap can be subtracted"):
        planned(STAMP, overlap=minute).below("0044-03-15 00:00:00+00 BC")


@pytest.mark.parametrize(
    ("column", "options"),
    [
        (INT, {"overlap": dt.timedelta(1)}),
        (STAMP, {"overlap": 5}),
        (TEXT, {"semantics": "overlap"}),
        (INT, {"semantics": "overlap"}),
        (INT, {"semantics": "settled"}),
        (PLAIN, {"semantics": "settled"}),
    ],
)
def test_what_does_not_go_with_the_column_is_refused(column, options):
    with pytest.raises(ValidationError, match="k is"):
        planned(column, **options)


@pytest.mark.parametrize(
    "options",
    [
        {"semantics": "sometimes"},
        {"nulls": "perhaps"},
        {"semantics": "exclusive", "overlap": 1},
        {"overlap": 0},
        {"overlap": dt.timedelta(0)},
        {"overlap": True},
        {"overlap": 1.5},
        {"column": ""},
    ],
)
def test_a_cursor_that_says_nothing_is_refused(options):
    with pytest.raises(ValidationError):
        Cursor(**{"column": "k", **options})


@pytest.mark.parametrize(
    ("column", "value", "text"),
    [
        (INT, 2**63, "9223372036854775808"),
        (INT, Decimal("1E+2"), "100"),
        (PLAIN, dt.datetime(2024, 1, 1), "2024-01-01 00:00:00"),  # noqa: DTZ001 - none here
        (STAMP, dt.datetime(2024, 1, 1, tzinfo=dt.UTC), "2024-01-01 00:00:00+00:00"),
        (STAMP, dt.date(2024, 1, 1), "2024-01-01"),
        (TEXT, "a'b", "a'b"),
    ],
)
def test_a_start_is_exact(column, value, text):
    assert planned(column, start=value).start == text


@pytest.mark.parametrize(
    ("column", "value"),
    [
        (INT, 1.0),
        (INT, True),
        (STAMP, dt.datetime(2024, 1, 1)),  # noqa: DTZ001 - which is the mistake
        (PLAIN, dt.datetime(2024, 1, 1, tzinfo=dt.UTC)),
        (TEXT, ""),
    ],
)
def test_a_start_that_is_not_is_refused(column, value):
    with pytest.raises(ValidationError, match="incremental_value"):
        planned(column, start=value)


def reads(window: Window, key: int) -> bool:
    """Say whether a window holds a key."""
    if window.is_empty or window.high is None:
        return False
    low = window.low
    above = low is None or (key >= int(low) if window.low_included else key > int(low))
    return above and key <= int(window.high)


@given(
    semantics=st.sampled_from([s for s in SEMANTICS if s != "settled"]),
    batches=st.lists(st.lists(st.integers(-9, 9), max_size=4), max_size=6),
)
def test_windows_that_follow_each_other_leave_no_gap(semantics, batches):
    options = {"overlap": 3} if semantics == "overlap" else {}
    cursor = planned(INT, semantics, **options)
    there: list[int] = []
    read: list[int] = []
    mark, first = None, True
    for batch in batches:
        # Keys only grow from run to run, so nothing may be lost.
        least = max(there, default=-9)
        there += [max(key, least + 1) for key in batch]
        new = [key for key in there if mark is None or key >= int(mark)]
        greatest = str(max(new)) if new else None
        window = cursor.window(mark, greatest, first=first)
        read += [key for key in there if reads(window, key)]
        mark, first = window.high, False
    assert set(read) == set(there)
    if semantics == "exclusive":
        assert sorted(read) == sorted(there)
