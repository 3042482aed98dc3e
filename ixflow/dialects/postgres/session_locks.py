"""PostgreSQL's session-level advisory locks, under names."""

from __future__ import annotations

import hashlib

import sqlalchemy as sa

from ixflow.dialects.postgres.refusals import state_of
from ixflow.errors import LockNotAvailable

__all__ = ["PostgresSessionLocks"]

_LOCK_NOT_AVAILABLE = "55P03"
_DEADLOCK = "40P01"
_LABEL_BYTES = 63

# Of these what the server knows: nothing ends a session or a statement that only waits, and a
# client whose machine or network has died is noticed within two minutes.
_PREPARE = sa.text("""
    SELECT set_config(s.name, wanted.value, false)
    FROM pg_settings s JOIN (VALUES
        ('statement_timeout', '0'), ('transaction_timeout', '0'), ('idle_session_timeout', '0'),
        ('idle_in_transaction_session_timeout', '0'), ('tcp_keepalives_idle', '60'),
        ('tcp_keepalives_interval', '10'), ('tcp_keepalives_count', '6')
    ) wanted (name, value) ON wanted.name = s.name
""")
_THIS_LOCK = """
    l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
    AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND ((l.classid::bigint << 32) | l.objid::bigint) = :key
"""
_HOLDS = sa.text(f"SELECT 1 FROM pg_locks l WHERE {_THIS_LOCK} AND l.pid = pg_backend_pid()")
# A role may not see since when the sessions of other roles are there.
_HOLDER = sa.text(f"""
    SELECT a.pid, a.usename, a.application_name,
           to_char(a.backend_start AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS') AS since
    FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid WHERE {_THIS_LOCK}
""")


class PostgresSessionLocks:
    """Advisory locks whose keys are hashes of the names, apart from all others of ixflow."""

    def prepare(self, conn: sa.Connection, label: str) -> None:
        """Switch off what ends an idle session, but not a dead one; set its application_name."""
        conn.execute(_PREPARE)
        _set(conn, "application_name", label.encode()[:_LABEL_BYTES].decode(errors="ignore"))

    def take(self, conn: sa.Connection, name: str, seconds: float) -> bool:
        """Take a lock; a wait stands in the server's queue, where a circle of waits is noticed.

        Raises:
            LockNotAvailable: whoever holds it waits for a lock that this connection holds.

        """
        key = {"key": _key(name)}
        if seconds <= 0:
            return bool(conn.execute(sa.text("SELECT pg_try_advisory_lock(:key)"), key).scalar())
        # A lock_timeout of 0 would be none.
        _set(conn, "lock_timeout", f"{max(int(seconds * 1000), 1)}ms")
        try:
            conn.execute(sa.text("SELECT pg_advisory_lock(:key)"), key)
        except sa.exc.DBAPIError as error:
            if state_of(error) == _DEADLOCK:
                msg = (
                    f"the lock {name!r} is held by {self.holder(conn, name) or 'another session'}, "
                    f"which waits for a lock that is held here; let go what is held, and try again"
                )
                raise LockNotAvailable(msg, lock=name) from error
            if state_of(error) != _LOCK_NOT_AVAILABLE:
                raise
            return False
        return True

    def drop(self, conn: sa.Connection, name: str) -> None:
        """Let a lock go."""
        conn.execute(sa.text("SELECT pg_advisory_unlock(:key)"), {"key": _key(name)})

    def holds(self, conn: sa.Connection, name: str) -> bool:
        """Look into the server's table of locks: a pooler may have given us another session."""
        return conn.execute(_HOLDS, {"key": _key(name)}).first() is not None

    def holder(self, conn: sa.Connection, name: str) -> str | None:
        """Name the session that holds a lock."""
        found = conn.execute(_HOLDER, {"key": _key(name)}).first()
        if found is None:
            return None
        since = f" since {found.since} UTC" if found.since else ""
        return f"database session {found.pid} of {found.usename} ({found.application_name}){since}"


def _set(conn: sa.Connection, setting: str, value: str) -> None:
    statement = sa.text("SELECT set_config(:setting, :value, false)")
    conn.execute(statement, {"setting": setting, "value": value})


def _key(name: str) -> int:
    digest = hashlib.sha256(f"ixflow session lock:{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)
