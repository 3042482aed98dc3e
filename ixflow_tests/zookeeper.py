"""A real ZooKeeper for the tests: one server on loopback, from Debian's `libzookeeper-java`."""

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

__all__ = ["ZooKeeperServer"]

_JAR = Path("/usr/share/java/zookeeper.jar")
_MAIN = "org.apache.zookeeper.server.ZooKeeperServerMain"
_JAVA = ["-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData"]
_START_SECONDS = 60.0
# A session may last between 2 and 20 of these.
_TICK_MILLISECONDS = 200


class ZooKeeperServer:
    """A server with its data in a directory, for as long as the `with` block."""

    def __init__(self, directory: Path) -> None:
        """Name the directory."""
        self._directory = directory
        self._log = directory / "log"
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def hosts(self) -> str:
        """Give what a client connects to."""
        return f"{LOOPBACK}:{self._port}"

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
        """Start it, with the data and the sessions that it had, and wait until it answers."""
        java = shutil.which("java")
        if java is None or not _JAR.exists():
            raise ServerProgramsNotFound(
                "java or ZooKeeper is not on this machine. Install Debian's packages "
                "`default-jre-headless` and `libzookeeper-java`."
            )
        command = [java, *_JAVA, "-cp", str(_JAR), _MAIN, str(self._config())]
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
        raise ServerNotStarted(f"ZooKeeper did not start. Its log ends:\n{log_tail(self._log)}")

    def stop(self) -> None:
        """End it at once; sessions live on in its data."""
        if self._process is not None:
            stop(self._process, signal.SIGKILL)
            self._process = None

    def _config(self) -> Path:
        said = {
            "tickTime": _TICK_MILLISECONDS,
            "dataDir": self._directory / "data",
            "clientPort": self._port,
            "clientPortAddress": LOOPBACK,
            "admin.enableServer": "false",
            "4lw.commands.whitelist": "ruok",
            "maxClientCnxns": 0,
        }
        path = self._directory / "zoo.cfg"
        path.write_text("".join(f"{key}={value}\n" for key, value in said.items()))
        return path

    def _answers(self) -> bool:
        place = (LOOPBACK, self._port)
        with contextlib.suppress(OSError), socket.create_connection(place, 5) as line:
            line.sendall(b"ruok")
            return line.recv(16) == b"imok"
        return False
