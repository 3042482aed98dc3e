"""Circumstances, their likeness, and the estimates that lean on it: what holds for all of them."""

from __future__ import annotations

import dataclasses
import math
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ixflow.extraction.circumstances import LOADS, NETWORKS, Circumstances
from ixflow.extraction.controller import Sample
from ixflow.extraction.estimator import FACTORS, estimate_throughput
from ixflow.extraction.similarity import matches, similarity, weights

quick = settings(max_examples=60, deadline=None)

circumstances = st.builds(
    Circumstances,
    source_load=st.sampled_from(LOADS),
    concurrent_extractions=st.integers(0, 20),
    time_band=st.integers(0, 5),
    network_quality=st.sampled_from(NETWORKS),
    row_estimate=st.integers(-1, 10**12),
    system_load_per_core=st.none() | st.floats(0, 2),
)
of_this_table = circumstances.map(lambda seen: dataclasses.replace(seen, row_estimate=1_000))
samples = st.builds(
    Sample,
    number=st.integers(1, 500),
    workers=st.integers(1, 16),
    throughput=st.floats(0, 1e6),
    rows=st.integers(0, 2_000),
    age_days=st.floats(0, 1_000),
    circumstances=of_this_table | st.none(),
)
histories = st.lists(samples, max_size=12)


@pytest.mark.parametrize("known", [True, False])
def test_what_the_circumstances_count_for_adds_up_to_one(known):
    counts = weights(system_load=known)
    assert math.fsum(counts.values()) == pytest.approx(1, abs=1e-9)
    assert all(0 < count < 1 for count in counts.values())
    assert ("system_load" in counts) is known


@quick
@given(circumstances, circumstances)
def test_likeness_is_from_nought_to_one_and_the_same_from_both_sides(one, other):
    assert 0 <= similarity(one, other) <= 1
    assert similarity(one, other) == similarity(other, one)
    assert similarity(one, one) == 1


@quick
@given(circumstances, circumstances, st.data())
def test_who_comes_nearer_in_one_of_them_is_never_less_alike(one, other, data):
    name = data.draw(st.sampled_from(["source_load", "network_quality", "concurrent", "load"]))
    if name in ("source_load", "network_quality"):
        scale = LOADS if name == "source_load" else NETWORKS
        place, goal = scale.index(getattr(other, name)), scale.index(getattr(one, name))
        nearer = dataclasses.replace(
            other, **{name: scale[place + (goal > place) - (goal < place)]}
        )
    elif name == "concurrent":
        goal, place = one.concurrent_extractions, other.concurrent_extractions
        nearer = dataclasses.replace(other, concurrent_extractions=(goal + place) // 2)
        assume(abs(nearer.concurrent_extractions - goal) <= abs(place - goal))
    else:
        assume(None not in (one.system_load_per_core, other.system_load_per_core))
        middle = ((one.system_load_per_core or 0) + (other.system_load_per_core or 0)) / 2
        nearer = dataclasses.replace(other, system_load_per_core=middle)
    assert similarity(one, nearer) >= similarity(one, other)


@quick
@given(circumstances, st.integers(0, 5))
def test_the_bands_of_a_day_go_around(seen, band):
    there = dataclasses.replace(seen, time_band=(band + 1) % 6)
    back = dataclasses.replace(seen, time_band=(band - 1) % 6)
    now = dataclasses.replace(seen, time_band=band)
    assert similarity(now, there) == similarity(now, back) < 1


@quick
@given(circumstances)
def test_circumstances_are_read_as_they_were_written(seen):
    assert Circumstances.from_json(seen.to_json()) == seen
    assert len(seen.to_json()) <= 500  # as the state has room for


@quick
@given(st.none() | st.text() | st.sampled_from(["{}", '{"version": 1, "time_band": "x"}', "[1]"]))
def test_what_are_no_circumstances_is_read_as_none_or_as_the_usual(text):
    assert Circumstances.from_json(text) is None


@given(st.datetimes(), st.integers(-14, 14))
def test_the_time_of_day_is_that_of_utc(moment, hours):
    assume(datetime(2, 1, 1) < moment < datetime(9998, 1, 1))  # noqa: DTZ001 - as drawn
    at = moment.replace(tzinfo=UTC).astimezone(timezone(timedelta(hours=hours)))
    seen = Circumstances().at_start(concurrent=0, at=at, load=None)
    assert seen.time_band == moment.hour // 4


@quick
@given(histories, circumstances)
def test_matches_are_alike_enough_and_in_order(history, now):
    found = matches(history, now)
    assert [match.score for match in found] == sorted((m.score for m in found), reverse=True)
    assert all(match.score >= 0.2 and match.sample.circumstances for match in found)
    assert not matches(history, None)


@quick
@given(histories, of_this_table, st.integers(1, 16))
def test_an_estimate_lies_between_the_runs_it_rests_on(history, now, workers):
    made = estimate_throughput(history, rows=1_000, workers=workers, row_bytes=100, now=now)
    assert set(made.factors) <= set(FACTORS)
    assert made.matched_runs <= made.runs
    assert made.matched_runs + made.excluded_runs == len(history)
    assert 0 <= made.blend_weight <= 1
    if made.runs:
        assert made.bounds is not None
        low, high = made.bounds
        assert low / 0.75 - 1 <= made.value <= high / 1.25 + 1
    else:
        nothing = estimate_throughput([], rows=1_000, workers=workers, row_bytes=100, now=now)
        assert (made.value, made.method) == (nothing.value, "cold start")


@quick
@given(st.lists(samples, min_size=3, max_size=12), of_this_table)
def test_a_blend_lies_between_what_all_runs_and_what_the_matched_runs_say(history, now):
    usual, made = (
        estimate_throughput(history, rows=1_000, workers=2, row_bytes=100, now=at)
        for at in (None, now)
    )
    assume(made.method == "blended")
    speeds = [
        match.sample.throughput * math.sqrt(2 / match.sample.workers)
        for match in matches([s for s in history if s.throughput > 0], now)
    ]
    assert min(*speeds, usual.value) - 0.1 <= made.value <= max(*speeds, usual.value) + 0.1


@quick
@given(st.floats(0, 500), st.floats(0, 500), st.integers(0, 10**6), st.integers(1, 64))
def test_before_any_run_a_later_answer_never_gives_a_higher_estimate(one, other, width, workers):
    early, late = sorted((one, other))

    def by_rule(latency):
        return estimate_throughput(
            [], rows=1, workers=workers, row_bytes=width, latency_ms=latency
        ).value

    assert by_rule(late) <= by_rule(early) <= 500_000
