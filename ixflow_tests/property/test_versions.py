"""After any sequence of runs and rollbacks every version has the tables that it was made with."""

from __future__ import annotations

import itertools

import hypothesis.strategies as st
import pyarrow as pa
from hypothesis import given, settings

from ixflow.pipeline import ConfigContext, Flow, Stage, Table, materialize, run_stage
from ixflow.store import SQLTableStore
from ixflow_tests.stages import objects, rows

_numbers = itertools.count(1)
KEEP = 3

contents = st.dictionaries(st.sampled_from("abc"), st.integers(1, 3), min_size=1)
steps = st.lists(contents | st.integers(1, KEEP), min_size=3, max_size=7)


def stage_of(name, tables):
    """Declare a stage with these tables, each of one row that shows its number."""
    with Flow("f"), Stage(name, keep_versions=KEEP) as stage:
        for table, number in tables.items():

            @materialize(name=table, version=str(number))
            def fn(number=number):
                return Table(pa.table({"v": [number]}))

            fn()
    return stage


def shown(store, stage):
    return {name: rows(store, stage, name)[0]["v"] for name in objects(store, stage)}


@settings(max_examples=6)
@given(steps=steps)
def test_versions_are_what_was_published(warehouse_engine, steps):
    store = SQLTableStore(warehouse_engine.url)
    config = ConfigContext.of_store(store)
    name = f"s{next(_numbers)}"
    stage = stage_of(name, {"a": 1})
    run_stage(stage, store)
    history = [{"a": 1}]
    with store.held_open():
        for step in steps:
            if isinstance(step, dict):
                stage = stage_of(name, step)
                if run_stage(stage, store).published:
                    history.append(step)
            elif len(kept := stage.versions(config=config)) > 1:
                wanted = kept[1:][min(step, len(kept) - 1) - 1].version
                stage.rollback(wanted, config=config)
                history.append(history[wanted - 1])
            assert shown(store, name) == history[-1]
            found = stage.versions(config=config)
            assert all(one.whole for one in found)
            assert [one.version for one in found] == list(
                range(len(history), max(0, len(history) - KEEP - 1), -1)
            )
            assert [set(one.tables) for one in found] == [
                set(history[one.version - 1]) for one in found
            ]
        oldest = found[-1].version
        if oldest < len(history):
            stage.rollback(oldest, config=config)
            assert shown(store, name) == history[oldest - 1]
    store.dispose()
