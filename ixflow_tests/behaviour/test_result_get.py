"""`Result.get`: what the run has made, also when other runs publish meanwhile."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import polars as pl
import pytest

from ixflow import (
    Flow,
    PipedagConfig,
    SQLTableStore,
    Stage,
    StageLockContext,
    Table,
    materialize,
)
from ixflow.errors import CacheError
from ixflow_tests.behaviour.locking import configured, flow_of, section_of, store_of


@pytest.fixture
def free_config(warehouse_engine) -> PipedagConfig:
    """Give each warehouse without a lock manager."""
    return configured(warehouse_engine.url, None)


@pytest.mark.parametrize("context", [contextlib.nullcontext, StageLockContext])
def test_a_result_is_never_that_of_another_run(free_config, context: Callable[[], Any]):
    flow = flow_of()
    task = flow["staging"]["numbers"]
    with context():
        result = flow.run(config=free_config)
        assert result.get(task, as_type=pl.DataFrame).rows() == [(0,)]
        flow.run(config=free_config)
        with pytest.raises(CacheError, match=r"staging\.numbers.*version 2") as raised:
            result.get(task, as_type=pl.DataFrame)
        assert raised.value.table == "numbers"


def test_a_table_that_another_run_has_carried_over_is_still_ones_own(free_config):
    made = [0]

    @materialize(version="1")
    def kept() -> Table[Any]:
        return Table(pl.DataFrame({"n": [1]}), "kept")

    @materialize
    def counted() -> Table[Any]:
        made[0] += 1
        return Table(pl.DataFrame({"n": made}), "counted")

    with Flow("f") as flow, Stage("staging"):
        one, two = kept(), counted()
    first, second = (flow.run(config=free_config) for _ in range(2))
    assert first.get(one, as_type=pl.DataFrame).rows() == [(1,)]
    assert second.get(two, as_type=pl.DataFrame).rows() == [(2,)]
    with pytest.raises(CacheError):
        first.get(two)


def test_a_result_that_is_replaced_while_it_is_read_is_refused(free_config, monkeypatch):
    flow = flow_of()
    task = flow["staging"]["numbers"]
    result = flow.run(config=free_config)
    plain = SQLTableStore.read
    others = iter([lambda: flow.run(config=free_config)])

    def read(*args: Any) -> Any:
        next(others, lambda: None)()
        return plain(*args)

    monkeypatch.setattr(SQLTableStore, "read", read)
    with pytest.raises(CacheError, match="version 2"):
        result.get(task, as_type=pl.DataFrame)


@pytest.mark.parametrize("locks", [False, True])
def test_runs_beside_each_other_get_their_own_results(warehouse_engine, tmp_path, locks: bool):
    section = section_of("file", tmp_path, "") if locks else None
    config = configured(warehouse_engine.url, section)

    def run_and_read(number: int) -> bool:
        @materialize
        def both() -> tuple[Table[Any], Table[Any]]:
            frame = pl.DataFrame({"n": [number] * 1000})
            return Table(frame, "one"), Table(frame, "two")

        with Flow("beside") as flow, Stage("staging"):
            made = both()
        with StageLockContext() if locks else contextlib.nullcontext():
            # Without locks a run may have to give up, since others publish again and again.
            result = flow.run(config=config, fail_fast=locks)
            if not result.successful:
                return False
            try:
                frames = result.get(made, as_type=pl.DataFrame)
            except CacheError:
                return False
        assert [frame["n"].unique().to_list() for frame in frames] == [[number], [number]]
        return True

    with ThreadPoolExecutor(3) as pool:
        done = list(pool.map(run_and_read, range(9)))
    assert all(done) if locks else any(done)


def test_a_table_that_somebody_dropped_is_missed(free_config):
    flow = flow_of()
    task = flow["staging"]["numbers"]
    result = flow.run(config=free_config)
    with store_of(free_config) as store, store.begin() as conn:
        kind = "VIEW" if store.dialect.name == "duckdb" else "TABLE"
        conn.exec_driver_sql(f"DROP {kind} staging.numbers")
    with pytest.raises(CacheError, match="numbers"):
        result.get(task, as_type=pl.DataFrame)


def test_results_that_are_not_published_can_be_read(free_config):
    flow = flow_of()
    task = flow["staging"]["numbers"]
    result = flow.run(task, config=free_config)
    flow.run(config=free_config)
    assert result.get(task, as_type=pl.DataFrame).rows() == [(0,)]


def test_constants_and_nothing_can_be_read(free_config):
    @materialize(version="1")
    def constant() -> list[int | None]:
        return [1, None]

    with Flow("f") as flow, Stage("staging"):
        made = constant()
    result = flow.run(config=free_config)
    assert result.get(made) == [1, None]
    assert result.get(made[1]) is None
