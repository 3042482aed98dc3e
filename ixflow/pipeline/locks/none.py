"""`NoLockManager`: locks that nobody waits for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable

from ixflow.errors import LockError
from ixflow.pipeline.locks.base import BaseLockManager, LockState

__all__ = ["NoLockManager"]


class NoLockManager(BaseLockManager):
    """Only keeps books: every run has every lock at once.

    Runs are still right, as without any lock manager, but they do not queue, and what
    `Result.get` gives may be replaced while it is used.

    >>> locks = NoLockManager()
    >>> locks.acquire("staging")
    >>> locks.acquire("staging")
    """

    def __init__(self, instance_id: str = "") -> None:
        super().__init__(instance_id)
        self._holders: Counter[str] = Counter()

    @property
    def scope(self) -> Hashable:
        """All of them are alike."""
        return "none"

    def acquire(self, name: str) -> None:
        """Note one more holder."""
        with self._changed:
            self._holders[name] += 1
        self._set_state(name, LockState.LOCKED)

    def release(self, name: str) -> None:
        """Note one holder less.

        Raises:
            LockError: there is none.

        """
        with self._changed:
            if not self._holders[name]:
                msg = f"the lock of stage {name} is not held here, so it cannot be released"
                raise LockError(msg, stage=name)
            self._holders[name] -= 1
            if self._holders[name]:
                return
            del self._states[name]
        self._tell(name, LockState.LOCKED, LockState.UNLOCKED)

    def release_all(self) -> None:
        """Forget all holders."""
        with self._changed:
            self._holders.clear()
            self._states.clear()

    def _take(self, name: str, seconds: float) -> bool:
        del name, seconds
        return True

    def _drop(self, name: str) -> None:
        del name
