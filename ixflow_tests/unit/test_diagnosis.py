"""What a run is found to deviate by, from its numbers alone."""

from __future__ import annotations

import pytest

from ixflow.extraction.controller import Sample
from ixflow.extraction.diagnosis import ADVICE, ANOMALIES, RunFacts, diagnose


def before(*speeds, workers=4, rows=1_000, latency=1.0):
    return [
        Sample(n, workers, speed, rows=rows, latency_ms=latency)
        for n, speed in enumerate(speeds, 1)
    ]


def at(speed, *, workers=4, rows=1_000, **more) -> RunFacts:
    return RunFacts(workers, rows, rows / speed, **more)


STEADY = before(100.0, 101.0, 99.0, 100.0, 100.0)


@pytest.mark.parametrize(
    ("speed", "categories"),
    [(70.0, ("throughput_drop",)), (130.0, ("throughput_rise",)), (95.0, ("stable",))],
)
def test_throughput_is_compared_with_the_runs_before(speed, categories):
    found = diagnose(at(speed), STEADY)
    assert found.categories == categories
    assert found.baseline_mean == pytest.approx(100)
    assert found.baseline_runs == 5


def test_a_noisy_table_has_to_fall_further():
    noisy = before(100.0, 140.0, 60.0, 120.0, 80.0)
    assert diagnose(at(70.0), noisy).categories == ("stable",)
    assert diagnose(at(30.0), noisy).categories == ("throughput_drop",)


def test_without_any_spread_a_fifth_is_the_limit():
    still = before(*[100.0] * 5)
    assert diagnose(at(81.0), still).categories == ("stable",)
    assert diagnose(at(79.0), still).categories == ("throughput_drop",)


def test_four_runs_are_no_baseline_and_only_the_last_twenty_count():
    found = diagnose(at(10.0), before(*[100.0] * 4))
    assert (found.categories, found.baseline_mean, found.baseline_runs) == (("stable",), None, 4)
    assert diagnose(at(10.0), before(*[100.0] * 9, *[10.0] * 20)).categories == ("stable",)


@pytest.mark.parametrize("change", [{"workers": 2}, {"rows": 2_001}])
def test_runs_with_other_workers_or_of_another_size_are_no_baseline(change):
    assert diagnose(at(10.0), before(*[100.0] * 9, **change)).baseline_runs == 0


@pytest.mark.parametrize(
    ("workers", "speed", "category"),
    [
        (5, 120.0, "under_parallel"),
        (5, 80.0, "over_parallel"),
        (3, 120.0, "over_parallel"),
        (3, 80.0, "under_parallel"),
        (5, 102.0, "stable"),
    ],
)
def test_a_change_of_workers_shows_whether_there_were_too_few_or_too_many(workers, speed, category):
    assert diagnose(at(speed, workers=workers), STEADY).categories == (category,)


def test_a_source_that_answers_late_is_named():
    slow = diagnose(at(100.0, latency_ms=9.0), STEADY)
    assert slow.categories == ("source_latency",)
    assert "9 ms, usually 1 ms" in slow.reasons[0]
    assert diagnose(at(100.0, latency_ms=0.9), before(*[100.0] * 5, latency=0.1)).categories == (
        "stable",
    )


def test_uneven_tasks_matter_where_workers_waited():
    uneven = (1.0, 1.0, 1.0, 9.0)
    waited = diagnose(at(100.0, task_seconds=uneven, busy=1.3), [])
    assert (waited.categories, waited.skew) == (("data_skew",), 9.0)
    busy = diagnose(at(100.0, task_seconds=uneven, busy=3.9), [])
    assert (busy.categories, busy.skew) == (("stable",), 9.0)
    alone = diagnose(at(100.0, workers=1, task_seconds=uneven, busy=0.5), [])
    assert alone.categories == ("stable",)


def test_the_estimate_is_compared_with_what_it_took():
    assert diagnose(RunFacts(1, 100, 3.0, predicted_seconds=2.0), []).deviation_ratio == 1.5
    assert diagnose(RunFacts(1, 100, 3.0, predicted_seconds=0.0), []).deviation_ratio is None


def test_an_empty_table_has_nothing_unusual():
    assert diagnose(RunFacts(1, 0, 0.0), before(*[0.0] * 9, rows=0)).categories == ("stable",)


def test_every_category_has_advice():
    assert set(ADVICE) > ANOMALIES
