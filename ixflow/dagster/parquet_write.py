"""Streaming rows into Parquet files: one file, or one for each partition of a run."""

import hashlib
import urllib.parse
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ixflow.dagster.parquet_manifest import PartitionFile
from ixflow.dagster.parquet_masks import Masks
from ixflow.dagster.parquet_places import LocalPlace, Place
from ixflow.dialects.cast import decoded
from ixflow.errors import UnsupportedType, ValueDoesNotFit
from ixflow.extraction.storage import safe_name
from ixflow.store.frames import frames_for
from ixflow.tables.arrow import as_reader
from ixflow.tables.slices import Slice

__all__ = ["partition_name", "rows_of", "write_partitions", "write_whole"]

_GROUP_BYTES = 32 << 20
"""Bytes of rows in memory that become a row group."""
_LONGEST = 150
"""Bytes of a value in the name of a directory."""


def rows_of(obj: Any, asset: str) -> pa.RecordBatchReader:
    """Stream what an asset returned, with types that Parquet has.

    Raises:
        UnsupportedType: it is no frame.

    """
    frames = frames_for(obj)
    package = type(obj).__module__.partition(".")[0]
    if frames is None or package == "sqlalchemy":
        kind = type(obj).__name__
        msg = f"{asset}: a {kind} cannot be stored as Parquet; return a frame"
        raise UnsupportedType(msg, asset=asset, type=kind)
    found = frames.arrow(obj)
    # What polars gives by itself has types that Parquet lacks.
    eager = hasattr(found, "to_arrow") and not hasattr(found, "collect_batches")
    return _plain(as_reader(found.to_arrow() if eager else found))


def _plain(reader: pa.RecordBatchReader) -> pa.RecordBatchReader:
    """Take off dictionaries and what belongs to the library that the rows come from."""
    fields = [
        pa.field(
            f.name, decoded(pa.nulls(0, f.type)).type if pa.types.is_dictionary(f.type) else f.type
        )
        for f in reader.schema
    ]
    schema = pa.schema(fields)

    def batches() -> Iterator[pa.RecordBatch]:
        for batch in reader:
            arrays = [
                decoded(array) if pa.types.is_dictionary(array.type) else array
                for array in batch.columns
            ]
            yield pa.RecordBatch.from_arrays(arrays, schema=schema)

    return pa.RecordBatchReader.from_batches(schema, batches())


def partition_name(path: Mapping[str, str]) -> str:
    """Name a new file of a partition by its dimensions, in directories as Hive names them.

    >>> partition_name({"country": "it's", "day": "2026-03-01"}).rpartition("/")[0]
    'country=it%27s/day=2026-03-01'
    """
    directories = [f"{safe_name(name)}={_quoted(value)}" for name, value in path.items()]
    return "/".join([*directories, f"{uuid.uuid4().hex}.parquet"])


def _quoted(value: str) -> str:
    text = urllib.parse.quote(value, safe="")
    if len(text) <= _LONGEST:
        return text
    digest = hashlib.sha256(value.encode()).hexdigest()[:16]
    return f"{text[: _LONGEST // 2].rpartition('%')[0] or text[: _LONGEST // 2]}-{digest}"


def write_whole(place: LocalPlace, rows: pa.RecordBatchReader) -> PartitionFile:
    """Write the rows of an asset without partitions, in the place of those before."""
    (file,) = write_partitions(place, rows, {"": place.whole}, None, "").values()
    place.publish_whole(file.name)
    return file


def write_partitions(
    place: Place,
    rows: pa.RecordBatchReader,
    names: Mapping[str, str],
    slices: Mapping[str, Slice] | None,
    asset: str,
) -> dict[str, PartitionFile]:
    """Write the rows of partitions into files of these names, which nobody sees yet.

    Without ``slices`` there is one partition, and all rows are its own.

    Raises:
        ValueDoesNotFit: rows are of none of the partitions.
        ValidationError: a key is no value of its column.

    """
    masks = None if slices is None else Masks(rows.schema, list(slices.values()), asset)
    files = {key: _File(place, name, rows.schema) for key, name in names.items()}
    try:
        for batch in rows:
            parts = [batch] if masks is None else _split(batch, masks, list(names), asset)
            for file, part in zip(files.values(), parts, strict=True):
                file.add(part)
            while sum(file.waiting for file in files.values()) >= _GROUP_BYTES:
                max(files.values(), key=lambda file: file.waiting).flush()
        return {key: file.finish() for key, file in files.items()}
    except BaseException:
        for file in files.values():
            file.discard()
        place.discard(names.values())
        raise


def _split(
    batch: pa.RecordBatch, masks: Masks, keys: list[str], asset: str
) -> list[pa.RecordBatch]:
    parts = [batch.filter(mask) for mask in masks.of(batch)]
    strangers = batch.num_rows - sum(part.num_rows for part in parts)
    if strangers:
        shown = keys[0] if len(keys) == 1 else f"{keys[0]} to {keys[-1]} ({len(keys)} partitions)"
        msg = (
            f"{strangers} rows of {asset} are not of the partition {shown}, such as "
            f"{masks.stranger(batch)}; nothing was written"
        )
        raise ValueDoesNotFit(msg, asset=asset, rows=strangers, partition=shown)
    return parts


class _File:
    """A Parquet file that is begun when there is enough for a row group, or at its end."""

    def __init__(self, place: Place, name: str, schema: pa.Schema) -> None:
        self._place, self._name, self._schema = place, name, schema
        self._waiting: list[pa.RecordBatch] = []
        self._sink: _Sink | None = None
        self._rows = self.waiting = 0

    def add(self, batch: pa.RecordBatch) -> None:
        """Let rows wait for their row group."""
        if batch.num_rows:
            self._waiting.append(batch)
            self.waiting += max(1, batch.nbytes)
            self._rows += batch.num_rows

    def flush(self) -> None:
        """Write what waits as a row group."""
        if self._sink is None:
            self._sink = _Sink(self._place.create(self._name))
            self._writer = pq.ParquetWriter(self._sink, self._schema, compression="zstd")
        if self._waiting:
            self._writer.write_table(pa.Table.from_batches(self._waiting, self._schema))
        self._waiting, self.waiting = [], 0

    def finish(self) -> PartitionFile:
        """Write the rest, and let the file be whole."""
        self.flush()
        assert self._sink is not None  # noqa: S101 - flush has made it
        self._writer.close()
        self._sink.file.finish()
        self._sink.closed = True
        text = PartitionFile.text_of(self._schema)
        return PartitionFile(self._name, self._rows, self._sink.bytes, text)

    def discard(self) -> None:
        """Leave nothing of an unfinished file."""
        if self._sink is not None and not self._sink.closed:
            self._sink.closed = True
            self._sink.file.discard()


class _Sink:
    """The subset of a file that pyarrow needs."""

    def __init__(self, file: Any) -> None:
        self.file, self.bytes, self.closed = file, 0, False

    def write(self, data: Any) -> int:
        """Write, and count."""
        size = len(data)
        if not self.closed:  # pyarrow tells a writer that is thrown away to flush
            self.file.write(data)
            self.bytes += size
        return size

    def tell(self) -> int:
        """Give the position, which is the end."""
        return self.bytes

    def flush(self) -> None:
        """Leave buffers alone: `finish` makes the file durable."""

    def close(self) -> None:
        """Leave closing to `finish` and `discard`: pyarrow closes early."""
