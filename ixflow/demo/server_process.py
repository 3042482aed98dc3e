"""What starting any private database server takes: a port, an account, a directory, an end.

A server started here listens on loopback only, runs as `nobody` when we are root (database servers
refuse to run as root), and dies with the process that started it, however that process ends.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import pwd
import random
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ixflow.errors import IxflowError

__all__ = [
    "Account",
    "PrivateDirectory",
    "ServerNotStarted",
    "ServerProgramsNotFound",
    "free_port",
    "log_tail",
    "reachable",
    "spawn",
    "stop",
]

LOOPBACK = "127.0.0.1"
_PR_SET_PDEATHSIG = 1
# A socket's path may have 107 bytes; the directory's own name and the socket's need about 50.
_LONGEST_BASE = 55


class ServerProgramsNotFound(IxflowError):
    """The database server's programs are not on this machine."""


class ServerNotStarted(IxflowError):
    """The database server did not come up; the message ends with its log."""


@dataclass(frozen=True)
class Account:
    """The user and group a server runs as."""

    uid: int
    gid: int

    @classmethod
    def for_server(cls, data: Path | None = None) -> Account:
        """Give the current account; for root the owner of the existing data, or `nobody`."""
        if os.geteuid() != 0:
            return cls(os.geteuid(), os.getegid())
        if data is not None and data.exists() and data.stat().st_uid != 0:
            return cls(data.stat().st_uid, data.stat().st_gid)
        nobody = pwd.getpwnam("nobody")
        return cls(nobody.pw_uid, nobody.pw_gid)

    @property
    def is_current(self) -> bool:
        """Say whether no change of account is needed."""
        return self.uid == os.geteuid()

    def own(self, directory: Path) -> Path:
        """Make the existing directory this account's alone."""
        directory.chmod(0o700)
        os.chown(directory, self.uid, self.gid)
        return directory

    def subprocess_options(self) -> dict[str, Any]:
        """Give the options of `subprocess` that change to this account."""
        if self.is_current:
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}


def reachable(path: Path, account: Account) -> bool:
    """Say whether the account may pass through every directory from the root to `path`."""
    for directory in (path, *path.parents):
        facts = directory.stat()
        owner = facts.st_uid == account.uid and facts.st_mode & stat.S_IXUSR
        if not owner and not facts.st_mode & stat.S_IXOTH:
            return False
    return True


class PrivateDirectory:
    """A temporary directory that a server's account can reach, swept when its maker was killed.

    The maker and the server hold a lock on it; a directory without a holder is a left-over.
    """

    def __init__(self, prefix: str, account: Account) -> None:
        """Make the directory, after removing those of the same prefix that nobody holds."""
        base = self._base(account)
        self._sweep(base, prefix)
        self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=base))
        self.path.chmod(0o711)
        # Named only once it is held: a sweep must not find it free.
        self._lock = (self.path / "lock.new").open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        (self.path / "lock.new").rename(self.path / "lock")

    @staticmethod
    def _base(account: Account) -> Path:
        wanted = Path(tempfile.gettempdir())
        for base in (wanted, Path("/tmp"), Path("/var/tmp")):  # noqa: S108 - mkdtemp makes it private
            if base.is_dir() and len(str(base)) <= _LONGEST_BASE and reachable(base, account):
                return base
        raise ServerNotStarted(
            f"No temporary directory that user id {account.uid} can reach and whose path is at "
            f"most {_LONGEST_BASE} characters long ({wanted} is not). Set TMPDIR to one.",
            directory=str(wanted),
        )

    @staticmethod
    def _sweep(base: Path, prefix: str) -> None:
        for left in base.glob(f"{prefix}*/lock"):
            if left.is_symlink() or left.stat().st_uid != os.geteuid():
                continue
            with left.open("r+") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                shutil.rmtree(left.parent, ignore_errors=True)

    @property
    def lock(self) -> int:
        """Give the descriptor that the server inherits, so that it holds the directory too."""
        return self._lock.fileno()

    def directory(self, name: str, account: Account) -> Path:
        """Make a directory inside, for the account alone."""
        path = self.path / name
        path.mkdir()
        return account.own(path)

    def remove(self) -> None:
        """Remove the directory and what is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.close()


def free_port() -> int:
    """Find a free loopback port below those the system hands out to clients (32768 and up)."""
    for port in random.sample(range(20000, 32000), 100):
        with socket.socket() as probe:
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
            return port
    msg = "None of 100 loopback ports between 20000 and 32000 is free."
    raise ServerNotStarted(msg)


def _die_with_parent(end: signal.Signals) -> Callable[[], None] | None:
    """Give what a child runs before exec so that the kernel ends it when its parent dies.

    Two limits of the kernel's facility: "parent" means the thread that starts the server, so a
    server belongs into a thread that lives as long as it; and the setting is lost when the child
    changes its account, which `subprocess` does before this function runs.
    """
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent = os.getpid()

    def set_signal() -> None:
        prctl(_PR_SET_PDEATHSIG, end)
        if os.getppid() != parent:
            os._exit(1)

    return set_signal


def spawn(
    command: Sequence[str],
    *,
    account: Account,
    directory: Path,
    log: IO[bytes],
    end: signal.Signals,
    environment: Mapping[str, str] | None = None,
    hold: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Start a server's program in a session of its own, so that Ctrl-C reaches only us.

    Args:
        command: The program and its arguments.
        account: Whom it runs as.
        directory: Where it runs; the account must reach it.
        log: Where its output goes.
        end: What the kernel sends it when we die.
        environment: Its environment; ours by default.
        hold: Descriptors it keeps open.
    """
    return subprocess.Popen(
        command,
        cwd=directory,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        env=None if environment is None else dict(environment),
        pass_fds=hold,
        start_new_session=True,
        preexec_fn=_die_with_parent(end),  # noqa: PLW1509 - only a system call, no Python locks
        **account.subprocess_options(),
    )


def stop(process: subprocess.Popen[bytes], end: signal.Signals, patience: float = 20.0) -> None:
    """End the process we started: politely, then for certain."""
    if process.poll() is None:
        process.send_signal(end)
    try:
        process.wait(patience)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def log_tail(log: Path, lines: int = 20) -> str:
    """Give the last lines of a server's log, for the message of an error."""
    try:
        text = log.read_text(errors="replace")
    except OSError:
        return "(no log)"
    return "\n".join(text.splitlines()[-lines:]) or "(empty log)"
