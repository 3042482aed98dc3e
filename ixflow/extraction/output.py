"""The one way to any output: a place, its runs, and the files that a run writes.

A directory (`ixflow.extraction.storage`) and a bucket (`ixflow.extraction.objects`) are both
places. What a file holds is the business of `ixflow.extraction.writer`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ixflow.extraction.bucket import BucketUrl, is_bucket_url
from ixflow.extraction.manifest import FileRecord, Left, Manifest
from ixflow.extraction.objects import ObjectPlace
from ixflow.extraction.storage import OutputPlace, safe_name

if TYPE_CHECKING:
    from ixflow.extraction.intent import ExtractionIntent

__all__ = ["Files", "OutputFile", "Place", "Run", "place_of", "published_uri"]


class OutputFile(Protocol):
    """A file being written, which nobody sees before it is finished."""

    def write(self, data: bytes | memoryview, /) -> None:
        """Add bytes."""

    def finish(self) -> None:
        """Make it durable and let it appear under its name."""

    def discard(self) -> None:
        """Leave nothing of it."""


class Files(Protocol):
    """Where the files of one run are written."""

    run_id: str

    def file_stem(self, chunk_id: str, /) -> str:
        """Name the files of a chunk, without extension."""

    def location(self, name: str, /) -> str:
        """Say where a file is: an absolute path or a URL."""

    def create(self, name: str, upload_bytes: int = ..., /) -> OutputFile:
        """Begin a file; one that is sent somewhere holds so many bytes of it at most."""

    def remove(self, name: str, /) -> None:
        """Remove a file that was finished."""


class Run(Files, Protocol):
    """The files of one run, and the checkpoint that a later run goes on from."""

    keep: bool
    """Leave the files for a later run, though this one was not published."""

    def checkpoint(self, text: str, /, *, first: bool = False) -> None:
        """Add lines to the checkpoint, durably; the first ones replace what is there."""

    def left(self) -> list[Left]:
        """Read the checkpoints of dead runs of the same object that were never published."""

    def adopt(self, left: Left, files: Sequence[FileRecord], /) -> set[str] | None:
        """Take over those files of a dead run that are as they were written; name them.

        All others of its files are gone then. None: another process takes it over.
        """

    def discard(self, left: Left, /) -> None:
        """Remove what a dead run left."""

    def carry(self, base: Manifest, /) -> tuple[FileRecord, ...]:
        """Let the files of an earlier run belong to this one, too."""

    def missing(self, files: Sequence[FileRecord], /) -> list[str]:
        """Name the files that are not there in their size."""

    def publish(self, manifest: Manifest, /) -> str:
        """Let the whole run appear at once, and say where its manifest is."""


class Place(Protocol):
    """Where one object is published."""

    location: str

    def new_run(self, run_id: str, /) -> AbstractContextManager[Run]:
        """Begin a run; it leaves nothing unless it is published."""

    def published(self) -> Manifest | None:
        """Read the manifest of what is published."""

    def manifest_of(self, manifest: Manifest, /) -> str:
        """Say where the manifest of a published run is."""

    def files(self, manifest: Manifest, /) -> list[str]:
        """Name the files of a run for `filesystem`."""

    def filesystem(self) -> Any:
        """Give the pyarrow file system that reads `files`; None: the machine's own."""


def place_of(intent: ExtractionIntent) -> Place:
    """Give the place of an intent's object.

    >>> from ixflow.extraction.intent import ExtractionIntent
    >>> intent = ExtractionIntent("sqlite", {"database": "shop.db"}, "orders", "/data")
    >>> place_of(intent).location
    '/data/orders'
    """
    name, partition = intent.object_name, intent.partition
    if not is_bucket_url(intent.output_dir):
        return OutputPlace(intent.output_dir, name, *partition)
    output_dir, options = str(intent.output_dir), intent.storage_options
    return ObjectPlace(output_dir, name, options, intent.secrets, partition=partition)


def published_uri(output_dir: str | Path, object_name: str, partition: Sequence[str] = ()) -> str:
    """Say where an object will be published, without looking.

    >>> published_uri("s3://lake/raw/", "orders", ["2024-05-01"])
    's3://lake/raw/orders/2024-05-01'
    """
    if is_bucket_url(output_dir):
        names = [safe_name(name) for name in (object_name, *partition)]
        return "/".join([str(BucketUrl.parse(str(output_dir))), *names])
    return OutputPlace(output_dir, object_name, *partition).link.as_uri()
