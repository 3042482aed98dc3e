"""The threads of a run: each with a session of its own at the source, watched from outside.

A worker may be stuck where no signal reaches it: in a driver that waits for a network which says
nothing. It is asked to stop first; one that does not stop is left behind as a daemon, so that the
run ends with an error instead of never.
"""

from __future__ import annotations

import contextlib
import contextvars
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Generic, TypeVar

from ixflow.dialects import Cancellable, Reader
from ixflow.dialects.facts import Traceable
from ixflow.extraction.backoff import Backoff
from ixflow.extraction.limits import RunLimits
from ixflow.extraction.silence import Silence

__all__ = ["Crew", "Session", "Stopped"]

_log = logging.getLogger("ixflow")

_LOOK_SECONDS = 0.1
_SERVER_FIRST_SECONDS = 5.0
"""The server's own limit is given time to say what happened."""
_GRACE_SECONDS = 30.0

T = TypeVar("T")


class Stopped(Exception):
    """This worker was told to stop."""


class Session:
    """The reader of one worker: opened when needed, replaced when broken."""

    def __init__(
        self,
        open_reader: Callable[[], AbstractContextManager[Reader]],
        silence_seconds: float | None = None,
    ) -> None:
        """Take the way to a reader; nothing is opened yet."""
        self._open = open_reader
        self._lock = threading.Lock()
        self._stack = contextlib.ExitStack()
        self._reader: Reader | None = None
        self._asked: float | None = None
        self.reading = ""
        """What the session reads now, for an error about it."""
        self.overdue = False
        """The query that runs took longer than it may, and was cancelled for that."""
        self.late_since = 0.0
        self.lost = ""
        """Why nothing will come any more of the query that runs."""
        self._waiting_since: float | None = None
        self._silence = Silence(silence_seconds, self._give_up)

    def reader(self) -> Reader:
        """Give the open reader, or open one."""
        if self._reader is None:
            reader = self._stack.enter_context(self._open())
            with self._lock:
                self._reader = reader
        return self._reader

    @contextlib.contextmanager
    def query(self, what: str) -> Iterator[Reader]:
        """Give the reader for one query, whose time counts; waiting for a reader does not."""
        self.reading, self.overdue, self.lost = what, False, ""
        reader = self.reader()
        self._asked = time.monotonic()
        try:
            yield reader
        finally:
            self._asked = None

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Wait for the source in the block, where it may be silent."""
        self._waiting_since = time.monotonic()
        try:
            yield
        finally:
            self._waiting_since = None

    def each(self, batches: Iterable[T]) -> Iterator[T]:
        """Give what the source sends, piece by piece."""
        left = iter(batches)
        while True:
            with self.waiting():
                found = next(left, None)
            if found is None:
                return
            yield found

    def listen(self) -> None:
        """See whether the source is silent for too long."""
        self._silence.look(self._reader, self._waiting_since)

    def _give_up(self, why: str) -> None:
        reader: object = self._reader
        if not isinstance(reader, Traceable) or self.lost:
            return
        _log.warning("the connection that read task %s is lost: %s", self.reading, why)
        self.lost, self.late_since = why, time.monotonic()
        if not reader.cut():
            self.cancel()

    def seconds(self) -> float:
        """Say for how long the query that runs has been running."""
        asked = self._asked
        return 0.0 if asked is None else time.monotonic() - asked

    def cancel(self) -> None:
        """Stop a query that runs in another thread; never waits, as the network may be gone."""
        threading.Thread(target=self._cancel, daemon=True, name="ixflow-cancel").start()

    def _cancel(self) -> None:
        with self._lock, contextlib.suppress(Exception):
            reader: object = self._reader
            if isinstance(reader, Cancellable):
                reader.cancel()

    def close(self) -> None:
        """Close the reader; what a broken connection says about it is of no interest."""
        with self._lock:
            self._reader = None
        with contextlib.suppress(Exception):
            self._stack.close()


class Crew(Generic[T]):
    """The workers of one run, or of several runs beside each other, and what they share."""

    def __init__(self, limits: RunLimits) -> None:
        """Take the limits that the watch looks after."""
        self.queue: deque[T] = deque()
        self.stop = threading.Event()
        self.backoff = Backoff(limits.latency_ms)
        self._limits = limits
        self._lock = threading.Lock()
        self._sessions: set[Session] = set()
        self._failures: list[BaseException] = []
        self._stopped_at: float | None = None

    def run(
        self,
        workers: int,
        open_reader: Callable[[], AbstractContextManager[Reader]],
        work: Callable[[T, Session], None],
        too_old: Callable[[], None],
    ) -> list[Session]:
        """Do all work; give the sessions of the workers that had to be left behind.

        ``too_old`` is called once when the run is older than a snapshot may be.
        """

        def body() -> None:
            self._body(Session(open_reader, self._limits.silence_seconds), work)

        # Listeners of events are heard from the workers too.
        threads = [
            threading.Thread(
                target=contextvars.copy_context().run,
                args=(body,),
                name=f"ixflow-extract_{number}",
                daemon=True,
            )
            for number in range(workers)
        ]
        started = time.monotonic()
        for thread in threads:
            thread.start()
        try:
            self._watch(threads, started, too_old)
        finally:
            self.end()
            self._wait(threads)
        for failure in self._failures:
            raise failure
        with self._lock:
            return list(self._sessions)

    def end(self) -> None:
        """Let every worker stop, also one that waits for the server."""
        self.stop.set()
        with self._lock:
            sessions = list(self._sessions)
        for session in sessions:
            session.cancel()

    def rest(self) -> None:
        """Wait until the source has had its rest."""
        if seconds := self.backoff.seconds_left():
            self.stop.wait(seconds)

    def _body(self, session: Session, work: Callable[[T, Session], None]) -> None:
        with self._lock:
            self._sessions.add(session)
        try:
            while not self.stop.is_set():
                try:
                    item = self.queue.popleft()
                except IndexError:
                    return
                self.rest()
                work(item, session)
        except Stopped:
            return
        except BaseException as failure:  # noqa: BLE001 - raised again by whoever asked for the run
            self._failures.append(failure)
            self.end()
        finally:
            session.close()
            with self._lock:
                self._sessions.discard(session)

    def _watch(
        self, threads: list[threading.Thread], started: float, too_old: Callable[[], None]
    ) -> None:
        """Wait for the workers; cancel what takes too long."""
        most_age = self._limits.snapshot_seconds
        for thread in threads:
            while thread.is_alive() and not self.stop.is_set():
                thread.join(_LOOK_SECONDS)
                if most_age is not None and time.monotonic() - started > most_age:
                    too_old()
                    self.end()
                self._cancel_what_is_late()

    def _cancel_what_is_late(self) -> None:
        most = self._limits.statement_seconds
        with self._lock:
            sessions = list(self._sessions)
        for session in sessions:
            session.listen()
            late = most is not None and session.seconds() > most + _SERVER_FIRST_SECONDS
            if late and not session.overdue:
                session.overdue, session.late_since = True, time.monotonic()
                session.cancel()
            stuck = session.overdue or session.lost
            if stuck and time.monotonic() - session.late_since > _GRACE_SECONDS:
                self.end()

    def _wait(self, threads: list[threading.Thread]) -> None:
        deadline = time.monotonic() + _GRACE_SECONDS
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        left = [thread.name for thread in threads if thread.is_alive()]
        if left:
            _log.error("workers that do not stop are left behind: %s", ", ".join(left))
