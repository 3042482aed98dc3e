"""Opening connections: what can go wrong there becomes one typed error without a credential."""

from __future__ import annotations

import contextlib
import contextvars
import os
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any, TypeVar

import sqlalchemy as sa

from ixflow.errors import SourceUnavailable, UnsupportedDatabase
from ixflow.secrets import redact, redact_url

__all__ = [
    "answered_within",
    "connected",
    "done_within",
    "hang_up",
    "patience",
    "seconds_to_wait",
    "unavailable",
]

T = TypeVar("T")

_patience: contextvars.ContextVar[float | None] = contextvars.ContextVar(
    "ixflow_patience", default=None
)

_FEWER = (
    "use fewer workers (max_workers), or raise max_connections on the server or the role's "
    "CONNECTION LIMIT"
)

# What drivers say, and what a person can do about it; first match wins.
_ADVICE = (
    # SQL Server says of a missing database that the login failed, too.
    ("cannot open database", "check the database name"),
    ("login failed", "check user and password"),
    (
        "certificate verify failed",
        "give the server's certificate, or (SQL Server) trust_server_cert",
    ),
    ("encryption not supported", "the server cannot encrypt; set encrypt to no if that is meant"),
    ("failed to load the driver", "install the system's libltdl and libkrb5"),
    ("unable to establish connection", "check host and port, and that the server is running"),
    ("too many", _FEWER),
    ("connection slots", _FEWER),
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


def hang_up(driver_connection: Any) -> None:
    """Cut a driver's connection: every wait on it ends with that, in whatever thread it is."""
    pgconn, line = (getattr(driver_connection, name, None) for name in ("pgconn", "_sock"))
    with contextlib.suppress(Exception):
        number = line.fileno() if line is not None else pgconn.socket  # type: ignore[union-attr] # suppressed
        with socket.socket(fileno=os.dup(number)) as ours:
            ours.shutdown(socket.SHUT_RDWR)


def done_within(seconds: float, work: Callable[[], T], undo: Callable[[T], object]) -> T:
    """Do work of a driver whose waits nobody can cut; what comes too late is undone.

    Raises:
        TimeoutError: it took longer. Its thread is left behind.

    """
    result: Future[T] = Future()

    def body() -> None:
        try:
            result.set_result(work())
        except BaseException as error:  # noqa: BLE001 - raised by whoever waits for it
            result.set_exception(error)

    target = contextvars.copy_context().run
    threading.Thread(target=target, args=(body,), daemon=True, name="ixflow-connect").start()
    try:
        return result.result(seconds)
    except TimeoutError:
        if result.done():  # it is the work's own
            raise
        result.add_done_callback(lambda late: late.exception() or undo(late.result()))
        msg = f"the server did not answer within {seconds:g} s (timeout)"
        raise TimeoutError(msg) from None


@contextlib.contextmanager
def answered_within(seconds: float, driver_connection: Any) -> Iterator[None]:
    """Cut the connection if the block takes longer: a network that says nothing is no network."""
    timer = threading.Timer(seconds, hang_up, [driver_connection])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
