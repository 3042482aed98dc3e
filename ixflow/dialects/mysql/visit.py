"""Saying to MySQL how we behave: who we are, how long we wait, when a silent network is dead."""

from __future__ import annotations

import contextlib
import math
import socket
from typing import Any

from ixflow.dialects.connect import seconds_to_wait
from ixflow.dialects.guest import CONNECT_SECONDS, KEEPALIVE, guest

__all__ = ["limit_settings", "notice_silence", "say_who_we_are"]

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


def say_who_we_are(dialect: Any, record: Any, arguments: Any, options: dict[str, Any]) -> None:
    """Give the connection its name and its patience, unless the URL does."""
    del dialect, record, arguments
    rules = guest()
    options.setdefault("program_name", rules.name)
    options.setdefault("connect_timeout", max(1, int(seconds_to_wait(CONNECT_SECONDS))))
    if rules.statement_seconds is not None:
        patience = math.ceil(rules.statement_seconds) + _SERVER_FIRST_SECONDS
        options.setdefault("read_timeout", patience)
        options.setdefault("write_timeout", patience)


def notice_silence(raw: Any, record: Any) -> None:
    """Let the machine ask a silent server whether it still lives."""
    del record
    line = getattr(raw, "_sock", None)
    if not isinstance(line, socket.socket) or not hasattr(socket, "TCP_KEEPIDLE"):
        return
    with contextlib.suppress(OSError):  # a local socket has no such thing
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE["idle"])
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE["interval"])
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE["count"])
