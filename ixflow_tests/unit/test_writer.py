"""The writer of Parquet and CSV: bounded by bytes, whole files or none."""

from __future__ import annotations

import gc
import hashlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ixflow.errors import OutputNotWritable
from ixflow.extraction import writer
from ixflow.extraction.csv_text import read_csv
from ixflow.extraction.storage import LocalFile
from ixflow.extraction.writer import ChunkWriter

SCHEMA = pa.schema([("id", pa.int64()), ("text", pa.string())])


def batch(first: int, rows: int, width: int = 10) -> pa.RecordBatch:
    ids = list(range(first, first + rows))
    texts = [f"{n:0{width}d}" for n in ids]
    return pa.record_batch([pa.array(ids), pa.array(texts)], schema=SCHEMA)


class Directory:
    """A run whose files go to a directory."""

    run_id = "ix-1"

    def __init__(self, path: Path) -> None:
        self.path = path

    def file_stem(self, chunk_id: str) -> str:
        return f"t_{chunk_id}"

    def location(self, name: str) -> str:
        return str(self.path / name)

    def create(self, name: str, upload_bytes: int = 0) -> LocalFile:
        return LocalFile(self.path / name)

    def remove(self, name: str) -> None:
        (self.path / name).unlink(missing_ok=True)


@pytest.fixture
def small_files(monkeypatch):
    """Make row groups of 10 kB and files of 30 kB."""
    monkeypatch.setattr(writer, "ROW_GROUP_BYTES", 10_000)
    monkeypatch.setattr(writer, "FILE_BYTES", 30_000)


@pytest.fixture
def chunk(tmp_path, small_files):
    """Give a chunk of Parquet files."""
    return ChunkWriter(Directory(tmp_path), "001", SCHEMA, compression="none")


@pytest.fixture
def csv_chunk(tmp_path, small_files):
    """Give a chunk of CSV files."""
    return ChunkWriter(Directory(tmp_path), "001", SCHEMA, "csv")


def test_a_row_group_is_bounded_by_bytes(chunk, tmp_path):
    chunk.write(batch(0, 50))
    chunk.write(batch(50, 3_000, width=100))
    records = chunk.finish(keep_empty=False)
    groups = []
    for record in records:
        with pq.ParquetFile(tmp_path / record.name) as file:
            groups += [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)]
    assert sum(groups) == 3_050
    assert max(groups) * 112 < 25_000


def test_a_big_chunk_is_several_files_whose_rows_add_up(chunk, tmp_path):
    for first in range(0, 4_000, 100):
        chunk.write(batch(first, 100, width=30))
    records = chunk.finish(keep_empty=False)
    names = [record.name for record in records]
    assert names[:2] == ["t_001.parquet", "t_001_part002.parquet"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    tables = [pq.read_table(tmp_path / name) for name in names]
    assert [table.num_rows for table in tables] == [record.rows for record in records]
    assert pa.concat_tables(tables)["id"].to_pylist() == list(range(4_000))
    for record in records:
        content = (tmp_path / record.name).read_bytes()
        assert (record.bytes, record.sha256) == (len(content), hashlib.sha256(content).hexdigest())


def test_no_rows_are_no_file_unless_one_is_wanted(chunk, tmp_path):
    assert chunk.finish(keep_empty=False) == ()
    (record,) = chunk.finish(keep_empty=True)
    assert (record.rows, pq.read_schema(tmp_path / record.name)) == (0, SCHEMA)


def test_an_aborted_chunk_leaves_nothing(chunk, tmp_path):
    for first in range(0, 4_000, 100):
        chunk.write(batch(first, 100, width=30))
    chunk.abort()
    del chunk
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_full_in_the_middle_is_named(chunk, tmp_path):
    chunk.write(batch(0, 1_000))

    class Full:
        def write(self, data: bytes) -> int:
            raise OSError(28, "No space left on device")

        def close(self) -> None:
            """Close like a file."""

    chunk._file._file._file.close()
    chunk._file._file._file = Full()
    with pytest.raises(OutputNotWritable, match="No space left on device") as caught:
        chunk.write(batch(1_000, 10_000))
    assert caught.value.path.endswith("t_001.parquet.tmp")
    chunk.abort()
    del chunk
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def test_a_big_chunk_of_csv_is_several_files_each_with_a_header(csv_chunk, tmp_path):
    for first in range(0, 4_000, 100):
        csv_chunk.write(batch(first, 100, width=30))
    records = csv_chunk.finish(keep_empty=False)
    assert [r.name for r in records[:2]] == ["t_001.csv", "t_001_part002.csv"]
    files = [tmp_path / record.name for record in records]
    assert all(path.read_bytes().startswith(b'"id","text"\r\n') for path in files)
    tables = [pa.Table.from_batches(read_csv(path, SCHEMA)) for path in files]
    assert [table.num_rows for table in tables] == [record.rows for record in records]
    assert pa.concat_tables(tables)["id"].to_pylist() == list(range(4_000))
    for path, record in zip(files, records, strict=True):
        assert hashlib.sha256(path.read_bytes()).hexdigest() == record.sha256


def test_no_rows_in_csv_are_a_header(csv_chunk, tmp_path):
    (record,) = csv_chunk.finish(keep_empty=True)
    assert (tmp_path / record.name).read_bytes() == b'"id","text"\r\n'
    assert (record.rows, record.bytes) == (0, 13)


def test_an_aborted_chunk_of_csv_leaves_nothing(csv_chunk, tmp_path):
    for first in range(0, 4_000, 100):
        csv_chunk.write(batch(first, 100, width=30))
    csv_chunk.abort()
    assert list(tmp_path.iterdir()) == []
