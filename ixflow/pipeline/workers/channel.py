"""Objects over a socket between two processes of one run, each message authenticated.

Whoever has the run's key may make the other side run code, since messages are pickled. They are
not encrypted: a network that others can listen to is not the place for them.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import pickle
import secrets
import socket
import struct
from types import TracebackType
from typing import Any, Self

__all__ = ["Channel", "Closed", "Unreadable"]

_HEAD = struct.Struct(">Q32s")
_NONCE = 16
_GREETING_SECONDS = 30
_FIRST_BYTES = 1 << 16


class Closed(ConnectionError):
    """The other side is gone, or never was what it claims to be."""


class Unreadable(Closed):
    """What the other side has sent means nothing here."""


class Channel:
    """One connection; each side sends in its turn.

    Raises:
        Closed: the other side is gone, or does not know the key.

    """

    def __init__(self, sock: socket.socket, key: bytes, *, called: bool) -> None:
        self._socket = sock
        sock.settimeout(_GREETING_SECONDS)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        mine = secrets.token_bytes(_NONCE)
        self._guarded(lambda: sock.sendall(mine))
        theirs = self._read(_NONCE)
        nonces = theirs + mine if called else mine + theirs
        sides = (b"called", b"caller") if called else (b"caller", b"called")
        self._mine, self._theirs = (hmac.digest(key, nonces + side, "sha256") for side in sides)
        self._sent = self._received = 0

    @classmethod
    def to(cls, address: tuple[str, int], key: bytes) -> Self:
        """Call a leader.

        Raises:
            OSError: it cannot be reached.

        """
        return cls(socket.create_connection(address, _GREETING_SECONDS), key, called=False)

    def send(self, message: Any) -> None:
        """Send an object that can be pickled."""
        body = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
        head = _HEAD.pack(len(body), _mark(self._mine, self._sent, body))
        self._sent += 1
        self._guarded(lambda: self._socket.sendall(head + body))

    def receive(self) -> Any:
        """Wait for an object.

        Raises:
            Unreadable: it cannot be made here.

        """
        length, mark = _HEAD.unpack(self._read(_HEAD.size))
        if not self._received and length > _FIRST_BYTES:
            msg = "the first message is too long"
            raise Closed(msg)
        body = self._read(length)
        if not hmac.compare_digest(mark, _mark(self._theirs, self._received, body)):
            msg = "the other side does not know the key of this run"
            raise Closed(msg)
        if not self._received:
            # From now on it may take a task's time.
            self._socket.settimeout(None)
        self._received += 1
        try:
            return pickle.loads(body)  # noqa: S301 - its sender knows the key
        except Exception as error:
            msg = (
                f"a message cannot be read, {type(error).__name__}: {error}; are the packages of "
                f"the leader and of its workers the same?"
            )
            raise Unreadable(msg) from error

    def _read(self, length: int) -> bytes:
        parts = bytearray()
        while len(parts) < length:
            wanted = min(length - len(parts), 1 << 20)
            part = self._guarded(lambda: self._socket.recv(wanted))  # noqa: B023 - called at once
            if not part:
                msg = "the other side has closed the connection"
                raise Closed(msg)
            parts += part
        return bytes(parts)

    def _guarded(self, work: Any) -> Any:
        try:
            return work()
        except OSError as error:
            raise Closed(str(error)) from error

    def close(self) -> None:
        """End the connection; what waits for a message gets `Closed`."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def __enter__(self) -> Self:
        """Use it in the block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
        del kind, error, trace
        self.close()


def _mark(key: bytes, number: int, body: bytes) -> bytes:
    made = hmac.new(key, number.to_bytes(8, "big"), hashlib.sha256)
    made.update(body)
    return made.digest()
