"""The judgement of a table's last runs."""

from __future__ import annotations

import dataclasses

import pytest

from ixflow.extraction.health import judge
from ixflow.extraction.history import Run
from ixflow.extraction.notes import Learned, Note
from ixflow.extraction.state import now

GOOD = Run(
    run_id="ix-1",
    identity="x",
    object_name="orders",
    source={},
    output_dir="x",
    status="success",
    started_at="x",
    finished_at="x",
    rows=100_000,
    bytes=1,
    seconds=1.0,
    workers=1,
    effective_workers=1.0,
    plan_fingerprint="x",
    plan_version="x",
    runtime_context=None,
    replay_of=None,
    error=None,
)


def run(**changes):
    return dataclasses.replace(GOOD, **changes)


def test_good_runs_and_a_fresh_profile_are_healthy():
    assert judge([GOOD] * 5, now(), stale_hours=24).status == "HEALTHY"


@pytest.mark.parametrize("status", ["failed", "abandoned"])
def test_a_bad_last_run_is_degraded_and_an_earlier_one_needs_attention(status):
    assert judge([run(status=status), GOOD], now(), stale_hours=1).status == "DEGRADED"
    running = run(status="running")
    assert judge([running, run(status=status)], now(), stale_hours=1).status == "DEGRADED"
    assert judge([GOOD, run(status=status)], now(), stale_hours=1).status == "NEEDS ATTENTION"


@pytest.mark.parametrize("planned", [None, "2020-01-01T00:00:00+00:00"])
def test_a_missing_or_old_profile_needs_attention(planned):
    assert judge([GOOD], planned, stale_hours=24).status == "NEEDS ATTENTION"


def test_slower_and_slower_runs_are_degraded():
    slow = [run(seconds=seconds) for seconds in (1.3, 1.1, 1.0)]
    health = judge(slow, now(), stale_hours=24)
    assert health.status == "DEGRADED"
    assert "-23%" in health.reasons[0]
    assert judge(slow[1:], now(), stale_hours=24).status == "HEALTHY"


@pytest.mark.parametrize("change", [{"replay_of": "ix-0"}, {"runtime_context": {}}])
def test_constrained_runs_and_replays_say_nothing_about_speed(change):
    slow = [run(seconds=9.0, **change), GOOD, GOOD, GOOD]
    assert judge(slow, now(), stale_hours=24).status == "HEALTHY"


def test_no_run_needs_attention():
    assert judge([], None, stale_hours=24).status == "NEEDS ATTENTION"


def note(run_id: str, *categories: str) -> Note:
    return Note(
        run_id=run_id,
        shape="x",
        workers=1,
        rows_per_second=1.0,
        predicted_seconds=None,
        deviation_ratio=None,
        baseline_mean=None,
        baseline_sigma=None,
        baseline_runs=0,
        skew=None,
        latency_ms=None,
        categories=categories,
        reasons=tuple(f"because of {category}" for category in categories),
        not_learned=None,
    )


def five(**noted: str):
    runs = [run(run_id=f"r{n}") for n in range(5)]
    return runs, {run_id: note(run_id, category) for run_id, category in noted.items()}


def test_one_slow_run_needs_attention_and_two_of_three_are_degraded():
    runs, notes = five(r4="throughput_drop", r0="stable")
    health = judge(runs, now(), stale_hours=24, notes=notes)
    assert health.status == "NEEDS ATTENTION"
    assert health.reasons == ("run r4: throughput_drop: because of throughput_drop",)
    runs, notes = five(r0="throughput_drop", r2="source_latency")
    health = judge(runs, now(), stale_hours=24, notes=notes)
    assert health.status == "DEGRADED"
    assert health.reasons == ("2 of the last 3 runs were unusually slow",)


def test_uneven_tasks_need_attention_but_degrade_nothing():
    runs, notes = five(r0="data_skew", r1="data_skew", r2="data_skew")
    assert judge(runs, now(), stale_hours=24, notes=notes).status == "NEEDS ATTENTION"


@pytest.mark.parametrize("category", ["stable", "throughput_rise", "under_parallel"])
def test_what_is_no_anomaly_is_healthy(category):
    runs, notes = five(r0=category)
    assert judge(runs, now(), stale_hours=24, notes=notes).status == "HEALTHY"


def test_a_number_of_workers_that_is_still_learned_needs_attention():
    known = Learned("x", 3, 2, converged=False, reason="trying 2", baseline=0.0, updated_at="x")
    health = judge([GOOD], now(), stale_hours=24, learned=known)
    assert health.status == "NEEDS ATTENTION"
    assert "trying 2" in health.reasons[0]
    done = dataclasses.replace(known, converged=True)
    assert judge([GOOD], now(), stale_hours=24, learned=done).status == "HEALTHY"


def test_runs_with_other_workers_are_no_drift():
    slow = [run(seconds=9.0, workers=1), *[run(workers=4)] * 3]
    assert judge(slow, now(), stale_hours=24).status == "HEALTHY"
