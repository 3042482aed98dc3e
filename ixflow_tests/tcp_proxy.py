"""A TCP proxy in front of a database, whose network is as bad as a test wants it."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self

import sqlalchemy as sa

__all__ = ["Fault", "Proxy"]

LOOPBACK = "127.0.0.1"
_BLOCK = 1 << 16


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to one connection.

    ``delay`` seconds pass before each block from the server is handed on. After ``after`` bytes
    from the server (None: never) the connection is closed, reset, or stalls: it stays open, and
    nothing comes any more.
    """

    after: int | None = None
    then: Literal["close", "reset", "stall"] = "close"
    delay: float = 0.0


class Proxy:
    """Listens on the loopback for as long as the `with` block; ``faults`` may change meanwhile."""

    def __init__(self, target: sa.URL) -> None:
        """Name the server by a URL."""
        self._target = target
        self.fault = Fault()
        self.faulty: int | None = None
        """Only connections with a smaller number have the fault; None: all."""
        self.connections = 0
        self.broken = 0
        """How many connections were closed, reset or stalled."""
        self.stalled = threading.Event()
        """Nothing comes on any connection while this is set."""
        self._ended = threading.Event()
        self._sockets: list[socket.socket] = []

    @property
    def url(self) -> sa.URL:
        """Give the URL of the server through the proxy."""
        return self._target.set(host=LOOPBACK, port=self._listener.getsockname()[1])

    def engine(self) -> sa.Engine:
        """Make an engine that goes through the proxy and keeps no connection."""
        return sa.create_engine(self.url, poolclass=sa.NullPool)

    def __enter__(self) -> Self:
        """Begin to listen."""
        self._listener = socket.create_server((LOOPBACK, 0))
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close every connection."""
        self._ended.set()
        for line in [self._listener, *self._sockets]:
            _hang_up(line)

    def _accept(self) -> None:
        while not self._ended.is_set():
            with contextlib.suppress(OSError):
                client, _ = self._listener.accept()
                place = (self._target.host or LOOPBACK, self._target.port or 0)
                server = socket.create_connection(place)
                self._sockets += [client, server]
                number, self.connections = self.connections, self.connections + 1
                for work, *arguments in (
                    (self._up, client, server),
                    (self._down, server, client, number),
                ):
                    threading.Thread(target=work, args=arguments, daemon=True).start()

    def _up(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while block := client.recv(_BLOCK):
                self._wait()
                server.sendall(block)
        _hang_up(server)

    def _down(self, server: socket.socket, client: socket.socket, number: int) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while block := server.recv(_BLOCK):
                fault = self.fault if self.faulty is None or number < self.faulty else Fault()
                time.sleep(fault.delay)
                self._wait()
                if fault.after is not None and passed + len(block) > fault.after:
                    client.sendall(block[: max(0, fault.after - passed)])
                    self._break(fault, client)
                    break
                client.sendall(block)
                passed += len(block)
        _hang_up(client)
        _hang_up(server)

    def _break(self, fault: Fault, client: socket.socket) -> None:
        self.broken += 1
        if fault.then == "stall":
            self._ended.wait()
        elif fault.then == "reset":
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            # While the other thread waits for bytes, closing would do nothing.
            client.shutdown(socket.SHUT_RD)
            time.sleep(0.05)
            client.close()

    def _wait(self) -> None:
        while self.stalled.is_set() and not self._ended.is_set():
            time.sleep(0.02)


def _hang_up(line: socket.socket) -> None:
    with contextlib.suppress(OSError):
        line.shutdown(socket.SHUT_RDWR)
    line.close()
