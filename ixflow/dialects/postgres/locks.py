"""Taking locks in short tries: nobody queues behind us, and those who never let go are ended.

A queued lock keeps every later reader waiting too. So work that needs locks runs in a savepoint in
which no lock is waited for longer than `_LOCK_WAIT`; if one is not free, everything is let go and
tried again. A transaction that was in the way at every try for `LockPatience.terminate_after`
seconds is terminated, if the role may do that; others that come and go are left alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import sqlalchemy as sa

from ixflow.dialects.base import run
from ixflow.dialects.postgres.refusals import state_of
from ixflow.dialects.waiting import LockPatience, patience_for_locks
from ixflow.errors import LockNotAvailable, ReplacementRefused
from ixflow.values import TableName

__all__ = ["bound_waits", "until_locked"]

_LOCK_WAIT = "400ms"
_PAUSE_SECONDS = 0.1
_LOCK_NOT_AVAILABLE = "55P03"
_DEADLOCK = "40P01"
_DEPENDENT_OBJECTS = "2BP01"
_NO_PRIVILEGE = "42501"

# A virtual transaction id is of one transaction of a session, which its pid is not.
_HOLDERS = sa.text("""
    SELECT DISTINCT l.pid, l.virtualtransaction,
           format('pid %s (%s, %s)', a.pid, a.usename, a.state)
    FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
    WHERE l.granted AND l.pid <> pg_backend_pid() AND l.locktype = 'relation'
      AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND l.relation = ANY(SELECT to_regclass(name) FROM unnest(CAST(:names AS text[])) name)
    ORDER BY 1
""")


def bound_waits(conn: sa.Connection, timeout_seconds: float) -> None:
    """Let no statement of the transaction wait longer for a lock, unless the user bounds it."""
    if str(conn.execute(sa.text("SHOW lock_timeout")).scalar_one()) == "0":
        milliseconds = int(patience_for_locks(timeout_seconds).seconds * 1000)
        run(conn, f"SET LOCAL lock_timeout = {milliseconds}")


def until_locked(
    conn: sa.Connection,
    work: Callable[[], None],
    tables: Mapping[TableName, str],
    timeout_seconds: float,
) -> None:
    """Do work that takes locks in a savepoint, again and again until they were free.

    ``tables`` are those that must be free, with their quoted names.

    Raises:
        LockNotAvailable: others held them for too long; they are named.
        ReplacementRefused: something would be lost, or a right is missing, says the server.

    """
    attempt = _Attempt(conn, tables, patience_for_locks(timeout_seconds))
    old_timeout = str(conn.execute(sa.text("SHOW lock_timeout")).scalar_one())
    while True:
        try:
            with conn.begin_nested():
                run(conn, f"SET LOCAL lock_timeout = '{_LOCK_WAIT}'")
                work()
                run(conn, f"SET LOCAL lock_timeout = '{old_timeout}'")
        except sa.exc.DBAPIError as error:
            attempt.failed(error)
            time.sleep(_PAUSE_SECONDS)
        else:
            return


class _Attempt:
    """What is known of those who are in the way, from try to try."""

    def __init__(
        self, conn: sa.Connection, tables: Mapping[TableName, str], patience: LockPatience
    ) -> None:
        self._conn, self._tables, self._patience = conn, tables, patience
        self._started = time.monotonic()
        self._seen: dict[tuple[int, str], float] = {}

    def failed(self, error: sa.exc.DBAPIError) -> None:
        """Return if another try may help; raise what the caller is told if not."""
        self._raise_unless_locked(error)
        now = time.monotonic()
        holders = self._holders()
        self._seen = {who: self._seen.get(who, now) for who in holders}
        if now - self._started >= self._patience.seconds:
            raise self._not_locked(list(holders.values())) from error
        after = self._patience.terminate_after
        for who, shown in holders.items():
            if after is not None and now - self._seen[who] >= after:
                self._terminate(who[0], shown)

    def _holders(self) -> dict[tuple[int, str], str]:
        found = self._conn.execute(_HOLDERS, {"names": list(self._tables.values())})
        return {(pid, transaction): shown for pid, transaction, shown in found}

    def _terminate(self, pid: int, shown: str) -> None:
        try:
            with self._conn.begin_nested():
                self._conn.execute(sa.text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
        except sa.exc.DBAPIError as error:
            if state_of(error) != _NO_PRIVILEGE:
                raise
            self._patience.log.warning(
                "%s holds %s, and this role may not terminate it; GRANT pg_signal_backend to it",
                shown,
                self._shown,
            )
        else:
            self._patience.log.error(
                "terminated %s, which held %s for too long", shown, self._shown
            )

    @property
    def _shown(self) -> str:
        return ", ".join(str(name) for name in self._tables)

    def _raise_unless_locked(self, error: sa.exc.DBAPIError) -> None:
        state = state_of(error)
        if state in (_DEPENDENT_OBJECTS, _NO_PRIVILEGE):
            said = " ".join(str(error.orig).split())
            msg = f"{self._shown} cannot be replaced without loss: {said}"
            raise ReplacementRefused(msg, tables=[str(name) for name in self._tables]) from error
        if state not in (_LOCK_NOT_AVAILABLE, _DEADLOCK):
            raise error

    def _not_locked(self, blockers: list[str]) -> LockNotAvailable:
        msg = (
            f"{self._shown} could not be locked within {self._patience.seconds:g} s; "
            f"held by {', '.join(blockers) or 'sessions that have ended meanwhile'}; "
            f"nothing was changed"
        )
        tables = [str(name) for name in self._tables]
        return LockNotAvailable(msg, tables=tables, blockers=blockers)
