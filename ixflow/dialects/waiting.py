"""How long a statement that needs a lock waits for other sessions, and when it ends them."""

from __future__ import annotations

import contextlib
import contextvars
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field

__all__ = ["LockPatience", "lock_patience", "patience_for_locks"]


@dataclass(frozen=True, slots=True)
class LockPatience:
    """Seconds to wait for a lock in all, and after how many of them its holders are terminated.

    ``terminate_after`` None: they never are. ``log`` hears what is done to others meanwhile.
    """

    seconds: float = 60
    terminate_after: float | None = None
    log: logging.Logger = field(default=logging.getLogger("ixflow"), compare=False)


_current: contextvars.ContextVar[LockPatience | None] = contextvars.ContextVar(
    "ixflow_lock_patience", default=None
)


@contextlib.contextmanager
def lock_patience(patience: LockPatience) -> Iterator[None]:
    """Let every replacement of a table in the block wait like this.

    >>> with lock_patience(LockPatience(5)):
    ...     patience_for_locks(60).seconds
    5
    """
    token = _current.set(patience)
    try:
        yield
    finally:
        _current.reset(token)


def patience_for_locks(otherwise: float) -> LockPatience:
    """Give the patience of the block around us, or one of so many seconds."""
    return _current.get() or LockPatience(otherwise)
