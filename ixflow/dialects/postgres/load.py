"""Loading Arrow into PostgreSQL in the caller's transaction, by binary COPY."""

from __future__ import annotations

import contextlib
import functools
import itertools
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from ixflow.dialects.base import run
from ixflow.dialects.facts import sqlalchemy_error
from ixflow.dialects.later import Later, apart
from ixflow.dialects.postgres.blame import blamed, refuse_rounded
from ixflow.dialects.postgres.copy import copy_stream
from ixflow.dialects.postgres.refusals import refusal
from ixflow.dialects.postgres.types import COPIED, assigned_type, base_type
from ixflow.errors import UnsupportedDatabase
from ixflow.values import Column, TableName

if TYPE_CHECKING:
    import pyarrow as pa

    from ixflow.dialects.base import Dialect

__all__ = ["is_copied", "load"]


def load(  # noqa: PLR0917 - the parameters of the dialect's method
    dialect: Dialect,
    conn: sa.Connection,
    table: TableName,
    columns: Sequence[Column],
    reader: pa.RecordBatchReader,
    later: Later | None = None,
) -> int:
    """Append the reader's rows; columns whose binary form we do not write are cast from text.

    With ``later`` the database may still be at work when this returns.
    """
    if later is not None and not (_ends_apart(conn) and all(map(is_copied, columns))):
        later.settle()
        later = None
    if all(map(is_copied, columns)):
        statement = _statement(dialect, dialect.qualified(table), columns)
        return _copy(conn, statement, columns, reader, later)
    stage = TableName(f"_ixflow_text_{uuid.uuid4().hex}", "pg_temp")
    staged = [c if is_copied(c) else replace(c, sql_type="text") for c in columns]
    bare = [replace(c, nullable=True, key_position=None) for c in staged]
    lines = ", ".join(f"{dialect.quote(c.name)} {c.sql_type}" for c in bare)
    run(conn, f"CREATE TEMPORARY TABLE {dialect.quote(stage.name)} ({lines}) ON COMMIT DROP")
    statement = _statement(dialect, dialect.qualified(stage), staged)
    rows = _copy(conn, statement, staged, reader)
    waiting = [c for c in columns if not is_copied(c)]
    refuse_rounded(dialect, conn, stage, waiting, table)
    names = dialect.column_list(c.name for c in columns)
    values = ", ".join(
        dialect.quote(c.name)
        if is_copied(c)
        else f"{dialect.quote(c.name)}::{assigned_type(c.sql_type)}"
        for c in columns
    )
    # In the order of loading, so that the last of two rows with one key stays the last.
    statement = (
        f"INSERT INTO {dialect.qualified(table)} ({names}) "
        f"{dialect.overriding}SELECT {values} FROM {dialect.qualified(stage)} ORDER BY ctid"
    )
    try:
        with conn.begin_nested():
            run(conn, statement)
    except sa.exc.DBAPIError as error:
        raise blamed(dialect, conn, stage, waiting, table, error) from error
    dialect.drop_table(conn, stage)
    return rows


def is_copied(column: Column) -> bool:
    """Say whether ixflow writes the binary form of the column's type."""
    return not column.as_text and base_type(column.sql_type) in COPIED


def _statement(dialect: Dialect, qualified: str, columns: Sequence[Column]) -> str:
    names = dialect.column_list(column.name for column in columns)
    return f"COPY {qualified} ({names}) FROM STDIN (FORMAT binary)"


def _copy(
    conn: sa.Connection,
    statement: str,
    columns: Sequence[Column],
    reader: pa.RecordBatchReader,
    later: Later | None = None,
) -> int:
    counter = _Counter(reader)
    _send(conn, statement, copy_stream(iter(counter), columns), later)
    return counter.rows


class _Counter:
    """The reader's batches, counting their rows as they pass."""

    def __init__(self, reader: pa.RecordBatchReader) -> None:
        self._reader = reader
        self.rows = 0

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        for batch in self._reader:
            self.rows += batch.num_rows
            yield batch


def _send(
    conn: sa.Connection,
    statement: str,
    pieces: Iterable[bytes | memoryview],
    later: Later | None,
) -> None:
    driver: Any = conn.connection.driver_connection
    send = _SENDERS.get(conn.dialect.driver)
    if send is None:
        msg = (
            f"the driver {conn.dialect.driver} cannot COPY inside the transaction; "
            f"use postgresql+psycopg or postgresql+psycopg2"
        )
        raise UnsupportedDatabase(msg, driver=conn.dialect.driver)
    telling = functools.partial(_refusals, conn, statement)
    with telling():
        if later is None:
            send(driver, statement, pieces)
        else:
            _send_ahead(driver, statement, pieces, later.within(telling))


def _ends_apart(conn: sa.Connection) -> bool:
    return bool(conn.dialect.driver == "psycopg")


@contextlib.contextmanager
def _refusals(conn: sa.Connection, statement: str) -> Iterator[None]:
    """Tell the driver's errors as ixflow's."""
    try:
        yield
    except conn.dialect.loaded_dbapi.Error as error:
        raise refusal(sqlalchemy_error(conn, statement, error)) from error


def _send_psycopg(driver: Any, statement: str, pieces: Iterable[bytes | memoryview]) -> None:
    with driver.cursor() as cursor, cursor.copy(statement) as copy:
        for piece in pieces:
            copy.write(piece)


def _send_ahead(
    driver: Any, statement: str, pieces: Iterable[bytes | memoryview], later: Later
) -> None:
    """Send all rows, and let a thread wait for the server's answer.

    The first rows are made ready while the server still works on those of the load before.
    psycopg holds the connection's lock while a COPY is open, so that whoever uses the connection
    meanwhile comes after the answer.
    """
    rest = iter(pieces)
    first = list(itertools.islice(rest, 2))  # the header, and rows
    later.settle()
    with contextlib.ExitStack() as stack:
        copy = stack.enter_context(stack.enter_context(driver.cursor()).copy(statement))
        for piece in itertools.chain(first, rest):
            copy.write(piece)
        later.hold(apart(stack.pop_all().close, driver.cancel_safe))


def _send_psycopg2(driver: Any, statement: str, pieces: Iterable[bytes | memoryview]) -> None:
    source = _PieceFile(pieces)
    with driver.cursor() as cursor:
        try:
            cursor.copy_expert(statement, source, size=1 << 20)
        except Exception:
            if source.error is not None:
                raise source.error from None
            raise


_SENDERS: dict[str, Callable[[Any, str, Iterable[bytes | memoryview]], None]] = {
    "psycopg": _send_psycopg,
    "psycopg2": _send_psycopg2,
}


class _PieceFile:
    """An iterable of byte pieces as the file psycopg2 reads; remembers what the source raised."""

    def __init__(self, pieces: Iterable[bytes | memoryview]) -> None:
        self._pieces = iter(pieces)
        self._rest: bytes | memoryview = b""
        self.error: BaseException | None = None

    def read(self, size: int = -1) -> bytes:
        while not self._rest:
            try:
                self._rest = next(self._pieces)
            except StopIteration:
                return b""
            except BaseException as error:
                # psycopg2 turns it into QueryCanceled without a cause.
                self.error = error
                raise
        piece = self._rest if size < 0 else self._rest[:size]
        self._rest = b"" if size < 0 else self._rest[size:]
        return bytes(piece)
