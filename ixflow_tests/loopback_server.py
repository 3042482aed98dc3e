"""A server of one process on loopback that answers a word when it is ready, for tests."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from ixflow.demo.server_process import (
    LOOPBACK,
    Account,
    ServerNotStarted,
    free_port,
    log_tail,
    spawn,
    stop,
)

__all__ = ["LoopbackServer"]

_START_SECONDS = 60.0


class LoopbackServer(ABC):
    """A server with its log and data in a directory, for as long as the `with` block."""

    name: ClassVar[str]
    question: ClassVar[bytes]
    answer: ClassVar[bytes]
    """What it says to the question once it is ready."""

    def __init__(self, directory: Path) -> None:
        """Name the directory."""
        self._directory, self._log = directory, directory / "log"
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def _command(self) -> Sequence[str]:
        """Give the command; raise `ServerProgramsNotFound` where it is not installed."""

    def __enter__(self) -> Self:
        """Start it."""
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop it."""
        self.stop()

    def start(self) -> None:
        """Start it, with the data that it had, and wait until it answers."""
        command = self._command()
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
                return
            time.sleep(0.05)
        self.stop()
        raise ServerNotStarted(f"{self.name} did not start. Its log ends:\n{log_tail(self._log)}")

    def stop(self) -> None:
        """End it at once; its data stay."""
        if self._process is not None:
            stop(self._process, signal.SIGKILL)
            self._process = None

    def _answers(self) -> bool:
        place = (LOOPBACK, self._port)
        with contextlib.suppress(OSError), socket.create_connection(place, 5) as line:
            line.sendall(self.question)
            return line.recv(16).startswith(self.answer)
        return False
