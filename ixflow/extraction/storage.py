"""Where the files of an extraction live in a directory, and how they appear all at once.

    <output_dir>/orders -> .ixflow/orders/<run_id>        the published run, a symbolic link
    <output_dir>/.ixflow/orders/<run_id>/*.parquet        the files of a run, and its manifest

    <output_dir>/orders/2024-05-01 -> .ixflow/2024-05-01/<run_id>   the same, one for each partition

A run fills a directory of its own; publishing replaces the link, which is one atomic step. The run
before stays until the next publication, for readers that have it open. Older runs, and runs whose
process has died, are removed then: a living run holds a lock on a file in its directory. Until then
a dead run's checkpoint lets another run take over its directory, by giving it its own name.

A directory listing through the link shows one run. File names hold the run's id, so a reader that
listed one run and opens its files after the next publication misses a file instead of mixing runs;
one that resolves the link first (`Path(...).resolve()`) reads on undisturbed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import itertools
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from ixflow.errors import OutputNotWritable
from ixflow.extraction.manifest import MANIFEST_NAME, FileRecord, Left, Manifest

__all__ = ["LocalFile", "OutputPlace", "RunDirectory", "safe_name", "writable"]

_STATE = ".ixflow"
_LOCK, _CHECKPOINT = ".lock", ".checkpoint"
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_HASHED = re.compile(r".*-[0-9a-f]{12}")


def safe_name(name: str) -> str:
    """Turn an object's name into a file name; different names never give the same.

    >>> safe_name("shop.orders")
    'shop.orders'
    >>> safe_name("a/b")
    'a_b-c14cddc033f6'
    """
    if _PLAIN.fullmatch(name) and not _HASHED.fullmatch(name):
        return name
    readable = re.sub(r"[^A-Za-z0-9_-]+", "_", name)[:60].strip("_") or "table"
    return f"{readable}-{hashlib.sha256(name.encode()).hexdigest()[:12]}"


@contextlib.contextmanager
def writable(place: Path) -> Iterator[None]:
    """Turn the operating system's refusals into one typed error.

    Raises:
        OutputNotWritable: naming the place and the reason.

    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        msg = f"cannot write to {place}: {reason}; check the path, its permissions and the disk"
        raise OutputNotWritable(msg, path=str(place), reason=reason) from error


class OutputPlace:
    """The place of one object, or of one partition of it, under an output directory."""

    def __init__(self, output_dir: str | Path, *names: str) -> None:
        """Name the place, by the object and the path of its partition; nothing is made yet."""
        self._output_dir = Path(output_dir).expanduser().absolute()
        *folders, self.name = (safe_name(name) for name in names)
        self.root = self._output_dir.joinpath(*folders)
        self.link = self.root / self.name
        self.home = self.root / _STATE / self.name
        self.location = str(self.link)

    def published_directory(self) -> Path | None:
        """Give the directory of the published run; None: nothing is published."""
        run = self._published_run()
        return None if run is None else self.home / run

    def published(self) -> Manifest | None:
        """Read the manifest of the published run; None: nothing is published."""
        directory = self.published_directory()
        return None if directory is None else Manifest.read(directory)

    def published_run(self, run_id: str) -> Manifest | None:
        """Read the manifest of a run if it is published, of the object or of a partition of it."""
        partitions = (self.link.glob(f"{folders}{_STATE}/*") for folders in ("", "*/"))
        for home in (self.home, *itertools.chain.from_iterable(partitions)):
            link = home.parent.parent / home.name
            with contextlib.suppress(OSError):
                if os.readlink(link) == str(Path(_STATE, home.name, run_id)):  # noqa: PTH115 - text
                    return Manifest.read(link)
        return None

    def manifest_of(self, manifest: Manifest) -> str:
        """Say where the manifest of a published run is."""
        return str(self.home / manifest.run_id / MANIFEST_NAME)

    def files(self, manifest: Manifest) -> list[str]:
        """Name the files of a run, by paths that stay when the next run publishes."""
        return [str(self.home / manifest.run_id / file.name) for file in manifest.files]

    def filesystem(self) -> None:
        """Give nothing: these are plain paths."""

    @contextlib.contextmanager
    def new_run(self, run_id: str) -> Iterator[RunDirectory]:
        """Make the directory of a run; it is removed again unless the run was published.

        Raises:
            OutputNotWritable: the place cannot be written, or something else is there.

        """
        with writable(self.link):
            self._refuse_within()
            self.home.mkdir(parents=True, exist_ok=True)
            self.refuse_foreign()
            with self.locked():
                run = RunDirectory(self, run_id)
        try:
            yield run
        finally:
            run.close()

    def _refuse_within(self) -> None:
        """Refuse a partition within the files of a run that has extracted all of the object."""
        for folder in (self.root, *self.root.parents):
            if folder == self._output_dir:
                break
            if folder.is_symlink():
                msg = (
                    f"{folder} is an extraction of all partitions together; move it away first, or "
                    f"give the partitions another output_dir"
                )
                raise OutputNotWritable(msg, path=str(folder), reason="exists")

    def refuse_foreign(self) -> None:
        """Refuse a place where something lies that no extraction of this object has put there."""
        if os.path.lexists(self.link) and self._published_run() is None:
            msg = f"{self.link} exists and was not made by an extraction; move it away first"
            raise OutputNotWritable(msg, path=str(self.link), reason="exists")

    def replace_link(self, manifest: Manifest) -> None:
        """Let the link name this run, durably; then remove what no reader needs.

        Raises:
            ExecutionError: the run goes on from another one than is published now.

        """
        run_id = manifest.run_id
        with self.locked():
            self.refuse_foreign()
            before = self._published_run()
            manifest.refuse_other_base(before)
            if before is not None:
                # It was published: nobody may take it over, also if its process died just then.
                (self.home / before / _CHECKPOINT).unlink(missing_ok=True)
            new = self.home / f"link-{run_id}"
            new.symlink_to(Path(_STATE, self.name, run_id))
            _sync_directory(self.home)
            new.replace(self.link)
            _sync_directory(self.root)
            # From here on it is published: tidying up must not make that a failure.
            with contextlib.suppress(OSError):
                (self.home / run_id / _CHECKPOINT).unlink(missing_ok=True)
                (self.home / run_id / _LOCK).unlink()
                self._collect({run_id, before})

    def _published_run(self) -> str | None:
        try:
            target = Path(os.readlink(self.link))  # noqa: PTH115 - the text, not the place
        except OSError:
            return None
        ours = target.parent == Path(_STATE, self.name)
        return target.name if ours else None

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from making, publishing and removing runs of this object."""
        with (self.home / _LOCK).open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _collect(self, keep: set[str | None]) -> None:
        for path in self.home.iterdir():
            if path.name in keep or path.name == _LOCK:
                continue
            if path.is_symlink():
                path.unlink()
            elif path.is_dir() and not _is_alive(path):
                shutil.rmtree(path, ignore_errors=True)


class LocalFile:
    """A file being written: it has its name when `finish` returns, and never before."""

    def __init__(self, path: Path) -> None:
        """Make it, under a temporary name."""
        self._path, self._temporary = path, path.with_name(f"{path.name}.tmp")
        with writable(self._temporary):
            self._file: BinaryIO = self._temporary.open("xb")

    def write(self, data: bytes | memoryview) -> None:
        """Add bytes."""
        with writable(self._temporary):
            self._file.write(data)

    def finish(self) -> None:
        """Make the content durable, and name it."""
        with writable(self._temporary):
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._temporary.replace(self._path)

    def discard(self) -> None:
        """Remove what there is."""
        with contextlib.suppress(OSError):
            self._file.close()
        self._temporary.unlink(missing_ok=True)


class RunDirectory:
    """The directory of one run, locked while its process lives."""

    def __init__(self, place: OutputPlace, run_id: str) -> None:
        """Make and lock it; the place must be locked."""
        self.run_id = run_id
        self.path = place.home / run_id
        self._place = place
        self.keep = self._published = False
        self.path.mkdir()
        self._lock: BinaryIO = (self.path / _LOCK).open("ab")
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def file_stem(self, chunk_id: str) -> str:
        """Name the files of a chunk, without extension."""
        return f"{self._place.name}_{chunk_id}_{self.run_id.rpartition('-')[2]}"

    def location(self, name: str) -> str:
        """Say where a file is."""
        return str(self.path / name)

    def create(self, name: str, upload_bytes: int = 0) -> LocalFile:
        """Begin a file; nothing of it is held."""
        del upload_bytes
        return LocalFile(self.path / name)

    def remove(self, name: str) -> None:
        """Remove a file."""
        (self.path / name).unlink(missing_ok=True)

    def checkpoint(self, text: str, *, first: bool = False) -> None:
        """Add lines to the checkpoint, durably; the first ones replace what is there."""
        path = self.path / _CHECKPOINT
        written = path.with_suffix(".tmp") if first else path
        with writable(path):
            # The files that the lines speak of have their names already.
            _sync_directory(self.path)
            with written.open("wb" if first else "ab") as file:
                file.write(text.encode())
                file.flush()
                os.fsync(file.fileno())
            if first:
                written.replace(path)
                _sync_directory(self.path)

    def left(self) -> list[Left]:
        """Read the checkpoints of dead runs of the same object that were never published."""
        found = []
        with writable(self._place.home), self._place.locked():
            published = self._place.published_directory()
            for path in self._place.home.iterdir():
                checkpoint = path / _CHECKPOINT
                if path in (self.path, published) or path.is_symlink() or not checkpoint.is_file():
                    continue
                if not _is_alive(path):
                    found.append(Left(path.name, checkpoint.read_text(errors="replace")))
        return found

    def adopt(self, left: Left, files: Sequence[FileRecord]) -> set[str] | None:
        """Give a dead run's directory our name, with those of the files that are whole.

        None: another process has taken it over.
        """
        old = self._place.home / left.name
        with writable(old), self._place.locked():
            is_free = old != self._place.published_directory()
            lock = _lock_of_dead(old) if is_free else None
            if lock is None:
                return None
            shutil.rmtree(self.path)
            old.rename(self.path)
            _sync_directory(self._place.home)
            self._lock.close()
            self._lock = lock
        whole = {file.name for file in files if _is_whole(self.path / file.name, file)}
        self._remove_all_but({*whole, _LOCK, _CHECKPOINT})
        return whole

    def discard(self, left: Left) -> None:
        """Remove what a dead run left, unless another process has taken it over."""
        old = self._place.home / left.name
        with writable(old), self._place.locked():
            is_free = old != self._place.published_directory()
            if is_free and (lock := _lock_of_dead(old)):
                shutil.rmtree(old, ignore_errors=True)
                lock.close()

    def carry(self, base: Manifest) -> tuple[FileRecord, ...]:
        """Take the files of an earlier run into this one, by links where that is possible.

        Raises:
            OutputNotWritable: a file is gone, or the disk is full.

        """
        old = self._place.home / base.run_id
        with writable(self.path):
            for file in base.files:
                _link(old / file.name, self.path / file.name)
        return base.carried()

    def missing(self, files: Sequence[FileRecord]) -> list[str]:
        """Name the files that are not there in their size."""
        return [file.name for file in files if _size(self.path / file.name) != file.bytes]

    def _remove_all_but(self, names: set[str]) -> None:
        for path in self.path.iterdir():
            if path.name not in names:
                path.unlink()

    def publish(self, manifest: Manifest) -> str:
        """Write the manifest and let the run appear; give the manifest's path.

        Raises:
            OutputNotWritable: the disk refused; what was published before still is.

        """
        path = self.path / MANIFEST_NAME
        with writable(self.path):
            # What an attempt at a task left would add to a read of the directory.
            self._remove_all_but({*(file.name for file in manifest.files), _LOCK, _CHECKPOINT})
            temporary = self.path / f"{MANIFEST_NAME}.tmp"
            with temporary.open("w", encoding="utf-8") as file:
                file.write(manifest.to_json())
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            _sync_directory(self.path)
            self._place.replace_link(manifest)
        self._published = True
        return str(path)

    def close(self) -> None:
        """Let go of the directory; remove it unless it was published or shall be kept."""
        published = self._published or self._place.published_directory() == self.path
        if not (published or self.keep):
            shutil.rmtree(self.path, ignore_errors=True)
        self._lock.close()


def _is_alive(run: Path) -> bool:
    """Say whether a process holds the run's lock."""
    try:
        with (run / _LOCK).open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _lock_of_dead(run: Path) -> BinaryIO | None:
    """Lock a run whose process has died; None: it lives, or the run is gone."""
    try:
        file = (run / _LOCK).open("r+b")
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def _is_whole(path: Path, file: FileRecord) -> bool:
    if _size(path) != file.bytes:
        return False
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest() == file.sha256


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


def _link(old: Path, new: Path) -> None:
    """Give a file another name; copy it where the file system cannot. Neither replaces a file."""
    try:
        new.hardlink_to(old)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EEXIST, errno.ENOSPC):
            raise
        with old.open("rb") as source, new.open("xb") as target:
            shutil.copyfileobj(source, target)
            target.flush()
            os.fsync(target.fileno())


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
