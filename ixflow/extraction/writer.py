"""Arrow batches to Parquet or CSV files: bounded by bytes, hashed, named when complete."""

from __future__ import annotations

import hashlib
from typing import Literal, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from ixflow.errors import ExecutionError
from ixflow.extraction.bucket import MOST_UPLOAD
from ixflow.extraction.csv_text import csv_header, csv_lines
from ixflow.extraction.manifest import FileRecord
from ixflow.extraction.output import Files, OutputFile

__all__ = ["ChunkWriter", "FileFormat"]

FileFormat = Literal["parquet", "csv"]

ROW_GROUP_BYTES = 32 << 20
"""Uncompressed bytes of a row group, and so about what a worker holds in memory."""

FILE_BYTES = 512 << 20
"""Bytes in a file after which the next row group goes to the next file."""

PAGE_BYTES, _MOST_ROWS_OF_PAGE = 1 << 20, 1024
"""Bytes of a page of a column, which is compressed at once, unless one value is longer."""

CSV_BYTES = 4 << 20
"""Bytes of rows that become text at a time, which takes several times as many."""

# A dictionary pays for values that repeat; numbers and times compress as well without, and faster.
_DICTIONARY_TYPES = (pa.types.is_string, pa.types.is_binary)
_LONG_VALUE = 1 << 16


class _HashingFile:
    """A file that hashes and counts what is written; the subset of a file that pyarrow needs."""

    def __init__(self, file: OutputFile) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self.bytes = 0
        self.closed = False

    def write(self, data: bytes | memoryview) -> int:
        """Write, hash and count."""
        if self.closed:  # pyarrow tells a writer that is thrown away to flush
            return len(data)
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
        """Make the content durable, let the file appear, and give its SHA-256."""
        self._file.finish()
        self.closed = True
        return self._hash.hexdigest()

    def discard(self) -> None:
        """Leave nothing."""
        self.closed = True
        self._file.discard()


class _Encoder(Protocol):
    """Rows to the bytes of one file."""

    def write(self, table: pa.Table) -> None:
        """Add rows."""

    def end(self) -> int:
        """Write what comes after the last row; count the rows that the file says it has."""

    def abandon(self) -> None:
        """Write nothing more, ever."""


class _Parquet:
    """One Parquet file; each table becomes a row group."""

    def __init__(
        self, file: _HashingFile, schema: pa.Schema, compression: str, first: pa.Table | None
    ) -> None:
        self.long = _long_columns(first)
        short = [field for field in schema if field.name not in self.long]
        repeats = [field.name for field in short if any(t(field.type) for t in _DICTIONARY_TYPES)]
        self._footers: list[pq.FileMetaData] = []
        self._writer = pq.ParquetWriter(
            pa.PythonFile(file, mode="w"),
            schema,
            compression=compression,
            use_dictionary=repeats or False,
            # The writer keeps four copies of the least and the greatest value of a column.
            write_statistics=len(short) == len(schema) or [field.name for field in short],
            # A page is looked at for its size only after so many rows.
            write_batch_size=_rows_of_page(first),
            metadata_collector=self._footers,
            # Decimals of up to 18 digits as integers: smaller files, half the work for readers.
            store_decimal_as_integer=True,
        )

    def write(self, table: pa.Table) -> None:
        self._writer.write_table(table, row_group_size=table.num_rows)

    def end(self) -> int:
        self._writer.close()
        return sum(footer.num_rows for footer in self._footers)

    def abandon(self) -> None:
        # Else it would try to end the file when it is collected.
        self._writer.is_open = False


def _long_columns(table: pa.Table | None) -> frozenset[str]:
    """Name the columns with values so long that neither a dictionary nor their order pays."""
    if table is None:
        return frozenset()
    most = table.num_rows * _LONG_VALUE
    columns = zip(table.column_names, table.columns, strict=True)
    return frozenset(name for name, values in columns if values.nbytes > most)


def _rows_of_page(table: pa.Table | None) -> int:
    """Give fewer rows the longer they are, so that a page does not hold a whole row group."""
    if table is None or not table.num_rows:
        return _MOST_ROWS_OF_PAGE
    rows = int(PAGE_BYTES * table.num_rows // max(1, table.nbytes))
    return max(1, min(_MOST_ROWS_OF_PAGE, rows))


class _Csv:
    """One CSV file, by the rules of `ixflow.extraction.csv_text`."""

    def __init__(self, file: _HashingFile, schema: pa.Schema) -> None:
        self._file, self._rows = file, 0
        file.write(csv_header(schema))

    def write(self, table: pa.Table) -> None:
        rows = max(1, table.num_rows * CSV_BYTES // max(1, table.nbytes))
        for batch in table.to_batches(max_chunksize=rows):
            self._file.write(csv_lines(batch))
            self._rows += batch.num_rows

    def end(self) -> int:
        """Write nothing: the last row has its line end."""
        return self._rows

    def abandon(self) -> None:
        """Do nothing: nothing is held."""


class ChunkWriter:
    """The files of one task; more than one only if the first grows beyond `FILE_BYTES`."""

    def __init__(
        self,
        run: Files,
        chunk_id: str,
        schema: pa.Schema,
        file_format: FileFormat = "parquet",
        compression: str = "zstd",
        *,
        group_bytes: int | None = None,
        upload_bytes: int = MOST_UPLOAD,
    ) -> None:
        """Name the files; they are made when rows come.

        ``group_bytes`` bounds a row group, ``upload_bytes`` what a file in a bucket holds besides.
        """
        self._run, self._stem, self._chunk_id = run, run.file_stem(chunk_id), chunk_id
        self._schema, self._format, self._compression = schema, file_format, compression
        self._group_bytes = group_bytes or ROW_GROUP_BYTES
        self._upload_bytes = upload_bytes
        self._held: list[pa.RecordBatch] = []
        self._held_bytes = 0
        self._file: _HashingFile | None = None
        self._encoder: _Encoder | None = None
        self._rows = 0
        self._done: list[FileRecord] = []

    def write(self, batch: pa.RecordBatch) -> None:
        """Add rows; they are written when a row group is full."""
        size = batch.nbytes
        if size > 2 * self._group_bytes and batch.num_rows > 1:
            rows = max(1, batch.num_rows * self._group_bytes // size)
            for start in range(0, batch.num_rows, rows):
                self._add(batch.slice(start, rows))
        elif batch.num_rows:
            self._add(batch)

    def _add(self, batch: pa.RecordBatch) -> None:
        self._held.append(batch)
        self._held_bytes += batch.nbytes
        if self._held_bytes >= self._group_bytes:
            self._write_group()

    def finish(self, *, keep_empty: bool) -> tuple[FileRecord, ...]:
        """Write the rest and name the files; a chunk without rows has a file only on request."""
        if self._held:
            self._write_group()
        if keep_empty and not self._done and self._encoder is None:
            self._open()
        self._end_file()
        return tuple(self._done)

    def abort(self) -> None:
        """Remove every file of this chunk."""
        if self._encoder is not None:
            self._encoder.abandon()
        if self._file is not None:
            self._file.discard()
        for record in self._done:
            self._run.remove(record.name)

    @property
    def _name(self) -> str:
        part = len(self._done) + 1
        stem = self._stem if part == 1 else f"{self._stem}_part{part:03d}"
        return f"{stem}.{self._format}"

    def _write_group(self) -> None:
        if self._file is not None and self._file.bytes >= FILE_BYTES:
            self._end_file()
        table = pa.Table.from_batches(self._held, self._schema)
        self._held, self._held_bytes = [], 0
        if isinstance(self._encoder, _Parquet) and not _long_columns(table) <= self._encoder.long:
            self._end_file()
        self._open(table).write(table)
        self._rows += table.num_rows

    def _open(self, first: pa.Table | None = None) -> _Encoder:
        if self._encoder is None:
            self._file = _HashingFile(self._run.create(self._name, self._upload_bytes))
            self._encoder = (
                _Csv(self._file, self._schema)
                if self._format == "csv"
                else _Parquet(self._file, self._schema, self._compression, first)
            )
        return self._encoder

    def _end_file(self) -> None:
        if self._encoder is None or self._file is None:
            return
        written = self._encoder.end()
        if written != self._rows:
            msg = f"{self._name} has {written} rows, {self._rows} were written to it"
            raise ExecutionError(msg, path=self._name, rows=self._rows, written=written)
        digest, size, name = self._file.finish(), self._file.bytes, self._name
        self._done.append(FileRecord(name, self._chunk_id, self._rows, size, digest))
        self._file = self._encoder = None
        self._rows = 0
