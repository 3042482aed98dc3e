"""`BaseLockManager`: named locks with one holder at a time, and noticing that one was lost."""

from __future__ import annotations

import contextlib
import datetime as dt
import enum
import logging
import math
import os
import socket
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator
from typing import Any, Self

from ixflow.errors import LockError, LockNotAvailable, ValidationError

__all__ = ["BaseLockManager", "Listener", "LockState", "holder_name"]

_log = logging.getLogger("ixflow.pipeline")
_DAY = 86400.0
_TELL_SECONDS = 60
_POLL_SECONDS = 0.1
_PAUSE_SECONDS = 0.05


class LockState(enum.Enum):
    """What is known of a lock."""

    #: Nobody here holds it.
    UNLOCKED = 0
    #: It is held here.
    LOCKED = 1
    #: It was held here; whether it still is cannot be asked at the moment.
    UNCERTAIN = 2
    #: It was held here and is lost; another process may hold it.
    INVALID = 3


Listener = Callable[[str, LockState, LockState], None]


def holder_name() -> str:
    """Name this process for those who wait for its locks."""
    return f"pid {os.getpid()} on {socket.gethostname()}"


class BaseLockManager(ABC):
    """Locks with names, each held by one process at a time, and within it by one run.

    Subclasses say how to take, drop and look after a lock; they are used from several threads. A
    class of your own takes ``args`` of the section ``lock_manager``, or has a class method
    ``_init_conf_(args)``, where ``ConfigContext.get().instance_id`` is known. ``lock_timeout`` is
    how many seconds `acquire` waits.

    >>> from ixflow import NoLockManager
    >>> locks = NoLockManager()
    >>> with locks("staging"):
    ...     locks.get_lock_state("staging").name
    'LOCKED'
    """

    #: The longest wait of one `_take`, in seconds; after it others of this process get their turn.
    slice_seconds = 0.5

    def __init__(self, instance_id: str = "", *, lock_timeout: float | dt.timedelta = _DAY) -> None:
        if isinstance(lock_timeout, dt.timedelta):
            lock_timeout = lock_timeout.total_seconds()
        if not lock_timeout >= 0:
            msg = f"lock_timeout is a number of seconds, not {lock_timeout!r}"
            raise ValidationError(msg, lock_timeout=lock_timeout)
        self.instance_id = instance_id
        self.lock_timeout = lock_timeout
        self._pid = os.getpid()
        self._states: dict[str, LockState] = {}
        self._claimed: set[str] = set()
        self._changed = threading.Condition()
        self._listeners: list[Listener] = []

    @classmethod
    def _init_conf_(cls, args: dict[str, Any]) -> Self:
        return cls(**args)

    @property
    def scope(self) -> Hashable:
        """What is equal for managers whose locks exclude each other; default: no other one's do."""
        return id(self)

    # -- how a lock is taken ----------------------------------------------------------------------

    @abstractmethod
    def _take(self, name: str, seconds: float) -> bool:
        """Take a lock, waiting at most this long; say whether it is held now."""

    @abstractmethod
    def _drop(self, name: str) -> None:
        """Let a lock go; one that is lost may be another's by now and is left alone."""

    def _look(self, name: str, known: LockState) -> LockState:
        """Find out whether a lock is still held; ``known`` is LOCKED or UNCERTAIN."""
        del name
        return known

    def _holder(self, name: str) -> str | None:
        """Say who holds a lock, for a person; None where that is not known."""
        del name
        return None

    def _close(self) -> None:  # noqa: B027 - a manager need not hold anything
        """Let go of what the locks hang on; taking one opens it again."""

    # -- taking and letting go --------------------------------------------------------------------

    def acquire(self, name: str) -> None:
        """Take a lock, after whoever holds it; what this manager holds it waits for, too.

        Raises:
            LockNotAvailable: it was held for longer than ``lock_timeout``; the holder is named. Or
                the holder waits for a lock of ours, where that can be seen (PostgreSQL).
            SourceUnavailable: the server that keeps the locks cannot be reached.

        """
        deadline = time.monotonic() + self.lock_timeout
        self._claim(name, deadline)
        try:
            self._wait(name, deadline)
        except BaseException:
            self._unclaim(name)
            raise
        self._set_state(name, LockState.LOCKED)

    def _claim(self, name: str, deadline: float) -> None:
        with self._changed:
            if name in self._claimed:
                _log.warning("waiting for the lock of stage %s, held by this process", name)
            left = min(deadline - time.monotonic(), threading.TIMEOUT_MAX)
            if not self._changed.wait_for(lambda: name not in self._claimed, left):
                raise self._not_available(name, "another run of this process")
            self._claimed.add(name)

    def _unclaim(self, name: str) -> None:
        with self._changed:
            self._claimed.discard(name)
            self._changed.notify_all()

    def _wait(self, name: str, deadline: float) -> None:
        seconds, told = 0.0, -math.inf
        while not self._take(name, seconds):
            now = time.monotonic()
            if now >= deadline:
                raise self._not_available(name, self._holder(name))
            if now - told >= _TELL_SECONDS:
                holder = self._holder(name) or "another process"
                # It may take hours, and is not the run's own doing.
                _log.warning("waiting for the lock of stage %s, held by %s", name, holder)
                told = now
            # Others of this process may need what `_take` holds meanwhile.
            time.sleep(_PAUSE_SECONDS if seconds else 0)
            left = min(deadline - time.monotonic(), threading.TIMEOUT_MAX)
            seconds = max(min(self.slice_seconds, left), 0.0)

    def _not_available(self, name: str, holder: str | None) -> LockNotAvailable:
        msg = (
            f"the lock of stage {name} (instance {self.instance_id!r}) was not to be had within "
            f"{self.lock_timeout:g} s; held by {holder or 'another process'}; try again when that "
            f"has ended, or raise lock_timeout"
        )
        return LockNotAvailable(msg, stage=name, holder=holder)

    def release(self, name: str) -> None:
        """Let a lock go, also one that was lost.

        Raises:
            LockError: it is not held here.

        """
        with self._changed:
            state = self._states.pop(name, None)
        if state is None or self._is_inherited():
            msg = f"the lock of stage {name} is not held here, so it cannot be released"
            raise LockError(msg, stage=name)
        try:
            self._drop(name)
        except Exception:  # noqa: BLE001 - `_drop` may be anybody's
            # The work that it protected is done, and it ends with this process.
            _log.exception("the lock of stage %s could not be let go", name)
        finally:
            self._tell(name, state, LockState.UNLOCKED)
            self._unclaim(name)

    def release_all(self) -> None:
        """Let all locks go."""
        for name in [] if self._is_inherited() else self._held():
            # Another thread may have been faster.
            with contextlib.suppress(LockError):
                self.release(name)

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Hold a lock in the block."""
        self.acquire(name)
        try:
            yield
        finally:
            self.release(name)

    def dispose(self) -> None:
        """Let all locks go, and the connection they hang on."""
        if not self._is_inherited():
            self.release_all()
            self._close()

    def _is_inherited(self) -> bool:
        """Say whether we are the copy in a forked process, whose locks are the parent's."""
        return os.getpid() != self._pid

    # -- what is known of a lock ------------------------------------------------------------------

    def get_lock_state(self, name: str) -> LockState:
        """Find out the state of a lock, by asking whoever keeps it."""
        if self._is_inherited():
            return LockState.UNLOCKED
        known = self._states.get(name, LockState.UNLOCKED)
        if known in (LockState.LOCKED, LockState.UNCERTAIN):
            self._change_state(name, self._look(name, known))
        return self._states.get(name, LockState.UNLOCKED)

    def ensure(self, name: str) -> None:
        """Return if a lock is held; wait while that is uncertain.

        Raises:
            LockError: it is not, or was lost.

        """
        deadline = time.monotonic() + self.lock_timeout
        while (state := self.get_lock_state(name)) is not LockState.LOCKED:
            if state is not LockState.UNCERTAIN or time.monotonic() >= deadline:
                msg = (
                    f"the lock of stage {name} (instance {self.instance_id!r}) is {state.name}, "
                    f"so another run may be at the stage; nothing of it was published, run it again"
                )
                raise LockError(msg, stage=name, state=state.name)
            time.sleep(_POLL_SECONDS)

    def add_lock_state_listener(self, listener: Listener) -> None:
        """Call ``listener(name, old, new)`` whenever the state of a lock changes, in any thread."""
        self._listeners.append(listener)

    def _set_state(self, name: str, state: LockState) -> None:
        with self._changed:
            old = self._states.get(name, LockState.UNLOCKED)
            self._states[name] = state
        self._tell(name, old, state)

    def _change_state(self, name: str, state: LockState) -> None:
        """Note what became of a lock that is held; one that is lost stays lost."""
        with self._changed:
            old = self._states.get(name, LockState.UNLOCKED)
            if old in (LockState.UNLOCKED, LockState.INVALID, state):
                return
            self._states[name] = state
        self._tell(name, old, state)

    def _change_all(self, state: LockState) -> None:
        for name in self._held():
            self._change_state(name, state)

    def _held(self) -> list[str]:
        with self._changed:
            return sorted(self._states)

    def _tell(self, name: str, old: LockState, new: LockState) -> None:
        if new in (LockState.UNCERTAIN, LockState.INVALID):
            _log.warning("the lock of stage %s is %s", name, new.name)
        for listener in list(self._listeners):
            try:
                listener(name, old, new)
            except Exception:  # noqa: BLE001 - a listener changes nothing
                _log.exception("a listener to the lock of stage %s failed", name)
