"""Saying to MySQL how we behave: who we are, how long we wait, when a silent network is dead."""

from __future__ import annotations

import contextlib
import math
import socket
from typing import Any

from ixflow.dialects.connect import seconds_to_wait
from ixflow.dialects.guest import CONNECT_SECONDS, guest, keepalive

__all__ = ["connect", "limit_settings", "notice_silence"]

_SERVER_FIRST_SECONDS = 30
"""The server's own limit is given time to say what happened."""


def limit_settings() -> list[str]:
    """Write the limits of the visit; MariaDB and MySQL each read a comment of their own."""
    rules = guest()
    if rules.statement_seconds is None:
        return []
    seconds, milliseconds = rules.statement_seconds, int(rules.statement_seconds * 1000)
    mariadb = f"/*M!100101 , max_statement_time = {seconds} */"
    mysql = f"/*!50708 , max_execution_time = {milliseconds} */"
    lock = math.ceil(rules.lock_seconds)
    return [f"SET SESSION lock_wait_timeout = {lock} {mariadb} {mysql}"]


def connect(dialect: Any, record: Any, arguments: Any, options: dict[str, Any]) -> Any:
    """Connect with a name and a patience, unless the URL says them, and give the connection.

    PyMySQL waits for the server's greeting as long as for rows, so it is told about those later.
    """
    del record
    options.setdefault("program_name", guest().name)
    options.setdefault("connect_timeout", max(1, int(seconds_to_wait(CONNECT_SECONDS))))
    ours = [name for name in ("read_timeout", "write_timeout") if name not in options]
    given = {**options, **dict.fromkeys(ours, options["connect_timeout"])}
    raw = dialect.connect(*arguments, **given)
    for name in ours:
        setattr(raw, f"_{name}", _patience())
    return raw


def _patience() -> int | None:
    seconds = guest().statement_seconds
    return None if seconds is None else math.ceil(seconds) + _SERVER_FIRST_SECONDS


def notice_silence(raw: Any, record: Any) -> None:
    """Let the machine ask a silent server whether it still lives."""
    del record
    line = getattr(raw, "_sock", None)
    if not isinstance(line, socket.socket) or not hasattr(socket, "TCP_KEEPIDLE"):
        return
    asks = keepalive()
    with contextlib.suppress(OSError):  # a local socket has no such thing
        line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, asks.idle)
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, asks.interval)
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, asks.count)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux alone
            line.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, asks.total * 1000)
