"""Where the files of an extraction live in an object store, and how they appear all at once.

    <prefix>/orders/_manifest.json      the publication: it names the run, and so its files
    <prefix>/orders/<run_id>/*.parquet  the files of a run
    <prefix>/orders/<run_id>/_lease     written anew every half minute while the run's process lives
    <prefix>/orders/<run_id>/_checkpoint/*  which tasks of a run that is not published are done
    <prefix>/orders/2024-05-01/...      the same, one for each partition

There are no links and no renames, so readers go through the manifest, which is written last, and
only over the manifest that it was compared with. The run before stays until the next publication.
Older runs, and runs whose lease nobody has renewed for ten minutes, are removed then, with the
uploads that they did not finish. Only keys that look like ours are ever removed. A lease's age is
measured against our own lease, so no clock but the store's counts.

A run goes on from a dead one by copying its files, with their checksums compared on the way; dead
is also a run whose lease names a process of this machine that is there no longer.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import re
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from ixflow.errors import ExecutionError, OutputNotWritable, ValidationError
from ixflow.extraction.bucket import (
    LEAST_UPLOAD,
    MOST_UPLOAD,
    Bucket,
    BucketUrl,
    ObjectFile,
    StoredObject,
)
from ixflow.extraction.manifest import MANIFEST_NAME, FileRecord, Left, Manifest
from ixflow.extraction.processes import Process, this_process
from ixflow.extraction.storage import safe_name
from ixflow.secrets import secrets_of

__all__ = ["ObjectPlace", "ObjectRun", "published_at"]

RENEW_SECONDS = 30.0
STALE_AFTER = timedelta(minutes=10)
"""A lease that is older belongs to a process that is dead, or cut off: its files are removed."""

_log = logging.getLogger("ixflow")

_LEASE, _CHECKPOINT = "_lease", "_checkpoint"
_RUN_ID = re.compile(r"ix-\d{8}-\d{6}-[0-9a-f]{6}")
_TRIES = 20


class ObjectPlace:
    """The place of one object, or of one partition of it, under a directory in a bucket."""

    def __init__(
        self,
        output_dir: str,
        object_name: str,
        options: Mapping[str, Any] | None = None,
        secrets: tuple[str, ...] = (),
        *,
        partition: Sequence[str] = (),
    ) -> None:
        """Name the place, by the object and the path of its partition; nothing is sent yet.

        Raises:
            ValidationError: the URL or the options cannot work, or obstore is not installed.

        """
        self.url = BucketUrl.parse(output_dir)
        *folders, self.name = (safe_name(name) for name in (object_name, *partition))
        self.bucket = Bucket(self.url, options or {}, secrets)
        self.home = self.url.key("/".join([*folders, self.name]))
        self.location = "/".join([str(self.url), *folders, self.name])
        self._above = [
            self.url.key("/".join(folders[:depth])) for depth in range(1, len(folders) + 1)
        ]
        self._manifest_key = f"{self.home}/{MANIFEST_NAME}"

    def published(self) -> Manifest | None:
        """Read the manifest; None: nothing is published."""
        return self._read()[0]

    def manifest_of(self, manifest: Manifest) -> str:
        """Say where the manifest of the published run is."""
        del manifest
        return f"{self.location}/{MANIFEST_NAME}"

    def files(self, manifest: Manifest) -> list[str]:
        """Name the files of a run for `filesystem`."""
        home = f"{self.url.bucket}/{self.home}"
        return [f"{home}/{file.run_id or manifest.run_id}/{file.name}" for file in manifest.files]

    def filesystem(self) -> Any:
        """Give the file system that reads `files`."""
        return self.bucket.filesystem()

    @contextlib.contextmanager
    def new_run(self, run_id: str) -> Iterator[ObjectRun]:
        """Begin a run; what it has written is removed again unless it was published.

        Raises:
            OutputNotWritable: the bucket cannot be written, or a manifest of others is there.

        """
        self._refuse_within()
        try:
            self._read()
        except ValidationError as error:
            msg = f"{self.location}/{MANIFEST_NAME} was not made by an extraction: {error}"
            raise OutputNotWritable(msg, path=self.location, reason="exists") from None
        run = ObjectRun(self, run_id)
        try:
            yield run
        finally:
            run.close()

    def _refuse_within(self) -> None:
        """Refuse a partition below a manifest that says what all of the object is."""
        for above in self._above:
            if self.bucket.get(f"{above}/{MANIFEST_NAME}") is not None:
                msg = (
                    f"{self.url.bucket}/{above} is an extraction of all partitions together; move "
                    f"it away first, or give the partitions another output_dir"
                )
                raise OutputNotWritable(msg, path=self.location, reason="exists")

    def _read(self) -> tuple[Manifest | None, dict[str, str] | None]:
        found = self.bucket.get(self._manifest_key)
        if found is None:
            return None, None
        content, version = found
        where = f"{self.location}/{MANIFEST_NAME}"
        return Manifest.parse(content.decode(errors="replace"), where), version

    def replace_manifest(self, manifest: Manifest) -> Manifest | None:
        """Publish a run, and give the manifest of the run before.

        Raises:
            OutputNotWritable: the store refused, or others publish all the time.
            ExecutionError: the run goes on from another one than is published now.

        """
        content, run_before = manifest.to_json().encode(), None
        for _ in range(_TRIES):
            before, version = self._read()
            if before is not None and before.run_id == manifest.run_id:
                return run_before  # a lost answer to our own request
            run_before = before
            manifest.refuse_other_base(None if before is None else before.run_id)
            if self.bucket.replace(self._manifest_key, content, version):
                return run_before
        msg = f"{self.location}: others publish at the same time; {_TRIES} attempts were in vain"
        raise OutputNotWritable(msg, path=self.location, reason="contention")

    def collect(self, run_id: str, last: Manifest | None) -> None:
        """Remove what no reader and no run needs, if this run is still the published one."""
        runs, _ = self._listed()
        manifest, before = self.published(), None if last is None else last.run_id
        now = _lease_of(runs[run_id])
        done = [*runs[run_id], *(runs[before] if before else ())]
        self.bucket.delete([o.key for o in done if f"/{_CHECKPOINT}/" in o.key])
        self.bucket.delete([f"{self.home}/{run_id}/{_LEASE}"])
        if manifest is None or manifest.run_id != run_id:
            return  # another run was published since, and collects
        keep = {run for run, objects in runs.items() if _is_alive(objects, now)} | manifest.runs
        keep |= set() if last is None else last.runs
        # The lease goes first, so that a run that wakes up again knows.
        for run in runs.keys() - keep:
            keys = sorted((o.key for o in runs[run]), key=lambda key: not key.endswith(_LEASE))
            self.bucket.delete(keys[:1])
            self.bucket.delete(keys[1:])

        def is_left(key: str) -> bool:
            run = self._run_of(key)
            return run is not None and (run not in keep or run in {run_id, before})

        self.bucket.abort_uploads(self.home, is_left)

    def left(self, run_id: str) -> list[Left]:
        """Read the checkpoints of dead runs that no publication has come after, but for ours."""
        runs, published_at = self._listed()
        manifest = self.published()
        ours = {run_id} | (set() if manifest is None else manifest.runs)
        now = _lease_of(runs[run_id])
        found = []
        for run, objects in runs.items():
            lines = sorted(o.key for o in objects if f"/{_CHECKPOINT}/" in o.key)
            begun = min((o.modified for o in objects), default=None)
            if run in ours or not lines or (published_at and begun and begun < published_at):
                continue
            if not _is_alive(objects, now) or self._process_died(run):
                contents = [self.bucket.get(key) for key in lines]
                text = b"".join(content[0] for content in contents if content is not None)
                found.append(Left(run, text.decode(errors="replace")))
        return found

    def _process_died(self, run: str) -> bool:
        lease = self.bucket.get(f"{self.home}/{run}/{_LEASE}")
        try:
            process = Process(**json.loads(lease[0])) if lease else None
        except (ValueError, TypeError):
            return False
        return process is None or process.alive() is False

    def remove(self, run: str) -> None:
        """Remove a run: its lease first, so that one that wakes up again knows."""
        home = f"{self.home}/{run}"
        keys = [found.key for found in self.bucket.objects(home)]
        keys.sort(key=lambda key: not key.endswith(f"/{_LEASE}"))
        self.bucket.delete(keys[:1])
        self.bucket.delete(keys[1:])
        self.bucket.abort_uploads(home, lambda _: True)

    def _listed(self) -> tuple[dict[str, list[StoredObject]], datetime | None]:
        """List the objects of every run, and say when the manifest was written."""
        runs: dict[str, list[StoredObject]] = defaultdict(list)
        published_at = None
        for found in self.bucket.objects(self.home):
            if run := self._run_of(found.key):
                runs[run].append(found)
            elif found.key == self._manifest_key:
                published_at = found.modified
        return runs, published_at

    def _run_of(self, key: str) -> str | None:
        run, slash, _ = key.removeprefix(f"{self.home}/").partition("/")
        return run if slash and _RUN_ID.fullmatch(run) else None


class ObjectRun:
    """The files of one run, with a lease that a thread renews while the process lives."""

    def __init__(self, place: ObjectPlace, run_id: str) -> None:
        """Take the lease, which also shows that the bucket can be written."""
        self.run_id = run_id
        self._place, self._bucket = place, place.bucket
        self._home = f"{place.home}/{run_id}"
        self.keep = self._tried = self._published = False
        self._lines = 0
        self._ended = threading.Event()
        self._renew()
        self._renewer = threading.Thread(target=self._renew_on, name="ixflow-lease", daemon=True)
        self._renewer.start()

    def file_stem(self, chunk_id: str) -> str:
        """Name the files of a chunk, without extension."""
        return f"{self._place.name}_{chunk_id}_{self.run_id.rpartition('-')[2]}"

    def location(self, name: str) -> str:
        """Say where a file is."""
        return f"{self._place.location}/{self.run_id}/{name}"

    def create(self, name: str, upload_bytes: int = MOST_UPLOAD) -> ObjectFile:
        """Begin a file, which holds so many bytes at most while it is sent."""
        return self._bucket.create(f"{self._home}/{name}", upload_bytes)

    def remove(self, name: str) -> None:
        """Remove a file; one that cannot be removed now goes with the run."""
        with contextlib.suppress(OutputNotWritable):
            self._bucket.delete([f"{self._home}/{name}"])

    def checkpoint(self, text: str, *, first: bool = False) -> None:
        """Add lines to the checkpoint, as an object; the first ones replace what is there."""
        self._lines = 0 if first else self._lines + 1
        self._bucket.put(f"{self._home}/{_CHECKPOINT}/{self._lines:06d}", text.encode())

    def left(self) -> list[Left]:
        """Read the checkpoints of dead runs of the same object that were never published."""
        return self._place.left(self.run_id)

    def adopt(self, left: Left, files: Sequence[FileRecord]) -> set[str]:
        """Copy those files of a dead run that are as they were written; name them.

        Several runs may copy them at once.
        """
        home = f"{self._place.home}/{left.name}"
        return {file.name for file in files if self._copied(f"{home}/{file.name}", file)}

    def _copied(self, source: str, file: FileRecord) -> bool:
        # The store's own copy would not show us the content, and stand-ins copy nothing.
        target, digest = self.create(file.name, LEAST_UPLOAD), hashlib.sha256()
        try:
            for chunk in self._bucket.chunks(source):
                digest.update(chunk)
                target.write(chunk)
        except OutputNotWritable:
            target.discard()
            return False
        if digest.hexdigest() != file.sha256:
            target.discard()
            return False
        target.finish()
        return True

    def discard(self, left: Left) -> None:
        """Remove what a dead run left; what cannot be removed now, the next publication removes."""
        with self._left_over():
            self._place.remove(left.name)

    def missing(self, files: Sequence[FileRecord]) -> list[str]:
        """Name the files that are not there in their size."""
        homes = {file: f"{self._place.home}/{file.run_id or self.run_id}" for file in files}
        listed = [found for home in {*homes.values()} for found in self._bucket.objects(home)]
        there = {found.key: found.size for found in listed}
        keys = {file: f"{homes[file]}/{file.name}" for file in files}
        return [file.name for file in files if there.get(keys[file]) != file.bytes]

    def carry(self, base: Manifest) -> tuple[FileRecord, ...]:
        """Name the files of an earlier run as ours, too; they stay where they are."""
        return base.carried()

    def publish(self, manifest: Manifest) -> str:
        """Verify that every file is there, let the run appear, and give the manifest's place.

        Raises:
            OutputNotWritable: the store refused; what was published before still is.
            ExecutionError: files of this run are gone, since others took it for dead.

        """
        self._verify(manifest)
        self._tried = True
        before = self._place.replace_manifest(manifest)
        self._published = True
        self._end()
        # From here on it is published: tidying up must not make that a failure.
        with self._left_over():
            self._place.collect(self.run_id, before)
        return f"{self._place.location}/{MANIFEST_NAME}"

    def close(self) -> None:
        """End the run; remove its files unless it was published, or may have been."""
        self._end()
        with self._left_over():
            if self._published or (self._tried and self._is_published()):
                return
            self._bucket.abort_uploads(self._home, lambda _: True)
            if self.keep:  # without a lease everybody knows that it is dead
                self._bucket.delete([f"{self._home}/{_LEASE}"])
                return
            self._bucket.delete([found.key for found in self._bucket.objects(self._home)])

    @contextlib.contextmanager
    def _left_over(self) -> Iterator[None]:
        """Say that something could not be tidied up, which is no reason to fail."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - also what no store should answer
            place = self._place.location
            _log.warning("leftovers stay in %s until the next run: %s", place, error)

    def _is_published(self) -> bool:
        manifest = self._place.published()
        return manifest is not None and manifest.run_id == self.run_id

    def _verify(self, manifest: Manifest) -> None:
        missing = self.missing(manifest.files)
        if missing or self._bucket.get(f"{self._home}/{_LEASE}") is None:
            msg = (
                f"{len(missing)} of the {len(manifest.files)} files of run {self.run_id} are not "
                f"in {self._place.location} as they were written; nothing was published. A run "
                f"that stands still for {STALE_AFTER} loses its files to the next one"
            )
            raise ExecutionError(msg, run_id=self.run_id, missing=missing, table=manifest.table)

    def _renew(self) -> None:
        process = json.dumps(dataclasses.asdict(this_process()))
        self._bucket.put(f"{self._home}/{_LEASE}", process.encode())

    def _renew_on(self) -> None:
        while not self._ended.wait(RENEW_SECONDS):
            # One that could not be renewed is renewed the next time; `_verify` has the last word.
            with contextlib.suppress(OutputNotWritable):
                self._renew()

    def _end(self) -> None:
        self._ended.set()
        self._renewer.join()


def published_at(location: str, options: Mapping[str, Any]) -> Manifest | None:
    """Read the manifest below ``s3://bucket/prefix/<object>``; None: nothing is published.

    Raises:
        ValidationError: the URL or the options cannot work, or it is not a manifest.
        OutputNotWritable: the store refuses to be read.

    """
    url = BucketUrl.parse(location)
    # Which options are secret only the store knows: none of them is shown.
    secrets = (*secrets_of(options), *(v for v in options.values() if isinstance(v, str)))
    found = Bucket(url, options, secrets).get(url.key(MANIFEST_NAME))
    where = f"{url}/{MANIFEST_NAME}"
    return None if found is None else Manifest.parse(found[0].decode(errors="replace"), where)


def _lease_of(objects: list[StoredObject]) -> datetime | None:
    return next((o.modified for o in objects if o.key.endswith(f"/{_LEASE}")), None)


def _is_alive(objects: list[StoredObject], now: datetime | None) -> bool:
    lease = _lease_of(objects)
    return lease is not None and (now is None or now - lease <= STALE_AFTER)
