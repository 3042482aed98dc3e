"""The manifest of an asset with partitions: the file of each of them. No I/O."""

import base64
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field

import pyarrow as pa

from ixflow.errors import ValidationError

__all__ = ["Manifest", "PartitionFile"]

_FORMAT = "ixflow-partitions/1"


@dataclass(frozen=True, slots=True)
class PartitionFile:
    """The file of one partition, named from the asset's directory on.

    ``schema`` is the Arrow schema as text, so that no file is opened for it; empty: not known.
    """

    name: str
    rows: int
    bytes: int
    schema: str = ""

    def arrow_schema(self) -> pa.Schema | None:
        """Give the schema; None: the file has to be asked."""
        if not self.schema:
            return None
        return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(self.schema)))

    @staticmethod
    def text_of(schema: pa.Schema) -> str:
        """Write a schema.

        >>> schema = pa.schema({"id": pa.int64()})
        >>> text = PartitionFile.text_of(schema)
        >>> PartitionFile("1.parquet", 0, 0, text).arrow_schema() == schema
        True
        """
        return base64.b64encode(schema.serialize()).decode()


@dataclass(frozen=True, slots=True)
class Manifest:
    """The files by the keys of their partitions.

    >>> one = Manifest().with_files({"de": PartitionFile("partition=de/1.parquet", 2, 900)})
    >>> Manifest.parse(one.to_json(), "st/t") == one
    True
    """

    files: Mapping[str, PartitionFile] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """Count the rows of all partitions."""
        return sum(file.rows for file in self.files.values())

    def with_files(self, files: Mapping[str, PartitionFile]) -> "Manifest":
        """Give the manifest after a write of these partitions; all rows are the partition ''."""
        others = {} if "" in files else {k: file for k, file in self.files.items() if k}
        return Manifest({**others, **files})

    def missing(self, keys: Iterable[str]) -> list[str]:
        """Name the partitions that were never written."""
        return [key for key in keys if key not in self.files]

    def to_json(self) -> str:
        """Write it, each schema once."""
        schemas = {file.schema: str(n) for n, file in enumerate(self.files.values())}
        files = {
            key: {**asdict(file), "schema": schemas[file.schema]}
            for key, file in sorted(self.files.items())
        }
        texts = {name: text for text, name in schemas.items()}
        return json.dumps({"format": _FORMAT, "schemas": texts, "partitions": files}, indent=1)

    @classmethod
    def parse(cls, text: str, where: str) -> "Manifest":
        """Read it.

        Raises:
            ValidationError: it is something else, or of a newer release.

        """
        try:
            found = json.loads(text)
            if found["format"] == _FORMAT:
                texts = found["schemas"]
                return cls(
                    {
                        key: PartitionFile(**{**file, "schema": texts[file["schema"]]})
                        for key, file in found["partitions"].items()
                    }
                )
        except (ValueError, TypeError, KeyError, AttributeError):
            pass
        msg = f"the manifest of {where} is none that this release understands; move it away"
        raise ValidationError(msg, path=where)
