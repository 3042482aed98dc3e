"""Nothing silently short: a row lost on the way, wherever, is an error and nothing is published."""

from __future__ import annotations

import pytest

from ixflow import execute, plan, published
from ixflow.errors import ExecutionError
from ixflow.extraction import writer
from ixflow.extraction.storage import RunDirectory
from ixflow_tests.sources import intent_for, make


@pytest.fixture
def source(any_engine):
    """Give 100 rows."""
    numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100) "
    make(any_engine, f"CREATE TABLE t AS {numbers} SELECT i AS id FROM n")
    return any_engine


def refused(source, place, match: str, **options) -> ExecutionError:
    """Extract, which must fail and leave nothing behind."""
    made = plan(intent_for(source, "t", place, **options))
    with pytest.raises(ExecutionError, match=match) as caught:
        execute(made)
    assert published(made.intent) is None
    assert not (place / "t").exists()
    assert [p for p in (place / ".ixflow" / "t").iterdir() if p.is_dir()] == []
    error = caught.value
    assert error.run_id.startswith("ix-")
    assert error.tasks_planned == len(made.plan.tasks)
    assert error.fields["errors"]
    return error


@pytest.mark.parametrize("output_format", ["parquet", "csv"])
def test_a_batch_that_is_not_written_is_missed(source, tmp_path, monkeypatch, output_format):
    real = writer.ChunkWriter.write

    def loses_a_row(chunk, batch):
        real(chunk, batch.slice(1))

    monkeypatch.setattr(writer.ChunkWriter, "write", loses_a_row)
    refused(
        source, tmp_path, r"100 rows were received and 9\d written", output_format=output_format
    )


def test_a_row_group_that_is_short_is_missed(source, tmp_path, monkeypatch):
    real = writer._Parquet.write

    def loses_a_row(encoder, table):
        real(encoder, table.slice(1))

    monkeypatch.setattr(writer._Parquet, "write", loses_a_row)
    refused(source, tmp_path, "has 99 rows, 100 were written to it")


@pytest.mark.parametrize("lost", ["all", "a byte"])
def test_a_file_that_is_short_at_publication_is_missed(source, tmp_path, monkeypatch, lost):
    real = RunDirectory.missing

    def loses(directory, files):
        path = directory.path / files[0].name
        if lost == "all":
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[:-1])
        return real(directory, files)

    monkeypatch.setattr(RunDirectory, "missing", loses)
    error = refused(source, tmp_path, "lost 1 of its 1 files")
    assert error.tasks_done == error.tasks_planned
    (said,) = error.fields["errors"].values()
    assert "is missing, or has another size" in said


def test_files_of_a_task_that_was_tried_before_do_not_add_to_a_read(source, tmp_path, monkeypatch):
    real = RunDirectory.missing

    def leaves_another(directory, files):
        other = directory.path / files[0].name.replace("_001", "_000")
        other.write_bytes((directory.path / files[0].name).read_bytes())
        return real(directory, files)

    monkeypatch.setattr(RunDirectory, "missing", leaves_another)
    result = execute(plan(intent_for(source, "t", tmp_path)))
    names = {path.name for path in (tmp_path / "t").glob("*.parquet")}
    assert names == {file.name for file in result.manifest.files}
