"""What happened, as dataclasses; logs, progress and metrics are listeners.

A listener is any callable that takes an event. It is heard within a ``with listen(...)`` block,
also from threads that were started with a copy of the context. A listener that raises is logged
and otherwise ignored: telling about a load must never fail it.
"""

from __future__ import annotations

import contextlib
import contextvars
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass

__all__ = [
    "BackedOff",
    "BatchIngested",
    "ChunkExtracted",
    "Event",
    "Listener",
    "StagePublished",
    "TablePublished",
    "TaskFinished",
    "emit",
    "listen",
]

_log = logging.getLogger("ixflow")


@dataclass(frozen=True, slots=True)
class Event:
    """The base of everything that can be told."""


@dataclass(frozen=True, slots=True)
class ChunkExtracted(Event):
    """One task of an extraction has written its file: rows, bytes and seconds."""

    run_id: str
    chunk_id: str
    rows: int
    bytes_written: int
    seconds: float


@dataclass(frozen=True, slots=True)
class BackedOff(Event):
    """The source answered slowly (``latency_ms``), so that a run rests for some seconds."""

    run_id: str
    chunk_id: str
    latency_ms: float
    threshold_ms: float
    seconds: float


@dataclass(frozen=True, slots=True)
class TablePublished(Event):
    """An extraction's files have appeared at their published place."""

    run_id: str
    table: str
    rows: int
    files: int


@dataclass(frozen=True, slots=True)
class BatchIngested(Event):
    """A batch, with its watermark, was committed to the tables of one ingest."""

    tables: tuple[str, ...]
    rows: int
    high_watermark: object


@dataclass(frozen=True, slots=True)
class TaskFinished(Event):
    """A task of a flow has ended: state is ``completed``, ``cache valid`` or ``failed``.

    ``reason`` says why it ran, if it did.
    """

    stage: str
    task: str
    state: str
    seconds: float
    rows: int | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class StagePublished(Event):
    """The tables of a stage have appeared together as a new version."""

    stage: str
    version: int
    tables: tuple[str, ...]


Listener = Callable[[Event], None]

_listeners: contextvars.ContextVar[tuple[Listener, ...]] = contextvars.ContextVar(
    "ixflow_listeners", default=()
)


@contextlib.contextmanager
def listen(*listeners: Listener) -> Iterator[None]:
    """Let the listeners hear every event that is told inside the block.

    >>> heard = []
    >>> with listen(heard.append):
    ...     emit(StagePublished("staging", 1, ("orders",)))
    >>> heard[0].stage
    'staging'
    """
    token = _listeners.set((*_listeners.get(), *listeners))
    try:
        yield
    finally:
        _listeners.reset(token)


def emit(event: Event) -> None:
    """Tell the event to the log (level INFO) and to every listener of this context."""
    _log.info("%s", event)
    for listener in _listeners.get():
        try:
            listener(event)
        except Exception:  # noqa: BLE001 - whatever a listener raises, the load goes on
            _log.exception("a listener failed on %s", type(event).__name__)
