"""The rows of a running query, taken from PyMySQL's connection in blocks instead of one by one.

PyMySQL connects, sends the query and reads what describes the columns; from there on the bytes are
read here. Only the server's packet for the end of the rows is the end; everything else that stops
them is an error, the same that PyMySQL raises.
"""

from __future__ import annotations

import select
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import numpy as np

from ixflow.dialects.guest import refuse_long_row
from ixflow.dialects.mysql.packets import (
    HEADER,
    LONGEST,
    Block,
    Places,
    packet_starts,
    payload_length,
)
from ixflow.dialects.mysql.text_rows import Rows
from ixflow.errors import SourceLimitReached

__all__ = ["BLOCK_BYTES", "RowStream"]

BLOCK_BYTES = 1 << 20
"""Bytes that are decoded at a time, but for a longer row: about what a processor's cache holds."""
# More for wide rows, since each column costs something per block; but not beyond this.
_BYTES_PER_COLUMN, _MOST_BLOCK_BYTES = 1 << 14, 8 << 20

# Rather than wait longer for the server, decode what it has sent so far.
_PATIENCE_SECONDS = 0.01

_ERROR, _END, _END_BYTES = 0xFF, 0xFE, 5
_MORE_RESULTS = 0x0008
_MOST_BYTES = (1 << 31) - 1
_SERVER_LOST = 2013


class RowStream:
    """The result of the query that a connection has sent, unbuffered; iterate once."""

    def __init__(self, raw: Any) -> None:
        """Take over from PyMySQL behind the description of the columns."""
        self._raw = raw
        self.width = int(raw._result.field_count)  # noqa: SLF001 - PyMySQL has no other way in
        self.ended = self.width == 0
        self._given_up = False
        self.received = 0
        # PyMySQL would try to read the rows when it forgets the result.
        raw._result.unbuffered_active = False  # noqa: SLF001 - it would read on
        wide = min(self.width * _BYTES_PER_COLUMN, _MOST_BLOCK_BYTES)
        self._block_bytes = max(BLOCK_BYTES, wide)
        self._buffer: Block = np.empty(self._block_bytes, np.uint8)
        self._begin = self._end = self._whole = 0
        self._number = int(raw._next_seq_id)  # noqa: SLF001 - of the packet to come
        self._file, self._ahead_taken = raw._rfile, False  # noqa: SLF001 - its bytes
        self._more_soon = _waiter(raw._sock)  # noqa: SLF001 - to see whether more has come

    def __iter__(self) -> Iterator[Rows]:
        """Give the rows as they come, some at a time; the next piece overwrites the one before.

        Raises:
            pymysql.Error: the server's, or 2013 when the connection is lost.

        """
        yield from self._pieces()
        if self._given_up:
            from pymysql import err

            raise err.ProgrammingError("the other rows were given up for another query")

    def discard(self) -> None:
        """Read the other rows and drop them, so that the connection can be used again."""
        self._given_up = True
        for _ in self._pieces():
            pass

    def _pieces(self) -> Iterator[Rows]:
        while not self.ended:
            self._receive()
            yield from self._whole_rows()

    def broken(self, what: str) -> NoReturn:
        """Close the connection, on which nothing can be understood any more, and say why."""
        from pymysql import err

        self._close()
        raise err.InternalError(f"MySQL's answer makes no sense: {what}")

    # -- bytes in ----------------------------------------------------------------------------------

    def _receive(self) -> None:
        """Read until the buffer is full, or what has come may be all for now."""
        self._make_room()
        room, begin = memoryview(self._buffer.data), self._end
        while True:
            why = ""
            try:
                count = self._read_into(room[self._end :])
            except OSError as error:
                count, why = 0, f" ({error})"
            except BaseException:
                # Who knows how many bytes are lost.
                self._close()
                raise
            if not count:
                if self._end > begin:  # Perhaps the server said why it hung up.
                    return
                self._lost(why)
            self._end += count
            self.received += count
            if self._end == len(room) or self._seems_ended() or not self._more_soon():
                return

    def _read_into(self, room: memoryview) -> int:
        """Read what there is, at least one byte; 0: the connection has ended."""
        if not self._ahead_taken:
            # What PyMySQL has read ahead; if that is nothing, this reads once from the socket.
            self._ahead_taken = True
            ahead = self._file.read1(len(room))
            room[: len(ahead)] = ahead
            return len(ahead)
        return int(self._file.raw.readinto(room))

    def _seems_ended(self) -> bool:
        """Say whether the last bytes look like the end of all rows, behind which nothing comes."""
        tail = self._buffer[max(self._begin, self._end - HEADER - _END_BYTES) : self._end]
        looks = tail[:3].tobytes() == bytes([_END_BYTES, 0, 0])
        return looks and len(tail) == HEADER + _END_BYTES and tail[HEADER] == _END

    def _make_room(self) -> None:
        """Move the incomplete rest to the front of a buffer that has room for the next packet."""
        rest = self._buffer[self._begin : self._end]
        needed = self._whole - self._begin
        if self._end - self._whole >= HEADER:
            needed += HEADER + payload_length(self._buffer, self._whole)
        if needed > _MOST_BYTES:
            self.broken("a row is longer than 2 GB")
        try:
            refuse_long_row(needed)
        except SourceLimitReached:
            self._close()
            raise
        if needed > LONGEST:  # Who knows how many packets the row has.
            needed = min(needed * 3 // 2, _MOST_BYTES)
        size = max(self._block_bytes, needed)
        room = self._buffer if size == len(self._buffer) else np.empty(size, np.uint8)
        room[: len(rest)] = rest
        self._buffer, self._end, self._whole = room, len(rest), self._whole - self._begin
        self._begin = 0

    def _lost(self, why: str) -> NoReturn:
        self._close()
        raise _lost_error(why) from None

    def _close(self) -> None:
        self.ended = True
        self._raw._force_close()  # noqa: SLF001 - close() would talk to the server

    # -- rows out ----------------------------------------------------------------------------------

    def _whole_rows(self) -> list[Rows]:
        """Take all whole rows out of the buffer; note the end, raise the server's error."""
        block = self._buffer[: self._end]
        starts = packet_starts(block[self._begin :]) + self._begin
        self._whole = int(starts[-1])
        count = _in_order(block, starts, self._number)
        special, found, first = [*_special(block, starts[: count + 1]), count], [], 0
        while first < count and not self.ended:
            place = next(place for place in special if place >= first)
            if place > first:
                found.append(Rows(block, starts[first : place + 1]))
            else:
                place += self._take_special(block, starts[first : count + 1], found)
            if place == first:  # a long row whose other packets are still to come
                break
            first = place
        if count < len(starts) - 1 and not self.ended:
            self._out_of_order(block[int(starts[count]) : int(starts[count + 1])])
        self._begin = int(starts[first])
        self._number = (self._number + first) % 256
        return found

    def _take_special(self, block: Block, starts: Places, found: list[Rows]) -> int:
        """Take the first packet, which is not a row; give how many packets belong to it."""
        payload = block[int(starts[0]) + HEADER : int(starts[1])]
        if len(payload) == LONGEST:
            return _join_long_row(block, starts, found)
        if not len(payload):
            self.broken("a row without a byte")
        if payload[0] == _ERROR:
            self._refused(payload)
        if len(payload) != _END_BYTES or int(starts[1]) != self._end:
            self.broken("the end of the rows is not the end")
        if payload[3] & _MORE_RESULTS:
            self.broken("the query has more than one result")
        self.ended = True
        return 1

    def _out_of_order(self, packet: Block) -> NoReturn:
        if len(packet) > HEADER and packet[HEADER] == _ERROR:
            self._refused(packet[HEADER:])
        if packet[HEADER - 1] == 0:  # The server's good-bye on shutdown.
            self._lost("")
        self.broken("its packets are not in order")

    def _refused(self, payload: Block) -> NoReturn:
        from pymysql import err

        self.ended = True
        err.raise_mysql_exception(payload.tobytes())
        raise AssertionError


def _lost_error(why: str) -> Exception:
    """Make the driver's error for a connection that ended too early."""
    from pymysql import err

    what = f"Lost connection to MySQL server during query{why}"
    made: Exception = err.OperationalError(_SERVER_LOST, what)
    return made


def _in_order(block: Block, starts: Places, number: int) -> int:
    """Count the packets from the first on whose numbers go on from this one."""
    count = len(starts) - 1
    due = np.arange(number, number + count).astype(np.uint8)
    wrong = np.flatnonzero(block[starts[:-1] + HEADER - 1] != due)
    return int(wrong[0]) if len(wrong) else count


def _special(block: Block, starts: Places) -> list[int]:
    """Give the places of packets that are not one row: an error, the end, part of a long row."""
    sizes = np.diff(starts) - HEADER
    lead = block[np.minimum(starts[:-1] + HEADER, len(block) - 1)]
    odd = (lead >= _END) | (sizes == LONGEST) | (sizes == 0)
    return [int(place) for place in np.flatnonzero(odd)]


def _join_long_row(block: Block, starts: Places, found: list[Rows]) -> int:
    """Close the gaps that headers make in a row of several packets; give how many they are."""
    sizes = np.diff(starts) - HEADER
    last = np.flatnonzero(sizes < LONGEST)
    if not len(last):
        return 0
    count = int(last[0]) + 1
    begin = end = int(starts[0])
    end += HEADER
    for start, size in zip(starts[:count].tolist(), sizes[:count].tolist(), strict=True):
        block[end : end + size] = block[start + HEADER : start + HEADER + size]
        end += size
    found.append(Rows(block, np.array([begin, end])))
    return count


def _waiter(sock: Any) -> Callable[[], bool]:
    """Make a function that says whether more bytes come within `_PATIENCE_SECONDS`."""
    decrypted: Callable[[], int] = getattr(sock, "pending", lambda: 0)
    if not hasattr(select, "poll"):
        return lambda: bool(decrypted() or select.select([sock], [], [], _PATIENCE_SECONDS)[0])
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    wait = int(_PATIENCE_SECONDS * 1000)
    return lambda: bool(decrypted() or poll.poll(wait))
