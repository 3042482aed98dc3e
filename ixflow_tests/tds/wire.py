"""TDS packets and tokens, both ways: what a server reads and writes (MS-TDS 2.2)."""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ixflow_tests.tds.tls import Channel
from ixflow_tests.tds.types import Encode, SQLType, wire_type

__all__ = [
    "DONE",
    "DONE_IN_PROC",
    "DONE_PROC",
    "Login",
    "Parameter",
    "Wire",
    "changed",
    "columns",
    "done",
    "error",
    "logged_in",
    "login",
    "parameters",
    "prelogin",
    "query_text",
]

DONE, DONE_PROC, DONE_IN_PROC = 0xFD, 0xFE, 0xFF
_LAST_PACKET = 1
_HEADER = struct.Struct(">BBHHBB")


class Wire:
    """One client's socket, cut into packets."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._channel: Channel | None = None
        self._received = b""
        self.packet_size = 4096
        self._waiting = b""
        self._number = 1

    def message(self) -> tuple[int, bytes]:
        """Read one message: its type and content."""
        found = []
        while True:
            kind, status, length, *_ = _HEADER.unpack(self._read(_HEADER.size))
            found.append(self._read(length - _HEADER.size))
            if status & _LAST_PACKET:
                return kind, b"".join(found)

    def _read(self, count: int) -> bytes:
        while len(self._received) < count:
            piece = (
                self._socket.recv(1 << 16)
                if self._channel is None
                else self._channel.receive(self._socket)
            )
            if not piece:
                raise EOFError
            self._received += piece
        found, self._received = self._received[:count], self._received[count:]
        return found

    def encrypt(self, channel: Channel) -> None:
        """Shake hands, in packets; everything behind it is encrypted."""
        done = False
        while not done:
            _, content = self.message()
            answer, done = channel.shake_hands(content)
            if answer:
                self._send(_HEADER.pack(0x12, 1, len(answer) + _HEADER.size, 55, 1, 0) + answer)
        self._channel = channel

    def _send(self, packets: bytes) -> None:
        if packets:
            self._socket.sendall(packets if self._channel is None else self._channel.seal(packets))

    def write(self, tokens: bytes) -> None:
        """Send what fills whole packets; keep the rest."""
        waiting = self._waiting + tokens
        room = self.packet_size - _HEADER.size
        # The last packet must not be empty, so a full one waits for it.
        full = max(0, (len(waiting) - 1) // room) * room
        starts = range(0, full, room)
        packets = [self._packet(waiting[at : at + room], last=False) for at in starts]
        self._waiting = waiting[full:]
        self._send(b"".join(packets))

    def end(self) -> None:
        """Send the last packet of a message."""
        rest, self._waiting = self._waiting, b""
        self._send(self._packet(rest, last=True))
        self._number = 1

    def leave(self, *, reset: bool) -> None:
        """Send what there is, and go in the middle of a message."""
        if reset:
            linger = struct.pack("ii", 1, 0)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        else:
            # A whole packet that says it is not the last one: only the goodbye tells.
            waiting, self._waiting = self._waiting, b""
            self._send(self._packet(waiting, last=False))
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        raise EOFError

    def _packet(self, content: bytes, *, last: bool) -> bytes:
        number, self._number = self._number & 255, self._number + 1
        return _HEADER.pack(4, int(last), len(content) + _HEADER.size, 55, number, 0) + content


# -- what the server says -------------------------------------------------------------------------


def _short_text(text: str) -> bytes:
    written = text.encode("utf-16-le")
    return bytes([len(written) // 2]) + written


def _text(text: str) -> bytes:
    written = text.encode("utf-16-le")
    return struct.pack("<H", len(written) // 2) + written


def done(
    token: int = DONE, *, rows: int | None = None, more: bool = False, failed: bool = False
) -> bytes:
    """End a statement's answer."""
    status = more | failed << 1 | (rows is not None) << 4
    return struct.pack("<BHHQ", token, status, 0xC1, rows or 0)


def error(number: int, message: str) -> bytes:
    """Say what went wrong; 20 and more as severity would end the session."""
    said = struct.pack("<iBB", number, 1, 14 if number == 18456 else 16)
    said += _text(message[:2000]) + _short_text("stand-in") + _short_text("")
    said += struct.pack("<i", 1)
    return b"\xaa" + struct.pack("<H", len(said)) + said


def _environment(kind: int, new: bytes, old: bytes) -> bytes:
    said = bytes([kind]) + new + old
    return b"\xe3" + struct.pack("<H", len(said)) + said


def changed(*, in_transaction: bool) -> bytes:
    """Tell of a transaction that began or ended."""
    number = b"\x08" + struct.pack("<Q", 1)
    return _environment(8, number, b"\0") if in_transaction else _environment(9, b"\0", number)


def columns(described: Sequence[tuple[str, SQLType]]) -> tuple[bytes, list[Encode]]:
    """Describe a result, and give the functions that write its columns."""
    said = [b"\x81", struct.pack("<H", len(described))]
    encoders = []
    for name, type_ in described:
        info, encode = wire_type(type_)
        encoders.append(encode)
        said.append(struct.pack("<IH", 0, 0x0009) + info + _short_text(name))
    return b"".join(said), encoders


def prelogin(*, encrypted: bool) -> bytes:
    """Answer the first message: version 16, encryption or not, one result at a time."""
    version, encryption = struct.pack(">BBHH", 16, 0, 4000, 0), b"\x03" if encrypted else b"\x02"
    options = [(0, version), (1, encryption), (2, b"\0"), (4, b"\0")]
    place, head, body = len(options) * 5 + 1, b"", b""
    for number, value in options:
        head += struct.pack(">BHH", number, place + len(body), len(value))
        body += value
    return head + b"\xff" + body


def logged_in(database: str, packet_size: int, *, features: bool) -> bytes:
    """Accept a login."""
    collation = b"\x05\x09\x04\xd0\x00\x34"
    said = _environment(1, _short_text(database), _short_text("master"))
    said += _environment(7, collation, b"\0")
    said += _environment(2, _short_text("us_english"), _short_text(""))
    program = b"\x01" + struct.pack(">I", 0x74000004) + _short_text("Microsoft SQL Server")
    program += struct.pack(">BBH", 16, 0, 4000)
    said += b"\xad" + struct.pack("<H", len(program)) + program
    said += _environment(4, _short_text(str(packet_size)), _short_text("4096"))
    # UTF-8 in varchar is the one feature that is acknowledged.
    said += b"\xae\x0a" + struct.pack("<I", 1) + b"\x01\xff" if features else b""
    return said + done()


# -- what the client says -------------------------------------------------------------------------


@dataclass(frozen=True)
class Login:
    """Who wants in."""

    user: str
    password: str = field(repr=False)
    database: str
    packet_size: int
    features: bool


def login(content: bytes) -> Login:
    """Read a LOGIN7 message."""

    def part(number: int) -> bytes:
        start, length = map(int, struct.unpack_from("<HH", content, 36 + 4 * number))
        return content[start : start + 2 * length]

    password = bytes((((c ^ 0xA5) >> 4) | ((c ^ 0xA5) << 4)) & 255 for c in part(2))
    (size,) = struct.unpack_from("<I", content, 8)
    return Login(
        user=part(1).decode("utf-16-le"),
        password=password.decode("utf-16-le"),
        database=part(8).decode("utf-16-le") or "master",
        packet_size=min(max(size or 4096, 512), 32767),
        features=bool(content[27] & 0x10),
    )


@dataclass(frozen=True)
class Parameter:
    """One parameter of a procedure."""

    name: str
    value: Any


class _Bytes:
    def __init__(self, content: bytes) -> None:
        self.content, self.place = content, 0

    def take(self, count: int) -> bytes:
        self.place += count
        return self.content[self.place - count : self.place]

    def number(self, code: str) -> int:
        (found,) = struct.unpack(code, self.take(struct.calcsize(code)))
        return int(found)

    def short_text(self) -> str:
        return self.take(2 * self.number("<B")).decode("utf-16-le")

    def skip_headers(self) -> None:
        (length,) = struct.unpack_from("<I", self.content)
        self.place = length


def query_text(content: bytes) -> str:
    """Read a batch."""
    stream = _Bytes(content)
    stream.skip_headers()
    return content[stream.place :].decode("utf-16-le")


def parameters(content: bytes) -> tuple[int | str, list[Parameter]]:
    """Read the call of one procedure: its number or name, and what it is given."""
    stream = _Bytes(content)
    stream.skip_headers()
    length = stream.number("<H")
    numbered = length == 0xFFFF
    called: int | str = (
        stream.number("<H") if numbered else stream.take(2 * length).decode("utf-16-le")
    )
    stream.take(2)
    found = []
    while stream.place < len(content):
        name = stream.short_text()
        stream.take(1)
        found.append(Parameter(name.lstrip("@"), _value(stream)))
    return called, found


def _value(stream: _Bytes) -> Any:
    kind = stream.number("<B")
    if kind == 0x26:
        stream.take(1)
        size = stream.number("<B")
        return int.from_bytes(stream.take(size), "little", signed=size > 1) if size else None
    if kind in (0xA7, 0xE7):
        # The driver sends text as varchar where it is ASCII.
        found = _text_bytes(stream)
        return found and found.decode("cp1252" if kind == 0xA7 else "utf-16-le")
    msg = f"the stand-in does not read parameters of type 0x{kind:02x}"
    raise NotImplementedError(msg)


def _text_bytes(stream: _Bytes) -> bytes | None:
    most = stream.number("<H")
    stream.take(5)
    if most != 0xFFFF:
        length = stream.number("<H")
        return None if length == 0xFFFF else stream.take(length)
    if stream.number("<Q") == 0xFFFFFFFFFFFFFFFF:
        return None
    return b"".join(iter(lambda: stream.take(stream.number("<I")), b""))
