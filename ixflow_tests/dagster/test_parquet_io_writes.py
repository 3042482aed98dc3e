"""Writers of Parquet files that are stopped at any step, and writers that work at the same time."""

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ixflow.dagster import parquet_places
from ixflow.dagster.parquet_manifest import PartitionFile
from ixflow.dagster.parquet_places import place_of
from ixflow.dagster.parquet_write import partition_name, write_partitions, write_whole
from ixflow.extraction.bucket import Bucket, ObjectFile
from ixflow.extraction.storage import LocalFile
from ixflow_tests.object_stores import BUCKET

KEY = dg.AssetKey(["st", "t"])


@pytest.fixture(params=["local", "s3"])
def home(request, tmp_path):
    """Give what opens the place of one asset anew, as each process does."""
    if request.param == "local":
        return lambda: place_of(str(tmp_path / "lake"), KEY, {})
    server = request.getfixturevalue("s3_server")
    base = f"s3://{BUCKET}/{tmp_path.parent.name}/{tmp_path.name}"
    return lambda: place_of(base, KEY, server.options)


@pytest.fixture
def local(tmp_path):
    return lambda: place_of(str(tmp_path / "lake"), KEY, {})


def write(home: Any, n: int, *keys: str) -> None:
    """Write the number into partitions, all in one write."""
    place, table = home(), pa.table({"n": [n]})
    files: dict[str, PartitionFile] = {}
    for key in keys:
        names = {key: partition_name({"partition": key})}
        files |= write_partitions(place, table.to_reader(), names, None, "st/t")
    made = [file.name for file in files.values()]
    place.publish(made, lambda before: before.with_files(files))


def write_often(home: Any, times: int, *keys: str) -> None:
    """Write partitions several times."""
    for n in range(times):
        write(home, n, *keys)


def shown(home: Any) -> dict[str, list[int]]:
    """Read what the manifest names."""
    place = home()
    return {
        key: pq.read_table(place.path(file.name), filesystem=place.filesystem)["n"].to_pylist()
        for key, file in place.manifest().files.items()
    }


class _Stopped(BaseException):
    """What a test raises in the place of a step."""


class Stopper:
    """Stops a write before a step of a number: what it asks of the disk or of the store."""

    STEPS = (
        (Path, ("mkdir", "replace", "unlink", "glob", "iterdir")),
        (LocalFile, ("write", "finish")),
        (parquet_places, ("_sync",)),
        (Bucket, ("create", "get", "replace", "delete", "objects")),
        (ObjectFile, ("write", "finish")),
    )

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.limit = self.count = 0
        for owner, names in self.STEPS:
            for name in names:
                monkeypatch.setattr(owner, name, self.counted(getattr(owner, name)))

    def counted(self, step: Any) -> Any:
        def before(*args: Any, **options: Any) -> Any:
            self.count += 1
            if self.count == self.limit:
                raise _Stopped
            return step(*args, **options)

        return before

    def stops(self, limit, work):
        self.limit, self.count = limit, 0
        try:
            work()
        except _Stopped:
            return True
        finally:
            self.limit = 0
        return False


def test_a_write_that_is_stopped_anywhere_shows_all_of_its_partitions_or_none(home, monkeypatch):
    write(home, 0, "a", "b", "c")
    stopper, limit, seen = Stopper(monkeypatch), 1, set()
    while stopper.stops(limit, partial(write, home, limit, "a", "b")):
        found = shown(home)
        assert found["a"] == found["b"]
        assert found["c"] == [0]
        seen.add("new" if found["a"] == [limit] else "old")
        limit += 1
    assert limit > 6
    assert "old" in seen
    assert shown(home) == {"a": [limit], "b": [limit], "c": [0]}


def test_an_only_file_that_is_stopped_anywhere_is_the_old_one_or_the_new(local, monkeypatch):
    def whole(n):
        write_whole(local(), pa.table({"n": [n]}).to_reader())

    whole(0)
    stopper, limit, last = Stopper(monkeypatch), 1, 0
    while stopper.stops(limit, partial(whole, limit)):
        found = pq.read_table(local().path(local().whole))["n"].to_pylist()
        assert found in ([last], [limit])
        last, limit = found[0], limit + 1
    assert limit > 5
    assert pq.read_table(local().path(local().whole))["n"].to_pylist() == [limit]


def test_a_stream_that_breaks_leaves_nothing(home):
    write(home, 0, "a")

    def broken():
        yield pa.record_batch({"n": [1]})
        msg = "the stream broke"
        raise OSError(msg)

    place = home()
    rows = pa.RecordBatchReader.from_batches(pa.schema({"n": pa.int64()}), broken())
    with pytest.raises(OSError, match="the stream broke"):
        write_partitions(place, rows, {"a": partition_name({"partition": "a"})}, None, "st/t")
    assert shown(home) == {"a": [0]}


def together(*works):
    start = threading.Barrier(len(works))

    def begin(work):
        start.wait()
        return work()

    with ThreadPoolExecutor(len(works)) as pool:
        return [future.exception() for future in [pool.submit(begin, work) for work in works]]


def test_writers_of_different_partitions_lose_none(home):
    works = [partial(write_often, home, 3, key, f"{key}2") for key in "abc"]
    assert together(*works) == [None] * 3
    assert shown(home) == {f"{key}{also}": [2] for key in "abc" for also in ("", "2")}


def test_readers_meanwhile_see_whole_writes(local):
    write(local, 0, "a", "b")
    ended, seen = threading.Event(), []

    def look():
        while not ended.is_set():
            try:
                found = shown(local)
            except FileNotFoundError:  # replaced since the manifest was read; a retry reads on
                continue
            seen.append(found["a"] == found["b"])

    reader = threading.Thread(target=look)
    reader.start()
    write_often(local, 20, "a", "b")
    ended.set()
    reader.join()
    assert all(seen)
    assert shown(local) == {"a": [19], "b": [19]}


def test_what_dead_writers_left_goes_with_a_later_write(local):
    write(local, 0, "a")
    hidden, shown_ = Path(local().path("../.ixflow/t")), Path(local().path("partition=a"))
    for left in (hidden / "old.parquet.tmp", hidden / "young.parquet.tmp", shown_ / "x.parquet"):
        left.touch()
    os.utime(hidden / "old.parquet.tmp", (time.time() - 90_000,) * 2)
    write(local, 2, "a")
    assert {path.name for path in hidden.iterdir()} == {"lock", "young.parquet.tmp"}
    (file,) = shown_.iterdir()
    assert pq.read_table(file)["n"].to_pylist() == [2]


def test_large_rows_of_many_partitions_stay_within_bounds(local, monkeypatch):
    from ixflow.dagster import parquet_write
    from ixflow.tables.slices import PartitionBy, RowsOfKey, Slice

    monkeypatch.setattr(parquet_write, "_GROUP_BYTES", 1 << 20)
    keys = [f"k{n}" for n in range(20)]
    slices = {key: Slice((key,), (RowsOfKey(PartitionBy("k"), key),)) for key in keys}
    names = {key: partition_name({"partition": key}) for key in keys}
    schema = pa.schema({"k": pa.string(), "v": pa.string()})
    held = []

    def batches():
        before = pa.total_allocated_bytes()
        for n in range(60):
            held.append(pa.total_allocated_bytes() - before)
            yield pa.record_batch([keys, [f"{n}" * 50_000] * 20], schema=schema)

    rows = pa.RecordBatchReader.from_batches(schema, batches())
    files = write_partitions(local(), rows, names, slices, "st/t")
    assert {file.rows for file in files.values()} == {60}
    assert max(held) < 30 << 20 < 60 * 20 * 50_000
