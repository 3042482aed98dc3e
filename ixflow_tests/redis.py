"""A real Redis for the tests: one server on loopback, from Debian's `redis-server`."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from ixflow.demo.server_process import (
    LOOPBACK,
    Account,
    ServerNotStarted,
    ServerProgramsNotFound,
    free_port,
    log_tail,
    spawn,
    stop,
)

__all__ = ["RedisServer"]

_START_SECONDS = 30.0


class RedisServer:
    """A server that keeps everything in memory, for as long as the `with` block."""

    def __init__(self, directory: Path) -> None:
        """Name a directory for its log."""
        self._directory, self._log = directory, directory / "log"
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Give what a client connects to."""
        return f"redis://{LOOPBACK}:{self._port}/0"

    def __enter__(self) -> Self:
        """Start it, and wait until it answers."""
        program = shutil.which("redis-server")
        if program is None:
            raise ServerProgramsNotFound(
                "redis-server is not on this machine. Install Debian's package `redis-server`."
            )
        options = {"bind": LOOPBACK, "port": self._port, "save": "", "appendonly": "no"}
        command = [program, *(word for k, v in options.items() for word in (f"--{k}", str(v)))]
        with self._log.open("ab") as log:
            self._process = spawn(
                command,
                account=Account(os.geteuid(), os.getegid()),
                directory=self._directory,
                log=log,
                end=signal.SIGKILL,
            )
        deadline = time.monotonic() + _START_SECONDS
        while self._process.poll() is None and time.monotonic() < deadline:
            if self._answers():
                return self
            time.sleep(0.05)
        self._stop()
        raise ServerNotStarted(f"Redis did not start. Its log ends:\n{log_tail(self._log)}")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop it; nothing of it is kept."""
        self._stop()

    def _stop(self) -> None:
        if self._process is not None:
            stop(self._process, signal.SIGKILL)
            self._process = None

    def _answers(self) -> bool:
        place = (LOOPBACK, self._port)
        with contextlib.suppress(OSError), socket.create_connection(place, 5) as line:
            line.sendall(b"PING\r\n")
            return line.recv(16) == b"+PONG\r\n"
        return False
