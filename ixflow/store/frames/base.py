"""What every kind of frame can do, and how a written table is fingerprinted on its way."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa

from ixflow.dialects.cast import decoded
from ixflow.errors import ValidationError
from ixflow.tables.arrow import as_reader
from ixflow.tables.load import create_and_load
from ixflow.values import Column, TableName

if TYPE_CHECKING:
    import sqlalchemy as sa

__all__ = ["Frames", "TableSpec", "Wanted", "Written", "write_arrow"]

_ROWS_PER_HASH = 8_192  # of a slice there are two copies meanwhile


@dataclass(frozen=True, slots=True)
class TableSpec:
    """How a table shall be stored; ``fingerprint`` asks for a hash of the rows.

    ``materialization_details`` is the label of a set of the store's options.
    """

    name: str
    primary_key: tuple[str, ...] = ()
    indexes: tuple[tuple[str, ...], ...] = ()
    type_map: Mapping[str, Any] = field(default_factory=dict)
    fingerprint: bool = False
    materialization_details: str | None = None


@dataclass(frozen=True, slots=True)
class Written:
    """The number of rows, and the hash of the rows in their order where it was asked and cheap.

    ``columns`` are the table's where they are known already.
    """

    rows: int
    fingerprint: str | None = None
    columns: tuple[Column, ...] | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """As what a table is read: the type, and where a type has several the backend of its columns.

    >>> Wanted(dict, "arrow")
    Wanted(type=<class 'dict'>, backend='arrow')
    """

    type: type
    backend: str | None = None

    def __str__(self) -> str:
        """Write it as in ``input_type=``."""
        name = f"{self.type.__module__.partition('.')[0]}.{self.type.__qualname__}"
        return name if self.backend is None else f"({name}, {self.backend!r})"


class Frames(ABC):
    """One kind of frame: knows its objects, writes them as tables, reads tables as them.

    ``backends`` are the ways in which `read` can give the columns of its types, if there are
    several, the usual one first.
    """

    backends: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def owns(self, obj: Any) -> bool:
        """Say whether `write` takes the object."""

    @abstractmethod
    def gives(self) -> tuple[type, ...]:
        """Name the types that `read` gives."""

    def arrow(self, obj: Any) -> Any:
        """Give something that speaks Arrow for an object that `owns` knows."""
        return obj

    def in_memory(self, obj: Any) -> bool:
        """Say whether the object has its rows, and gives the same ones as often as it is asked."""
        del obj
        return False

    def identity(self, engine: sa.Engine, obj: Any, spec: TableSpec) -> str | None:
        """Give a text that is equal for equal content; None if the object can be read only once.

        That of a query is its text, that of a frame a hash of its rows in their order.
        """
        del engine, spec
        if isinstance(obj, pa.RecordBatchReader):
            return None
        digest = hashlib.blake2b(digest_size=16)
        for _ in _hashed(as_reader(self.arrow(obj)), digest):
            pass
        return digest.hexdigest()

    def write(self, conn: sa.Connection, table: TableName, obj: Any, spec: TableSpec) -> Written:
        """Create the table and fill it, in the caller's transaction."""
        return write_arrow(conn, table, self.arrow(obj), spec)

    @abstractmethod
    def read(self, engine: sa.Engine, table: TableName, wanted: Wanted) -> Any:
        """Read a committed table."""

    def apart(self, obj: Any, number: int) -> Any:
        """Give what `read` gave, told apart from the same table's first ``number`` ones."""
        del number
        return obj


def write_arrow(conn: sa.Connection, table: TableName, obj: Any, spec: TableSpec) -> Written:
    """Create and fill a table from anything that speaks Arrow.

    Raises:
        ValidationError: two of its columns have the same name.

    """
    reader = as_reader(obj)
    names = reader.schema.names
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        msg = f"table {spec.name}: the frame has several columns called {twice[0]!r}; rename them"
        raise ValidationError(msg, table=spec.name, columns=twice)
    digest = hashlib.blake2b(digest_size=16) if spec.fingerprint else None
    if digest is not None:
        reader = _hashed(reader, digest)
    loaded = create_and_load(
        conn,
        table,
        reader,
        primary_key=spec.primary_key,
        indexes=spec.indexes,
        type_map=spec.type_map,
    )
    fingerprint = digest.hexdigest() if digest is not None else None
    return Written(loaded.rows, fingerprint, loaded.columns)


def _hashed(reader: pa.RecordBatchReader, digest: Any) -> pa.RecordBatchReader:
    schema = reader.schema
    digest.update(schema.remove_metadata().to_string().encode())

    def batches() -> Iterator[pa.RecordBatch]:
        for batch in reader:
            for start in range(0, batch.num_rows, _ROWS_PER_HASH):
                digest.update(_packed(batch.slice(start, _ROWS_PER_HASH)).serialize())
            yield batch

    return pa.RecordBatchReader.from_batches(schema, batches())


def _packed(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Give dictionaries and views a form of their own, which a slice serializes alone."""
    arrays = []
    for array in batch.columns:
        kind = array.type
        if pa.types.is_dictionary(kind):
            arrays.append(decoded(array))
        elif pa.types.is_string_view(kind):
            arrays.append(array.cast(pa.large_string()))
        elif pa.types.is_binary_view(kind):
            arrays.append(array.cast(pa.large_binary()))
        else:
            arrays.append(array)
    return pa.RecordBatch.from_arrays(arrays, names=[str(i) for i in range(len(arrays))])
