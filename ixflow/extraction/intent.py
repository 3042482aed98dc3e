"""What the caller wants: which table of which database, and where its files shall be."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ixflow.dialects import Dialect, dialect_named
from ixflow.dialects.fragments import checked_filter, checked_query
from ixflow.errors import ValidationError
from ixflow.extraction.bucket import BucketUrl, is_bucket_url
from ixflow.extraction.limits import (
    DEFAULT_LOCK_TIMEOUT,
    DEFAULT_MEMORY,
    DEFAULT_SILENCE,
    DEFAULT_SNAPSHOT_AGE,
    budget_of,
    seconds_of,
)
from ixflow.secrets import masked, redact, secrets_of
from ixflow.tables.cursor import Cursor

if TYPE_CHECKING:
    import sqlalchemy as sa

    from ixflow.extraction.writer import FileFormat

__all__ = ["ExtractionIntent"]

_FORMATS = ("parquet", "csv", "s3", "gcs")
_SCHEMES = {"s3": "s3://", "gcs": "gs://"}
# Of storage_options only these are shown: it is the store that knows what else is a secret.
_PLAIN_OPTIONS = re.compile(
    r"(?i)(aws_|google_)?(bucket|endpoint|endpoint_url|base_url|region|default_region|allow_http|"
    r"virtual_hosted_style_request|skip_signature|unsigned_payload|timeout|connect_timeout)"
)
_RESUMES = ("same snapshot", "newer snapshot")
_COMPRESSIONS = ("zstd", "snappy", "gzip", "lz4", "none")
_MOST_WORKERS = 64


@dataclass(frozen=True, repr=False)
class ExtractionIntent:
    """One table to extract, from where, to where.

    Args:
        source_type: ``postgresql`` (or ``postgres``), ``mysql`` (or ``mariadb``), ``duckdb``,
            ``sqlite``.
        source_config: host, port, database, user, password; or ``connection_string``, a URL. For
            a database file only ``database``, its path.
        object_name: ``table`` or ``schema.table``, exactly as the database spells it.
        output_dir: where ``<object>/`` appears: a directory, ``s3://bucket/prefix`` or
            ``gs://bucket/prefix``.
        output_format: ``parquet`` or ``csv``; ``s3`` and ``gcs`` are Parquet in such a bucket.
        columns: the columns to extract, in this order; None: all.
        drop: the columns not to extract, in the place of ``columns``.
        mask: what the source sends in the place of a column's values, by name: ``hash``, ``null``,
            ``redact``, ``first<N>``, ``last<N>`` or ``year``.
        mask_salt: a secret that goes into hashes before the value.
        where: a condition in the source's SQL; only rows that meet it are extracted.
        query: a SELECT in the source's SQL whose rows are extracted; ``object_name`` is then what
            they are called.
        mode: ``full``, or ``incremental``: only rows that the runs before have not read.
        incremental_key: the column that says so, or a `Cursor` with its semantics.
        incremental_value: where the first incremental run begins; None: at the beginning.
        as_text: columns to read as text, for values that Arrow's type of the column cannot hold.
        compression: ``zstd``, ``snappy``, ``gzip``, ``lz4`` or ``none``; CSV is never compressed.
        require_snapshot: refuse to extract where one snapshot for all rows cannot be had.
        resume: what a rerun after a failure may do with the tasks that were done: ``same snapshot``
            keeps them if their snapshot can be read on, ``newer snapshot`` also reads the others
            from a newer one where each row surely belongs to one task.
        max_workers: the most connections to use at the same time, 1 to 64.
        storage_options: for a bucket, what the environment does not say: ``access_key_id``,
            ``secret_access_key``, ``session_token``, ``region``, ``endpoint`` for S3;
            ``service_account`` (a path) or ``service_account_key`` (its JSON) for GCS.
        memory_budget: what a run may hold in memory, over what ixflow itself takes: bytes, or a
            text like ``"256MB"``; one value of a column always has to fit.
        statement_timeout: how long one query may take, with the taking of its rows: seconds, or a
            text like ``"30min"``; None: as long as a snapshot may.
        lock_timeout: how long to wait for the source's locks.
        silence_timeout: after how long without a byte the server is asked whether it still works
            on the query, and the network gives up a peer that is gone; None: only the network does.
        max_snapshot_age: how long a run may keep one snapshot open, which holds back the source's
            cleaning (VACUUM, purge); None: as long as it takes.
        partition: of which partition the rows are that ``where`` selects, a name for each of its
            dimensions: the files appear in ``<object>/<partition>/``, beside other partitions.

    Raises:
        ValidationError: a value that cannot work, naming what can.

    >>> config = {"database": "shop", "user": "app", "password": "s3cret"}
    >>> intent = ExtractionIntent("postgresql", config, "orders")
    >>> intent.source_config["password"] in repr(intent)
    False

    """

    source_type: str
    source_config: Mapping[str, Any]
    object_name: str
    output_dir: str | Path = "./output"
    output_format: str = "parquet"
    columns: Sequence[str] | None = field(default=None, kw_only=True)
    as_text: Sequence[str] = field(default=(), kw_only=True)
    compression: str = field(default="zstd", kw_only=True)
    require_snapshot: bool = field(default=False, kw_only=True)
    resume: str = field(default="same snapshot", kw_only=True)
    max_workers: int | None = field(default=None, kw_only=True)
    storage_options: Mapping[str, Any] = field(default_factory=dict, kw_only=True)
    drop: Sequence[str] = field(default=(), kw_only=True)
    mask: Mapping[str, str] = field(default_factory=dict, kw_only=True)
    mask_salt: str | None = field(default=None, kw_only=True)
    where: str | None = field(default=None, kw_only=True)
    query: str | None = field(default=None, kw_only=True)
    mode: str = field(default="full", kw_only=True)
    incremental_key: str | Cursor | None = field(default=None, kw_only=True)
    incremental_value: Any = field(default=None, kw_only=True)
    memory_budget: int | str = field(default=DEFAULT_MEMORY, kw_only=True)
    statement_timeout: float | str | None = field(default=None, kw_only=True)
    lock_timeout: float | str = field(default=DEFAULT_LOCK_TIMEOUT, kw_only=True)
    silence_timeout: float | str | None = field(default=DEFAULT_SILENCE, kw_only=True)
    max_snapshot_age: float | str | None = field(default=DEFAULT_SNAPSHOT_AGE, kw_only=True)
    partition: Sequence[str] = field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        _is("source_config", self.source_config, Mapping)
        object.__setattr__(self, "source_config", dict(self.source_config))
        object.__setattr__(self, "columns", _names("columns", self.columns))
        object.__setattr__(self, "as_text", _names("as_text", self.as_text) or ())
        _is("source_type", self.source_type, str)
        _is("object_name", self.object_name, str)
        _is("output_dir", self.output_dir, str, Path)
        _one_of("output_format", self.output_format, _FORMATS, "what this release writes")
        _is("storage_options", self.storage_options, Mapping)
        object.__setattr__(self, "storage_options", dict(self.storage_options))
        self._check_output()
        _one_of("resume", self.resume, _RESUMES, "one of")
        _one_of("compression", self.compression, _COMPRESSIONS, "one of")
        if self.max_workers is not None and not _is_count(self.max_workers):
            msg = f"max_workers is {self.max_workers!r}; it must be from 1 to {_MOST_WORKERS}"
            raise ValidationError(msg, max_workers=self.max_workers)
        budget_of(self.memory_budget, self.output_dir)
        for name in ("statement_timeout", "silence_timeout", "max_snapshot_age"):
            seconds_of(name, getattr(self, name))
        if seconds_of("lock_timeout", self.lock_timeout) is None:
            raise ValidationError("lock_timeout is None; give a time like '60s'")
        self.url()
        self._check_selection()
        self._check_mode()

    def _check_selection(self) -> None:
        """Refuse a selection that says two things, and SQL that could leave its place."""
        object.__setattr__(self, "drop", _names("drop", self.drop) or ())
        if self.columns is not None and self.drop:
            raise ValidationError("columns and drop are both given; give one of them")
        _is("mask", self.mask, Mapping)
        object.__setattr__(self, "mask", dict(self.mask))
        if self.mask_salt is not None:
            _is("mask_salt", self.mask_salt, str)
        lexicon = self.dialect.lexicon
        if self.where is not None:
            object.__setattr__(self, "where", checked_filter(self.where, lexicon))
        if self.query is not None:
            object.__setattr__(self, "query", checked_query(self.query, lexicon))

    def _check_mode(self) -> None:
        """Refuse an incremental extraction that could not tell what is new, or would show it."""
        _one_of("mode", self.mode, ("full", "incremental"), "one of")
        key = self.incremental_key
        if key is not None:
            _is("incremental_key", key, str, Cursor)
        object.__setattr__(self, "partition", _path(self.partition))
        if self.mode == "incremental" and self.partition:
            msg = (
                "mode is 'incremental', which goes on behind a high watermark of the whole table; "
                "a partition says itself which rows it has, so extract it with mode='full'"
            )
            raise ValidationError(msg, argument="partition")
        if self.mode == "incremental" and key is None:
            msg = "mode is 'incremental'; give the column that says what is new as incremental_key"
            raise ValidationError(msg, argument="incremental_key")
        hidden = {*self.drop, *self.mask}
        if self.cursor is not None and self.cursor.column in hidden:
            msg = (
                f"the values of {self.cursor.column} would be shown as the high watermark; it "
                f"cannot be dropped or masked"
            )
            raise ValidationError(msg, column=self.cursor.column)

    @property
    def cursor(self) -> Cursor | None:
        """Give the cursor of an incremental extraction; None: it reads all rows."""
        key = self.incremental_key
        if self.mode != "incremental" or key is None:
            return None
        return key if isinstance(key, Cursor) else Cursor(key)

    def _check_output(self) -> None:
        """Refuse a format and a place that do not go together."""
        text = str(self.output_dir)
        if "\0" in text:
            raise ValidationError("output_dir holds a NUL character; no path has one")
        wanted = _SCHEMES.get(self.output_format)
        if wanted and not text.startswith(wanted):
            msg = f"output_format {self.output_format!r} needs an output_dir below {wanted}"
            raise ValidationError(msg, output_dir=redact(text))
        if is_bucket_url(self.output_dir):
            BucketUrl.parse(text)
        elif "://" in text or text.startswith(("s3:/", "gs:/")):
            msg = (
                f"output_dir {redact(text)!r} is neither a path nor a text like s3://bucket/prefix"
            )
            raise ValidationError(msg, output_dir=redact(text))

    @property
    def file_format(self) -> FileFormat:
        """Say what is in the files: ``parquet`` or ``csv``."""
        return "csv" if self.output_format == "csv" else "parquet"

    @property
    def file_compression(self) -> str:
        """Say how the files are compressed."""
        return "none" if self.output_format == "csv" else self.compression

    @property
    def dialect(self) -> Dialect:
        """Give the dialect of the source."""
        return dialect_named(self.source_type)

    def url(self) -> sa.URL:
        """Make the URL of the source. It holds the password: never print it."""
        return self.dialect.url(self.source_config)

    @property
    def secrets(self) -> tuple[str, ...]:
        """List the secret values, so that `ixflow.secrets.redact` can remove them from texts."""
        hidden = [
            str(value)
            for key, value in self.storage_options.items()
            if value and not isinstance(value, bool) and not _PLAIN_OPTIONS.fullmatch(key)
        ]
        hidden += [] if self.mask_salt is None else [self.mask_salt]
        return (*secrets_of(self.source_config), *secrets_of(self.storage_options), *hidden)

    def identity(self) -> str:
        """Hash what is extracted from where: equal for equal tables, whatever the credentials.

        >>> a = ExtractionIntent("sqlite", {"database": "shop.db"}, "orders")
        >>> a.identity() == ExtractionIntent("sqlite", {"database": "shop.db"}, "orders").identity()
        True
        """
        parts: list[Any] = [*self.source().values(), self.object_name]
        # Some of a table's rows are another thing than all of them.
        selected = {"where": self.where, "query": self.query}
        parts += [[name, text] for name, text in selected.items() if text is not None]
        parts += [["partition", *self.partition]] if self.partition else []
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def source(self) -> dict[str, Any]:
        """Name the database: type, host, port and database, without user and password."""
        url = self.url()
        return {
            "type": self.dialect.name,
            "host": url.host,
            "port": url.port or self.dialect.default_port,
            "database": url.database,
        }

    def __hash__(self) -> int:
        """Hash by identity, since a configuration is a dict."""
        return hash(self.identity())

    def __repr__(self) -> str:
        """Show everything but the secrets."""
        options = {
            key: value if _PLAIN_OPTIONS.fullmatch(key) else "***"
            for key, value in masked(self.storage_options).items()
        }
        config = masked(self.source_config)
        salt = None if self.mask_salt is None else "***"
        hidden = {"source_config": config, "storage_options": options, "mask_salt": salt}
        shown = {**self.__dict__, **hidden}
        return f"ExtractionIntent({', '.join(f'{k}={v!r}' for k, v in shown.items())})"


def _is(what: str, given: object, *kinds: type) -> None:
    if not isinstance(given, kinds) or given == "":
        wanted = " or ".join(kind.__name__ for kind in kinds)
        raise ValidationError(f"{what} is {given!r}; it must be a {wanted}", argument=what)


def _names(what: str, names: Sequence[str] | None) -> tuple[str, ...] | None:
    if names is None:
        return None
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise ValidationError(f"{what} must be a list of column names, not {names!r}")
    if not names and what == "columns":
        raise ValidationError("columns is empty; leave it out to extract all of them")
    twice = sorted({name for name in names if list(names).count(name) > 1})
    if twice:
        raise ValidationError(f"{what} names {twice} more than once", columns=twice)
    return tuple(names)


def _path(names: Sequence[Any]) -> tuple[str, ...]:
    if isinstance(names, str) or not all(isinstance(name, str) and name for name in names):
        msg = f"partition is {names!r}; it must be a list of names, one for each dimension"
        raise ValidationError(msg, argument="partition")
    return tuple(names)


def _one_of(what: str, given: Any, allowed: tuple[str, ...], phrase: str) -> None:
    if given not in allowed:
        msg = f"{what} is {given!r}; {phrase}: {', '.join(allowed)}"
        raise ValidationError(msg, value=given)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _MOST_WORKERS
