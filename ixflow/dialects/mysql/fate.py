"""Asking MySQL, on another connection, what became of a session from which nothing comes.

A query may compute for hours before its first row, so silence alone means nothing. But the server
knows whether the session is there, whether it still works, and whether it is sending.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from ixflow.dialects.connect import answered_within, unavailable
from ixflow.dialects.facts import run
from ixflow.dialects.guest import CONNECT_SECONDS

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Thread", "ask_fate", "fate_of", "thread_of"]

_SERVER = "concat_ws(':', @@hostname, @@port, @@server_id)"
# As the server that reads counts them: a proxy in between has numbers of its own.
_WHO = f"SELECT id, {_SERVER} FROM information_schema.processlist WHERE id = connection_id()"
_FATE = f"""
    SELECT {_SERVER}, p.id IS NOT NULL, p.command, p.state
    FROM (SELECT 1) one LEFT JOIN information_schema.processlist p ON p.id = {{}}
"""
_UNANSWERED = (2002, 2003, 2006, 2013)
_SENDING = ("writing to net", "sending to client")


@dataclass(frozen=True, slots=True)
class Thread:
    """A session of a server."""

    number: int
    server: str


def thread_of(raw: Any) -> Thread | None:
    """Ask a session of PyMySQL who it is; None: the server does not say."""
    from pymysql import err

    try:
        with raw.cursor() as cursor:
            cursor.execute(_WHO)
            row: Sequence[Any] | None = cursor.fetchone()
    except err.ProgrammingError:
        return None
    return None if row is None else Thread(int(row[0]), _text(row[1]))


def ask_fate(engine: sa.Engine, thread: Thread) -> str | None:
    """Ask the server; say why nothing will come any more, or None: it works, or cannot tell.

    Raises:
        SourceUnavailable: nobody answers.

    """
    try:
        with (
            engine.connect() as conn,
            answered_within(CONNECT_SECONDS, conn.connection.driver_connection),
        ):
            row = run(conn, _FATE.format(thread.number)).one()
    except sa.exc.DBAPIError as error:
        code = error.orig.args[0] if error.orig is not None and error.orig.args else None
        if code in _UNANSWERED:
            raise unavailable(engine.url, error.orig or error) from None
        return None
    # Behind one address there may be several servers.
    if _text(row[0]) != thread.server:
        return None
    return fate_of(there=bool(row[1]), command=_text(row[2]), state=_text(row[3]))


def fate_of(*, there: bool, command: str, state: str) -> str | None:
    """Read what the server says of a session that we wait for.

    >>> fate_of(there=True, command="Query", state="Sorting result") is None
    True
    >>> fate_of(there=True, command="Sleep", state="")
    'the server has sent all that it had to say'
    """
    if not there:
        return "the server has no such session any more"
    if command == "Sleep":
        return "the server has sent all that it had to say"
    if state.lower() in _SENDING:
        return "the server sends, and nothing arrives"
    return None


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value or "")
