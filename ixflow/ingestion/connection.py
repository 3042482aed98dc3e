"""The connection that an ingest is given: what it must not be, and options that do not fit."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar

import sqlalchemy as sa

from ixflow.dialects import dialect_of
from ixflow.errors import IngestError, ValidationError

__all__ = ["check_connection", "one_transaction", "unstreamed"]

P = ParamSpec("P")
R = TypeVar("R")

# A cursor of the server's own is declared for each statement under these, which only SELECT can be.
_STREAMING = {"stream_results": False, "yield_per": None}


def check_connection(conn: sa.Connection) -> None:
    """Refuse a connection on which no batch would be one transaction of its own.

    Raises:
        ValidationError: it says which it should be.
        UnsupportedDatabase: its driver cannot do it.

    """
    if conn.in_transaction():
        msg = (
            "the connection is in a transaction (any statement begins one); give a fresh one, "
            "as in: with engine.connect() as conn: ingest(conn, ...)"
        )
        raise ValidationError(msg)
    options = conn.get_execution_options()
    if options.get("isolation_level") == "AUTOCOMMIT":
        msg = "the connection is in AUTOCOMMIT mode, where no batch would be one transaction"
        raise ValidationError(msg)
    if options.get("schema_translate_map"):
        msg = (
            "the connection has a schema_translate_map, which an ingest does not follow; give the "
            "tables the schema that they are in, as table.to_metadata(sa.MetaData(), schema=...)"
        )
        raise ValidationError(msg)
    dialect_of(conn).check_ingests(conn)


@contextlib.contextmanager
def one_transaction(conn: sa.Connection) -> Iterator[None]:
    """Refuse to go on if a function of the caller's has ended the transaction by SQL of its own.

    SQLAlchemy does not know of it. What is behind it would be committed, what is before it lost.

    Raises:
        IngestError: saying so.

    """
    dialect = dialect_of(conn)
    before = dialect.transaction_mark(conn)
    yield
    if dialect.transaction_mark(conn) != before:
        msg = (
            "the batches function or on_before_visible ended the transaction by SQL or by the "
            "driver; it must not commit or roll back on this connection. What came after that was "
            "not written, what came before it was, if it has committed"
        )
        raise IngestError(msg)


def unstreamed(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function whose first argument ``conn`` is a connection run without streaming results.

    ``stream_results`` and ``yield_per`` of the connection are as they were afterwards.
    """

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        with _plain(args[0] if args else kwargs.get("conn")):
            return function(*args, **kwargs)

    return call


@contextlib.contextmanager
def _plain(conn: Any) -> Iterator[None]:
    given = conn.get_execution_options() if isinstance(conn, sa.Connection) else {}
    before = {name: given[name] for name in _STREAMING if given.get(name)}
    if before:
        conn.execution_options(**{name: _STREAMING[name] for name in before})
    try:
        yield
    finally:
        if before:
            conn.execution_options(**before)
