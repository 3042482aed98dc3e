"""The files that a worker of a cluster writes for one attempt at a task.

In a directory they go beside the run's own, into one that is thrown away before the run is
published; the leader moves what it has accepted into the run. In a bucket, where nothing can be
moved and readers go by the manifest, they have names of their own below the run.
"""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

from ixflow.errors import ExecutionError, OutputNotWritable
from ixflow.extraction.bucket import MOST_UPLOAD
from ixflow.extraction.intent import ExtractionIntent
from ixflow.extraction.manifest import FileRecord
from ixflow.extraction.objects import ObjectPlace
from ixflow.extraction.output import Files, OutputFile, place_of
from ixflow.extraction.storage import LocalFile, OutputPlace, writable

__all__ = ["accept", "files_of_attempt"]


def files_of_attempt(
    intent: ExtractionIntent, run_id: str, parts: str | None, attempt: str
) -> Files:
    """Give where an attempt writes; ``parts`` is the leader's directory, None: the bucket.

    Raises:
        OutputNotWritable: this machine does not see the directory.

    """
    place = place_of(intent)
    if isinstance(place, ObjectPlace):
        return _Objects(place, run_id, attempt)
    if isinstance(place, OutputPlace) and parts is not None:
        return _Parts(Path(parts), place.name, run_id, attempt)
    msg = f"{place.location} is not a place that a cluster can write to"
    raise ExecutionError(msg)


def accept(parts: str, attempt: str, files: tuple[FileRecord, ...], run: Path) -> None:
    """Move the files of an attempt into the run, under the names that they are recorded by.

    Raises:
        OutputNotWritable: they are not there.

    """
    for file in files:
        with writable(run / file.name):
            _Parts.path(Path(parts), attempt, file.name).replace(run / file.name)


class _Parts:
    """Files in a shared directory, each named after its attempt."""

    def __init__(self, directory: Path, name: str, run_id: str, attempt: str) -> None:
        """Take the leader's directory, which must be there; no worker ever makes it."""
        self.run_id = run_id
        self._directory, self._name, self._attempt = directory, name, attempt
        if not directory.is_dir():
            msg = (
                f"the worker on {socket.gethostname()} does not see {directory}, which the leader "
                f"has made: give all machines the same disk, or extract to a bucket"
            )
            raise OutputNotWritable(msg, path=str(directory), reason="not shared")

    @staticmethod
    def path(directory: Path, attempt: str, name: str) -> Path:
        """Say where a file of an attempt is."""
        return directory / f"{attempt}-{name}"

    def file_stem(self, chunk_id: str) -> str:
        """Name the files of a chunk, without extension, as the run itself does."""
        return f"{self._name}_{chunk_id}_{self.run_id.rpartition('-')[2]}"

    def location(self, name: str) -> str:
        """Say where a file is."""
        return str(self.path(self._directory, self._attempt, name))

    def create(self, name: str, upload_bytes: int = 0) -> OutputFile:
        """Begin a file; nothing of it is held."""
        del upload_bytes
        return LocalFile(self.path(self._directory, self._attempt, name))

    def remove(self, name: str) -> None:
        """Remove a file."""
        self.path(self._directory, self._attempt, name).unlink(missing_ok=True)


class _Objects:
    """Files below a run in a bucket; the attempt is a part of their names."""

    def __init__(self, place: ObjectPlace, run_id: str, attempt: str) -> None:
        """Take the place; the run's lease is the leader's business."""
        self.run_id = run_id
        self._place, self._attempt = place, attempt

    def file_stem(self, chunk_id: str) -> str:
        """Name the files of a chunk, without extension."""
        return f"{self._place.name}_{chunk_id}_{self.run_id.rpartition('-')[2]}_{self._attempt}"

    def location(self, name: str) -> str:
        """Say where a file is."""
        return f"{self._place.location}/{self.run_id}/{name}"

    def create(self, name: str, upload_bytes: int = MOST_UPLOAD) -> OutputFile:
        """Begin a file, which holds so many bytes at most while it is sent."""
        return self._place.bucket.create(self._key(name), upload_bytes)

    def remove(self, name: str) -> None:
        """Remove a file; one that cannot be removed now goes with the run."""
        with contextlib.suppress(OutputNotWritable):
            self._place.bucket.delete([self._key(name)])

    def _key(self, name: str) -> str:
        return f"{self._place.home}/{self.run_id}/{name}"
