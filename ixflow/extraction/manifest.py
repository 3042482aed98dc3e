"""What an extraction left behind, as one JSON file beside its data files."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pyarrow as pa

from ixflow.errors import ExecutionError, ValidationError
from ixflow.values import Column

__all__ = [
    "MANIFEST_NAME",
    "ColumnRecord",
    "FileRecord",
    "Left",
    "Manifest",
    "SnapshotRecord",
    "WindowRecord",
]

MANIFEST_NAME = "_manifest.json"
_VERSION = 1
_DECIMAL = re.compile(r"decimal(?P<bits>\d+)\((?P<precision>\d+), (?P<scale>-?\d+)\)")
_ZONED = re.compile(r"timestamp\[(?P<unit>\w+), tz=(?P<zone>.+)\]")
_FIXED = re.compile(r"fixed_size_binary\[(?P<bytes>\d+)\]")


@dataclass(frozen=True, slots=True)
class FileRecord:
    """One data file: its name in the run's directory, and what is in it.

    ``run_id`` names the earlier run that has extracted it; None: the manifest's own.
    """

    name: str
    chunk_id: str
    rows: int
    bytes: int
    sha256: str
    run_id: str | None = None


@dataclass(frozen=True, slots=True)
class Left:
    """What a run that never published left behind: its name in its place, and its checkpoint."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class SnapshotRecord:
    """One of the moments that a run's rows are of, and the tasks that were read in it.

    ``moment`` is equal for all that was read in one moment, also for other tables; ``snapshot`` is
    the database's own id of it, where it has one.
    """

    moment: str
    snapshot: str | None
    taken_at: str
    chunk_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class WindowRecord:
    """The rows that an incremental run has added, and what its semantics declare.

    They are those from ``low`` (None: from the beginning) to ``high_watermark``, which is included,
    where the next run goes on (None: no row had a key); ``with_nulls``: also those without a key.
    """

    column: str
    sql_type: str
    semantics: str
    declares: str
    nulls: str
    overlap: str | None
    low: str | None
    low_included: bool
    high_watermark: str | None
    with_nulls: bool

    def __str__(self) -> str:
        """Show the window the way people write it."""
        if self.high_watermark is None:
            return f"no {self.column}"
        sign = "<=" if self.low_included else "<"
        low = "" if self.low is None else f"{self.low} {sign} "
        return f"{low}{self.column} <= {self.high_watermark}"


@dataclass(frozen=True, slots=True)
class ColumnRecord:
    """One column as the source declares it, and the Arrow type it was written with.

    ``mask`` names what the source has sent in the place of the values.
    """

    name: str
    sql_type: str
    arrow_type: str
    nullable: bool
    as_text: bool
    key_position: int | None
    mask: str | None = None

    @classmethod
    def of(cls, column: Column) -> Self:
        """Describe a column."""
        kind, key, mask = str(column.type), column.key_position, column.mask
        return cls(column.name, column.sql_type, kind, column.nullable, column.as_text, key, mask)


@dataclass(frozen=True)
class Manifest:
    """One complete extraction: where from, which rows at which moment, in which files.

    ``source`` names type, host, port and database, never a user or password. ``snapshot`` is the
    database's own id of it, where it has one, and ``moment`` ours: equal for all tables that were
    read in one moment. A run that went on where another had ended names that in ``resumed_from``;
    ``snapshots`` lists the moments of its rows, which are several only where the intent allowed a
    newer snapshot. Times are ISO 8601 in UTC.

    An incremental run has a ``window``; its ``files`` are those of the runs before, too, on from
    ``base_run_id``, and ``replaces`` is the run that was published when it began. ``where``,
    ``query`` and ``salt_digest`` say which rows, and under which masks.
    """

    run_id: str
    object_name: str
    table: str
    source: Mapping[str, Any]
    identity: str
    plan_fingerprint: str
    consistency: str
    snapshot: str | None
    columns: tuple[ColumnRecord, ...]
    files: tuple[FileRecord, ...]
    started_at: str
    finished_at: str
    output_format: str = "parquet"
    compression: str = "zstd"
    moment: str | None = None
    resumed_from: str | None = None
    snapshots: tuple[SnapshotRecord, ...] = ()
    where: str | None = None
    query: str | None = None
    salt_digest: str | None = None
    window: WindowRecord | None = None
    base_run_id: str | None = None
    replaces: str | None = None

    @property
    def runs(self) -> set[str]:
        """Name the runs whose files these are."""
        return {self.run_id, *(file.run_id for file in self.files if file.run_id is not None)}

    @property
    def new_files(self) -> tuple[FileRecord, ...]:
        """List the files that this run has extracted itself."""
        return tuple(file for file in self.files if file.run_id is None)

    def carried(self) -> tuple[FileRecord, ...]:
        """List the files as those of an earlier run."""
        return tuple(
            dataclasses.replace(file, run_id=file.run_id or self.run_id) for file in self.files
        )

    def refuse_other_base(self, published: str | None) -> None:
        """See that an incremental run goes on from what is published at this moment.

        Else the high watermark could go back, and rows would be new twice.

        Raises:
            ExecutionError: another run has published meanwhile.

        """
        begun_on = self.base_run_id or self.replaces
        if self.window is None or begun_on == published:
            return
        on = f"went on from {begun_on}" if begun_on else "read from the beginning"
        msg = (
            f"{self.object_name} was published by run {published} while run {self.run_id} {on}; "
            f"nothing was published. Run it again"
        )
        raise ExecutionError(msg, run_id=self.run_id, table=self.table, errors={})

    @property
    def total_rows(self) -> int:
        """Count the rows of all files."""
        return sum(file.rows for file in self.files)

    @property
    def total_bytes(self) -> int:
        """Add up the sizes of all files."""
        return sum(file.bytes for file in self.files)

    def schema(self) -> pa.Schema:
        """Give the Arrow schema that every file was written with."""
        return pa.schema([(column.name, _arrow_type(column.arrow_type)) for column in self.columns])

    def to_json(self) -> str:
        """Write it as JSON."""
        totals = {"total_rows": self.total_rows, "total_bytes": self.total_bytes}
        made = {"manifest_version": _VERSION, **dataclasses.asdict(self), **totals}
        return json.dumps(made, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def read(cls, directory: Path) -> Self | None:
        """Read the manifest of a directory; None if it has none.

        Raises:
            ValidationError: the file is not a manifest that this release reads.

        """
        path = directory / MANIFEST_NAME
        try:
            text = path.read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError):
            return None
        except UnicodeDecodeError as error:
            raise ValidationError(f"{path} is not a manifest: {error}", path=str(path)) from None
        return cls.parse(text, str(path))

    @classmethod
    def parse(cls, text: str, path: str) -> Self:
        """Read what `to_json` wrote; ``path`` is for the error.

        Raises:
            ValidationError: the text is not a manifest that this release reads.

        """
        try:
            given = json.loads(text)
        except ValueError as error:
            raise ValidationError(f"{path} is not a manifest: {error}", path=path) from None
        version = given.get("manifest_version") if isinstance(given, dict) else None
        if version != _VERSION:
            msg = f"{path} is not a manifest of version {_VERSION}, which this release reads"
            raise ValidationError(msg, path=path, version=version)
        try:
            values = _values(cls, given)
            values["columns"] = tuple(ColumnRecord(**column) for column in given["columns"])
            values["files"] = tuple(FileRecord(**file) for file in given["files"])
            values["snapshots"] = tuple(
                SnapshotRecord(**{**one, "chunk_ids": tuple(one["chunk_ids"])})
                for one in given.get("snapshots", ())
            )
            window = given.get("window")
            values["window"] = None if window is None else WindowRecord(**window)
        except (KeyError, TypeError) as error:
            msg = f"{path} is not a manifest of version {_VERSION}: {error!r}"
            raise ValidationError(msg, path=path) from None
        return cls(**values)


def _values(cls: type[Manifest], given: Mapping[str, Any]) -> dict[str, Any]:
    """Take what the manifest says; releases before this one said less."""
    needed = dataclasses.MISSING
    return {
        field.name: given[field.name]
        for field in dataclasses.fields(cls)
        if field.name in given or field.default is needed
    }


def _arrow_type(text: str) -> pa.DataType:
    """Read a type as Arrow spells it.

    >>> _arrow_type("timestamp[us, tz=UTC]"), _arrow_type("decimal128(12, 2)")
    (TimestampType(timestamp[us, tz=UTC]), Decimal128Type(decimal128(12, 2)))
    """
    if found := _DECIMAL.fullmatch(text):
        make = pa.decimal128 if found["bits"] == "128" else pa.decimal256
        return make(int(found["precision"]), int(found["scale"]))
    if found := _ZONED.fullmatch(text):
        return pa.timestamp(found["unit"], found["zone"])
    if found := _FIXED.fullmatch(text):
        return pa.binary(int(found["bytes"]))
    try:
        return pa.type_for_alias(text)
    except ValueError:
        msg = f"the manifest names a type that this release does not know: {text}"
        raise ValidationError(msg, type=text) from None
