"""How our sessions behave at a source: their name, how long they may wait, how much they hold.

An extraction sets it once for all its threads (`visiting`); each dialect says it to its server in
the server's own words. Outside of an extraction nothing is limited.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator
from dataclasses import dataclass

from ixflow.errors import SourceLimitReached

__all__ = [
    "BATCH_BYTES",
    "CONNECT_SECONDS",
    "SILENCE_SECONDS",
    "Guest",
    "Keepalive",
    "guest",
    "keepalive",
    "refuse_long_row",
    "visiting",
]

BATCH_BYTES = 8 << 20
"""Bytes of a batch of rows, where nobody says less."""

CONNECT_SECONDS = 15
"""How long to wait for a host that does not answer, unless the URL says connect_timeout."""

SILENCE_SECONDS = 60.0
"""How long a network may be silent, where nobody says otherwise."""

_QUESTIONS = 3


@dataclass(frozen=True, slots=True)
class Keepalive:
    """When the machine asks a silent peer whether it lives, in seconds, and how often in vain.

    A peer that has not answered, or has not acknowledged what was sent, for ``total`` is dead.
    """

    idle: int
    interval: int
    count: int = _QUESTIONS

    @property
    def total(self) -> int:
        """Give the seconds until a connection is given up."""
        return self.idle + self.count * self.interval


@dataclass(frozen=True, slots=True)
class Guest:
    """The rules of one visit.

    ``name`` is what the server's administrator sees. ``statement_seconds`` bounds a query with
    the taking of its rows, ``lock_seconds`` the wait for a lock (None: no bound of ours).
    After ``silence_seconds`` in which nothing comes, the network is asked whether it is there.
    ``memory_bytes`` is what a database that runs in our process may share with us; a row may have
    ``row_bytes``, since it is in ``row_copies`` places on its way.
    """

    name: str = "ixflow"
    batch_bytes: int = BATCH_BYTES
    statement_seconds: float | None = None
    lock_seconds: float = 60.0
    silence_seconds: float | None = SILENCE_SECONDS
    memory_bytes: int | None = None
    row_bytes: int | None = None
    row_copies: int = 6


_NOBODY = Guest()
_guest: contextvars.ContextVar[Guest] = contextvars.ContextVar("ixflow_guest", default=_NOBODY)


def guest() -> Guest:
    """Give the rules of the visit around us."""
    return _guest.get()


def keepalive() -> Keepalive:
    """Say how the machine finds out that the peer of a connection is gone.

    >>> keepalive()
    Keepalive(idle=30, interval=10, count=3)
    """
    seconds = guest().silence_seconds or SILENCE_SECONDS
    return Keepalive(max(1, int(seconds / 2)), max(1, int(seconds / 2 / _QUESTIONS)))


def refuse_long_row(size: int) -> None:
    """See that a row of so many bytes may be taken into memory.

    Raises:
        SourceLimitReached: it may not; the message names the budget that has room for it.

    """
    rules = guest()
    if rules.row_bytes is None or rules.memory_bytes is None or size <= rules.row_bytes:
        return
    budget = rules.memory_bytes + rules.row_copies * (size - rules.row_bytes)
    msg = (
        f"a row of {size >> 20} MB needs a memory_budget of {(budget >> 20) + 1}MB or more, as it "
        f"is in up to {rules.row_copies} places on its way; give the intent that, or leave its "
        f"long columns out"
    )
    raise SourceLimitReached(msg, setting="memory_budget", row_bytes=size)


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
