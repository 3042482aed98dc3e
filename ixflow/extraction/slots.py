"""A cap on the connections to one database, shared by all runs of this user on this machine.

Each connection of a run holds a lock on one of as many small files as the cap allows. The kernel
lets go of the locks of a process that dies, however it does; files that are left say nothing. A run
takes all it needs behind a gate, so that two runs never wait for each other's half.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from ixflow.errors import NoConnectionLeft, OutputNotWritable, ValidationError

__all__ = ["ENVIRONMENT", "connection_cap", "connection_slots", "connections_of", "slots_directory"]

ENVIRONMENT = "IXFLOW_MAX_SOURCE_CONNECTIONS"
PATIENCE_SECONDS = 600.0
_PAUSE = 0.05
_LEAST = 2
_PRIVATE = 0o700

_T = TypeVar("_T")


def connection_cap(given: int | None) -> int | None:
    """Give the cap of a runtime context, else of the environment; None: there is none.

    Raises:
        ValidationError: the environment's value is not a number from 1.

    """
    text = os.environ.get(ENVIRONMENT, "")
    if given is not None or not text:
        return given
    if not text.isdecimal() or int(text) < 1:
        msg = f"{ENVIRONMENT} is {text!r}; it must be a whole number from 1"
        raise ValidationError(msg, variable=ENVIRONMENT)
    return int(text)


def connections_of(workers: int, spares: int) -> int:
    """Count the connections of a run: its workers', spares for several, one for the snapshot.

    >>> connections_of(4, spares=1), connections_of(1, spares=1)
    (6, 2)
    """
    return workers + 1 + (spares if workers > 1 else 0)


def slots_directory(source: Mapping[str, Any]) -> Path:
    """Name the directory of a database's slots, by its host, port and name."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    base = Path(runtime) if runtime and Path(runtime).is_dir() else Path(tempfile.gettempdir())
    words = json.dumps([source[key] for key in ("type", "host", "port", "database")], default=str)
    return base / f"ixflow-{os.getuid()}" / hashlib.sha256(words.encode()).hexdigest()[:16]


@contextlib.contextmanager
def connection_slots(
    source: Mapping[str, Any],
    wanted: int,
    cap: int | None,
    *,
    patience: float = PATIENCE_SECONDS,
) -> Iterator[int]:
    """Hold a slot for each wanted connection, or for as many as the cap has; yield how many.

    Raises:
        ValidationError: the cap is below 2, what one session that holds a snapshot and one that
            reads need.
        NoConnectionLeft: other runs held them for longer than the patience, in seconds; names
            their processes.

    """
    if cap is None:
        yield wanted
        return
    if cap < _LEAST:
        msg = f"{ENVIRONMENT} or max_source_connections is {cap}; a run needs {_LEAST} at least"
        raise ValidationError(msg, cap=cap)
    directory = _private(slots_directory(source))
    wanted = min(wanted, cap)
    with contextlib.ExitStack() as held:
        _take(directory, wanted, cap, time.monotonic() + patience, held)
        yield wanted


def _take(
    directory: Path, wanted: int, cap: int, deadline: float, held: contextlib.ExitStack
) -> None:
    free = [directory / str(number) for number in range(cap)]
    with (directory / "gate").open("ab") as gate:
        _until(lambda: _lock(gate), directory, free, deadline)
        for _ in range(wanted):
            file = _until(lambda: _first_free(free), directory, free, deadline)
            held.callback(file.close)
            free.remove(Path(file.name))


def _until(
    attempt: Callable[[], _T | None], directory: Path, free: list[Path], deadline: float
) -> _T:
    """Try until it works, or until the deadline."""
    while not (found := attempt()):
        if time.monotonic() > deadline:
            pids = _holders(free)
            msg = (
                f"all connections that {ENVIRONMENT} or max_source_connections allows are in use "
                f"by processes {', '.join(pids) or 'that are just starting'}; wait for them, or "
                f"raise it"
            )
            raise NoConnectionLeft(msg, pids=pids, path=str(directory))
        time.sleep(_PAUSE)
    return found


def _first_free(paths: list[Path]) -> BinaryIO | None:
    for path in paths:
        file = path.open("ab+")
        if _lock(file):
            file.truncate(0)
            file.write(f"{os.getpid()}\n".encode())
            file.flush()
            return file
        file.close()
    return None


def _lock(file: BinaryIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holders(paths: list[Path]) -> list[str]:
    """Name the processes that wrote themselves into slots which are locked."""
    found = set()
    for path in paths:
        with contextlib.suppress(OSError), path.open("rb") as file:
            if not _lock(file):
                found.add(file.read().decode().strip())
    return sorted(found - {""}, key=int)


def _private(directory: Path) -> Path:
    """Make the directory, which nobody else may write."""
    try:
        directory.parent.mkdir(mode=_PRIVATE, exist_ok=True)
        directory.mkdir(mode=_PRIVATE, exist_ok=True)
        owner = directory.parent.lstat()
    except OSError as error:
        msg = f"cannot make {directory} for the slots of {ENVIRONMENT}: {error.strerror}"
        raise OutputNotWritable(msg, path=str(directory)) from None
    if owner.st_uid != os.getuid() or owner.st_mode & 0o022:
        msg = f"{directory.parent} belongs to somebody else; remove it, or set XDG_RUNTIME_DIR"
        raise OutputNotWritable(msg, path=str(directory.parent))
    return directory
