"""A script whose table is called like that of another task."""

from __future__ import annotations

import polars as pl
import pytest

from ixflow import Flow, RawSql, Stage, Table, materialize
from ixflow.errors import DuplicateNameError, TaskError
from ixflow.pipeline import run_stage
from ixflow.store import SQLTableStore
from ixflow_tests.stages import objects, rows


@pytest.fixture
def store(warehouse_engine):
    made = SQLTableStore(warehouse_engine.url)
    yield made
    made.dispose()


def stage_of(text):
    """Declare a task that makes the table ``numbers``, and a script that is run behind it."""

    @materialize(version="1")
    def first():
        return Table(pl.DataFrame({"n": [1]}), "numbers")

    @materialize(version=text)
    def scripted(stage, _numbers):
        return RawSql(text.format(schema=stage.current_name))

    with Flow("f") as flow, Stage("s") as stage:
        scripted(stage, first())
    return flow["s"]


OTHER = "CREATE TABLE {schema}.others AS SELECT 2 AS n"
SAME = "CREATE TABLE {schema}.numbers AS SELECT 2 AS n"


@pytest.mark.parametrize("valid", [False, True])
def test_a_script_whose_table_another_task_has_made_is_told_so(store, valid):
    if valid:
        run_stage(stage_of(OTHER), store)
    with pytest.raises(DuplicateNameError, match="which task first has made; give one another"):
        run_stage(stage_of(SAME), store)
    assert objects(store, "s") == (("numbers", "others") if valid else ())
    run_stage(stage_of(OTHER), store)
    assert rows(store, "s", "others") == [{"n": 2}]


def test_a_script_that_fails_otherwise_says_what_the_database_said(store):
    with pytest.raises(TaskError, match="nowhere") as raised:
        run_stage(stage_of("CREATE TABLE {schema}.x AS SELECT * FROM nowhere"), store)
    assert not isinstance(raised.value.__cause__, DuplicateNameError)
