"""Rules of a run that say which stored results count: cache functions, versions, force."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
import sqlalchemy as sa

from ixflow.events import Event, TaskFinished
from ixflow.pipeline import Flow, Stage, Table, TaskState, create_basic_pipedag_config, materialize
from ixflow_tests.stages import execute, rows


@pytest.fixture
def config(warehouse_engine):
    url = warehouse_engine.url.render_as_string(hide_password=False)
    with create_basic_pipedag_config(url) as made:
        yield made


class Source:
    """A flow whose first task reads what is outside, which its cache function looks at."""

    def __init__(self, lazy=False):
        self.outside = 1
        self.calls: list[str] = []

        @materialize(version="1", cache=lambda: self.outside, lazy=lazy)
        def reading():
            self.calls.append("reading")
            return Table(pl.DataFrame({"x": [self.outside]}), "reading")

        @materialize(version="1", input_type=pl.DataFrame)
        def after(reading):
            self.calls.append("after")
            return Table(reading, "after")

        with Flow("f") as self.flow, Stage("s"):
            after(reading())

    def run(self, config, **options):
        self.calls.clear()
        result = self.flow.run(config=config, **options)
        return result, list(self.calls)

    def value(self, config):
        return rows(config.table_store, "s", "after")[0]["x"]


def test_what_a_cache_function_says_decides_unless_it_is_ignored(config):
    source = Source()
    assert source.run(config)[1] == ["reading", "after"]
    assert source.run(config)[1] == []
    source.outside = 2
    result, calls = source.run(config, ignore_cache_function=True)
    assert (calls, source.value(config)) == ([], 1)
    assert set(result.task_states.values()) == {TaskState.CACHE_VALID}
    assert source.run(config)[1] == ["reading", "after"]
    assert source.value(config) == 2


def test_of_a_lazy_task_whose_cache_function_is_ignored_the_content_decides(config):
    source = Source(lazy=True)
    source.run(config)
    source.outside = 2
    assert source.run(config, ignore_cache_function=True)[1] == ["reading", "after"]
    assert source.value(config) == 2


def test_a_cache_function_is_called_where_nothing_is_stored(config):
    source = Source()
    source.run(config, ignore_cache_function=True)
    assert source.run(config)[1] == []


def test_forced_tasks_run_though_they_are_valid_and_what_they_make_is_published(config):
    source = Source()
    source.run(config)
    forced = config.evolve(force_task_execution=True)
    source.outside = 1
    before = config.table_store.published("s").version
    _, calls = source.run(forced)
    assert calls == ["reading", "after"]
    assert config.table_store.published("s").version == before + 1
    assert source.run(config)[1] == []


def test_with_versions_ignored_eager_tasks_run_every_time(config):
    source = Source()
    ignoring = config.evolve(ignore_task_version=True)
    source.run(ignoring)
    assert source.run(ignoring)[1] == ["reading", "after"]


def test_a_run_says_why_each_task_ran(config):
    said: dict[str, Any] = {"version": "1", "cache": 1, "limit": 2}

    def run(**changes):
        said.update(changes)

        @materialize(version=said["version"], cache=lambda: said["cache"])
        def base():
            return Table(pl.DataFrame({"x": [1, 2, 3]}), "base")

        @materialize(lazy=True, input_type=sa.Table)
        def small(base):
            return Table(sa.select(base).where(base.c.x < said["limit"]), "small")

        with Flow("f") as flow, Stage("s"):
            tasks = base(), small(base())
        heard: list[Event] = []
        result = flow.run(config=config, on_event=heard.append)
        reasons = tuple(result.task_reasons[task] for task in tasks)
        told = {e.task: e.reason for e in heard if isinstance(e, TaskFinished)}
        assert (told["base"], told["small"]) == reasons
        assert result.stages["s"]["small"].reason == reasons[1]
        return reasons

    new, inputs = "nothing of this call was published", "its version or inputs changed"
    assert run() == (new, new)
    assert run() == ("", "")
    assert run(version="2") == (inputs, inputs)
    assert run(cache=2) == ("its cache function gave another value", inputs)
    assert run(limit=3) == ("", "its queries or rows, or how they are stored, changed")
    kind = "VIEW" if config.table_store.dialect.name == "duckdb" else "TABLE"
    for table in ("base", "small"):
        execute(config.table_store.engine, f"DROP {kind} s.{table}")
    assert run() == ("a table or blob of it is gone", "a table or blob of it is gone")
    assert run(version=None)[0] == "it has no version"
