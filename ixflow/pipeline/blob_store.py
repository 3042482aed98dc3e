"""Where blobs are: `FileBlobStore`, pickles in a directory.

A file is written before the result that refers to it, under a name that holds the key of that
result, and is never written to again. So there is nothing to publish: what the published results of
a stage refer to is there, whole, and what nothing refers to is removed after a while.
"""

from __future__ import annotations

import datetime as dt
import logging
import os
import pickle
import tempfile
import time
import urllib.parse
from collections.abc import Collection
from pathlib import Path
from typing import Any, Protocol, Self

from ixflow.errors import CacheError, FlowError, OutputNotWritable, ValidationError

__all__ = ["BlobStore", "FileBlobStore", "NoBlobStore", "blob_store", "spelled"]

_log = logging.getLogger("ixflow.pipeline")
_KEPT = dt.timedelta(days=2)


class BlobStore(Protocol):
    """What a store of blobs does; a blob is named by its stage, its name and its result's key."""

    def write(self, stage: str, name: str, key: str, obj: Any) -> None:
        """Store an object; it is there when this returns."""
        ...

    def read(self, stage: str, name: str, key: str) -> Any:
        """Give an object back."""
        ...

    def holds(self, stage: str, name: str, key: str) -> bool:
        """Say whether a blob is there."""
        ...

    def collect(self, stage: str, kept: Collection[tuple[str, str]]) -> None:
        """Remove what is older than a while and not among the kept names and keys."""
        ...


def blob_store(found: BlobStore | None, stage: str) -> BlobStore:
    """Give the blob store of a run.

    Raises:
        FlowError: it has none.

    """
    if found is None:
        msg = (
            f"a task of stage {stage} has a Blob, but there is no blob store; give the "
            f"configuration one, such as FileBlobStore"
        )
        raise FlowError(msg, stage=stage)
    return found


class FileBlobStore:
    """Keeps blobs as ``base_path/instance_id/stage/name.key.pkl``.

    All processes of a flow must see the directory. From a configuration the ``instance_id`` is
    that of the instance. What nothing refers to is removed after ``gc_after``.

    >>> import tempfile
    >>> store = FileBlobStore(tempfile.mkdtemp())
    >>> store.write("train", "model", "k1", {"depth": 3})
    >>> store.read("train", "model", "k1")
    {'depth': 3}
    """

    def __init__(
        self,
        base_path: str | os.PathLike[str],
        *,
        instance_id: str = "",
        gc_after: dt.timedelta = _KEPT,
    ) -> None:
        if "://" in os.fspath(base_path):
            msg = f"FileBlobStore(base_path=) takes a directory, not the URL {base_path!r}"
            raise ValidationError(msg, base_path=base_path)
        self.base_path = Path(base_path) / instance_id
        self.gc_after = gc_after

    @classmethod
    def _init_conf_(cls, args: dict[str, Any]) -> Self:
        from ixflow.pipeline.config import ConfigContext

        return cls(**{"instance_id": ConfigContext.get().instance_id} | args)

    def __repr__(self) -> str:
        """Show the directory."""
        return f"FileBlobStore({str(self.base_path)!r})"

    def write(self, stage: str, name: str, key: str, obj: Any) -> None:
        """Store an object; a file appears whole or not at all.

        Raises:
            ValidationError: the object cannot be pickled.
            OutputNotWritable: the directory cannot be written to.

        """
        place = self._path(stage, name, key)
        try:
            text = pickle.dumps(obj, protocol=pickle.HIGHEST_PROTOCOL)
        except Exception as error:  # pickling calls the object's own code
            msg = f"blob {name} of stage {stage} cannot be pickled: {error}"
            raise ValidationError(msg, stage=stage, blob=name) from error
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            _write_whole(place, text)
        except OSError as error:
            msg = f"blob {name} of stage {stage} cannot be written to {place}: {error.strerror}"
            raise OutputNotWritable(msg, path=str(place)) from error

    def read(self, stage: str, name: str, key: str) -> Any:
        """Give an object back.

        Raises:
            CacheError: it is not there, or cannot be read any more.

        """
        place = self._path(stage, name, key)
        try:
            return pickle.loads(place.read_bytes())  # noqa: S301 - what this store has written
        except Exception as error:
            msg = f"blob {name} of stage {stage} cannot be read from {place}: {error}"
            raise CacheError(msg, stage=stage, blob=name) from error

    def holds(self, stage: str, name: str, key: str) -> bool:
        """Say whether a blob is there."""
        return self._path(stage, name, key).is_file()

    def collect(self, stage: str, kept: Collection[tuple[str, str]]) -> None:
        """Remove old files of a stage that are not among the kept names and keys."""
        names = {self._path(stage, name, key).name for name, key in kept}
        oldest = time.time() - self.gc_after.total_seconds()
        directory = self.base_path / spelled(stage)
        for path in directory.iterdir() if directory.is_dir() else ():
            try:
                if path.name not in names and path.stat().st_mtime < oldest:
                    path.unlink(missing_ok=True)
            except OSError:
                # The run has published; what is left over is no reason for it to fail.
                _log.warning("the old blob %s remains", path, exc_info=True)

    def _path(self, stage: str, name: str, key: str) -> Path:
        return self.base_path / spelled(stage) / f"{spelled(name)}.{spelled(key)}.pkl"


def spelled(name: str) -> str:
    """Spell a name so that it is one part of a path, and different names are different files.

    >>> spelled("a/b"), spelled("..")
    ('a%2Fb', '%2E%2E')
    """
    made = urllib.parse.quote(name, safe=" ")
    return made.replace(".", "%2E") if made.strip(".") == "" else made


def _write_whole(place: Path, content: bytes) -> None:
    handle, name = tempfile.mkstemp(dir=place.parent, prefix=".", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(place)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


class NoBlobStore:
    """Refuses blobs, for configurations that want none."""

    def _refused(self, name: str) -> ValidationError:
        msg = f"blob {name} cannot be stored, since the configuration has NoBlobStore"
        return ValidationError(msg, blob=name)

    def write(self, stage: str, name: str, key: str, obj: Any) -> None:
        """Refuse."""
        del stage, key, obj
        raise self._refused(name)

    def read(self, stage: str, name: str, key: str) -> Any:
        """Refuse."""
        del stage, key
        raise self._refused(name)

    def holds(self, stage: str, name: str, key: str) -> bool:
        """Say that it has nothing."""
        del stage, name, key
        return False

    def collect(self, stage: str, kept: Collection[tuple[str, str]]) -> None:
        """Have nothing to remove."""
        del stage, kept
