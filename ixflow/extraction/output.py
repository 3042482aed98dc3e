"""The one way to any output: a place, its runs, and the files that a run writes.

A directory (`ixflow.extraction.storage`) and a bucket (`ixflow.extraction.objects`) are both
places. What a file holds is the business of `ixflow.extraction.writer`.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ixflow.extraction.bucket import BucketUrl, is_bucket_url
from ixflow.extraction.manifest import Manifest
from ixflow.extraction.objects import ObjectPlace
from ixflow.extraction.storage import OutputPlace, safe_name

if TYPE_CHECKING:
    from ixflow.extraction.intent import ExtractionIntent

__all__ = ["OutputFile", "Place", "Run", "place_of", "published_uri"]


class OutputFile(Protocol):
    """A file being written, which nobody sees before it is finished."""

    def write(self, data: bytes | memoryview, /) -> None:
        """Add bytes."""

    def finish(self) -> None:
        """Make it durable and let it appear under its name."""

    def discard(self) -> None:
        """Leave nothing of it."""


class Run(Protocol):
    """The files of one run."""

    run_id: str

    def file_stem(self, chunk_id: str, /) -> str:
        """Name the files of a chunk, without extension."""

    def location(self, name: str, /) -> str:
        """Say where a file is: an absolute path or a URL."""

    def create(self, name: str, /) -> OutputFile:
        """Begin a file."""

    def remove(self, name: str, /) -> None:
        """Remove a file that was finished."""

    def publish(self, manifest: Manifest, /) -> str:
        """Let the whole run appear at once, and say where its manifest is."""


class Place(Protocol):
    """Where one object is published."""

    location: str

    def new_run(self, run_id: str, /) -> AbstractContextManager[Run]:
        """Begin a run; it leaves nothing unless it is published."""

    def published(self) -> Manifest | None:
        """Read the manifest of what is published."""

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
    if not is_bucket_url(intent.output_dir):
        return OutputPlace(intent.output_dir, intent.object_name)
    output_dir, options = str(intent.output_dir), intent.storage_options
    return ObjectPlace(output_dir, intent.object_name, options, intent.secrets)


def published_uri(output_dir: str | Path, object_name: str) -> str:
    """Say where an object will be published, without looking.

    >>> published_uri("s3://lake/raw/", "orders")
    's3://lake/raw/orders'
    """
    if is_bucket_url(output_dir):
        return f"{BucketUrl.parse(str(output_dir))}/{safe_name(object_name)}"
    return OutputPlace(output_dir, object_name).link.as_uri()
