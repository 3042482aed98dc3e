"""Asking PostgreSQL, on another connection, what became of a session from which nothing comes.

A query may compute for hours before its first row, so silence alone means nothing. But the server
knows whether the session is there, whether it still works, and whether it waits for us to take
what it sends.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ixflow.dialects.connect import answered_within, unavailable
from ixflow.dialects.guest import CONNECT_SECONDS

if TYPE_CHECKING:
    import sqlalchemy as sa

__all__ = ["Backend", "ask_fate", "backend_of", "fate_of"]

_STARTED = "extract(epoch FROM pg_postmaster_start_time())::text"
_WHO = f"SELECT pg_backend_pid(), {_STARTED}"
# The columns of another role's session are NULL.
_FATE = f"""
    SELECT {_STARTED}, a.pid IS NOT NULL, a.state, a.wait_event
    FROM (SELECT 1) one LEFT JOIN pg_stat_activity a ON a.pid = %s
"""
# What a client says that was not answered at all, and not refused.
_UNANSWERED = (
    "timeout",
    "timed out",
    "refused",
    "unreachable",
    "no route",
    "closed the connection",
)


@dataclass(frozen=True, slots=True)
class Backend:
    """A session of a server: its process, and when the server started, as a name of the server."""

    pid: int
    started: str


def backend_of(cursor: Any) -> Backend:
    """Ask a session who it is; psycopg's connection and ADBC's cursor run a statement alike."""
    found = cursor.execute(_WHO) or cursor
    pid, started = found.fetchone()
    return Backend(int(pid), str(started))


def ask_fate(uri: str, url: sa.URL, backend: Backend, *, counts: bool) -> str | None:
    """Ask the server; say why nothing will come any more, or None: it works, or cannot tell.

    ``counts`` says that our side has counted the bytes that came, and there were none.

    Raises:
        SourceUnavailable: nobody answers.

    """
    import psycopg

    try:
        # The name in the URL is for those who read.
        with (
            psycopg.connect(uri, autocommit=True, connect_timeout=CONNECT_SECONDS) as conn,
            answered_within(CONNECT_SECONDS, conn),
        ):
            row = conn.execute(_FATE, [backend.pid]).fetchone()
    except psycopg.Error as error:
        if any(words in str(error).lower() for words in _UNANSWERED):
            raise unavailable(url, error) from None
        return None
    # Behind one address there may be several servers.
    if row is None or row[0] != backend.started:
        return None
    return fate_of(there=row[1], state=row[2], waits_for=row[3], counts=counts)


def fate_of(*, there: bool, state: str | None, waits_for: str | None, counts: bool) -> str | None:
    """Read what the server says of a session that we wait for.

    >>> fate_of(there=True, state="active", waits_for="DataFileRead", counts=True) is None
    True
    >>> fate_of(there=False, state=None, waits_for=None, counts=True)
    'the server has no such session any more'
    """
    if not there:
        return "the server has no such session any more"
    if state is not None and state.startswith("idle"):
        return "the server has sent all that it had to say"
    if counts and state == "active" and waits_for == "ClientWrite":
        return "the server sends, and nothing arrives"
    return None
