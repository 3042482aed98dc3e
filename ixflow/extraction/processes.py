"""Which process is meant by a stored id, and whether it still lives."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from functools import cache
from pathlib import Path

__all__ = ["Process", "this_process"]


@dataclass(frozen=True, slots=True)
class Process:
    """A process of a machine: a process id alone is given to others again and again.

    ``machine`` names the host, its boot and its process namespace (a container has one of its
    own); ``started`` is the kernel's time of the process's start, in ticks since the boot.
    """

    machine: str
    pid: int
    started: int

    def alive(self) -> bool | None:
        """Say whether it lives; None: it is not of this machine, so nobody here can know.

        >>> this_process().alive()
        True
        """
        if self.machine != _machine():
            return None
        return _started(self.pid) == self.started


def this_process() -> Process:
    """Name the process that runs this."""
    pid = os.getpid()
    return Process(_machine(), pid, _started(pid) or 0)


@cache
def _machine() -> str:
    boot = Path("/proc/sys/kernel/random/boot_id")
    namespace = Path("/proc/self/ns/pid")
    try:
        return f"{socket.gethostname()} {boot.read_text().strip()} {namespace.readlink()}"
    except OSError:
        return socket.gethostname()


def _started(pid: int) -> int | None:
    """Read the start of a living process; a zombie has ended."""
    try:
        said = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The command's name is in parentheses and may hold anything, so count from its end.
    state, *rest = said.rpartition(")")[2].split()
    return None if state in ("Z", "X") else int(rest[18])
