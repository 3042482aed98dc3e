"""One bucket of an object store, through obstore, which aborts an upload that it did not finish.

An upload in parts that a dead process left is invisible and costs money. obstore has no call that
lists or aborts such uploads, but it signs URLs with whatever credentials it has found, and on S3
both are plain requests on a signed URL (`Bucket.abort_uploads`).
"""

from __future__ import annotations

import contextlib
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal
from urllib.parse import quote
from xml.etree import ElementTree as ET

from ixflow.errors import OutputNotWritable, ValidationError
from ixflow.secrets import redact

__all__ = [
    "LEAST_UPLOAD",
    "MOST_UPLOAD",
    "Bucket",
    "BucketUrl",
    "ObjectFile",
    "StoredObject",
    "is_bucket_url",
    "parts_within",
]

LEAST_PART, MOST_PART = 5 << 20, 8 << 20
"""Bytes of a part. S3 takes no shorter ones, and 10,000 of an object: 48 GB; files end sooner."""
_PARTS_AT_ONCE = 2
LEAST_UPLOAD, MOST_UPLOAD = 2 * LEAST_PART, (_PARTS_AT_ONCE + 1) * MOST_PART
"""Bytes that a file being sent holds: a part that fills up, and one or two that are sent."""

_KINDS = {"s3": "S3Store", "gs": "GCSStore"}
_URL = re.compile(r"(?P<scheme>s3|gs)://(?P<bucket>[^/@:\s]+)(/+(?P<prefix>.*?)/*)?", re.DOTALL)
_SAID = re.compile(r"(?s)<Code>(?P<code>[^<]*)</Code>(.*?<Message>(?P<message>[^<]*)</Message>)?")
_CLIENT_OPTIONS = frozenset(
    {
        "allow_http",
        "allow_invalid_certificates",
        "connect_timeout",
        "pool_idle_timeout",
        "proxy_ca_certificate",
        "proxy_excludes",
        "proxy_url",
        "root_certificate",
        "timeout",
        "user_agent",
    }
)
_ADDRESSING = re.compile(r"(?i)(aws_)?(endpoint(_url)?(_s3)?|virtual_hosted_style_request)")
_RETRY = {"max_retries": 6, "retry_timeout": timedelta(seconds=60)}
_SIGNED_FOR = timedelta(minutes=5)
_TIMEOUT = 60.0


def is_bucket_url(output_dir: object) -> bool:
    """Say whether an output directory is in an object store.

    >>> is_bucket_url("s3://lake/raw"), is_bucket_url("./output")
    (True, False)
    """
    return isinstance(output_dir, str) and output_dir.startswith(("s3://", "gs://"))


def parts_within(upload_bytes: int) -> tuple[int, int]:
    """Give the bytes of a part, and how many are sent at once, for what a file may hold.

    >>> parts_within(24 << 20), parts_within(10 << 20)
    ((8388608, 2), (5242880, 1))
    """
    part = max(LEAST_PART, min(MOST_PART, upload_bytes // (_PARTS_AT_ONCE + 1)))
    return part, max(1, min(_PARTS_AT_ONCE, upload_bytes // part - 1))


@dataclass(frozen=True, slots=True)
class BucketUrl:
    """Where in which bucket.

    >>> BucketUrl.parse("s3://lake/raw/shop/")
    BucketUrl(scheme='s3', bucket='lake', prefix='raw/shop')
    """

    scheme: str
    bucket: str
    prefix: str

    @classmethod
    def parse(cls, text: str) -> BucketUrl:
        """Read ``s3://bucket/prefix`` or ``gs://bucket/prefix``.

        Raises:
            ValidationError: the text is something else.

        """
        found = _URL.fullmatch(text)
        prefix = (found["prefix"] or "") if found else ""
        segments = prefix.split("/") if prefix else []
        if not found or {"", ".", ".."} & set(segments):
            msg = f"{redact(text)!r} names no place in a bucket; write s3://bucket/prefix"
            raise ValidationError(msg, output_dir=redact(text))
        return cls(found["scheme"], found["bucket"], prefix)

    def key(self, *parts: str) -> str:
        """Name an object below the prefix."""
        return "/".join([self.prefix, *parts] if self.prefix else parts)

    def __str__(self) -> str:
        """Show it as it is written."""
        return f"{self.scheme}://{self.bucket}/{self.prefix}".rstrip("/")


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object in a listing; ``modified`` is by the store's clock."""

    key: str
    size: int
    modified: datetime


class ObjectFile:
    """An object being written: it is there, whole, when `finish` returns, and never before."""

    def __init__(self, bucket: Bucket, key: str, writer: Any, part_bytes: int) -> None:
        """Take obstore's writer."""
        self._bucket, self._key, self._writer = bucket, key, writer
        self._part_bytes = part_bytes

    def write(self, data: bytes | memoryview) -> None:
        """Add bytes; a part is sent when it is full."""
        view = memoryview(data)
        with self._bucket.refusals("write", self._key):
            # The writer waits for room between two writes, and takes each of them whole.
            for start in range(0, len(view), self._part_bytes):
                self._writer.write(view[start : start + self._part_bytes])

    def finish(self) -> None:
        """Complete the upload."""
        with self._bucket.refusals("write", self._key):
            self._writer.close()

    def discard(self) -> None:
        """Abort the upload."""
        error = OutputNotWritable("the file is not wanted any more")
        with contextlib.suppress(Exception):
            self._writer.__exit__(type(error), error, None)


class Bucket:
    """The calls that an extraction needs; every refusal is an `OutputNotWritable`."""

    def __init__(self, url: BucketUrl, options: Mapping[str, Any], secrets: Iterable[str]) -> None:
        """Make a client; nothing is sent yet.

        Raises:
            ValidationError: obstore is not installed, or does not know an option.

        """
        self.url, self._secrets = url, tuple(secrets)
        self._client = {k: v for k, v in options.items() if k.lower() in _CLIENT_OPTIONS}
        self._config = {k: v for k, v in options.items() if k not in self._client}
        if any(str(value).startswith("http://") for value in self._config.values()):
            self._client.setdefault("allow_http", True)
        self._obstore = _obstore(url.scheme)
        self._store = self._open(self._config)

    def _open(self, config: Mapping[str, Any]) -> Any:
        store = getattr(self._obstore.store, _KINDS[self.url.scheme])
        try:
            return store(
                self.url.bucket,
                config=dict(config),
                client_options=self._client or None,
                retry_config=_RETRY,
            )
        except (self._obstore.exceptions.BaseError, ValueError, TypeError) as error:
            msg = f"storage_options for {self.url} do not work: {self._reason(error)}"
            raise ValidationError(msg, output_dir=str(self.url)) from None

    def get(self, key: str) -> tuple[bytes, dict[str, str]] | None:
        """Read a small object and its version; None: it is not there."""
        with self.refusals("read", key):
            try:
                result = self._obstore.get(self._store, key)
            except FileNotFoundError:
                return None
            meta = result.meta
            version = {k: str(meta[k]) for k in ("e_tag", "version") if meta.get(k)}
            return bytes(result.bytes()), version

    def chunks(self, key: str) -> Iterator[bytes]:
        """Read an object of any size, piece by piece."""
        with self.refusals("read", key):
            for chunk in self._obstore.get(self._store, key).stream(min_chunk_size=LEAST_PART):
                yield bytes(chunk)

    def put(self, key: str, data: bytes) -> None:
        """Write a small object."""
        with self.refusals("write", key):
            self._obstore.put(self._store, key, data, use_multipart=False)

    def replace(self, key: str, data: bytes, version: Mapping[str, str] | None) -> bool:
        """Write a small object unless it is not what it was; False: somebody else has written it.

        ``version`` is what `get` gave; None: the object must not be there. A store without
        conditional writes takes the object as it comes.
        """
        # GCS compares generations, which a stand-in may not tell.
        needed = "version" if self.url.scheme == "gs" else "e_tag"
        comparable = version is None or needed in version
        mode: Any = "create" if version is None else dict(version)
        errors = self._obstore.exceptions
        with self.refusals("write", key):
            try:
                if comparable:
                    self._obstore.put(self._store, key, data, mode=mode, use_multipart=False)
                    return True
            except (errors.AlreadyExistsError, errors.PreconditionError):
                return False
            except FileNotFoundError:
                if version is None:  # then it is the bucket that is not there
                    raise
                return False
            except errors.NotSupportedError:
                pass
            self._obstore.put(self._store, key, data, use_multipart=False)
            return True

    def objects(self, prefix: str) -> Iterator[StoredObject]:
        """List the objects below ``prefix/``."""
        with self.refusals("list", prefix):
            for page in self._obstore.list(self._store, prefix, chunk_size=1000):
                for meta in page:
                    yield StoredObject(meta["path"], meta["size"], meta["last_modified"])

    def delete(self, keys: list[str]) -> None:
        """Remove objects; those that are not there are no matter."""
        with self.refusals("delete", keys[0] if keys else ""):
            for start in range(0, len(keys), 1000):
                with contextlib.suppress(FileNotFoundError):
                    self._obstore.delete(self._store, keys[start : start + 1000])

    def create(self, key: str, upload_bytes: int = MOST_UPLOAD) -> ObjectFile:
        """Begin to write an object; it holds so many bytes at most, and at least `LEAST_UPLOAD`."""
        part, at_once = parts_within(upload_bytes)
        with self.refusals("write", key):
            writer = self._obstore.open_writer(
                self._store, key, buffer_size=part, max_concurrency=at_once
            )
        return ObjectFile(self, key, writer, part)

    def abort_uploads(self, prefix: str, wanted: Callable[[str], bool]) -> int:
        """Abort the unfinished uploads below ``prefix/`` whose key is wanted; give their number.

        Only on S3: on GCS a lifecycle rule of the bucket does it.
        """
        if self.url.scheme != "s3":
            return 0
        found: list[tuple[str, str]] = []
        with _no_upload():
            found = [(key, id_) for key, id_ in self._uploads(prefix) if wanted(key)]
        for key, id_ in found:
            with _no_upload():
                self._request("DELETE", {"uploadId": id_}, key)
        return len(found)

    def _uploads(self, prefix: str) -> Iterator[tuple[str, str]]:
        query: dict[str, str] = {"uploads": "", "prefix": f"{prefix}/"}
        while True:
            # Names of tags carry a namespace on S3, and none on some that speak like it.
            page = ET.fromstring(self._request("GET", query))  # noqa: S314 - from the store itself
            texts = [
                {part.tag.rpartition("}")[2]: part.text or "" for part in node}
                for node in page.iter()
                if node.tag.rpartition("}")[2] == "Upload"
            ]
            yield from ((upload["Key"], upload["UploadId"]) for upload in texts)
            top = {node.tag.rpartition("}")[2]: node.text or "" for node in page}
            if top.get("IsTruncated") != "true":
                return
            query["key-marker"] = top.get("NextKeyMarker", "")
            query["upload-id-marker"] = top.get("NextUploadIdMarker", "")

    def _request(
        self, method: Literal["GET", "DELETE"], query: Mapping[str, str], key: str = ""
    ) -> bytes:
        """Send a request that obstore has no call for, on a URL that it has signed.

        obstore signs ``<endpoint>/<path>`` with the endpoint's query, so the query goes there, and
        the path that it adds ends in ``x-id``, which S3 ignores.
        """
        with self.refusals("list", key):
            plain = self._obstore.sign(self._store, "GET", "x", _SIGNED_FOR)
        target = plain.partition("?")[0].removesuffix("x") + quote(key, safe="/~")
        words = "&".join(f"{name}={quote(value, safe='')}" for name, value in query.items())
        config = {k: v for k, v in self._config.items() if not _ADDRESSING.fullmatch(k)}
        config["virtual_hosted_style_request"] = True
        # Of all names of the endpoint this one counts before the others, the environment's too.
        config["aws_endpoint_url_s3"] = f"{target}?{words}&x-id="
        with self.refusals("list", key):
            signed = self._obstore.sign(self._open(config), method, "x", _SIGNED_FOR)
        if not signed.startswith(f"{target}?{words}&"):
            msg = "the store's address is set in a way that leaves unfinished uploads unknown"
            raise OutputNotWritable(msg, path=str(self.url), bucket=self.url.bucket)
        asked = urllib.request.Request(signed, method=method)  # noqa: S310 - the store's own URL
        with self.refusals("list", key), urllib.request.urlopen(asked, timeout=_TIMEOUT) as answer:  # noqa: S310
            content: bytes = answer.read()
        return content

    def filesystem(self) -> Any:
        """Give a file system for pyarrow, whose paths are ``bucket/key``."""
        from obstore import fsspec
        from pyarrow.fs import FSSpecHandler, PyFileSystem

        make: Any = fsspec.FsspecStore
        store = make(
            "s3" if self.url.scheme == "s3" else "gs",
            config=self._config,
            client_options=self._client or None,
            retry_config=_RETRY,
            skip_instance_cache=True,
        )
        return PyFileSystem(FSSpecHandler(store))

    @contextlib.contextmanager
    def refusals(self, doing: str, key: str) -> Iterator[None]:
        """Turn what the store refuses into a typed error, without a credential.

        Raises:
            OutputNotWritable: naming the place, the reason and what to do.

        """
        exceptions = self._obstore.exceptions
        try:
            yield
        except (exceptions.BaseError, OSError) as error:
            reason = self._reason(error)
            place = f"{self.url.scheme}://{self.url.bucket}/{key}"
            msg = f"cannot {doing} {place}: {reason}; {self._advice(error, reason)}"
            raise OutputNotWritable(
                msg, path=place, bucket=self.url.bucket, reason=reason
            ) from None

    def _reason(self, error: Exception) -> str:
        """Take the store's own code and words; else the first line, which names the request."""
        text = str(error).partition("\n\nDebug source:")[0]
        if isinstance(error, urllib.error.HTTPError):
            text += error.read(10_000).decode(errors="replace")
        said = _SAID.search(text)
        if said:
            text = f"{said['code']}: {said['message']}" if said["message"] else said["code"]
        return redact(" ".join(text.split())[:500], *self._secrets)

    def _advice(self, error: Exception, reason: str) -> str:
        exceptions = self._obstore.exceptions
        denied = (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError)
        if "NoSuchBucket" in reason or isinstance(error, FileNotFoundError):
            return f"make the bucket {self.url.bucket} first, or correct output_dir or the endpoint"
        if isinstance(error, denied):
            return (
                "the credentials in storage_options or the environment must be allowed to list, "
                f"read, write and delete objects in the bucket {self.url.bucket}"
            )
        return "check endpoint, region and credentials in storage_options or the environment"


@contextlib.contextmanager
def _no_upload() -> Iterator[None]:
    """Accept that an upload is gone: its own process was first; or that a bucket never had one."""
    try:
        yield
    except OutputNotWritable as error:
        if "NoSuchUpload" not in error.fields["reason"]:
            raise


def _obstore(scheme: str) -> Any:
    try:
        import obstore
        import obstore.exceptions
        import obstore.store
    except ImportError:
        extra = "s3" if scheme == "s3" else "gcs"
        msg = f"{scheme}:// needs the package obstore; pip install 'ixflow[{extra}]'"
        raise ValidationError(msg, package="obstore") from None
    return obstore
