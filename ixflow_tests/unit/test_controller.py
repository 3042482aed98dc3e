"""The controller's decisions, one at a time."""

from __future__ import annotations

import pytest

from ixflow.extraction.controller import ControllerState, Sample, evaluate, first_state


def samples(*pairs, first=1):
    return [Sample(n, workers, speed) for n, (workers, speed) in enumerate(pairs, first)]


def settled(workers=4, *, cap=8, baseline=100.0, at=10) -> ControllerState:
    return ControllerState(
        workers, workers, converged=True, converged_at=at, cap=cap, baseline=baseline
    )


def runs_since(*speeds, workers=4, first=11):
    return [Sample(n, workers, speed) for n, speed in enumerate(speeds, first)]


def test_the_start_is_measured_three_times_before_anything_else_is_tried():
    state = first_state(2)
    for count in (1, 2):
        state = evaluate(samples(*[(2, 100.0)] * count), state, cap=8).state
        assert (state.workers, state.converged) == (2, False)
    decision = evaluate(samples(*[(2, 100.0)] * 3), state, cap=8)
    assert decision.state.workers == 3
    assert "trying 3" in decision.reason


def test_growth_goes_on_and_the_first_loss_ends_it():
    runs = [(2, 100.0)] * 3 + [(3, 130.0)] * 2 + [(4, 120.0)] * 2
    assert evaluate(samples(*runs[:5]), first_state(2), cap=8).state.workers == 4
    ended = evaluate(samples(*runs), first_state(2), cap=8)
    assert (ended.state.workers, ended.state.converged) == (3, True)
    assert ended.state.baseline == pytest.approx(130)
    assert ended.reason == "converged at 3 of up to 8"


def test_one_flat_step_may_be_followed_by_a_gain():
    runs = [(2, 100.0)] * 3 + [(3, 100.5)] * 2 + [(4, 150.0)] * 2 + [(5, 100.0)] * 2
    assert evaluate(samples(*runs), first_state(2), cap=8).state.workers == 4


def test_without_a_gain_upwards_fewer_are_tried():
    runs = [(4, 100.0)] * 3 + [(5, 90.0)] * 2
    assert evaluate(samples(*runs), first_state(4), cap=8).state.workers == 3
    runs += [(3, 100.0)] * 2 + [(2, 70.0)] * 2
    ended = evaluate(samples(*runs), first_state(4), cap=8).state
    assert (ended.workers, ended.converged) == (3, True)


def test_connections_that_gain_nothing_are_given_back():
    flat = [(workers, 100.0) for workers in (4, 4, 4, 5, 5, 6, 6, 3, 3, 2, 2, 1, 1)]
    ended = evaluate(samples(*flat), first_state(4), cap=8).state
    assert (ended.workers, ended.converged) == (1, True)


def test_noise_asks_for_more_runs_and_never_for_more_than_four():
    noisy = [(2, 100.0), (2, 80.0), (2, 120.0), (3, 90.0), (3, 130.0)]
    for extra in ((), ((3, 100.0),)):
        again = evaluate(samples(*noisy, *extra), first_state(2), cap=8)
        assert (again.state.workers, again.state.converged) == (3, False)
    done = evaluate(samples(*noisy, (3, 100.0), (3, 110.0)), first_state(2), cap=8)
    assert done.state.workers != 3


def test_nothing_above_the_cap_is_tried():
    runs = [(2, 100.0)] * 3 + [(1, 50.0)] * 2
    ended = evaluate(samples(*runs), first_state(2), cap=2).state
    assert (ended.workers, ended.converged, ended.cap) == (2, True, 2)


def test_a_single_worker_leaves_nothing_to_learn():
    assert evaluate(samples((1, 0.0)), first_state(1), cap=1).state.converged


def test_a_cap_that_falls_below_the_start_moves_the_search():
    assert evaluate(samples((6, 100.0), (3, 90.0)), first_state(6), cap=3).state.workers == 3


def test_a_cap_that_grows_lets_a_stopped_search_go_on():
    runs = samples(*[(2, 100.0)] * 3, (1, 50.0), (1, 50.0))
    ended = evaluate(runs, first_state(2), cap=2).state
    assert evaluate(runs, ended, cap=2).state.converged
    more = evaluate(runs, ended, cap=4)
    assert (more.state.workers, more.state.converged) == (3, False)
    assert "can be had now" in more.reason


def test_a_search_that_ended_below_its_cap_stays():
    assert evaluate(runs_since(100.0), settled(4, cap=8), cap=16).state == settled(4, cap=8)


def test_a_third_less_over_five_runs_starts_a_new_search():
    assert evaluate(runs_since(60.0, 60.0, 60.0, 60.0), settled(), cap=8).state.converged
    again = evaluate(runs_since(*[60.0] * 5), settled(), cap=8)
    assert (again.state.workers, again.state.converged, again.state.since) == (5, False, 11)
    assert "-40%" in again.reason


def test_a_fall_of_a_quarter_is_borne():
    assert evaluate(runs_since(*[75.0] * 9), settled(), cap=8).state == settled()


def test_a_fall_run_by_run_jumps_two_workers_up_but_not_above_the_cap():
    falling = runs_since(100.0, 82.0, 65.0)
    escaped = evaluate(falling, settled(), cap=8).state
    assert (escaped.workers, escaped.start, escaped.since) == (6, 6, 14)
    assert evaluate(falling, settled(cap=5), cap=5).state.workers == 5
    assert evaluate(falling, settled(cap=4), cap=4).state == settled(cap=4)


def sized(*pairs, workers=4):
    return [Sample(n, workers, 100.0, rows=rows) for n, rows in pairs]


def test_a_table_that_has_doubled_since_is_searched_again():
    grown = evaluate(sized((10, 1_000), (11, 1_500), (12, 2_001)), settled(), cap=8)
    assert (grown.state.converged, grown.state.workers, grown.state.since) == (False, 4, 12)
    assert "another size" in grown.reason
    same = evaluate(sized((10, 1_000), (11, 1_500), (12, 2_000)), settled(), cap=8)
    assert same.state == settled()
    # The run that ended the search is long ago.
    late = evaluate(sized((211, 1_000), (212, 9_000)), settled(), cap=8)
    assert late.state == settled()


def test_runs_of_another_size_are_no_samples_of_a_search():
    runs = sized((1, 10), (2, 10), (3, 1_000), workers=2)
    again = evaluate(runs, first_state(2), cap=8)
    assert again.reason == "run 2 of 3 with 2"


def test_runs_with_other_workers_do_not_speak_for_these():
    assert evaluate(runs_since(*[10.0] * 9, workers=2), settled(), cap=8).state == settled()
