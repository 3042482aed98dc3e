"""One moment for several connections: a short lock, all snapshots taken under it, and it is gone.

MySQL has no snapshot that another session could import. But transactions that begin while nobody
can write to the tables, and while nobody has written what is not yet committed, all see the same
rows. ``LOCK TABLES ... READ`` waits for exactly that. It stops writers to these tables alone, for
the few milliseconds in which the readers begin; it needs the privilege LOCK TABLES, and nothing
that touches other tables, such as FLUSH.

Each reader looks at each table once while the lock is held. So the tables keep their definition
until the last reader ends: ALTER waits for it, as for any other transaction.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterator, Sequence

import sqlalchemy as sa

from ixflow.dialects.connect import connected
from ixflow.dialects.facts import Held, run
from ixflow.dialects.mysql.reader import MySQLReader, is_transient, open_reader
from ixflow.errors import SnapshotUnavailable, SourceUnavailable

__all__ = ["LOCK_SECONDS", "SPARES", "hold_moment", "may_lock"]

_log = logging.getLogger("ixflow")

LOCK_SECONDS = 5
"""How long one try waits for the lock. Writers wait behind us meanwhile, so it is short."""

_TRIES, _PAUSE_SECONDS = 3, 1.0
# If this process stalls while it holds the lock, the server takes it away after so many seconds.
_LEADER_SECONDS, _DAY = 30, 86_400
SPARES = 1
"""Readers that begin with the others and wait, to take the place of a lost one."""

_LOCK_WAIT_TIMEOUT, _NO_SUCH_TABLE, _TABLE_DENIED, _CHANGED = 1205, 1146, 1142, 1412


def may_lock(conn: sa.Connection, schema: str) -> bool:
    """Say whether the role may lock tables of a quoted schema, without locking any.

    Privileges are looked at before tables, roles and patterns included. So a table that is not
    there tells them: denied, or not found.
    """
    table = f"{schema}.`ixflow_{uuid.uuid4().hex}`"
    try:
        run(conn, "SET SESSION lock_wait_timeout = 1")
        run(conn, f"LOCK TABLES {table} READ")
    except sa.exc.DBAPIError as error:
        code, said = _said(error)
        # Who may read only some tables is refused for that: not for the right to lock.
        return code == _NO_SUCH_TABLE or (code == _TABLE_DENIED and "LOCK TABLES" not in said)
    run(conn, "UNLOCK TABLES")
    return True


@contextlib.contextmanager
def hold_moment(engine: sa.Engine, tables: Sequence[str], workers: int) -> Iterator[Held]:
    """Begin readers of these quoted tables in one moment: so many and a spare, or one alone.

    One alone reads where no lock was to be had: it is one moment all the same, and the other
    workers wait.

    Raises:
        SourceUnavailable: the database cannot be reached or refuses us.

    """
    with contextlib.ExitStack() as stack:
        leader = stack.enter_context(connected(engine))
        run(
            leader,
            f"SET SESSION wait_timeout = {_LEADER_SECONDS}, lock_wait_timeout = {LOCK_SECONDS}",
        )
        run(leader, f"SET SESSION innodb_lock_wait_timeout = {LOCK_SECONDS}")
        readers = _opened(stack, engine, workers + SPARES if workers > 1 else 1)
        if len(readers) > 1:
            readers = _begun_together(leader, readers, tables)
        else:
            _begin_alone(readers[0], tables)
        leader.commit()
        run(leader, f"SET SESSION wait_timeout = {_DAY}")
        leader.commit()
        pool = _Pool(readers)
        stack.callback(pool.close)
        yield Held(leader, None, pool.open_reader, shared=True)


def _opened(stack: contextlib.ExitStack, engine: sa.Engine, count: int) -> list[MySQLReader]:
    """Open connections that have not begun; the first must, the others may fail."""
    readers = [stack.enter_context(open_reader(engine, begin=False))]
    for _ in range(1, count):
        try:
            readers.append(stack.enter_context(open_reader(engine, begin=False)))
        except SourceUnavailable as error:
            _log.warning("%d of %d connections could be opened: %s", len(readers), count, error)
            break
    return readers


def _begun_together(
    leader: sa.Connection, readers: list[MySQLReader], tables: Sequence[str]
) -> list[MySQLReader]:
    """Begin all readers under the lock, or the first one alone."""
    why = _locked(leader, tables)
    if why is not None:
        names = ", ".join(tables)
        _log.warning("one connection reads %s, not %d: %s", names, len(readers) - SPARES, why)
        _begin_alone(readers[0], tables)
        return readers[:1]
    begun = []
    try:
        for reader in readers:
            with contextlib.suppress(Exception):
                reader.begin(tables)
                begun.append(reader)
    finally:
        # If this fails the lock was lost, and with it the proof that all see the same rows.
        run(leader, "UNLOCK TABLES")
    if not begun:
        raise SourceUnavailable("every connection was lost while the snapshot was taken")
    return begun


def _locked(leader: sa.Connection, tables: Sequence[str]) -> str | None:
    """Lock the tables against writers; give the reason if that is not to be had."""
    locks = ", ".join(f"{table} READ" for table in tables)
    for attempt in range(1, _TRIES + 1):
        try:
            run(leader, f"LOCK TABLES {locks}")
            return None
        except sa.exc.DBAPIError as error:
            code, said = _said(error)
            if is_transient(error):
                raise
            if code != _LOCK_WAIT_TIMEOUT:
                return f"the role cannot lock it (LOCK TABLES): {said}"
        if attempt < _TRIES:
            time.sleep(_PAUSE_SECONDS * attempt)
    return (
        f"others wrote to it without end for {_TRIES} times {LOCK_SECONDS} s, so that no lock was "
        f"to be had"
    )


def _begin_alone(reader: MySQLReader, tables: Sequence[str]) -> None:
    """Take one snapshot; again if a table was altered between that and the first look at it."""
    for attempt in range(1, _TRIES + 1):
        try:
            reader.begin(tables)
            return
        except Exception as error:
            if attempt == _TRIES or _said(error)[0] != _CHANGED:
                raise


def _said(error: Exception) -> tuple[object, str]:
    """Give the server's number and words of an error."""
    cause = getattr(error, "orig", None) or error
    args = getattr(cause, "args", ()) or (None,)
    return args[0], str(args[-1])


class _Pool:
    """Readers of one moment, lent one by one. A lost one stays lost: others take its place."""

    def __init__(self, readers: Sequence[MySQLReader]) -> None:
        """Take readers that have begun."""
        self._idle = deque(readers)
        self._left = len(readers)
        self._changed = threading.Condition()
        self._closed = False

    @contextlib.contextmanager
    def open_reader(self) -> Iterator[MySQLReader]:
        """Lend a reader; whoever comes when all are lent waits.

        Raises:
            SnapshotUnavailable: every connection of this moment is lost.

        """
        reader = self._take()
        try:
            yield reader
        finally:
            # A reader that reads no more is not given back.
            self._return(reader if reader.alive() else None)

    def close(self) -> None:
        """Let nobody wait any longer."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _take(self) -> MySQLReader:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._idle or not self._left or self._closed)
                if not self._left or self._closed:
                    msg = (
                        "every connection that saw the snapshot is lost, and no new one can see "
                        "it; extract again"
                    )
                    raise SnapshotUnavailable(msg)
                reader = self._idle.popleft()
            if reader.alive():
                return reader
            self._return(None)

    def _return(self, reader: MySQLReader | None) -> None:
        with self._changed:
            if reader is None:
                self._left -= 1
            else:
                self._idle.append(reader)
            self._changed.notify_all()
