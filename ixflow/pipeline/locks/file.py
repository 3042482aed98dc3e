"""`FileLockManager`: locks on files of a directory that all processes see."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
from collections.abc import Hashable
from pathlib import Path
from typing import Any, Self

import filelock

from ixflow.errors import OutputNotWritable, ValidationError
from ixflow.pipeline.blob_store import spelled
from ixflow.pipeline.locks.base import BaseLockManager, LockState, holder_name

__all__ = ["FileLockManager"]

_OURS = "ixflow: "


class FileLockManager(BaseLockManager):
    """Locks files ``base_path/instance_id/stage.lock``, by `filelock`.

    All processes of the instance must see the directory, and its file system must know ``flock``,
    as local ones and NFS from version 4 do. The files stay; they say who locked them last. A
    process that ends lets go, however it ends. One whose file was deleted has lost the lock.

    >>> import tempfile
    >>> locks = FileLockManager(tempfile.mkdtemp(), "shop_full")
    >>> with locks("staging"):
    ...     locks.get_lock_state("staging").name
    'LOCKED'
    """

    def __init__(
        self, base_path: str | os.PathLike[str], instance_id: str = "", **options: Any
    ) -> None:
        super().__init__(instance_id, **options)
        if "://" in os.fspath(base_path):
            msg = f"FileLockManager(base_path=) takes a directory, not the URL {base_path!r}"
            raise ValidationError(msg, base_path=base_path)
        self.base_path = Path(base_path).expanduser() / spelled(instance_id)
        self._files: dict[str, _LockedFile] = {}

    @classmethod
    def _init_conf_(cls, args: dict[str, Any]) -> Self:
        from ixflow.pipeline.config import ConfigContext

        return cls(**{"instance_id": ConfigContext.get().instance_id} | args)

    def __repr__(self) -> str:
        """Show the directory."""
        return f"FileLockManager({str(self.base_path)!r})"

    @property
    def scope(self) -> Hashable:
        """The directory."""
        return ("file", self.base_path.resolve())

    def _path(self, name: str) -> Path:
        return self.base_path / f"{spelled(name)}.lock"

    def _take(self, name: str, seconds: float) -> bool:
        path = self._path(name)
        made = _LockedFile(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            taken = made.take(seconds)
        except OSError as error:
            msg = f"the lock file {path} cannot be locked: {error.strerror or error}"
            raise OutputNotWritable(msg, path=str(path)) from error
        if taken:
            self._files[name] = made
        return taken

    def _drop(self, name: str) -> None:
        self._files.pop(name).drop()

    def _look(self, name: str, known: LockState) -> LockState:
        return known if self._files[name].is_whole() else LockState.INVALID

    def _holder(self, name: str) -> str | None:
        with contextlib.suppress(OSError, UnicodeDecodeError):
            said = self._path(name).read_text(encoding="utf-8")
            if said.startswith(_OURS):
                return said.removeprefix(_OURS).strip()
        return None


class _LockedFile:
    """One lock file: the lock is on the file itself, whatever has its name later."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._identity: tuple[int, int] | None = None
        # Without `on_acquired` it would fall back to a file's mere presence, which stays after a
        # process that was killed.
        self._lock = filelock.FileLock(path, thread_local=False, on_acquired=self._mark)

    def _mark(self, descriptor: int) -> None:
        found = os.fstat(descriptor)
        self._identity = (found.st_dev, found.st_ino)
        said = f"{_OURS}{holder_name()} since {dt.datetime.now(dt.UTC).isoformat(' ', 'seconds')}\n"
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, said.encode(), 0)

    def take(self, seconds: float) -> bool:
        try:
            self._lock.acquire(timeout=seconds, poll_interval=0.05)
        except filelock.Timeout:
            return False
        return True

    def is_whole(self) -> bool:
        """Say whether the file that is locked is still the one of its name."""
        try:
            found = self._path.stat()
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == self._identity

    def drop(self) -> None:
        self._lock.release(force=True)
