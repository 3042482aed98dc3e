"""Saying to PostgreSQL how we behave: who we are, how long we wait, when silence is death."""

from __future__ import annotations

import os

from ixflow.dialects.connect import seconds_to_wait
from ixflow.dialects.guest import CONNECT_SECONDS, guest, keepalive

__all__ = ["connect_options", "limit_settings"]

_LONGEST_NAME = 63


def connect_options() -> dict[str, str | int]:
    """Give the libpq parameters for a connection, where the URL does not say otherwise."""
    asks = keepalive()
    options: dict[str, str | int] = {
        "connect_timeout": max(1, int(seconds_to_wait(CONNECT_SECONDS))),
        "keepalives": 1,
        "keepalives_idle": asks.idle,
        "keepalives_interval": asks.interval,
        "keepalives_count": asks.count,
        "tcp_user_timeout": asks.total * 1000,
    }
    if "PGAPPNAME" not in os.environ:
        options["application_name"] = guest().name[:_LONGEST_NAME]
    return options


def limit_settings() -> list[str]:
    """Write the limits of the visit for a transaction; the role's own are for other work."""
    rules = guest()
    if rules.statement_seconds is None:
        return []
    return [
        f"SET LOCAL statement_timeout = {max(1, int(rules.statement_seconds * 1000))}",
        f"SET LOCAL lock_timeout = {max(1, int(rules.lock_seconds * 1000))}",
    ]
