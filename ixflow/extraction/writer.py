"""Arrow batches to Parquet files: bounded by bytes, hashed on the way, named when complete."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from ixflow.extraction.manifest import FileRecord
from ixflow.extraction.storage import writable

__all__ = ["ParquetChunk"]

ROW_GROUP_BYTES = 32 << 20
"""Uncompressed bytes of a row group, and so about what a worker holds in memory."""

FILE_BYTES = 512 << 20
"""Compressed bytes after which the next row group goes to the next file."""

# A dictionary pays for values that repeat; numbers and times compress as well without, and faster.
_DICTIONARY_TYPES = (pa.types.is_string, pa.types.is_binary)


class _HashingFile:
    """A file that hashes and counts what is written; the subset of a file that pyarrow needs."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO = path.open("xb")
        self._hash = hashlib.sha256()
        self.bytes = 0
        self.closed = False

    def write(self, data: bytes | memoryview) -> int:
        """Write, hash and count."""
        if self.closed:  # pyarrow tells a writer that is thrown away to flush
            return len(data)
        with writable(self._path):
            self._file.write(data)
        self._hash.update(data)
        size = len(data)
        self.bytes += size
        return size

    def tell(self) -> int:
        """Give the position, which is the end."""
        return self.bytes

    def flush(self) -> None:
        """Leave buffers alone: `finish` makes the file durable."""

    def close(self) -> None:
        """Leave closing to `finish` and `discard`: pyarrow closes early."""

    def finish(self) -> str:
        """Make the content durable, close, and give its SHA-256."""
        with writable(self._path):
            self._file.flush()
            os.fsync(self._file.fileno())
        self.discard()
        return self._hash.hexdigest()

    def discard(self) -> None:
        """Close without a promise."""
        self.closed = True
        self._file.close()


class ParquetChunk:
    """The files of one task; more than one only if the first grows beyond `FILE_BYTES`."""

    def __init__(
        self, directory: Path, stem: str, chunk_id: str, schema: pa.Schema, compression: str
    ) -> None:
        """Name the files; they are made when rows come."""
        self._directory, self._stem, self._chunk_id = directory, stem, chunk_id
        self._schema, self._compression = schema, compression
        self._held: list[pa.RecordBatch] = []
        self._held_bytes = 0
        self._file: _HashingFile | None = None
        self._writer: pq.ParquetWriter | None = None
        self._rows = 0
        self._done: list[FileRecord] = []

    def write(self, batch: pa.RecordBatch) -> None:
        """Add rows; they are written when a row group is full."""
        size = batch.nbytes
        if size > 2 * ROW_GROUP_BYTES and batch.num_rows > 1:
            rows = max(1, batch.num_rows * ROW_GROUP_BYTES // size)
            for start in range(0, batch.num_rows, rows):
                self._add(batch.slice(start, rows))
        elif batch.num_rows:
            self._add(batch)

    def _add(self, batch: pa.RecordBatch) -> None:
        self._held.append(batch)
        self._held_bytes += batch.nbytes
        if self._held_bytes >= ROW_GROUP_BYTES:
            self._write_group()

    def finish(self, *, keep_empty: bool) -> tuple[FileRecord, ...]:
        """Write the rest and name the files; a chunk without rows has a file only on request."""
        if self._held:
            self._write_group()
        if keep_empty and not self._done and self._writer is None:
            self._open()
        self._end_file()
        return tuple(self._done)

    def abort(self) -> None:
        """Remove every file of this chunk."""
        if self._writer is not None:
            # Else it would try to end the file when it is collected.
            self._writer.is_open = False
        if self._file is not None:
            self._file.discard()
            self._temporary.unlink(missing_ok=True)
        for record in self._done:
            (self._directory / record.name).unlink(missing_ok=True)

    @property
    def _name(self) -> str:
        part = len(self._done) + 1
        return f"{self._stem}.parquet" if part == 1 else f"{self._stem}_part{part:03d}.parquet"

    @property
    def _temporary(self) -> Path:
        return self._directory / f"{self._name}.tmp"

    def _write_group(self) -> None:
        if self._file is not None and self._file.bytes >= FILE_BYTES:
            self._end_file()
        table = pa.Table.from_batches(self._held, self._schema)
        self._held, self._held_bytes = [], 0
        self._open().write_table(table, row_group_size=table.num_rows)
        self._rows += table.num_rows

    def _open(self) -> pq.ParquetWriter:
        if self._writer is None:
            with writable(self._temporary):
                self._file = _HashingFile(self._temporary)
            repeats = [f.name for f in self._schema if any(t(f.type) for t in _DICTIONARY_TYPES)]
            self._writer = pq.ParquetWriter(
                pa.PythonFile(self._file, mode="w"),
                self._schema,
                compression=self._compression,
                use_dictionary=repeats or False,
            )
        return self._writer

    def _end_file(self) -> None:
        if self._writer is None or self._file is None:
            return
        self._writer.close()
        digest, size, name = self._file.finish(), self._file.bytes, self._name
        with writable(self._temporary):
            self._temporary.replace(self._directory / name)
        self._done.append(FileRecord(name, self._chunk_id, self._rows, size, digest))
        self._file = self._writer = None
        self._rows = 0
