"""What engines stand on: the order of steps, what may start, equal calls, and messages."""

from __future__ import annotations

import pickle
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ixflow.errors import DuplicateNameError, FlowError, TableNotFound, ValidationError
from ixflow.pipeline import Flow, Stage, TaskState, materialize
from ixflow.pipeline.engine import ThreadedEngine
from ixflow.pipeline.memo import Memo
from ixflow.pipeline.progress import Progress
from ixflow.pipeline.schedule import dependencies, ordered
from ixflow.pipeline.workers.channel import Channel, Closed, Unreadable
from ixflow.pipeline.workers.messages import Failure


@materialize(version="1")
def takes(*inputs):
    return len(inputs)


# -- order ---------------------------------------------------------------------------------------

#: A stage holds tasks (a number: how far back is what they take) and stages.
contents = st.recursive(
    st.integers(0, 6), lambda inner: st.lists(inner, max_size=4), max_leaves=12
).filter(lambda drawn: isinstance(drawn, list))


def declare(drawn: list[Any], flow: Flow) -> None:
    with Stage(f"stage {len(flow.stages)}"):
        for item in drawn:
            if isinstance(item, list):
                declare(item, flow)
            else:
                takes(*flow.tasks[-item:][:2] if item else ())


@given(st.lists(contents, min_size=1, max_size=4))
def test_steps_come_after_what_they_wait_for_and_none_is_left_out(drawn):
    with Flow("any") as flow:
        for stage in drawn:
            declare(stage, flow)
    graph = dependencies(flow.tasks, list(flow.stages.values()))
    found = ordered(graph)
    assert set(found) == set(graph)
    assert len(found) == len(graph)
    place = {node: number for number, node in enumerate(found)}
    assert all(place[other] < place[node] for node, waits in graph.items() for other in waits)
    tasks = [node for node in found if not isinstance(node, Stage)]
    assert tasks == flow.tasks


def two_steps() -> tuple[Progress, Any, Any]:
    with Flow("two") as flow, Stage("s"):
        first = takes()
        second = takes(first)
    return Progress(dependencies(flow.tasks, []), fail_fast=False), first, second


def test_a_node_begins_once_and_not_before_what_it_waits_for():
    progress, first, second = two_steps()
    with pytest.raises(FlowError, match=r"ran task s.takes before task s.takes had ended"):
        progress.begin(second)
    assert progress.begin(first) is None
    assert progress.running_now() == [first]
    done = progress.succeed(first, TaskState.COMPLETED)
    assert progress.begin(first) == done
    assert progress.begin(second) is None
    assert progress.left() == [second]


def test_what_waits_for_a_failure_never_starts():
    progress, first, second = two_steps()
    progress.begin(first)
    progress.fail(first, ValueError("no"))
    ended = progress.begin(second)
    assert ended is not None
    assert ended.state is TaskState.UNKNOWN
    assert "task s.takes did not succeed" in ended.message
    assert progress.left() == []


@pytest.mark.parametrize("wrong", [0, -1, True, "2", 1.5])
def test_a_number_of_workers_is_a_whole_number(wrong):
    with pytest.raises(ValidationError, match="max_workers"):
        ThreadedEngine(max_workers=wrong)


# -- equal calls ---------------------------------------------------------------------------------


def test_a_call_whose_process_is_gone_is_taken_on_by_its_twin():
    memo: Memo[int] = Memo("s")
    assert memo.claim("key") is None
    with ThreadPoolExecutor(1) as pool:
        twin = pool.submit(memo.claim, "key")
        memo.abandon("key")
        assert twin.result(10) is None
    memo.settle("key", 3)
    memo.abandon("key")
    assert memo.claim("key") == 3


def test_a_twin_fails_with_the_call_that_failed():
    memo: Memo[int] = Memo("s")
    memo.claim("key")
    memo.fail("key", TableNotFound("gone"))
    with pytest.raises(TableNotFound):
        memo.claim("key")


def test_a_name_belongs_to_one_call():
    memo: Memo[int] = Memo("s")
    memo.register("a", "key", ["x", "y"])
    memo.register("a", "key", ["y"])
    with pytest.raises(DuplicateNameError, match=r"two tasks of stage s make a table 'y'.* b;"):
        memo.register("b", "another", ["z", "y"])


# -- messages ------------------------------------------------------------------------------------


def connected(caller: bytes, called: bytes) -> tuple[Channel, Channel]:
    """Give two ends with these keys; each greets the other."""
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:
        first = pool.submit(Channel.to, server.getsockname(), caller)
        second = Channel(server.accept()[0], called, called=True)
        return first.result(), second


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    with (ends := connected(b"k" * 32, b"k" * 32))[0], ends[1]:
        yield ends


def test_messages_of_any_size_arrive_in_order(ends):
    caller, called = ends
    sent = [("begin", (1,)), "x" * 3_000_000, None]
    thread = threading.Thread(target=lambda: [caller.send(message) for message in sent])
    thread.start()
    got = [called.receive() for _ in sent]
    thread.join()
    assert got == sent
    called.send(7)
    assert caller.receive() == 7


def test_another_key_gets_nothing():
    caller, called = connected(b"a" * 32, b"b" * 32)
    with caller, called:
        caller.send("flow")
        with pytest.raises(Closed, match="does not know the key"):
            called.receive()


def test_a_message_that_is_sent_again_is_refused(ends, monkeypatch):
    caller, called = ends
    seen: list[Any] = []
    send = caller._guarded

    def kept(work: Any) -> Any:
        seen.append(work)
        return send(work)

    monkeypatch.setattr(caller, "_guarded", kept)
    caller.send("pay")
    assert called.receive() == "pay"
    seen[0]()
    with pytest.raises(Closed, match="does not know the key"):
        called.receive()


def test_a_first_message_is_short(ends):
    caller, called = ends
    caller.send("x" * 100_000)
    with pytest.raises(Closed, match="too long"):
        called.receive()


class Unloadable:
    """Cannot be made by whoever receives it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (int, ("no number",))


def test_a_message_that_cannot_be_made_says_so(ends):
    caller, called = ends
    caller.send(Unloadable())
    with pytest.raises(Unreadable, match=r"ValueError.*are the packages .* the same"):
        called.receive()


def test_an_error_travels_with_its_notes_and_its_cause_if_that_can():
    for cause, arrives in ((KeyError("k"), True), (ValueError(threading.Lock()), False)):
        error = TableNotFound("gone", table="a.b")
        error.__cause__ = cause
        error.add_note("in task s.t")
        failure = pickle.loads(pickle.dumps(Failure.in_worker(error)))  # noqa: S301 - our own
        found = failure.arrived()
        assert isinstance(found, TableNotFound)
        assert found.table == "a.b"
        assert (found.__cause__ is not None) == arrives
        assert found.__notes__[0] == "in task s.t"
        assert "in a worker process" in found.__notes__[1]


def test_a_password_does_not_travel_in_an_error():
    error = RuntimeError("no route with s3cret")
    failure = Failure.in_worker(error, "s3cret")
    assert "s3cret" not in str(failure)
    assert "s3cret" not in "".join(failure.notes)
