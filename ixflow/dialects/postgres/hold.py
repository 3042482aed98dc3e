"""Holding tables still: a lock against DDL first, then one snapshot that others can import.

The order matters. TRUNCATE and statements that rewrite a table are seen by older snapshots too, so
a snapshot taken before the lock could be emptied or shuffled in between. LOCK TABLE as the first
statement of a REPEATABLE READ transaction takes no snapshot yet; ACCESS SHARE lets writers pass.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import sqlalchemy as sa

from ixflow.dialects.base import run
from ixflow.dialects.connect import answered_within, connected
from ixflow.dialects.guest import guest
from ixflow.dialects.postgres.visit import limit_settings
from ixflow.errors import LockNotAvailable, SnapshotUnavailable

__all__ = ["hold_tables", "is_transient", "moment"]

_FAREWELL_SECONDS = 10.0
_LOCK_NOT_AVAILABLE = "55P03"

# LOCK TABLE takes tables and views, and needs a privilege on the table, not only on columns.
_LOCKABLE = sa.text("""
    SELECT c.relkind IN ('r', 'p', 'v') AND has_table_privilege(c.oid, 'SELECT')
    FROM pg_class c WHERE c.oid = to_regclass(:name)
""")
_IS_STORED = sa.text("SELECT relkind = 'm' FROM pg_class WHERE oid = to_regclass(:name)")

# Connection failures, shutdowns, cancelled by recovery; ADBC often passes on the words only.
_TRANSIENT_STATES = ("08", "57P", "40001", "53300")
_TRANSIENT_WORDS = (
    "server closed the connection",
    "terminating connection",
    "no connection to the server",
    "connection not open",
    "could not receive data",
    "could not send data",
    "ssl connection has been closed",
    "ssl syscall error",
    "failed to begin transaction",
    "connection refused",
    "connection reset",
    "too many clients",
    "remaining connection slots",
    "the database system is",
    "conflict with recovery",
)


@contextlib.contextmanager
def hold_tables(
    engine: sa.Engine, tables: Sequence[str], *, snapshot: str | None = None
) -> Iterator[tuple[sa.Connection, str]]:
    """Lock tables of quoted names against DDL; yield a connection and the snapshot it exports.

    A given snapshot is imported first. Whoever has exported it holds the tables too: that it still
    lives when we have our locks shows that nothing was rewritten in between.

    Raises:
        LockNotAvailable: another session held a table for longer than the lock_timeout.
        SnapshotUnavailable: the session that exported the given snapshot has ended.

    """
    with connected(engine) as plain:
        options = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        conn = plain.execution_options(**options)
        driver = conn.connection.driver_connection
        with conn.begin():
            lockable = [t for t in tables if conn.execute(_LOCKABLE, {"name": t}).scalar()]
        try:
            # Nothing is said on this connection while the others read.
            run(conn, "SET LOCAL idle_in_transaction_session_timeout = 0")
            for setting in limit_settings():
                run(conn, setting)
            for table in lockable:
                _lock(conn, table)
            if snapshot is not None:
                _import(conn, snapshot)
            exported = conn.execute(sa.text("SELECT pg_export_snapshot()")).scalar_one()
            for table in tables:
                if conn.execute(_IS_STORED, {"name": table}).scalar():
                    run(conn, f"SELECT 1 FROM {table} LIMIT 0")  # keeps REFRESH out
            yield conn, str(exported)
        finally:
            # A lost connection has nothing to roll back, and must not hide why the block ended.
            with (
                contextlib.suppress(sa.exc.DBAPIError),
                answered_within(_FAREWELL_SECONDS, driver),
            ):
                conn.rollback()


def _import(conn: sa.Connection, snapshot: str) -> None:
    literal = snapshot.replace("'", "''")
    try:
        run(conn, f"SET TRANSACTION SNAPSHOT '{literal}'")
    except sa.exc.DBAPIError as error:
        if error.connection_invalidated:
            raise
        msg = f"the snapshot {snapshot} is gone: the session that held it has ended"
        raise SnapshotUnavailable(msg, snapshot=snapshot) from None


# A snapshot sees what was committed below its end, but for the listed; without a transaction that
# wrote since, another has the same text. Ids of transactions are counted anew on another server,
# and a standby lists none of the running ones.
_MOMENT = sa.text("""
    SELECT CASE WHEN pg_is_in_recovery() THEN NULL ELSE
        concat_ws(' ', extract(epoch FROM pg_postmaster_start_time()), (SELECT oid FROM pg_database
                  WHERE datname = current_database()), pg_current_snapshot()) END
""")


def moment(conn: sa.Connection) -> str | None:
    """Name what the snapshot of a connection's transaction sees; None on a standby."""
    found = conn.execute(_MOMENT).scalar()
    return None if found is None else str(found)


def _lock(conn: sa.Connection, qualified: str) -> None:
    seconds = guest().lock_seconds
    run(conn, f"SET LOCAL lock_timeout = {max(1, int(seconds * 1000))}")
    try:
        run(conn, f"LOCK TABLE {qualified} IN ACCESS SHARE MODE")
    except sa.exc.OperationalError as error:
        if getattr(error.orig, "sqlstate", None) != _LOCK_NOT_AVAILABLE:
            raise
        msg = (
            f"another session held {qualified} against reading for {seconds:g} s (ALTER, "
            f"TRUNCATE, VACUUM FULL or the like); try again when it is done, or give the intent a "
            f"longer lock_timeout"
        )
        raise LockNotAvailable(msg, table=qualified) from None


def is_transient(error: BaseException) -> bool:
    """Say whether a failed read can succeed on a new connection with the same snapshot."""
    cause: BaseException | None = error
    while cause is not None:
        state = getattr(getattr(cause, "orig", cause), "sqlstate", None)
        if state:
            return str(state).startswith(_TRANSIENT_STATES)
        said = str(cause).lower()
        if any(words in said for words in _TRANSIENT_WORDS):
            return True
        cause = cause.__cause__
    return False
