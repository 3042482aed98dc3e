"""Benchmarking a real table, and planning with what was found."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import sqlalchemy as sa

from ixflow.errors import StateUnavailable, ValidationError
from ixflow.extraction.api import execute, plan, published
from ixflow.extraction.backoff import Backoff
from ixflow.extraction.benchmark import benchmark
from ixflow.extraction.migrations import benchmarks
from ixflow.extraction.notes import learned
from ixflow.extraction.state import StatePlace
from ixflow_tests.sources import intent_for, make


@pytest.fixture(autouse=True)
def no_rest(monkeypatch):
    """Let no run rest, however busy the machine of the tests is: such a run teaches nothing."""
    monkeypatch.setattr(Backoff, "saw", lambda *_: None)


@pytest.fixture
def orders(fresh_postgres, tmp_path, monkeypatch):
    """Give an intent for a table of 15 MB, on a machine of four processors."""
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    make(
        fresh_postgres,
        "CREATE TABLE orders AS SELECT i AS id, repeat('x', 100) AS note "
        "FROM generate_series(1, 100000) AS i",
    )
    with fresh_postgres.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
        conn.exec_driver_sql("VACUUM ANALYZE orders")
    return intent_for(fresh_postgres, "orders", tmp_path / "out")


def rewrite(intent, **values) -> None:
    with StatePlace.of(intent.output_dir).open() as state, state.writing() as conn:
        conn.execute(sa.update(benchmarks).values(**values))


def test_a_benchmark_is_kept_and_chooses_the_workers(orders):
    made = benchmark(orders, force=True)
    assert made.skipped is None
    assert sorted(made.throughput) == [1, 2, 4]
    assert all(len(speeds) == 3 and min(speeds) > 0 for speeds in made.throughput.values())
    assert made.probe_rows == 50_000
    assert published(orders) is None
    rewrite(orders, optimal_workers=3, confidence=0.9, signal_strength=0.8)
    result = plan(orders)
    assert result.worker_source == "benchmarked"
    assert ("benchmarked", 3) in result.worker_resolution.steps


def test_a_run_of_a_benchmark_counts_but_moves_no_search(orders):
    benchmark(orders, force=True)
    rewrite(orders, optimal_workers=1, confidence=0.9, signal_strength=0.8)
    for _ in range(3):
        execute(plan(orders))
    (known,) = learned(orders.identity(), StatePlace.of(orders.output_dir))
    assert (known.runs, known.workers, known.converged) == (3, 1, False)
    assert plan(orders).throughput_method == "blended"
    rewrite(orders, benchmarked_at="2020-01-01T00:00:00+00:00")
    assert plan(orders).worker_source == "controller exploring"


@pytest.mark.parametrize(
    "values",
    [
        {"benchmarked_at": "2020-01-01T00:00:00+00:00"},
        {"row_estimate": 50_000},
        {"confidence": 0.4},
    ],
)
def test_a_benchmark_that_is_old_or_doubtful_is_not_used(orders, values):
    benchmark(orders, force=True)
    rewrite(orders, **{"confidence": 0.9, **values})
    assert plan(orders).worker_source == "profiler recommended"


def test_a_second_benchmark_replaces_the_first(orders):
    for _ in range(2):
        benchmark(orders, force=True, grid=(1, 2))
    with StatePlace.of(orders.output_dir).open() as state, state.reading() as conn:
        assert conn.execute(sa.select(sa.func.count()).select_from(benchmarks)).scalar_one() == 1


def test_nothing_is_measured_where_there_is_nothing_to_compare(orders, monkeypatch):
    small = benchmark(orders)
    assert "a benchmark pays from 12 s on" in str(small.skipped)
    held = benchmark(dataclasses.replace(orders, max_workers=1), force=True)
    assert "nothing to compare" in str(held.skipped)
    assert not Path(orders.output_dir).exists()
    with pytest.raises(ValidationError, match="from 1"):
        benchmark(orders, grid=())


def test_a_table_that_is_not_split_is_not_measured(fresh_sqlite, tmp_path):
    make(fresh_sqlite, "CREATE TABLE t (a integer)", "INSERT INTO t VALUES (1)")
    assert benchmark(intent_for(fresh_sqlite, "t", tmp_path), force=True).skipped is not None


def test_a_state_that_cannot_be_used_is_said(orders):
    with pytest.raises(StateUnavailable):
        benchmark(orders, force=True, grid=(1, 2), state_url="sqlite:////no/such/place/s.db")
