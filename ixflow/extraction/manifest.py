"""What an extraction left behind, as one JSON file beside its data files."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from ixflow.errors import ValidationError
from ixflow.values import Column

__all__ = ["MANIFEST_NAME", "ColumnRecord", "FileRecord", "Manifest"]

MANIFEST_NAME = "_manifest.json"
_VERSION = 1


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
            given = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except ValueError as error:
            raise ValidationError(f"{path} is not a manifest: {error}", path=str(path)) from None
        names = [field.name for field in dataclasses.fields(cls)]
        version = given.get("manifest_version") if isinstance(given, dict) else None
        if version != _VERSION:
            msg = f"{path} is not a manifest of version {_VERSION}, which this release reads"
            raise ValidationError(msg, path=str(path), version=version)
        try:
            values = {name: given[name] for name in names}
            values["columns"] = tuple(ColumnRecord(**column) for column in given["columns"])
            values["files"] = tuple(FileRecord(**file) for file in given["files"])
        except (KeyError, TypeError) as error:
            msg = f"{path} is not a manifest of version {_VERSION}: {error!r}"
            raise ValidationError(msg, path=str(path)) from None
        return cls(**values)
