"""Estimating throughput, and choosing the workers to begin with."""

from __future__ import annotations

import dataclasses

import pytest

from ixflow.extraction.circumstances import Circumstances
from ixflow.extraction.controller import ControllerState, Sample
from ixflow.extraction.estimator import estimate_throughput
from ixflow.extraction.experience import BenchmarkFacts, Experience, start_workers
from ixflow.extraction.similarity import similarity


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


def test_a_source_that_answers_late_is_estimated_slower_before_any_run():
    def late(latency_ms, workers=1, row_bytes=100):
        wanted = {"rows": 1_000, "workers": workers, "row_bytes": row_bytes}
        return estimate_throughput([], latency_ms=latency_ms, **wanted).value

    assert [late(1.0), late(2.0), late(20.0), late(20.0, workers=4)] == [
        250_000,
        50_000,
        5_000,
        10_000,
    ]
    # Wide rows are slow already: a late answer makes them no faster.
    assert late(2.0, row_bytes=10_000) == 2_500


NOW = Circumstances(time_band=2, row_estimate=1_000)
ELSEWHEN = dataclasses.replace(NOW, time_band=3, concurrent_extractions=2)


def seen(*speeds, at=NOW, first=1, age_days=0.0):
    return [
        Sample(n, 1, speed, rows=1_000, age_days=age_days, circumstances=at)
        for n, speed in enumerate(speeds, first)
    ]


def blend(history, now=NOW):
    return estimate_throughput(history, rows=1_000, workers=1, row_bytes=100, now=now)


def test_runs_in_like_circumstances_are_believed_beside_all_runs():
    made = blend([*seen(200.0, at=ELSEWHEN), *seen(100.0, first=2)])
    # All runs say 170. Of two runs of ten, 0.2 of a belief of 1; ELSEWHEN is 0.79 alike.
    score = similarity(NOW, ELSEWHEN)
    matched = (100 + score * 200) / (1 + score)
    assert score == 0.7902
    assert made.value == round(0.2 * matched + 0.8 * 170, 1)
    assert (made.method, made.runs, made.matched_runs, made.excluded_runs) == ("blended", 2, 2, 0)
    assert (made.similarity, made.blend_weight, made.bounds) == (1.0, 0.2, (75.0, 250.0))


def test_ten_runs_in_the_same_circumstances_are_believed_alone():
    made = blend([*seen(*[100.0] * 9), *seen(200.0, first=10)])
    assert (made.blend_weight, made.value) == (1.0, 110.0)
    assert made.confidence == "medium"
    assert made.factors == ("high_variance",)


def test_newer_matches_count_more_and_very_old_ones_nothing():
    made = blend([*seen(100.0, age_days=100), *seen(200.0, first=2)])
    # All runs say 130, of the matched ones the new one counts for nearly all.
    assert made.factors == ("high_variance", "dominant_match")
    assert made.value == pytest.approx(0.2 * 200 + 0.8 * 130, abs=0.2)
    old = blend(seen(100.0, 200.0, age_days=300))
    assert (old.value, old.method, old.confidence) == (130.0, "history", "low")


def test_runs_of_other_circumstances_and_of_older_states_leave_what_all_runs_say():
    far = Circumstances("critical", 20, 5, "poor", row_estimate=1_000, system_load_per_core=None)
    assert similarity(NOW, far) < 0.2
    for history in (seen(100.0, 200.0, at=far), runs(100.0, 200.0)):
        made = blend(history)
        assert (made.value, made.method, made.confidence) == (130.0, "history", "low")
        assert (made.runs, made.matched_runs, made.excluded_runs) == (2, 0, 2)
        assert made.factors == ("fallback_used",)


@pytest.mark.parametrize(
    ("speeds", "at", "confidence", "factors"),
    [
        ((100.0,), NOW, "low", ("sparse_evidence",)),
        ((100.0, 101.0), NOW, "medium", ()),
        ((100.0, 101.0, 99.0), NOW, "high", ()),
        ((100.0, 200.0, 50.0), NOW, "medium", ("high_variance",)),
        ((100.0, 300.0), NOW, "low", ("high_variance",)),
        ((100.0, 101.0, 99.0), Circumstances("critical", 2, 4), "low", ("weak_match",)),
        ((100.0, 101.0, 99.0), Circumstances("high", 2, 4), "medium", ("weak_match",)),
    ],
)
def test_more_more_similar_and_steadier_runs_give_more_confidence(speeds, at, confidence, factors):
    made = blend(seen(*speeds, at=dataclasses.replace(at, row_estimate=1_000)))
    assert (made.confidence, made.factors) == (confidence, factors)


def test_a_filter_is_learned_as_the_share_of_rows_it_leaves():
    part = [Sample(n, 1, 50.0, rows=10, circumstances=NOW) for n in range(1, 4)]
    made = blend(part)
    assert (made.runs, made.value, made.rows_share) == (3, 50.0, 0.01)
    assert blend([]).rows_share == 1.0


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
