"""Rows of MySQL's text protocol from a stream of bytes, without a server."""

from __future__ import annotations

import io
import socket
import struct
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pymysql
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymysql.connections import MySQLResult

from ixflow.dialects.mysql import row_stream
from ixflow.dialects.mysql.packets import LONGEST, packet_starts
from ixflow.dialects.mysql.reader import is_transient
from ixflow.dialects.mysql.row_stream import RowStream
from ixflow.dialects.mysql.text_rows import Malformed, Rows, decode
from ixflow.errors import ValueDoesNotFit
from ixflow.values import Column

Row = Sequence[bytes | None]
END = b"\xfe\x00\x00\x02\x00"
MORE = b"\xfe\x00\x00\x0a\x00"
KILLED = b"\xff" + struct.pack("<H", 1317) + b"#70100Query execution was interrupted"
SHUTDOWN = b"\xff" + struct.pack("<H", 1927) + b"#70100Connection was killed"
SMALL: list[Row] = [(b"1", b"one"), (b"22", None), (None, b""), (b"4", b"\x00" * 300)]


def cell(value: bytes | None) -> bytes:
    if value is None:
        return b"\xfb"
    size = len(value)
    for limit, lead, width in ((1 << 16, 252, 2), (1 << 24, 253, 3), (1 << 63, 254, 8)):
        if size < 251:
            return bytes([size]) + value
        if size < limit:
            return bytes([lead]) + size.to_bytes(width, "little") + value
    raise AssertionError(size)


def packets(payload: bytes, number: int) -> Iterator[bytes]:
    """Cut a payload into packets, numbered from here on, as a server does."""
    while True:
        piece, payload = payload[:LONGEST], payload[LONGEST:]
        yield len(piece).to_bytes(3, "little") + bytes([number % 256]) + piece
        number += 1
        if len(piece) < LONGEST:
            return


def stream_of(rows: Sequence[Row], *ends: bytes, number: int = 4) -> bytes:
    """Give what the server sends behind the description of the columns."""
    found: list[bytes] = []
    for payload in [b"".join(map(cell, row)) for row in rows] + list(ends):
        found.extend(packets(payload, number + len(found)))
    return b"".join(found)


class Pieces(io.RawIOBase):
    """A connection that gives its bytes in pieces, each by a read of its own."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._pieces = [memoryview(piece) for piece in pieces if piece]

    def readable(self) -> bool:
        return True

    def readinto(self, room: Any) -> int:
        if not self._pieces:
            return 0
        taken = self._pieces[0][: len(room)]
        room[: len(taken)] = taken
        self._pieces[0] = self._pieces[0][len(taken) :]
        if not self._pieces[0]:
            del self._pieces[0]
        return len(taken)


def connection(pieces: Sequence[bytes], width: int) -> Any:
    """Give PyMySQL's connection behind a query whose rows are these bytes; then it is cut."""
    raw: Any = pymysql.connect(defer_connect=True, ssl_disabled=True)
    raw._sock, other = socket.socketpair()
    other.close()
    raw._rfile, raw._next_seq_id = io.BufferedReader(Pieces(pieces)), 4
    raw._result = MySQLResult(raw)
    raw._result.field_count, raw._result.unbuffered_active = width, True
    return raw


def columns_of(width: int) -> list[Column]:
    return [Column(f"c{n}", "blob", pa.binary()) for n in range(width)]


def read(pieces: Sequence[bytes], width: int = 2) -> list[Row]:
    raw = connection(pieces, width)
    try:
        columns = columns_of(width)
        found: list[Row] = []
        for rows in RowStream(raw):
            values = [array.to_pylist() for array in decode(rows, columns)]
            found.extend(zip(*values, strict=True))
        return found
    finally:
        raw._force_close()


@pytest.mark.parametrize("waits", [True, False])
def test_rows_are_the_same_wherever_the_stream_is_split(waits, monkeypatch):
    monkeypatch.setattr(row_stream, "_waiter", lambda _: lambda: waits)
    whole = stream_of(SMALL, END)
    for place in range(len(whole)):
        assert read([whole[:place], whole[place:]]) == SMALL
    assert read([bytes([byte]) for byte in whole]) == SMALL


def test_a_stream_that_is_cut_anywhere_is_a_lost_connection():
    whole = stream_of(SMALL, END)
    for place in range(len(whole)):
        with pytest.raises(pymysql.OperationalError) as caught:
            read([whole[:place]])
        assert caught.value.args[0] == 2013
        assert is_transient(caught.value)


def test_a_value_that_looks_like_the_end_is_not_the_end():
    rows: list[Row] = [(b"1", b"x" * 240 + stream_of([], END)), (b"2", stream_of([], KILLED))]
    whole = stream_of(rows, END)
    for place in range(len(whole)):
        assert read([whole[:place], whole[place:]]) == rows


@pytest.mark.parametrize("payload", [KILLED, SHUTDOWN])
def test_an_error_of_the_server_is_raised_in_mid_stream(payload):
    whole = stream_of(SMALL, payload)
    with pytest.raises(pymysql.OperationalError) as caught:
        read([whole])
    assert caught.value.args[0] == struct.unpack_from("<H", payload, 1)[0]
    assert is_transient(caught.value) == (payload == SHUTDOWN)


def test_an_error_may_have_the_number_0():
    whole = stream_of(SMALL) + stream_of([], SHUTDOWN, number=0)
    with pytest.raises(pymysql.OperationalError, match="Connection was killed"):
        read([whole])


def test_packets_out_of_order_are_refused():
    for place in range(len(SMALL)):
        whole = stream_of(SMALL[:place]) + stream_of(SMALL[place:], END, number=90)
        with pytest.raises(pymysql.InternalError, match="not in order"):
            read([whole])


def test_a_second_result_and_bytes_behind_the_end_are_refused():
    with pytest.raises(pymysql.InternalError, match="more than one result"):
        read([stream_of(SMALL, MORE)])
    with pytest.raises(pymysql.InternalError, match="not the end"):
        read([stream_of(SMALL, END, END)])


@pytest.mark.parametrize("width", [1, 3])
def test_rows_of_another_width_are_refused(width):
    columns, whole = columns_of(width), stream_of(SMALL)
    block = np.frombuffer(whole, np.uint8)
    with pytest.raises(Malformed):
        decode(Rows(block, packet_starts(block)), columns)


def test_a_length_beyond_the_row_is_refused():
    for lead in (b"\x05", b"\xfc\xff\xff", b"\xfe" + b"\xff" * 8, b"\xfe" + b"\xff" * 7 + b"\x7f"):
        block = np.frombuffer(b"".join(packets(lead + b"x" * 3, 4)), np.uint8)
        with pytest.raises(Malformed):
            decode(Rows(block, packet_starts(block)), columns_of(1))


@pytest.mark.parametrize("extra", [-5, -4, -1, 0, 1, LONGEST, 2 * LONGEST])
def test_a_row_of_more_than_one_packet_is_one_row(extra):
    value = bytes(range(251)) * ((LONGEST + extra) // 251 + 1)
    long = value[: LONGEST + extra - 1 - 4 - 1 - 8]
    rows: list[Row] = [(b"1", b"a"), (b"2", long), (b"3", b"c"), (long, None), (b"5", b"e")]
    whole = stream_of(rows, END)
    assert read([whole]) == rows
    step = 5_000_011
    assert read([whole[at : at + step] for at in range(0, len(whole), step)]) == rows
    with pytest.raises(pymysql.OperationalError, match="Lost connection"):
        read([whole[: LONGEST + 100]])


def test_the_buffer_is_small_again_after_a_long_row(monkeypatch):
    monkeypatch.setattr(row_stream, "_waiter", lambda _: lambda: False)
    rows: list[Row] = [(b"1", b"x" * 5_000_000), *SMALL]
    raw = connection([stream_of(rows), stream_of(SMALL, END, number=4 + len(rows))], 2)
    stream = RowStream(raw)
    assert sum(len(rows.starts) - 1 for rows in stream) == len(rows) + len(SMALL)
    assert len(stream._buffer) == row_stream.BLOCK_BYTES
    raw._force_close()


def test_rows_that_were_given_up_do_not_look_like_the_end():
    raw = connection([stream_of(SMALL, END)], 2)
    stream = RowStream(raw)
    rows = iter(stream)
    stream.discard()
    with pytest.raises(pymysql.ProgrammingError, match="given up"):
        next(rows)
    raw._force_close()


def test_an_interrupted_read_closes_the_connection():
    class Interrupted(Pieces):
        def readinto(self, room: Any) -> int:
            raise KeyboardInterrupt

    raw = connection([], 2)
    raw._rfile = io.BufferedReader(Interrupted([]))
    stream = RowStream(raw)
    with pytest.raises(KeyboardInterrupt):
        next(iter(stream))
    assert stream.ended
    assert not raw.open


def test_text_that_is_not_utf_8_is_refused_by_row():
    block = np.frombuffer(stream_of([(b"a",), (None,), (b"\xff\xfe",)]), np.uint8)
    text = [Column("t", "text", pa.string())]
    with pytest.raises(ValueDoesNotFit, match="t in row 12"):
        decode(Rows(block, packet_starts(block)), text, 10)


PAYLOADS = st.lists(
    st.binary(max_size=300)
    | st.integers(0, 70_000).map(bytes)
    | st.integers(0, 255).map(lambda n: bytes([1, 0, 0, n, 65]) * 40)
    | st.lists(st.binary(max_size=9), max_size=5).map(
        lambda cells: stream_of([tuple(cells)], END, number=7)
    ),
    max_size=30,
)


@given(payloads=PAYLOADS, number=st.integers(0, 255), rest=st.integers(0, 400))
def test_packets_are_found_whatever_is_in_them(payloads, number, rest):
    pieces = [
        piece
        for place, payload in enumerate(payloads)
        for piece in packets(payload, number + place)
    ]
    whole = b"".join(pieces)
    block = np.frombuffer(whole[: len(whole) - rest] if rest else whole, np.uint8)
    places = np.cumsum([0, *map(len, pieces)])
    assert packet_starts(block).tolist() == [place for place in places if place <= len(block)]


@given(
    rows=st.lists(
        st.tuples(
            st.none() | st.binary(max_size=20),
            st.none() | st.integers(249, 253).map(bytes) | st.integers(65_530, 65_540).map(bytes),
            st.none() | st.binary(max_size=2),
        ),
        max_size=20,
    )
)
def test_every_value_arrives_whatever_its_length(rows):
    assert read([stream_of(rows, END)], 3) == rows
