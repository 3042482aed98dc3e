"""What happens to sessions that keep an ingest from a table: wait, then end them, then give up.

A replacement asks for its locks for a moment at a time and lets readers pass in between, so waiting
harms nobody. A session that is idle in a transaction would keep it waiting for ever; after a while
such sessions are terminated, on the ingest's own connection. If the role may not do that, the
ingest waits on, and gives up with a typed error in the end.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ixflow.dialects.waiting import LockPatience
from ixflow.errors import ValidationError

if TYPE_CHECKING:
    import sqlalchemy as sa

__all__ = ["TERMINATE", "ForceExecute", "GetForceExecute", "chosen_blockers"]

GetForceExecute = Callable[["sa.Connection", logging.Logger], AbstractContextManager[Any]]

_GRACE_SECONDS = 60
_FOREIGN_SECONDS = 15 * 60


@dataclass(frozen=True)
class ForceExecute:
    """Terminates sessions that have kept a table from being replaced for longer than ``after``.

    Their transactions are rolled back. One minute later the ingest gives up.

    >>> ForceExecute(after=dt.timedelta(seconds=30)).patience().seconds
    90.0
    """

    after: dt.timedelta = dt.timedelta(minutes=5)

    def patience(self) -> LockPatience:
        """Say how long to wait in all."""
        seconds = self.after.total_seconds()
        return LockPatience(seconds + _GRACE_SECONDS, terminate_after=seconds)


TERMINATE = ForceExecute()
"""What `ingest` does unless it is told otherwise."""


def chosen_blockers(given: Any, log: logging.Logger) -> tuple[LockPatience, GetForceExecute]:
    """Give the patience of an ingest, and the context manager to enter around its swap.

    A function of the caller's own, as pg-bulk-ingest takes it, does the terminating itself, and is
    given a quarter of an hour; None: nobody is terminated. ``log`` hears of terminations.

    Raises:
        ValidationError: it is something else.

    """
    if given is None:
        return LockPatience(_GRACE_SECONDS, log=log), _nothing
    if isinstance(given, ForceExecute):
        return replace(given.patience(), log=log), _nothing
    if callable(given):
        return LockPatience(_FOREIGN_SECONDS, log=log), given
    msg = (
        f"get_pg_force_execute is {given!r}; it must be a ForceExecute, None, or a function of "
        f"(connection, logger) that returns a context manager"
    )
    raise ValidationError(msg, argument="get_pg_force_execute")


def _nothing(conn: sa.Connection, logger: logging.Logger) -> AbstractContextManager[Any]:
    del conn, logger
    return contextlib.nullcontext()
