"""Where Parquet files of assets live, and how they appear: whole, and those of one write together.

    <base>/st/t.parquet                     an asset without partitions: one file, replaced at once
    <base>/st/t/partition=de/<id>.parquet   the file of a partition; its name is never used again
    <base>/st/t/_manifest.json              the partitions: what it names is there, nothing else is

A write puts its files in place and then replaces the manifest, in one step, by one that names them.
So readers that go by the manifest see all of a write or nothing of it, however many partitions it
has. The files that it names no more are removed behind that. What a process leaves that is killed
before is in no manifest; a later write to the same partition removes it.

In a bucket an asset without partitions has a manifest, too: an object is read in several requests,
between which one that is replaced would be another.
"""

import contextlib
import fcntl
import os
import posixpath
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from ixflow.dagster.parquet_manifest import Manifest
from ixflow.errors import OutputNotWritable
from ixflow.extraction.bucket import Bucket, BucketUrl, ObjectFile, is_bucket_url
from ixflow.extraction.storage import LocalFile, safe_name, writable
from ixflow.secrets import secrets_of

__all__ = ["BucketPlace", "LocalPlace", "Place", "place_of"]

_MANIFEST, _HIDDEN, _LOCK = "_manifest.json", ".ixflow", "lock"
_LEFT_AFTER = 24 * 3600.0
"""Seconds after which a file that no manifest names is taken for that of a dead process."""
_TRIES = 20

Change = Callable[[Manifest], Manifest]


class Place(ABC):
    """The place of one asset; files are named from there on, as ``partition=de/<id>.parquet``."""

    location: str
    """Where it is, for people."""
    options: Mapping[str, str] = {}
    """The options that polars reads `url` with."""

    @property
    @abstractmethod
    def filesystem(self) -> Any:
        """The file system that pyarrow reads `path` with; None: the machine's."""

    @abstractmethod
    def path(self, name: str) -> str:
        """Say where a file is, as `filesystem` names it."""

    @abstractmethod
    def url(self, name: str) -> str:
        """Say where a file is, as polars names it."""

    @abstractmethod
    def create(self, name: str) -> LocalFile | ObjectFile:
        """Begin a file, which has its name when it is published, in a bucket when it is whole."""

    @abstractmethod
    def publish(self, names: Iterable[str], change: Change) -> Manifest:
        """Let finished files appear by changing the manifest, all at once; give the new one.

        Raises:
            OutputNotWritable: the place refused; what an error leaves may have been published.

        """

    @abstractmethod
    def manifest(self) -> Manifest:
        """Read the manifest; an empty one if nothing was published."""

    @abstractmethod
    def discard(self, names: Iterable[str]) -> None:
        """Remove finished files that `publish` was never asked for."""


def place_of(base: str, key: dg.AssetKey, options: Mapping[str, str]) -> "LocalPlace | BucketPlace":
    """Find the place of an asset below a directory or ``s3://bucket/prefix``.

    Raises:
        ValidationError: the URL or the options cannot work.

    """
    parts = [safe_name(part) for part in key.path]
    if is_bucket_url(base):
        return BucketPlace(base, parts, options)
    return LocalPlace(Path(base).expanduser().absolute(), parts)


class LocalPlace(Place):
    """The place of an asset in a directory, for one write or one read."""

    filesystem = None

    def __init__(self, base: Path, parts: list[str]) -> None:
        """Name it; nothing is made yet."""
        self._home = base.joinpath(*parts)
        self._made = self._home.parent / _HIDDEN / parts[-1]
        self._write_id = uuid.uuid4().hex
        self.location = str(self._home)
        #: The only file of an asset without partitions.
        self.whole = f"../{parts[-1]}.parquet"

    def path(self, name: str) -> str:
        """Give the absolute path."""
        return os.path.normpath(self._home / name)

    def url(self, name: str) -> str:
        """Give the absolute path."""
        return self.path(name)

    def create(self, name: str) -> LocalFile:
        """Begin a file in a hidden directory of the same file system."""
        with writable(self._made):
            self._made.mkdir(parents=True, exist_ok=True)
        return LocalFile(self._finished(name))

    def publish_whole(self, name: str) -> None:
        """Let a finished file take the place of the one before."""
        target = Path(self.path(name))
        with writable(target):
            self._finished(name).replace(target)
            _sync(target.parent)
        self._clean()

    def publish(self, names: Iterable[str], change: Change) -> Manifest:
        """Move files into their directories and name them in the manifest, under a lock."""
        targets = {name: Path(self.path(name)) for name in names}
        with writable(self._home):
            self._home.mkdir(parents=True, exist_ok=True)
            with self._locked():
                for name, target in targets.items():
                    target.parent.mkdir(parents=True, exist_ok=True)
                    self._finished(name).replace(target)
                    _sync(target.parent)
                after = change(self.manifest())
                self._replace_manifest(after)
                self._clean_behind(after, {target.parent for target in targets.values()})
        return after

    def manifest(self) -> Manifest:
        """Read the file."""
        try:
            text = (self._home / _MANIFEST).read_text()
        except FileNotFoundError:
            return Manifest()
        return Manifest.parse(text, self.location)

    def discard(self, names: Iterable[str]) -> None:
        """Remove what is hidden yet."""
        for name in names:
            self._finished(name).unlink(missing_ok=True)

    def _finished(self, name: str) -> Path:
        return self._made / f"{self._write_id}-{Path(name).name}"

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other writers of the asset away from the manifest."""
        with (self._made / _LOCK).open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _replace_manifest(self, manifest: Manifest) -> None:
        made = self._made / f"{self._write_id}.json"
        file = LocalFile(made)
        try:
            file.write(manifest.to_json().encode())
            file.finish()
        except BaseException:
            file.discard()
            raise
        made.replace(self._home / _MANIFEST)
        _sync(self._home)

    def _clean_behind(self, manifest: Manifest, directories: Iterable[Path]) -> None:
        """Remove what else lies in the directories of a write; others wait for our lock."""
        kept = {self.path(file.name) for file in manifest.files.values()}
        # It is published, so nothing here may fail.
        with contextlib.suppress(OSError):
            for path in (path for one in directories for path in one.glob("*.parquet")):
                if str(path) not in kept:
                    path.unlink(missing_ok=True)
        self._clean()

    def _clean(self) -> None:
        """Remove what dead processes have left in hiding."""
        with contextlib.suppress(OSError):
            for path in self._made.iterdir():
                if path.name != _LOCK and time.time() - path.stat().st_mtime > _LEFT_AFTER:
                    path.unlink(missing_ok=True)


class BucketPlace(Place):
    """The place of an asset in a bucket, where an object is seen when it is whole."""

    def __init__(self, base: str, parts: list[str], options: Mapping[str, str]) -> None:
        """Name it; nothing is sent yet."""
        self._url, self._parts = BucketUrl.parse(base), parts
        self._bucket = Bucket(self._url, options, secrets_of(options))
        self.options = options
        self.location = f"{self._url}/{'/'.join(parts)}"

    @property
    def filesystem(self) -> Any:
        """Give obstore's."""
        return self._bucket.filesystem()

    def path(self, name: str) -> str:
        """Give bucket and key."""
        return f"{self._url.bucket}/{self._key(name)}"

    def url(self, name: str) -> str:
        """Give the URL."""
        return f"{self._url.scheme}://{self.path(name)}"

    def create(self, name: str) -> ObjectFile:
        """Begin an object."""
        return self._bucket.create(self._key(name))

    def publish(self, names: Iterable[str], change: Change) -> Manifest:
        """Replace the manifest that was read by its change, or try again with another's."""
        for _ in range(_TRIES):
            before, version = self._read()
            after = change(before)
            if self._bucket.replace(self._key(_MANIFEST), after.to_json().encode(), version):
                self._clean_behind(before, after, names)
                return after
        msg = f"{self.location}: others publish at the same time; {_TRIES} attempts were in vain"
        raise OutputNotWritable(msg, path=self.location, reason="contention")

    def manifest(self) -> Manifest:
        """Read the object."""
        return self._read()[0]

    def discard(self, names: Iterable[str]) -> None:
        """Remove objects that are whole."""
        with contextlib.suppress(OutputNotWritable):
            self._bucket.delete([self._key(name) for name in names])

    def _key(self, name: str) -> str:
        return self._url.key(*self._parts, name)

    def _read(self) -> tuple[Manifest, dict[str, str] | None]:
        found = self._bucket.get(self._key(_MANIFEST))
        if found is None:
            return Manifest(), None
        content, version = found
        return Manifest.parse(content.decode(errors="replace"), self.location), version

    def _clean_behind(self, before: Manifest, after: Manifest, names: Iterable[str]) -> None:
        """Remove what the manifest names no more, and what dead processes have left."""
        kept = {self._key(file.name) for file in after.files.values()}
        gone = {self._key(file.name) for file in before.files.values()} - kept
        # It is published, so nothing here may fail.
        with contextlib.suppress(OutputNotWritable):
            for directory in {posixpath.dirname(self._key(name)) for name in names}:
                found = [o for o in self._bucket.objects(directory) if o.key.endswith(".parquet")]
                now = max((one.modified for one in found), default=None)
                gone |= {
                    one.key
                    for one in found
                    if now is not None
                    and one.key not in kept
                    and (now - one.modified).total_seconds() > _LEFT_AFTER
                }
            self._bucket.delete(sorted(gone))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
