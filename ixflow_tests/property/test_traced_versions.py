"""Whatever is edited in a computation on pandas: equal records mean equal results."""

from __future__ import annotations

import copy

import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from ixflow.pipeline.auto_version_pandas import recorded
from ixflow.pipeline.containers import ExternalTableReference

NUMBERS = st.integers(-2, 3) | st.sampled_from([1.0, True, 0.5])
COLUMNS = st.sampled_from(["x", "y"])
TABLES = st.sampled_from(["a", "b", "c"])


def _set(tables, table, column, other, number):
    tables[table][column] = tables[table][other] * number


def _add_in_place(tables, table, column, other, number):
    del other
    tables[table][column] += number


def _alias(tables, table, column, other, number):
    del other, number
    tables[{"x": "b", "y": "c"}[column]] = tables[table]


def _copy(tables, table, column, other, number):
    del number
    copied = copy.deepcopy if other == "x" else copy.copy
    tables[{"x": "b", "y": "c"}[column]] = copied(tables[table])


def _filter(tables, table, column, other, number):
    del other
    frame = tables[table]
    tables[table] = frame[frame[column] > number].reset_index(drop=True)


def _sort(tables, table, column, other, number):
    up = number > 0
    by = [column, other] if column != other else column
    tables[table] = tables[table].sort_values(by, ascending=up, ignore_index=True)


def _concat(tables, table, column, other, number):
    del other
    both = [tables[table], tables[{"x": "b", "y": "c"}[column]]]
    tables[table] = pd.concat(both if number > 0 else both[::-1], ignore_index=True).head(20)


def _where(tables, table, column, other, number):
    frame = tables[table]
    frame[column] = np.where(frame[other] > number, frame[column], number)


def _apply(tables, table, column, other, number):
    frame = tables[table]
    frame[column] = frame[other].apply(lambda value: value - number)


def _assign(tables, table, column, other, number):
    tables[table] = tables[table].assign(**{column: lambda frame: np.abs(frame[other]) + number})


def _locate(tables, table, column, other, number):
    frame = tables[table]
    frame.loc[frame[other] == number, column] = 7


def _group(tables, table, column, other, number):
    del other
    how = "sum" if number > 0 else "max"
    tables[table] = tables[table].groupby(column, as_index=False).agg(x=("x", how), y=("y", how))


STEPS = st.tuples(
    st.sampled_from(
        [
            _set,
            _add_in_place,
            _alias,
            _copy,
            _filter,
            _sort,
            _concat,
            _where,
            _apply,
            _assign,
            _locate,
            _group,
        ]
    ),
    TABLES,
    COLUMNS,
    COLUMNS,
    NUMBERS,
)


@st.composite
def edited(draw):
    """Give two pipelines, the second one an edit of the first."""
    first = draw(st.lists(STEPS, min_size=1, max_size=5))
    second = list(first)
    for _ in range(draw(st.integers(1, 2))):
        place = draw(st.integers(0, len(second)))
        match draw(st.sampled_from(["change", "number", "drop", "insert", "swap"])):
            case "change" if place < len(second):
                second[place] = draw(STEPS)
            case "number" if place < len(second):
                second[place] = (*second[place][:4], draw(NUMBERS))
            case "drop" if place < len(second):
                del second[place]
            case "insert":
                second.insert(place, draw(STEPS))
            case "swap" if 0 < place < len(second):
                second[place - 1], second[place] = second[place], second[place - 1]
    return first, second, draw(TABLES)


def function_of(steps, wanted):
    def function(a, b):
        tables = {"a": a, "b": b, "c": a}
        for step, *arguments in steps:
            step(tables, *arguments)
        return tables[wanted]

    return function


def records(steps, wanted):
    inputs = [ExternalTableReference(name, "s") for name in "ab"]
    return recorded("s.t", function_of(steps, wanted), inputs, lambda fn, given: fn(*given))


def result(steps, wanted):
    a = pd.DataFrame({"x": [3, 1, 2, 2], "y": [0.5, -1.0, 2.0, 1.0]})
    b = pd.DataFrame({"x": [-1, 2, 0], "y": [1.0, 1.0, 3.0]})
    try:
        return function_of(steps, wanted)(a, b)
    except (TypeError, ValueError) as error:
        return str(error)


def equal(one, two):
    return one.equals(two) if isinstance(one, pd.DataFrame) else isinstance(two, str)


@given(pair=edited())
@settings(max_examples=80)
def test_equal_records_mean_equal_results(pair):
    first, second, wanted = pair
    assert records(first, wanted) == records(list(first), wanted)
    if records(first, wanted) == records(second, wanted):
        assert equal(result(first, wanted), result(second, wanted))


@given(steps=st.lists(STEPS, min_size=1, max_size=4), number=NUMBERS, other=NUMBERS)
@settings(max_examples=40)
def test_every_constant_counts(steps, number, other):
    made = [[*steps, (_apply, "a", "x", "y", each)] for each in (number, other)]
    same = type(number) is type(other) and number == other
    assert (records(made[0], "a") == records(made[1], "a")) == same
