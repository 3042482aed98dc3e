"""Databases for the tests, and the helpers that look at them from outside."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import pymysql
import sqlalchemy as sa

from ixflow.demo.postgres_server import PostgresServer, binaries_version, find_binaries
from ixflow.demo.server_process import (
    LOOPBACK,
    Account,
    PrivateDirectory,
    ServerNotStarted,
    ServerProgramsNotFound,
    free_port,
    log_tail,
    reachable,
    spawn,
    stop,
)

__all__ = [
    "MariaDBServer",
    "PostgresServer",
    "ReplicaServer",
    "database_versions",
    "make_engine",
]

# Debian keeps servers in sbin, which is not on everybody's PATH.
_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin"])


def make_engine(url: str) -> sa.Engine:
    """Make an engine that keeps no connection behind."""
    return sa.create_engine(url, poolclass=sa.NullPool)


def database_versions() -> dict[str, str]:
    """Ask each database's program or library which version will run."""
    binaries = find_binaries()
    mariadbd = shutil.which("mariadbd", path=_PATH)
    return {
        "postgres": binaries_version(binaries) if binaries else "NOT FOUND",
        "mariadb": _mariadb_version(mariadbd) if mariadbd else "NOT FOUND",
        "duckdb": importlib.metadata.version("duckdb"),
        "sqlite": sqlite3.sqlite_version,
    }


def _mariadb_version(program: str) -> str:
    command = [program, "--no-defaults", "--version"]
    said = subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout
    found = re.search(r"Ver (\S+?)-MariaDB", said)
    return found[1] if found else said.strip()


class ReplicaServer(PostgresServer):
    """A streaming replica of a PostgreSQL server, which ends queries in its way at once."""

    def __init__(self, primary: PostgresServer) -> None:
        """Name the server to follow."""
        super().__init__()
        self._primary = primary

    def _initialise(self, data: Path) -> None:
        program = str(self._binaries / "pg_basebackup")
        place = ["-h", self._primary.host, "-p", str(self._primary.port), "-U", self._primary.user]
        options = ["-D", str(data), "--write-recovery-conf", "--checkpoint=fast", "--no-sync"]
        process = self._spawn([program, *place, *options], signal.SIGTERM)
        if process.wait(60) != 0:
            self._fail("pg_basebackup did not succeed")

    def _command(self, runtime: Path) -> list[str]:
        settings = ("max_standby_streaming_delay=0", "hot_standby_feedback=off")
        return super()._command(runtime) + [word for text in settings for word in ("-c", text)]


class MariaDBServer:
    """A MariaDB server with an empty temporary data directory, for as long as the `with` block."""

    host = LOOPBACK
    user = "root"

    def __init__(self, *more: str, startup_timeout: float = 60.0) -> None:
        """Describe the server; `startup_timeout` bounds each step of the start in seconds.

        `more` are options of `mariadbd`.
        """
        self.port = 0
        self._more = more
        self._startup_timeout = startup_timeout
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Give the SQLAlchemy URL of the server, with its driver and without a database."""
        return f"mysql+pymysql://{self.user}@{self.host}:{self.port}/"

    @property
    def version(self) -> str:
        """Give the server's version, such as `10.11.19`."""
        return _mariadb_version(self._program("mariadbd"))

    @property
    def pid(self) -> int | None:
        """Give the process id of the server while it runs."""
        return self._process.pid if self._process else None

    def __enter__(self) -> Self:
        """Initialise, start, and wait until it answers."""
        programs = self._program("mariadb-install-db"), self._program("mariadbd")
        self._account = Account.for_server()
        self._place = PrivateDirectory("ixflow-mariadb-", self._account)
        self._log = self._place.path / "log"
        try:
            self._data = self._place.directory("data", self._account)
            self._run = self._place.directory("run", self._account)
            self._initialise(programs[0])
            self._start(programs[1])
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the server and remove its data."""
        self._stop()

    def _program(self, name: str) -> str:
        found = shutil.which(name, path=_PATH)
        if found is None or not reachable(Path(found).resolve().parent, Account.for_server()):
            raise ServerProgramsNotFound(
                f"{name} is not on this machine. Install Debian's package `mariadb-server`.",
                program=name,
            )
        return found

    def _initialise(self, program: str) -> None:
        options = ["--auth-root-authentication-method=normal", "--skip-test-db"]
        process = self._spawn([program, "--no-defaults", *self._options(), *options])
        try:
            failed = process.wait(self._startup_timeout) != 0
        except subprocess.TimeoutExpired:
            failed = True
        finally:
            stop(process, signal.SIGKILL)
        if failed:
            self._fail("mariadb-install-db did not succeed")

    def _start(self, program: str) -> None:
        # Between the look for a free port and the server's use of it another process may take it.
        for _ in range(5):
            self.port = free_port()
            listen = [f"--port={self.port}", f"--bind-address={self.host}", "--skip-log-bin"]
            files = [f"--socket={self._run}/s.sock", f"--pid-file={self._run}/pid"]
            command = [program, "--no-defaults", *self._options(), *listen, *files]
            self._process = self._spawn([*command, "--local-infile=1", *self._more])
            if self._is_ready():
                return
            stop(self._process, signal.SIGKILL)
            if "Can't start server: Bind on TCP/IP port" not in log_tail(self._log):
                break
        self._fail("MariaDB did not start")

    def _options(self) -> list[str]:
        return [f"--datadir={self._data}", f"--tmpdir={self._run}", "--skip-name-resolve"]

    def _spawn(self, command: list[str]) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return spawn(
                command,
                account=self._account,
                directory=self._place.path,
                log=log,
                end=signal.SIGKILL,
                hold=[self._place.lock],
            )

    def _is_ready(self) -> bool:
        deadline = time.monotonic() + self._startup_timeout
        while self._process and self._process.poll() is None and time.monotonic() < deadline:
            try:
                pymysql.connect(host=self.host, port=self.port, user=self.user).close()
            except pymysql.OperationalError:
                time.sleep(0.05)
            else:
                # Another server may have taken the port; then ours has ended by now or soon will.
                return (self._run / "pid").exists()
        return False

    def _fail(self, what: str) -> None:
        raise ServerNotStarted(f"{what}. Its log ends:\n{log_tail(self._log)}")

    def _stop(self) -> None:
        if self._process is not None:
            # The data are thrown away: nothing is gained by an orderly end.
            stop(self._process, signal.SIGKILL)
            self._process = None
        self._place.remove()
