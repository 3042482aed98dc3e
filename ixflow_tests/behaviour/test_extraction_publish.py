"""Publication: a reader sees one whole extraction, this one or the one before."""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
import threading
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ixflow.errors import OutputNotWritable, ValidationError
from ixflow.extraction.api import published
from ixflow.extraction.storage import OutputPlace
from ixflow_tests.sources import extract, intent_for, make


@pytest.fixture
def source(fresh_sqlite):
    """Give a database with one small table."""
    make(fresh_sqlite, "CREATE TABLE orders (version integer)", "INSERT INTO orders VALUES (0)")
    return fresh_sqlite


def test_files_appear_under_the_name_of_the_object(source, tmp_path):
    result = extract(source, "orders", tmp_path)
    listed = sorted((tmp_path / "orders").glob("*.parquet"))
    assert [str(path.resolve()) for path in listed] == result.output_files
    assert os.path.lexists(tmp_path / "orders")
    assert not (tmp_path / "orders").readlink().is_absolute()


def test_an_output_directory_can_be_moved(source, tmp_path):
    extract(source, "orders", tmp_path / "here")
    (tmp_path / "here").rename(tmp_path / "there")
    assert len(list((tmp_path / "there" / "orders").glob("*.parquet"))) == 1


def test_the_run_before_stays_until_the_next_publication(source, tmp_path):
    runs = [extract(source, "orders", tmp_path) for _ in range(3)]
    there = [Path(run.output_files[0]).exists() for run in runs]
    assert there == [False, True, True]


def test_readers_see_whole_extractions_while_others_are_published(source, tmp_path):
    make(source, "DELETE FROM orders")
    make(source, *[f"INSERT INTO orders VALUES ({n})" for n in (0, 0, 0)])
    extract(source, "orders", tmp_path)
    stop, seen, wrong = threading.Event(), set(), []

    def read() -> None:
        while not stop.is_set():
            directory = (tmp_path / "orders").resolve()
            try:
                tables = [pq.read_table(path) for path in directory.glob("*.parquet")]
            except FileNotFoundError:  # two publications since it was resolved
                continue
            versions = [v for table in tables for v in table["version"].to_pylist()]
            if versions and (len(versions) != 3 or len(set(versions)) != 1):
                wrong.append(versions)
            seen.update(versions)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for version in range(1, 25):
        make(source, f"UPDATE orders SET version = {version}")
        extract(source, "orders", tmp_path)
    stop.set()
    for reader in readers:
        reader.join()
    assert wrong == []
    assert len(seen) > 3


def test_a_reader_that_listed_an_old_run_never_opens_files_of_a_new_one(source, tmp_path):
    extract(source, "orders", tmp_path)
    listed = list((tmp_path / "orders").glob("*.parquet"))
    extract(source, "orders", tmp_path)
    assert not any(path.exists() for path in listed)


def test_the_manifest_tells_source_columns_and_files(source, tmp_path):
    result = extract(source, "orders", tmp_path)
    intent = intent_for(source, "orders", tmp_path)
    manifest = published(intent)
    assert manifest is not None
    assert manifest == published(tmp_path / "orders")
    assert manifest.run_id == result.run_id
    assert manifest.identity == intent.identity()
    assert manifest.source["type"] == "sqlite"
    assert manifest.total_rows == 1
    assert manifest.consistency == "one snapshot"
    (file,) = manifest.files
    content = (tmp_path / "orders" / file.name).read_bytes()
    assert (file.bytes, file.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert manifest.started_at < manifest.finished_at


def test_nothing_is_published_before_the_first_run(source, tmp_path):
    assert published(intent_for(source, "orders", tmp_path)) is None
    assert published(tmp_path / "orders") is None


def test_a_manifest_of_another_kind_is_refused(tmp_path):
    (tmp_path / "_manifest.json").write_text('{"manifest_version": 99}')
    with pytest.raises(ValidationError, match="version 1"):
        published(tmp_path)
    (tmp_path / "_manifest.json").write_text("{")
    with pytest.raises(ValidationError, match="not a manifest"):
        published(tmp_path)


@pytest.mark.parametrize("kind", ["directory", "file", "link", "dangling link"])
def test_something_else_at_the_place_is_left_alone(source, tmp_path, kind):
    place = tmp_path / "out" / "orders"
    place.parent.mkdir()
    if kind == "directory":
        place.mkdir()
        (place / "mine.parquet").write_text("precious")
    elif kind == "file":
        place.write_text("precious")
    else:
        place.symlink_to(tmp_path / ("gone" if kind == "dangling link" else "out"))
    with pytest.raises(OutputNotWritable, match=r"out/orders exists"):
        extract(source, "orders", tmp_path / "out")
    assert os.path.lexists(place)
    if kind == "directory":
        assert (place / "mine.parquet").read_text() == "precious"


def test_files_have_the_mode_that_the_umask_says(source, tmp_path):
    before = os.umask(0o027)
    try:
        result = extract(source, "orders", tmp_path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(Path(result.output_files[0]).stat().st_mode) == 0o640


def test_runs_of_dead_processes_are_removed_and_living_ones_are_not(source, tmp_path):
    extract(source, "orders", tmp_path)
    home = tmp_path / ".ixflow" / "orders"
    dead, alive = home / "ix-dead", home / "ix-alive"
    for run in (dead, alive):
        run.mkdir()
        (run / ".lock").touch()
        (run / "orders_001.parquet.tmp").write_text("half")
    with (alive / ".lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        extract(source, "orders", tmp_path)
        assert (alive.exists(), dead.exists()) == (True, False)
    extract(source, "orders", tmp_path)
    assert not alive.exists()


def test_two_runs_at_once_both_end_well(source, tmp_path):
    errors = []

    def work() -> None:
        try:
            for _ in range(5):
                extract(source, "orders", tmp_path)
        except Exception as error:  # noqa: BLE001 - shown by the assertion
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(list((tmp_path / "orders").glob("*.parquet"))) == 1


def test_objects_with_like_names_do_not_meet(fresh_sqlite, tmp_path):
    names = ["a/b", "a_b", "A_b", "a b"]
    for number, name in enumerate(names):
        make(fresh_sqlite, f'CREATE TABLE "{name}{number}" AS SELECT {number} AS n')
        extract(fresh_sqlite, f"{name}{number}", tmp_path)
    found = [path for path in tmp_path.iterdir() if path.is_symlink()]
    assert len(found) == len(names)


def test_a_full_disk_is_said_and_nothing_is_published(source, tmp_path, monkeypatch):
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ixflow.extraction.storage.os.fsync", full)
    with pytest.raises(Exception, match="No space left"):
        extract(source, "orders", tmp_path)
    monkeypatch.undo()
    assert published(intent_for(source, "orders", tmp_path)) is None
    assert not (tmp_path / "orders").exists()
    assert OutputPlace(tmp_path, "orders").published_directory() is None
