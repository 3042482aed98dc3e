"""Estimating throughput, and choosing the workers to begin with."""

from __future__ import annotations

import pytest

from ixflow.extraction.controller import ControllerState, Sample
from ixflow.extraction.estimator import estimate_throughput
from ixflow.extraction.experience import BenchmarkFacts, Experience, start_workers


def runs(*speeds, workers=1, rows=1_000):
    return [Sample(n, workers, speed, rows=rows) for n, speed in enumerate(speeds, 1)]


def estimate(history, *, rows=1_000, workers=1):
    return estimate_throughput(history, rows=rows, workers=workers, row_bytes=100)


def test_before_any_run_it_goes_by_rule():
    assert estimate([]).value == 250_000
    assert estimate([], workers=4).value == 500_000
    assert estimate([], workers=16).value == 500_000
    assert estimate_throughput([], rows=1, workers=1, row_bytes=0).value == 10_000
    assert (estimate([]).method, estimate([]).confidence) == ("cold start", "low")


def test_the_newest_run_counts_three_tenths():
    assert estimate(runs(100.0, 200.0)).value == 130
    assert estimate(runs(100.0, 200.0)).method == "history"


def test_other_workers_are_scaled_and_other_sizes_left_out():
    assert estimate(runs(100.0), workers=4).value == 200
    assert estimate(runs(100.0, rows=2_001)).method == "cold start"
    assert estimate(runs(100.0, rows=9), rows=-1).value == 100


@pytest.mark.parametrize(
    ("speeds", "confidence"),
    [
        ((100.0,), "low"),
        ((100.0, 101.0), "medium"),
        ((100.0, 101.0, 99.0), "high"),
        ((100.0, 200.0, 50.0), "medium"),
        ((100.0, 300.0), "low"),
    ],
)
def test_more_and_steadier_runs_give_more_confidence(speeds, confidence):
    assert estimate(runs(*speeds)).confidence == confidence


CONTROLLER = ControllerState(3, 2, converged=True, cap=8)


def benchmark(**change) -> BenchmarkFacts:
    facts = {"optimal_workers": 4, "confidence": 0.9, "signal_strength": 0.6, "row_estimate": 1_000}
    return BenchmarkFacts(**{**facts, **change})


@pytest.mark.parametrize(
    ("found", "chosen"),
    [
        (benchmark(), (4, "benchmarked")),
        (benchmark(signal_strength=0.3), (2, "benchmarked (conservative)")),
        (benchmark(optimal_workers=1, signal_strength=0.15), (1, "benchmarked (conservative)")),
        (benchmark(confidence=0.49), (3, "controller converged")),
        (benchmark(age_days=7.1), (3, "controller converged")),
        (benchmark(row_estimate=1_300), (3, "controller converged")),
        (None, (3, "controller converged")),
    ],
)
def test_a_fresh_benchmark_goes_before_the_controller(found, chosen):
    assert start_workers(2, Experience((), CONTROLLER, found), rows=1_000) == chosen


def test_the_controller_goes_before_the_profile():
    exploring = Experience((), ControllerState(3, 2, cap=8))
    assert start_workers(2, exploring, rows=1) == (3, "controller exploring")


def test_a_search_that_had_nothing_to_try_does_not_bind_a_table_that_has_grown():
    alone = Experience((), ControllerState(1, 1, converged=True, cap=1))
    assert start_workers(1, alone, rows=1) == (1, "controller converged")
    assert start_workers(8, alone, rows=1) == (8, "profiler recommended")
