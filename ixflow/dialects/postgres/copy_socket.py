"""One binary COPY, read from a libpq connection's own socket in large pieces.

libpq hands over a row at a time, which costs more than the server needs to send it. So libpq opens
the connection and runs every other statement; but between two of its calls the wire is silent, and
then one cycle of the simple query protocol can be spoken on the socket itself: Query, rows,
ReadyForQuery (https://www.postgresql.org/docs/current/protocol-flow.html). libpq never learns of
it. That needs a connection that is not encrypted: see `is_plain`.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from ixflow.dialects.guest import refuse_long_row
from ixflow.dialects.postgres.copy_read import SLACK, WIRE_TYPES
from ixflow.dialects.postgres.copy_rows import Bytes, Rows, find_rows
from ixflow.errors import UnsupportedType

if TYPE_CHECKING:
    import psycopg
    import pyarrow as pa

__all__ = ["copied_rows", "described", "is_plain"]

_HEAD = 5
_SIGNATURE = b"PGCOPY\n\xff\r\n\0"
_SIGNATURE_BYTES = 19
_READY = b"Z\x00\x00\x00\x05"
# How long to wait for more before looking at what has come.
_WAIT_SECONDS = 1.0
_ROW, _TRAILER = ord("d"), b"\xff\xff"
# CopyOutResponse, CopyDone, and what the server may say at any moment: notices, settings.
_IGNORED = frozenset(b"HcNSA")


def is_plain(conn: psycopg.Connection[Any]) -> bool:
    """Say whether the connection's socket carries the protocol itself, not TLS or GSSAPI."""
    import psycopg

    if conn.pgconn.ssl_in_use:
        return False
    query = "SELECT encrypted FROM pg_catalog.pg_stat_gssapi WHERE pid = pg_backend_pid()"
    try:
        row = conn.execute(query).fetchone()
    except psycopg.Error:  # a server that cannot tell
        return False
    return row is None or not row[0]


def described(conn: psycopg.Connection[Any], sql: str) -> list[pa.DataType]:
    """Ask the server for the types of a query's result; it refuses what is not one query.

    Raises:
        psycopg.Error: the server refused the query.
        UnsupportedType: a column is of a type that `copy_read` does not decode.

    """
    import psycopg

    refused = psycopg.pq.ExecStatus.FATAL_ERROR
    conn.pgconn.send_prepare(b"", sql.encode())
    result = _answer(conn)
    if result.status != refused:
        conn.pgconn.send_describe_prepared(b"")
        result = _answer(conn)
    if result.status == refused:
        raise psycopg.errors.error_from_result(result)
    return [_type(result, number) for number in range(result.nfields)]


def _answer(conn: psycopg.Connection[Any]) -> psycopg.pq.abc.PGresult:
    """Wait for the answer as psycopg does: libpq would wait with the interpreter's lock held."""
    from psycopg.generators import execute

    results: list[psycopg.pq.abc.PGresult] = conn.wait(execute(conn.pgconn))
    return results[-1]


def _type(result: psycopg.pq.abc.PGresult, number: int) -> pa.DataType:
    name, oid = (result.fname(number) or b"").decode(), result.ftype(number)
    if oid not in WIRE_TYPES:
        msg = f"{name} is of PostgreSQL's type {oid}, which is not read as it is; cast it to text"
        raise UnsupportedType(msg, column=name, type=oid)
    return WIRE_TYPES[oid]


def _unheard(size: int) -> None:
    """Let nobody count the bytes."""


def copied_rows(
    conn: psycopg.Connection[Any],
    sql: str,
    fields: int,
    block_bytes: int,
    hear: Callable[[int], None] = _unheard,
) -> Generator[tuple[Bytes, Rows]]:
    """Run ``COPY (sql) TO STDOUT (FORMAT binary)``; yield blocks, and the rows that are in them.

    A block has about `block_bytes`, or one row that is longer; it is overwritten when the next one
    is asked for. The connection is closed unless the last one was: what is still on its way would
    be taken for the answer to another question. ``hear`` is told how many bytes have come.

    Raises:
        psycopg.Error: the server refused, or the connection was lost.
        ValueError: the server sent what is no such COPY, or another number of rows than it says.

    """
    stream = _Stream(conn, fields, block_bytes, hear)
    try:
        # The query may end with a comment.
        stream.ask(f"COPY ({sql}\n) TO STDOUT (FORMAT binary)")
        yield from stream.blocks()
    finally:
        stream.close()


class _Stream:
    """The bytes of one answer: ``block[first:end]`` has come and was not looked at yet."""

    def __init__(
        self,
        conn: psycopg.Connection[Any],
        fields: int,
        block_bytes: int,
        hear: Callable[[int], None],
    ) -> None:
        self._conn, self._fields, self._usual, self._hear_of = conn, fields, block_bytes, hear
        # The same open file as libpq's: with a timeout it stays non-blocking, as libpq has made it.
        self._socket = socket.socket(fileno=os.dup(conn.pgconn.socket))
        self._socket.settimeout(_WAIT_SECONDS)
        self._block = _new_block(block_bytes)
        self._first = self._end = self._rows = 0
        self._begun = self._counted = self._finished = self._hung_up = False
        self._refusal: Exception | None = None

    def close(self) -> None:
        self._socket.close()
        if not self._finished:
            self._conn.close()

    def ask(self, statement: str) -> None:
        text = statement.encode() + b"\0"
        try:
            self._socket.sendall(b"Q" + (len(text) + 4).to_bytes(4, "big") + text)
        except OSError as error:
            raise _lost(f"could not send data to server: {error}") from error

    def blocks(self) -> Iterator[tuple[Bytes, Rows]]:
        while not self._finished:
            self._receive()
            while (rows := self._next_rows()) is not None:
                self._first = rows.end
                self._rows += len(rows)
                yield self._block, rows
            if self._hung_up and not self._finished:
                raise self._refusal or _lost("server closed the connection unexpectedly")
        if self._refusal is not None:
            raise self._refusal
        if not self._counted:
            raise ValueError("the server ended the COPY without a count of its rows")

    def _receive(self) -> None:
        """Fill the block, or take what there is if the server seems to have no more to say."""
        self._make_room()
        room = memoryview(self._block.data)[:-SLACK]
        while self._end < len(room):
            try:
                size = self._socket.recv_into(room[self._end :])
            except TimeoutError:
                return
            except OSError as error:
                raise _lost(f"could not receive data from server: {error}") from error
            self._end += size
            self._hear_of(size)
            self._hung_up = size == 0
            # A value that looks so only makes this block a shorter one.
            if self._hung_up or bytes(room[max(0, self._end - 6) : self._end - 1]) == _READY:
                return

    def _make_room(self) -> None:
        """Move the message that is not whole to the front of a block that it fits into."""
        left = self._block[self._first : self._end]
        needed = self._size() if len(left) >= _HEAD else 0
        refuse_long_row(needed)
        block = self._block
        size = max(needed, self._usual)
        if size != len(block) - SLACK:
            block = _new_block(size)
        block[: len(left)] = left
        self._block, self._first, self._end = block, 0, len(left)

    def _next_rows(self) -> Rows | None:
        """Look at what has come: give the next rows, or None when more must come first."""
        while self._end - self._first >= _HEAD and not self._finished:
            whole = self._end - self._first >= self._size()
            if self._block[self._first] == _ROW:
                if self._begun:
                    rows = find_rows(self._block, self._first, self._end, self._fields)
                    if rows is not None:
                        return rows
                if not whole:
                    return None
                self._pass_frame()
            elif whole:
                size = self._size()
                body = self._block[self._first + _HEAD : self._first + size].tobytes()
                self._hear(int(self._block[self._first]), body)
                self._first += size
            else:
                return None
        return None

    def _size(self) -> int:
        """Give the bytes of the message that begins at ``first``."""
        start = self._first + 1
        return 1 + int.from_bytes(self._block[start : start + 4].tobytes(), "big")

    def _pass_frame(self) -> None:
        """Pass what comes before the first row, in its message, or after the last one."""
        size = self._size()
        body = self._block[self._first + _HEAD : self._first + size]
        if not self._begun and body[: len(_SIGNATURE)].tobytes() == _SIGNATURE:
            self._begun = True
            if len(body) > _SIGNATURE_BYTES:
                # The head of a message of its own, in front of the row.
                row = self._first + _SIGNATURE_BYTES
                length = size - 1 - _SIGNATURE_BYTES
                head = bytes([_ROW]) + length.to_bytes(4, "big")
                self._block[row : row + _HEAD] = np.frombuffer(head, dtype=np.uint8)
                self._first = row
                return
        elif body.tobytes() != _TRAILER:
            raise ValueError(f"the server sent a row of other than {self._fields} fields")
        self._first += size

    def _hear(self, kind: int, body: bytes) -> None:
        if kind == ord("Z"):
            self._finished = True
        elif kind == ord("E"):
            self._refusal = _refused(body)
        elif kind == ord("C"):
            said = body.rstrip(b"\0").rpartition(b" ")[2]
            if said != str(self._rows).encode():
                raise ValueError(f"{self._rows} rows came, and the server said {body!r}")
            self._counted = True
        elif kind not in _IGNORED:
            raise ValueError(f"the server sent a message of kind {chr(kind)!r} during COPY")


def _new_block(size: int) -> Bytes:
    return np.empty(size + SLACK, dtype=np.uint8)


def _refused(body: bytes) -> Exception:
    """Make psycopg's error from the fields of an ErrorResponse."""
    import psycopg

    fields = {part[:1]: part[1:].decode(errors="replace") for part in body.split(b"\0") if part}
    text, state = fields.get(b"M", "the server refused"), fields.get(b"C", "")
    # As libpq writes it.
    text += f"\nDETAIL:  {fields[b'D']}" if b"D" in fields else ""
    text += f"\nHINT:  {fields[b'H']}" if b"H" in fields else ""
    try:
        return psycopg.errors.lookup(state)(text)
    except KeyError:
        return psycopg.DatabaseError(f"{text} (SQLSTATE {state})")


def _lost(said: str) -> Exception:
    import psycopg

    return psycopg.OperationalError(said)
