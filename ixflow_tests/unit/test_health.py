"""The judgement of a table's last runs."""

from __future__ import annotations

import dataclasses

import pytest

from ixflow.extraction.health import judge
from ixflow.extraction.history import Run
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
