"""How our sessions behave at a source: their name, how long they may wait, how much they hold.

An extraction sets it once for all its threads (`visiting`); each dialect says it to its server in
the server's own words. Outside of an extraction nothing is limited.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["BATCH_BYTES", "CONNECT_SECONDS", "KEEPALIVE", "Guest", "guest", "visiting"]

BATCH_BYTES = 8 << 20
"""Bytes of a batch of rows, where nobody says less."""

CONNECT_SECONDS = 15
"""How long to wait for a host that does not answer, unless the URL says connect_timeout."""

KEEPALIVE = {"idle": 30, "interval": 10, "count": 3}
"""Seconds of silence, seconds between two questions, and how many of them may stay unanswered."""


@dataclass(frozen=True, slots=True)
class Guest:
    """The rules of one visit.

    ``name`` is what the server's administrator sees. ``statement_seconds`` bounds a query with
    the taking of its rows, ``lock_seconds`` the wait for a lock (None: no bound of ours).
    ``memory_bytes`` is what a database that runs in our process may share with us.
    """

    name: str = "ixflow"
    batch_bytes: int = BATCH_BYTES
    statement_seconds: float | None = None
    lock_seconds: float = 60.0
    memory_bytes: int | None = None


_NOBODY = Guest()
_guest: contextvars.ContextVar[Guest] = contextvars.ContextVar("ixflow_guest", default=_NOBODY)


def guest() -> Guest:
    """Give the rules of the visit around us."""
    return _guest.get()


@contextlib.contextmanager
def visiting(rules: Guest) -> Iterator[None]:
    """Let the rules hold in the block, also for threads started with a copy of its context.

    >>> with visiting(Guest(name="ixflow ix-1")):
    ...     guest().name
    'ixflow ix-1'
    """
    token = _guest.set(rules)
    try:
        yield
    finally:
        _guest.reset(token)
