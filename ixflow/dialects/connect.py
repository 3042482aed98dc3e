"""Opening connections: what can go wrong there becomes one typed error without a credential."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator

import sqlalchemy as sa

from ixflow.errors import SourceUnavailable, UnsupportedDatabase
from ixflow.secrets import redact, redact_url

__all__ = ["connected", "patience", "seconds_to_wait", "unavailable"]

_patience: contextvars.ContextVar[float | None] = contextvars.ContextVar(
    "ixflow_patience", default=None
)

# What drivers say, and what a person can do about it; first match wins.
_ADVICE = (
    ("password", "check user and password"),
    ("access denied", "check user and password"),
    ("role", "check the user"),
    ("does not exist", "check the database name"),
    ("unknown database", "check the database name"),
    ("refused", "check host and port, and that the server is running"),
    ("could not translate", "check the host name"),
    ("resolve", "check the host name"),
    ("timeout", "check host, port and firewall"),
    ("timed out", "check host, port and firewall"),
    ("lock", "another process has the file open; wait for it or stop it"),
    ("unable to open", "check that the file is there and may be read"),
    ("cannot open", "check that the file is there and may be read"),
)

# What no later try will find otherwise.
_LASTING = ("check user and password", "check the user", "check the database name")


@contextlib.contextmanager
def patience(seconds: float) -> Iterator[None]:
    """Let connecting wait no longer than this in the block: for a server, or for a busy file."""
    token = _patience.set(seconds)
    try:
        yield
    finally:
        _patience.reset(token)


def seconds_to_wait(otherwise: float) -> float:
    """Give the patience of the block around us, or what else holds."""
    chosen = _patience.get()
    return otherwise if chosen is None else chosen


@contextlib.contextmanager
def connected(engine: sa.Engine) -> Iterator[sa.Connection]:
    """Open a connection and close it after the block.

    Raises:
        SourceUnavailable: the database cannot be reached or refuses us.

    """
    try:
        conn = engine.connect()
    except sa.exc.DBAPIError as error:
        raise unavailable(engine.url, error.orig or error) from None
    except ImportError as error:
        msg = f"the driver for {engine.dialect.name} is missing: {error}; install its extra"
        raise UnsupportedDatabase(msg, database=engine.dialect.name) from None
    try:
        yield conn
    finally:
        conn.close()


def unavailable(url: sa.URL, error: BaseException) -> SourceUnavailable:
    """Make the error for a connection that could not be had, or that was lost."""
    said = redact(" ".join(str(error).split()), url.password and str(url.password))
    advice = next((hint for word, hint in _ADVICE if word in said.lower()), "see the cause")
    msg = f"cannot connect to {redact_url(url)}: {said}; {advice}"
    return SourceUnavailable(
        msg, host=url.host, port=url.port, database=url.database, lasting=advice in _LASTING
    )
