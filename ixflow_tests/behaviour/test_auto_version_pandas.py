"""`AUTO_VERSION` on pandas: what a function would do with its tables is traced, or refused."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import threading

import numpy as np
import pandas as pd
import pytest
from pandas import concat as imported_concat

from ixflow.errors import FlowError, TaskError
from ixflow.pipeline import (
    AUTO_VERSION,
    Blob,
    Flow,
    RawSql,
    Stage,
    Table,
    TaskState,
    materialize,
    run_stage,
)
from ixflow.pipeline.auto_version_pandas import recorded, traced_version
from ixflow.pipeline.containers import ExternalTableReference
from ixflow.store import SQLTableStore
from ixflow_tests.stages import rows

FACTOR = 2


@pytest.fixture
def store(warehouse_engine):
    made = SQLTableStore(warehouse_engine.url)
    yield made
    made.dispose()


def ran(store, function, values=(1, 2, 3), input_type=pd.DataFrame):
    """Run a stage whose task has the function; say whether that ran with rows."""

    @materialize(version=str(values))
    def numbers():
        return Table(pd.DataFrame({"x": list(values), "g": ["a"] * len(values)}))

    task = materialize(version=AUTO_VERSION, input_type=input_type, name="out")(function)
    with Flow("f") as flow, Stage("s"):
        task(numbers())
    result = run_stage(flow["s"], store)
    return {table.name: table.state for table in result.tables}["out"] is TaskState.COMPLETED


def version(function, tables=1):
    """Trace a function on tables that are not there."""
    inputs = [ExternalTableReference(name, "s") for name in "abc"[:tables]]
    return traced_version("s.t", function, inputs, lambda fn, given: fn(*given))


def doubled(a):
    return Table(a.assign(y=a["x"] * FACTOR))


def test_a_task_runs_again_when_what_it_computes_changes(store, monkeypatch):
    assert ran(store, doubled)
    assert not ran(store, doubled)
    monkeypatch.setitem(globals(), "FACTOR", 3)
    assert ran(store, doubled)
    assert sorted(row["y"] for row in rows(store, "s", "out")) == [3, 6, 9]


def test_a_task_runs_again_when_its_input_or_its_kind_of_columns_changes(store):
    assert ran(store, doubled)
    assert ran(store, doubled, values=(4,))
    assert ran(store, doubled, values=(4,), input_type=(pd.DataFrame, "numpy"))
    assert not ran(
        store, doubled, values=(4,), input_type={"type": pd.DataFrame, "backend": "numpy"}
    )


def helper(frame):
    return pd.concat([frame, frame]).head(FACTOR)


def test_what_a_task_calls_is_traced_too(monkeypatch):
    def function(a):
        return Table(helper(a).pipe(helper))

    first = version(function)
    assert version(function) == first
    monkeypatch.setitem(globals(), "FACTOR", 5)
    assert version(function) != first


def test_the_code_of_a_task_that_a_task_calls_counts():
    @materialize
    def one(a):
        return a if a is not None else 1

    @materialize
    def two(a):
        return a if a is not None else 2

    def calling(other):
        return lambda a: Table(other(a))

    assert version(calling(one)) == version(calling(one))
    assert version(calling(one)) != version(calling(two))


def test_comments_and_layout_make_no_new_version():
    spaces = {"pd": pd}, {"pd": pd}
    exec("def f(a):\n    return a.assign(y=a.x + 1)", spaces[0])  # noqa: S102 - two layouts
    exec("def f(a):  # more\n\n    return a.assign(\n        y=a.x + 1\n    )", spaces[1])  # noqa: S102
    assert version(spaces[0]["f"]) == version(spaces[1]["f"])


def local_import(a):
    import pandas as frames  # noqa: ICN001 - what is tested

    return frames.DataFrame({"x": a.x, "day": frames.to_datetime(a.g)})


def changes_in_place(a):
    a["y"] = np.where(a.x > 1, a["x"], 0)
    a.loc[a.y.isna(), "y"] = pd.Timestamp("2024-01-01")
    a.columns = ["x", "g", "y"]
    a.drop(columns="g", inplace=True)  # noqa: PD002 - what is tested
    a["x"] += 1
    del a["y"]
    return a


def fills_a_frame(a):
    frame = pd.DataFrame()
    frame["x"] = a.x
    assert isinstance(frame, pd.DataFrame)
    return frame


GOOD = {
    "assign": lambda a: a.assign(y=lambda frame: frame.x * FACTOR),
    "group": lambda a: a.groupby("g", as_index=False).agg(total=pd.NamedAgg("x", "sum")),
    "merge": lambda a: pd.merge(a, a, on="x", how="left"),  # noqa: PD015 - what is tested
    "imported": lambda a: imported_concat([a, a]),
    "stream": lambda a: pd.concat(frame for frame in (a, a)),
    "apply": lambda a: a.apply(lambda row: np.log(row.x) + FACTOR, axis=1).to_frame("x"),
    "constants": lambda a: a * np.float64(2) + np.arange(3) + pd.Series([1, 2]),
    "ufunc": lambda a: np.maximum(np.sqrt(a), 1),
    "where": lambda a: pd.DataFrame({"y": np.where(a.x > 1, "big", "small")}),
    "asserted": lambda a: a if isinstance(a, pd.DataFrame) else 1,
    "merged constant": lambda a: pd.DataFrame({"x": [1]}).merge(a),
    "filled": fills_a_frame,
    "constant": lambda _: pd.DataFrame({"x": [1, 2]}),
    "sets": lambda a: a[a.x.isin({"one", "two", "three"})],
    "several": lambda a: {"one": Table(a, "one"), "two": [Table(a.head(1), "two"), 3]},
    "local": local_import,
    "in place": changes_in_place,
    "helper": helper,
}


@pytest.mark.parametrize("name", GOOD)
def test_what_pandas_and_numpy_do_can_be_traced(name):
    assert version(GOOD[name]) == version(GOOD[name])


def test_no_two_computations_have_the_same_version():
    assert len({version(function) for function in GOOD.values()}) == len(GOOD)


def swallows(a):
    try:
        return a if a.x.sum() > 1 else a + 1
    except Exception:  # noqa: BLE001 - what is tested
        return a


class OwnClass:
    """A class of the user, whose objects pandas could call."""


CONSTANTS = pd.DataFrame({"x": [1]})


def puts_into_a_cell(a):
    frame = CONSTANTS.astype(object)
    frame.iat[0, 0] = a.x.sum()  # noqa: PD009 - what is tested
    return frame


REFUSED = {
    "cell": (puts_into_a_cell, "is within a cell"),
    "cells": (
        lambda a: pd.DataFrame(np.array([a.x, 1], dtype=object)),
        "is within a cell|array of",
    ),
    "if": (lambda a: a if a.x.sum() > 1 else a + 1, "asks for its truth"),
    "len": (lambda a: a.head(len(a)), "asks for its length"),
    "for": (lambda a: [Table(a[name], name) for name in a.columns], "iterates over it"),
    "in": (lambda a: a if "x" in a.columns else a + 1, "asks what it contains"),
    "int": (lambda a: a.head(int(a.x.max())), "makes an int of it"),
    "range": (lambda a: a.head(len(range(a.x.max()))), "uses it as an index or a count"),
    "text": (lambda a: a.query(f"x > {a.x.max()}"), "makes text of it"),
    "key": (lambda a: {a: 1}, "hashes it"),
    "array": (lambda a: Table(pd.DataFrame(np.asarray(a))), "makes a NumPy array of it"),
    "private": (lambda a: a._mgr, "the private attribute _mgr is used"),
    "real": (lambda a: CONSTANTS.merge(a, on="x"), "the private attribute"),
    "isinstance": (lambda a: a if isinstance(a.x, pd.Series) else 1, "isinstance"),
    "out": (lambda a: np.add(a.x, 1, out=np.zeros(3)), "writes into an array"),
    "copyto": (lambda a: np.copyto(np.zeros(3), a.x), "writes into an array"),
    "class": (lambda a: a.apply(OwnClass), "is no part of a library"),
    "stream": (lambda a: a.isin(x for x in [1]), "generator cannot be written down"),
    "swallowed": (swallows, "asks for its truth"),
    "script": (lambda _: RawSql("SELECT 1"), "returns a RawSql"),
    "blob": (lambda a: [Table(a), Blob(1)], "returns a Blob"),
    "nothing": (lambda _: None, "must return a table"),
    "number": (lambda _: 1, "must return a table"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_traced_is_refused_with_its_reason(name):
    function, said = REFUSED[name]
    with pytest.raises(FlowError, match=said):
        version(function)


def test_a_refusal_says_to_set_a_version_and_the_stage_is_left_alone(store):
    assert ran(store, doubled)
    with pytest.raises(FlowError, match=r"s\.out has no automatic version: .*version='1'"):
        ran(store, lambda a: a.head(len(a)))
    assert len(rows(store, "s", "out")) == 3


def test_a_function_that_raises_says_so():
    with pytest.raises(TaskError, match="ZeroDivisionError"):
        version(lambda a: a * (1 / 0))


def test_what_only_real_rows_can_raise_is_part_of_the_version():
    def one(a):
        try:
            return a.astype("int64")
        except ValueError:
            return a.head(1)

    def two(a):
        try:
            return a.astype("int64")
        except ValueError:
            return a.head(2)

    assert version(one) != version(two)


def test_the_variables_that_a_query_names_are_part_of_the_version(monkeypatch):
    def function(limits):
        def inner(a):
            least = limits.pop()  # noqa: F841 - the query names it
            return a.query("x > @least and x < @FACTOR")

        return inner

    def within(a):
        return a.groupby("g").apply(lambda part: part.query("x > @FACTOR"))

    def records(fn):
        inputs = [ExternalTableReference("a", "s")]
        return recorded("s.t", fn, inputs, lambda fn, given: fn(*given))

    versions = [records(function([1])), records(function([2])), records(within)]
    monkeypatch.setitem(globals(), "FACTOR", 9)
    versions += [records(function([1])), records(within)]
    assert len(set(versions)) == 5
    with pytest.raises(FlowError, match="from elsewhere"):
        version(lambda a: a.query("x > @nowhere"))
    with pytest.raises(FlowError, match=r"pandas\.eval"):
        version(lambda _: pd.eval("a.x + 1"))


def test_a_version_is_the_same_in_every_process():
    script = (
        "from ixflow_tests.behaviour.test_auto_version_pandas import GOOD, version\n"
        "print(*(version(GOOD[name]) for name in ('assign', 'sets', 'helper')))"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            check=True,
            capture_output=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1
    assert len(found.pop().split()) == 3


def test_a_copy_is_not_its_original():
    def changes_the_copy(a):
        other = copy.deepcopy(a)
        other["x"] = 1
        return Table(a)

    def changes_the_table(a):
        other = a
        other["x"] = 1
        return Table(a)

    assert version(changes_the_copy) != version(changes_the_table)


def test_two_inputs_are_told_apart():
    assert version(lambda a, b: a - b, 2) != version(lambda a, b: b - a, 2)


def test_how_a_table_is_stored_is_part_of_the_version():
    keys = (None, "x", "g")
    assert len({version(lambda a, key=key: Table(a, primary_key=key)) for key in keys}) == 3


def test_pandas_is_not_touched_while_a_function_is_traced():
    entered, looked = threading.Event(), threading.Event()
    originals, types = dict(vars(pd)), []
    changed: set[str] = set()

    def look():
        entered.wait()
        changed.update(name for name, value in vars(pd).items() if originals.get(name) is not value)
        types.append(type(pd.concat([pd.DataFrame({"x": [1]})])))
        looked.set()

    def function(a):
        entered.set()
        looked.wait()
        return pd.concat([a, a])

    thread = threading.Thread(target=look)
    thread.start()
    version(function)
    thread.join()
    assert changed == set()
    assert types == [pd.DataFrame]
