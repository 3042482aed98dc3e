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

from ixflow.errors import ValidationError
from ixflow.values import Column

__all__ = ["MANIFEST_NAME", "ColumnRecord", "FileRecord", "Manifest"]

MANIFEST_NAME = "_manifest.json"
_VERSION = 1
_DECIMAL = re.compile(r"decimal(?P<bits>\d+)\((?P<precision>\d+), (?P<scale>-?\d+)\)")
_ZONED = re.compile(r"timestamp\[(?P<unit>\w+), tz=(?P<zone>.+)\]")
_FIXED = re.compile(r"fixed_size_binary\[(?P<bytes>\d+)\]")


@dataclass(frozen=True, slots=True)
class FileRecord:
    """One data file: its name in the run's directory, and what is in it."""

    name: str
    chunk_id: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class ColumnRecord:
    """One column as the source declares it, and the Arrow type it was written with."""

    name: str
    sql_type: str
    arrow_type: str
    nullable: bool
    as_text: bool
    key_position: int | None

    @classmethod
    def of(cls, column: Column) -> Self:
        """Describe a column."""
        kind = str(column.type)
        key = column.key_position
        return cls(column.name, column.sql_type, kind, column.nullable, column.as_text, key)


@dataclass(frozen=True)
class Manifest:
    """One complete extraction: where from, which rows at which moment, in which files.

    ``source`` names type, host, port and database, never a user or password. ``snapshot`` is the
    database's own id of it, where it has one. Times are ISO 8601 in UTC.
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
        names = [field.name for field in dataclasses.fields(cls)]
        version = given.get("manifest_version") if isinstance(given, dict) else None
        if version != _VERSION:
            msg = f"{path} is not a manifest of version {_VERSION}, which this release reads"
            raise ValidationError(msg, path=path, version=version)
        try:
            values = {name: given[name] for name in names}
            values["columns"] = tuple(ColumnRecord(**column) for column in given["columns"])
            values["files"] = tuple(FileRecord(**file) for file in given["files"])
        except (KeyError, TypeError) as error:
            msg = f"{path} is not a manifest of version {_VERSION}: {error!r}"
            raise ValidationError(msg, path=path) from None
        return cls(**values)


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
