"""Events reach the listeners of their context, and no listener can fail a load."""

from __future__ import annotations

import contextvars
import dataclasses
import logging
import threading

import pytest

from ixflow import events
from ixflow.events import BatchIngested, Event, StagePublished, emit, listen

EVENT = BatchIngested(("shop.orders",), 3, "2026-01-01")


def test_listeners_hear_what_happens_inside_their_block_only():
    heard: list[Event] = []
    with listen(heard.append):
        emit(EVENT)
    emit(EVENT)
    assert heard == [EVENT]


def test_nested_blocks_add_listeners():
    outer: list[Event] = []
    inner: list[Event] = []
    with listen(outer.append):
        with listen(inner.append):
            emit(EVENT)
        emit(StagePublished("staging", 1, ()))
    assert (len(outer), len(inner)) == (2, 1)


def test_a_listener_that_raises_is_logged_and_the_next_one_still_hears(caplog):
    def broken(event: Event) -> None:
        raise RuntimeError("boom")

    heard: list[Event] = []
    with listen(broken, heard.append):
        emit(EVENT)
    assert heard == [EVENT]
    assert "a listener failed on BatchIngested" in caplog.text


def test_threads_with_a_copy_of_the_context_are_heard_and_others_are_not():
    heard: list[Event] = []
    with listen(heard.append):
        context = contextvars.copy_context()
        inside = threading.Thread(target=lambda: context.run(emit, EVENT))
        outside = threading.Thread(target=contextvars.Context().run, args=(emit, EVENT))
        for thread in (inside, outside):
            thread.start()
            thread.join()
    assert heard == [EVENT]


def test_every_event_is_logged(caplog):
    with caplog.at_level(logging.INFO, "ixflow"):
        emit(EVENT)
    assert "BatchIngested(tables=('shop.orders',), rows=3" in caplog.text


KINDS = [k for k in vars(events).values() if isinstance(k, type) and issubclass(k, Event)]


@pytest.mark.parametrize("kind", KINDS)
def test_events_are_frozen_values(kind):
    assert kind.__name__ in events.__all__
    assert dataclasses.is_dataclass(kind)
    assert kind.__hash__ is not None
