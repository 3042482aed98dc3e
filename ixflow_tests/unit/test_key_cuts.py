"""Cutting by a key without a database: guesses, weights, and what becomes a task."""

from __future__ import annotations

import bisect
import dataclasses
import datetime as dt
import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ixflow.dialects import KeyCuts, dialect_named
from ixflow.dialects.keyspace import extent, is_plain, middle
from ixflow.dialects.ranges import Key, SplitKey, cut_evenly
from ixflow.errors import ValidationError
from ixflow.extraction.context import RuntimeContext
from ixflow.extraction.planner import Facts, decide
from ixflow.values import KeyRange, TableName, TablePart
from ixflow_tests.unit.test_planner import MB, table

ID = SplitKey(("id",), ("bigint",), ("integer",))


class Index:
    """An index of whole numbers that counts what it is asked."""

    def __init__(self, numbers: list[int], *, estimates: bool) -> None:
        self.numbers, self.estimates, self.asked = sorted(numbers), estimates, 0

    def edge(self, *ranges: KeyRange, last: bool) -> Key | None:
        self.asked += 1
        first, end = 0, len(self.numbers)
        for keys in ranges:
            low, high = self.between(keys)
            first, end = max(first, low), min(end, high)
        return (str(self.numbers[end - 1 if last else first]),) if first < end else None

    def rows(self, keys: KeyRange) -> float | None:
        low, high = self.between(keys)
        return float(high - low) if self.estimates else None

    def between(self, keys: KeyRange) -> tuple[int, int]:
        low = 0 if keys.low is None else bisect.bisect_left(self.numbers, int(keys.low[0]))
        if keys.high is None:
            return low, len(self.numbers)
        return low, bisect.bisect_left(self.numbers, int(keys.high[0]))


@given(st.lists(st.integers(-(2**70), 2**70), max_size=200), st.integers(2, 20), st.booleans())
def test_bounds_rise_and_exist_and_every_range_has_a_row(numbers, wanted, estimates):
    index = Index(numbers, estimates=estimates)
    cuts = cut_evenly(ID, index, wanted)
    if cuts is None:
        assert len(set(numbers)) <= 1
        return
    bounds = [int(text) for (text,) in cuts.bounds]
    assert bounds == sorted(set(bounds))
    assert set(bounds) <= set(numbers)
    assert len(cuts.weights) == len(bounds) + 1 <= 3 * wanted
    assert len(cuts.ranges(wanted)) <= 2 * wanted
    ends = [min(numbers), *bounds, max(numbers) + 1]
    for low, high in itertools.pairwise(ends):
        assert any(low <= number < high for number in numbers)
    assert index.asked <= 2 + 2 * 3 * wanted


@given(st.integers(0, 10**6), st.integers(1, 12))
def test_with_estimates_no_range_is_much_greater_than_its_share(seed, skew):
    chance = random.Random(seed)
    numbers = list({int(chance.random() ** skew * 10**15) for _ in range(1_000)})
    index = Index(numbers, estimates=True)
    cuts = cut_evenly(ID, index, 10)
    assert cuts is not None
    assert max(cuts.weights) <= len(numbers) / 10 * 2
    assert sum(cuts.weights) == len(numbers)
    assert max(share for _, share in cuts.ranges(10)) <= 0.25


def test_without_estimates_gaps_between_keys_do_not_count():
    numbers = [*range(1_000), *range(10**12, 10**12 + 1_000)]
    cuts = cut_evenly(ID, Index(numbers, estimates=False), 8)
    assert cuts is not None
    bounds = [int(text) for (text,) in cuts.bounds]
    sizes = [
        sum(low <= number < high for number in numbers)
        for low, high in itertools.pairwise([0, *bounds, 10**13])
    ]
    assert max(sizes) <= 500


def test_cutting_ends_when_its_time_is_over():
    clock = itertools.count()
    index = Index(list(range(10_000)), estimates=True)
    cuts = cut_evenly(ID, index, 1_000, seconds=5, clock=lambda: next(clock))
    assert cuts is not None
    assert len(cuts.bounds) < 10


@given(st.integers(), st.integers())
def test_a_middle_of_numbers_lies_behind_the_low_and_not_behind_the_high(one, other):
    low, high = sorted((one, other))
    found = middle("integer", str(low), str(high))
    assert (found is None) is (low == high)
    assert found is None or low < int(found) <= high


@given(st.decimals(allow_nan=False, allow_infinity=False, places=9, min_value=-(10**30)))
def test_a_middle_of_decimals_keeps_every_digit(number):
    low = f"{number:f}"
    high = f"{number + 1:f}" if abs(number) < 10**15 else low
    found = middle("decimal", low, high)
    assert found is None or is_plain("decimal", found)
    assert (found is None) is (low == high)


@given(st.dates(), st.dates())
def test_a_middle_of_dates_is_a_date(one, other):
    low, high = sorted((one, other))
    found = middle("date", str(low), str(high))
    assert found is None or low < dt.date.fromisoformat(found) <= high
    assert extent("date", str(low), str(high)) == max(1, (high - low).days)


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@given(TEXTS, TEXTS)
def test_a_middle_of_texts_can_be_sent_to_any_server(low, high):
    found = middle("text", low, high)
    assert found is None or found.encode().decode() == found


@given(st.uuids(), st.uuids(), st.sampled_from(["uuid", "node uuid"]))
def test_a_middle_of_uuids_has_the_form_of_one(low, high, kind):
    found = middle(kind, str(low), str(high)) or middle(kind, str(high), str(low))
    assert found is None or [len(group) for group in found.split("-")] == [8, 4, 4, 4, 12]


@pytest.mark.parametrize(
    ("kind", "low", "high"),
    [
        ("date", "0044-03-15 BC", "infinity"),
        ("date", "0000-00-00", "2024-00-01"),
        ("datetime", "0000-00-00 00:00:00", "2024-01-01 00:00:00"),
        ("moment", "-infinity", "2024-01-01 00:00:00+00"),
    ],
)
def test_what_is_no_date_counts_as_the_end_of_time_it_lies_on(kind, low, high):
    found = middle(kind, low, high)
    assert found is not None
    assert is_plain(kind, found)
    assert not is_plain(kind, low)


@pytest.mark.parametrize(
    ("kind", "low", "high"),
    [
        ("decimal", "NaN", "1"),
        ("date", "infinity", "0044-03-15 BC"),
        ("datetime", "?", "?"),
        ("moment", "-infinity", "-infinity"),
        ("binary", "0", "zz"),
    ],
)
def test_values_that_are_no_ordinary_ones_have_no_middle(kind, low, high):
    assert middle(kind, low, high) is None
    assert not is_plain(kind, low)


@pytest.mark.parametrize(
    ("kind", "text", "sql_type"),
    [
        ("mysql", "1 OR 1=1", "bigint unsigned"),
        ("mysql", "1e5", "decimal(9,2)"),
        ("mysql", "2024-01-01' OR '1", "datetime(6)"),
        ("mysql", "4g", "varbinary(3)"),
        ("sqlite", "1 OR 1", "integer"),
    ],
)
def test_a_bound_that_is_no_value_of_its_type_is_refused(kind, text, sql_type):
    with pytest.raises(ValidationError):
        dialect_named(kind).literal(text, sql_type)


@pytest.mark.parametrize("kind", ["mysql", "sqlite", "postgresql"])
@pytest.mark.parametrize("text", ["it's", 'say "x"', "back\\slash\\'", "\U0001f600"])
def test_a_text_bound_ends_no_string(kind, text):
    types = {
        "mysql": "varchar(9) CHARACTER SET latin1 COLLATE latin1_bin",
        "sqlite": "text collate BINARY",
        "postgresql": 'text COLLATE "C"',
    }
    written = dialect_named(kind).literal(text, types[kind])
    inner = written.partition("'")[2].rpartition("'")[0]
    assert "'" not in inner.replace("''", "").replace("\\'", "")


def cut_table(**options):
    """Make a profile of a table without pages that a key cuts in 32 equal ranges."""
    bounds = tuple((str(n * 1_000),) for n in range(1, 32))
    key = dataclasses.replace(ID, nulls=options.pop("nulls", False))
    made = table(pages=None, **options)
    return dataclasses.replace(made, cuts=(KeyCuts(key, bounds, (1.0,) * 32),))


def test_a_table_without_pages_is_read_in_ranges_of_a_key():
    draft = decide(Facts(cut_table(), cpus=4))
    assert (draft.strategy, draft.workers, len(draft.tasks)) == ("key_ranges", 4, 16)
    assert {task.estimated_rows for task in draft.tasks} == {5_000_000 // 16}
    bounds = [(task.keys.low, task.keys.high) for task in draft.tasks if task.keys]
    assert (None, ("2000",)) in bounds
    assert (("30000",), None) in bounds


def test_one_connection_reads_ranges_of_a_key_one_after_the_other():
    draft = decide(Facts(cut_table(shares=False), cpus=16))
    assert (draft.strategy, draft.workers) == ("key_ranges", 1)
    assert len(draft.tasks) > 1


def test_rows_without_a_key_are_a_task_of_their_own():
    tasks = decide(Facts(cut_table(nulls=True), cpus=4)).tasks
    assert [task.chunk_id for task in tasks if task.keys and task.keys.nulls] == ["017"]


def test_a_small_table_is_cut_only_for_who_asks_for_several_workers():
    small = cut_table(rows=9_000, size=MB)
    assert decide(Facts(small, cpus=4)).strategy == "single_pass"
    draft = decide(Facts(small, RuntimeContext(min_workers=2), cpus=4))
    assert (draft.strategy, draft.workers) == ("key_ranges", 2)


def test_parts_with_pages_and_parts_with_a_key_are_one_plan():
    parts = (
        TablePart(TableName("heap"), only=True, pages=50_000, rows=10**6, size_bytes=400 * MB),
        TablePart(TableName("other"), only=True, rows=10**6, size_bytes=400 * MB),
    )
    cuts = cut_table().cuts
    made = dataclasses.replace(table(parts=parts), cuts=(None, *cuts))
    draft = decide(Facts(made, cpus=4))
    assert draft.strategy == "page_ranges"
    assert {(task.part.table.name, task.pages is None) for task in draft.tasks} == {
        ("heap", False),
        ("other", True),
    }
    assert all((task.keys is None) is (task.part.table.name == "heap") for task in draft.tasks)
