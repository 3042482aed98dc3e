"""What is hashed, how values pass between tasks, and what a commit decides."""

from __future__ import annotations

import datetime as dt
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ixflow.errors import FlowError
from ixflow.pipeline.cache import digest, task_key
from ixflow.pipeline.encoding import MARKER, decoded, encoded, leaves, mapped
from ixflow.pipeline.schedule import run_graph
from ixflow.store.commit import plan_commit
from ixflow.store.metadata import StageState, StoredResult, StoredTable

_scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | st.dates()
    | st.datetimes(timezones=st.none() | st.just(dt.UTC)).map(lambda t: t.replace(fold=0))
    | st.times().map(lambda t: t.replace(fold=0))
    | st.timedeltas()
    | st.just(Path("a/b"))
)
_keys = st.text() | st.just(MARKER)
_values = st.recursive(
    _scalars,
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(_keys, inner),
    max_leaves=12,
)


def _no(_):
    return None


@given(_values)
def test_every_allowed_value_comes_back_equal_and_of_its_type(value):
    back = decoded(encoded(value, _no, where="x"), _no)
    assert back == value
    assert _sorted(back) == _sorted(value)


@given(_values, _values)
def test_values_have_equal_json_exactly_if_they_look_equal(one, two):
    same = encoded(one, _no, where="x") == encoded(two, _no, where="x")
    assert same == (_sorted(one) == _sorted(two))


def _sorted(value):
    if isinstance(value, dict):
        return repr(sorted((key, _sorted(item)) for key, item in value.items()))
    if isinstance(value, (list, tuple)):
        return type(value).__name__ + repr([_sorted(item) for item in value])
    return repr(value)


def test_keys_that_are_not_text_are_refused():
    with pytest.raises(FlowError, match="keys must be text"):
        encoded({1: 2}, _no, where="x")


def test_leaves_and_mapped_walk_only_plain_containers():
    class Own(dict[str, int]):
        pass

    own = Own(a=1)
    assert leaves([own, {"b": (1,)}]) == [own, 1]
    assert mapped([1, own], lambda leaf: leaf if leaf is own else 2) == [2, own]


@given(st.lists(st.text(max_size=3), max_size=4), st.lists(st.text(max_size=3), max_size=4))
def test_a_digest_tells_lists_of_texts_apart(one, two):
    assert (digest(*one) == digest(*two)) == (one == two)


def test_every_part_of_a_task_key_counts():
    keys = {
        task_key("t", "1", "{}", None),
        task_key("u", "1", "{}", None),
        task_key("t", "2", "{}", None),
        task_key("t", "1", "[]", None),
        task_key("t", "1", "{}", "null"),
    }
    assert len(keys) == 5


def _table(name, key):
    return StoredTable(name, "task", key, key, 0, (), "tx", "")


def _result(position, key, *names):
    return StoredResult(position, "task", key, "{}", names)


def _state(*results):
    tables = {n: _table(n, r.task_key) for r in results for n in r.tables}
    return StageState(1, tables, results)


def test_a_commit_publishes_what_is_new_and_keeps_what_is_valid():
    old, new = _result("p", "k1", "a"), _result("q", "k2", "b")
    plan = plan_commit(_state(old), _state(new), [old, new], full=True)
    assert (plan.publish, plan.drop, plan.changed) == (("b",), (), True)
    assert set(plan.tables) == {"a", "b"}


def test_a_commit_without_news_changes_nothing():
    old = _result("p", "k1", "a")
    assert not plan_commit(_state(old), StageState(), [old], full=True).changed
    assert not plan_commit(_state(old), StageState(), [], full=False).changed


def test_a_full_commit_drops_what_no_task_makes_any_more():
    old, gone = _result("p", "k1", "a"), _result("q", "k2", "b")
    plan = plan_commit(_state(old, gone), StageState(), [old], full=True)
    assert (plan.publish, plan.drop) == ((), ("b",))
    assert plan.results == (old,)


def test_a_partial_commit_leaves_the_rest_and_replaces_its_own_old_names():
    rest, old = _result("p", "k1", "a"), _result("q", "k2", "b_k2")
    new = _result("q", "k3", "b_k3")
    plan = plan_commit(_state(rest, old), _state(new), [new], full=False)
    assert (plan.publish, plan.drop) == (("b_k3",), ("b_k2",))
    assert set(plan.results) == {rest, new}


def test_a_result_whose_table_was_taken_over_is_forgotten():
    old, new = _result("p", "k1", "a"), _result("q", "k2", "a")
    plan = plan_commit(_state(old), _state(new), [new], full=False)
    assert plan.publish == ("a",)
    assert plan.results == (new,)
    after = StageState(2, plan.tables, (old, new))
    assert after.whole("k1") is None
    assert after.at("q") == new


def test_nothing_starts_after_a_failure_and_what_runs_is_let_finish():
    done, gate = [], threading.Event()

    def work(node):
        if node == "bad":
            gate.wait(5)
            raise ZeroDivisionError
        gate.set()
        done.append(node)

    graph = {"bad": set(), "side": set(), "after": {"bad"}, "later": {"side", "bad"}}
    with pytest.raises(ZeroDivisionError):
        run_graph(graph, work, 2)
    assert done == ["side"]


def test_independent_nodes_run_at_the_same_time():
    barrier = threading.Barrier(3, timeout=5)

    def work(node):
        barrier.wait()

    run_graph({n: set() for n in "abc"}, work, 3)
