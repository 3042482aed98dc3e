"""What the tasks of one stage share within a run: equal calls, and the names they have taken."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future
from threading import Lock
from typing import Generic, Protocol, TypeVar

from ixflow.errors import DuplicateNameError

__all__ = ["Memo", "SharedMemo"]

O = TypeVar("O")  # noqa: E741 - an outcome


class SharedMemo(Protocol[O]):
    """What `StageExecution` asks, be the memo in this process or in the leader's."""

    def claim(self, key: str) -> O | None:
        """Take on a call: None, then `settle` or `fail` it; or what its twin came to."""
        ...

    def settle(self, key: str, outcome: O) -> None:
        """Say what a claimed call came to."""
        ...

    def fail(self, key: str, error: BaseException) -> None:
        """Say that a claimed call failed."""
        ...

    def register(self, task: str, key: str, names: Iterable[str]) -> None:
        """Take names of tables and blobs for a call."""
        ...


class Memo(Generic[O]):
    """The memo of one stage, safe for threads.

    >>> memo: Memo[int] = Memo("staging")
    >>> memo.claim("key") is None
    True
    >>> memo.settle("key", 42)
    >>> memo.claim("key")
    42
    """

    def __init__(self, stage: str) -> None:
        self._stage = stage
        self._lock = Lock()
        self._calls: dict[str, Future[O | None]] = {}
        self._names: dict[str, str] = {}

    def claim(self, key: str) -> O | None:
        """Take on the call of this key, or wait for what an equal call comes to.

        Raises the error of the equal call.
        """
        while True:
            with self._lock:
                call = self._calls.get(key)
                if call is None:
                    self._calls[key] = Future()
                    return None
            found = call.result()
            if found is not None:
                return found

    def settle(self, key: str, outcome: O) -> None:
        """Give the outcome to those that wait for it."""
        self._calls[key].set_result(outcome)

    def fail(self, key: str, error: BaseException) -> None:
        """Let those that wait fail with the same error."""
        self._calls[key].set_exception(error)

    def abandon(self, key: str) -> None:
        """Let another take on a call whose process is gone."""
        with self._lock:
            call = self._calls.get(key)
            if call is None or call.done():
                return
            del self._calls[key]
        call.set_result(None)

    def register(self, task: str, key: str, names: Iterable[str]) -> None:
        """Take names for the call of this key.

        Raises:
            DuplicateNameError: another call of the stage has one of them.

        """
        with self._lock:
            for name in names:
                if self._names.setdefault(name, key) != key:
                    msg = (
                        f"two tasks of stage {self._stage} make a table {name!r}, one of them "
                        f"is {task}; give one another name, or end the name with %%"
                    )
                    raise DuplicateNameError(msg, stage=self._stage, name=name)
