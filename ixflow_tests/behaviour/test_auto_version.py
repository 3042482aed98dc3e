"""`AUTO_VERSION`: a task runs again when what it computes changes, not when its text does."""

from __future__ import annotations

import polars as pl
import pyarrow as pa
import pytest
import sqlalchemy as sa

from ixflow.errors import FlowError, TaskError
from ixflow.pipeline import AUTO_VERSION, Flow, Stage, Table, TaskState, materialize, run_stage
from ixflow.store import SQLTableStore
from ixflow_tests.stages import rows


@pytest.fixture
def store(warehouse_engine):
    made = SQLTableStore(warehouse_engine.url)
    yield made
    made.dispose()


def ran(store, function, *, swapped=False, values=(1, 2, 3)):
    """Run a stage whose task has the function; say whether that ran with rows."""

    @materialize(version=str(values), nout=2, outputs=["a", "b"])
    def inputs():
        made = {"x": list(values)}
        return Table(pl.DataFrame(made), "a"), Table(pl.DataFrame(made), "b")

    task = materialize(version=AUTO_VERSION, input_type=pl.LazyFrame, name="out")(function)
    with Flow("f") as flow, Stage("s"):
        a, b = inputs()
        task(b, a) if swapped else task(a, b)
    result = run_stage(flow["s"], store)
    return {table.name: table.state for table in result.tables}["out"] is TaskState.COMPLETED


def test_a_task_runs_again_when_its_plan_changes(store):
    assert ran(store, lambda a, _: Table(a.with_columns(y=pl.col("x") * 2)))
    assert not ran(store, lambda a, _: Table(a.with_columns((pl.col("x") * 2).alias("y"))))
    assert ran(store, lambda a, _: Table(a.with_columns(y=pl.col("x") * 3)))
    assert [row["y"] for row in rows(store, "s", "out")] == [3, 6, 9]


def test_two_inputs_with_equal_columns_are_told_apart(store):
    assert ran(store, lambda a, b: Table(pl.concat([a, b.head(0)])))
    assert ran(store, lambda a, b: Table(pl.concat([b, a.head(0)])))


def test_a_task_runs_again_when_its_input_or_wiring_changes(store):
    def function(a, _):
        return Table(a.select("x"))

    assert ran(store, function)
    assert ran(store, function, values=(4,))
    assert ran(store, function, values=(4,), swapped=True)


def test_a_task_runs_again_when_its_table_shall_be_stored_otherwise(store):
    assert ran(store, lambda a, _: Table(a.select("x")))
    assert ran(store, lambda a, _: Table(a.select("x"), primary_key="x"))
    assert not ran(store, lambda a, _: Table(a.select("x"), primary_key="x"))


@pytest.mark.parametrize("options", [{}, {"input_type": pa.Table}, {"input_type": sa.Table}])
def test_other_inputs_than_lazy_frames_are_refused(options):
    with pytest.raises(FlowError, match=r"AUTO_VERSION needs input_type=polars\.LazyFrame"):
        materialize(version=AUTO_VERSION, **options)(lambda: None)


def test_a_lazy_task_has_no_automatic_version():
    with pytest.raises(FlowError, match="exclude"):
        materialize(version=AUTO_VERSION, input_type=pl.LazyFrame, lazy=True)(lambda: None)


@pytest.mark.parametrize("returned", [1, pl.DataFrame({"x": [1]})])
def test_what_returns_no_plan_is_refused(store, returned):
    with pytest.raises(FlowError, match="must return LazyFrames"):
        ran(store, lambda *_: returned)


def test_what_looks_at_rows_is_refused(store):
    def looks(a, _):
        return Table(pl.LazyFrame({"x": [a.collect()["x"][0]]}))

    with pytest.raises(TaskError, match=r"the automatic version of task s\.out failed: IndexError"):
        ran(store, looks)
