"""Blobs: stored before their result, found again, made again when lost, removed when unused."""

from __future__ import annotations

import datetime as dt
import os
import threading
from typing import Any

import polars as pl
import pytest

from ixflow.errors import (
    CacheError,
    DuplicateNameError,
    FlowError,
    OutputNotWritable,
    TaskError,
    ValidationError,
)
from ixflow.pipeline import Blob, FileBlobStore, Flow, NoBlobStore, Stage, Table, materialize
from ixflow.pipeline import run_stage as run_one
from ixflow.store import SQLTableStore


@pytest.fixture
def store(warehouse_engine):
    made = SQLTableStore(warehouse_engine.url)
    yield made
    made.dispose()


@pytest.fixture
def blobs(tmp_path):
    return FileBlobStore(tmp_path / "blobs", instance_id="one", gc_after=dt.timedelta(0))


def files(blobs):
    return sorted(path.name for path in blobs.base_path.rglob("*") if path.is_file())


class Model:
    """A flow that trains a model, and one task that uses it."""

    def __init__(self, version="1"):
        self.calls: list[str] = []
        self.seen: list[tuple[object, int]] = []

        @materialize(version=version)
        def train():
            self.calls.append("train")
            return {"model": Blob({"version": version}, "Model"), "rows": 3}

        @materialize(version="1")
        def use(model, number):
            self.calls.append("use")
            self.seen.append((model, number))
            return Table(pl.DataFrame({"x": [number]}), "used")

        with Flow("f") as self.flow, Stage("s"):
            out = train()
            use(out["model"], out["rows"])

    def run(self, store, blobs):
        self.calls.clear()
        run_one(self.flow["s"], store, blobs=blobs)
        return list(self.calls)


def test_consumers_get_an_equal_object_and_a_valid_blob_is_not_made_again(store, blobs):
    model = Model()
    assert model.run(store, blobs) == ["train", "use"]
    assert model.seen == [({"version": "1"}, 3)]
    assert model.run(store, blobs) == []
    assert Model("2").run(store, blobs) == ["train", "use"]


def test_a_blob_that_is_lost_is_made_again(store, blobs):
    model = Model()
    model.run(store, blobs)
    for path in blobs.base_path.rglob("*.pkl"):
        path.unlink()
    assert model.run(store, blobs) == ["train"]
    assert len(files(blobs)) == 1


def test_blobs_that_no_result_refers_to_are_removed_after_a_while(store, blobs):
    Model("1").run(store, blobs)
    (old,) = files(blobs)
    Model("2").run(store, blobs)
    assert len(files(blobs)) == 1
    assert old not in files(blobs)
    lasting = FileBlobStore(blobs.base_path)
    Model("3").run(store, lasting)
    assert len(files(lasting)) == 2


def test_a_run_that_fails_leaves_the_published_blob(store, blobs):
    Model("1").run(store, blobs)
    before = files(blobs)

    @materialize(version="1")
    def fails(_model):
        raise ZeroDivisionError

    @materialize(version="2")
    def train():
        return {"model": Blob({"version": "2"}, "Model"), "rows": 3}

    with Flow("f") as flow, Stage("s"):
        fails(train()["model"])
    with pytest.raises(TaskError):
        run_one(flow["s"], store, blobs=blobs)
    assert set(before) < set(files(blobs))
    assert Model("1").run(store, blobs) == []


def test_two_blobs_of_a_task_need_two_names(store, blobs):
    def flow(*names):
        @materialize(version=str(names))
        def both():
            return [Blob(number, name) for number, name in enumerate(names)]

        with Flow("f") as made, Stage("s"):
            both()
        return made["s"]

    run_one(flow("a%%", "a%%"), store, blobs=blobs)
    run_one(flow(None, None), store, blobs=blobs)
    with pytest.raises(DuplicateNameError, match="two blobs called 'a'"):
        run_one(flow("a", "A"), store, blobs=blobs)


def test_a_result_of_another_run_gives_its_blob(store, blobs):
    model = Model()
    model.run(store, blobs)
    got = []

    @materialize(version="1")
    def elsewhere(found):
        got.append(found)
        return 1

    @materialize(version="1")
    def train():
        return None

    with Flow("f") as flow:
        with Stage("s"):
            made = train()
        with Stage("other"):
            elsewhere(made["model"])
    run_one(flow["other"], store, blobs=blobs)
    assert got == [{"version": "1"}]


@pytest.mark.parametrize("blobs", [None, NoBlobStore()])
def test_without_a_store_a_blob_is_refused(store, blobs):
    with pytest.raises((FlowError, ValidationError), match="blob"):
        Model().run(store, blobs)
    assert store.published("s").tables == {}


def test_a_lazy_task_cannot_return_a_blob(store, blobs):
    @materialize(lazy=True)
    def lazy():
        return Blob(1)

    with Flow("f") as flow, Stage("s"):
        lazy()
    with pytest.raises(FlowError, match="is lazy, so it cannot return a Blob"):
        run_one(flow["s"], store, blobs=blobs)


# -- the directory ----------------------------------------------------------------------------


def test_a_name_cannot_leave_the_directory(blobs):
    for name in ("../../x", "..", ".", "a/b", "ä ö", "x" * 40):
        blobs.write("../s", name, "k:1/2", name)
        assert blobs.read("../s", name, "k:1/2") == name
    assert len(files(blobs)) == 6
    assert len(list(blobs.base_path.iterdir())) == 1


def test_what_cannot_be_pickled_is_refused_and_leaves_nothing(blobs):
    with pytest.raises(ValidationError, match="blob b of stage s cannot be pickled"):
        blobs.write("s", "b", "k", threading.Lock())
    assert not blobs.base_path.exists() or files(blobs) == []


def test_a_directory_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputNotWritable, match="cannot be written to"):
        FileBlobStore(tmp_path / "file").write("s", "b", "k", 1)


def test_a_torn_file_is_an_error_and_not_an_object(blobs):
    blobs.write("s", "b", "k", list(range(100)))
    (path,) = blobs.base_path.rglob("*.pkl")
    os.truncate(path, 20)
    with pytest.raises(CacheError, match="blob b of stage s cannot be read"):
        blobs.read("s", "b", "k")


def test_a_url_is_no_directory():
    with pytest.raises(ValidationError, match="takes a directory"):
        FileBlobStore("s3://bucket/blobs")


def test_a_name_is_a_text():
    name: Any = 2
    with pytest.raises(FlowError, match="takes a text"):
        Blob(1, name)


def test_without_a_flow_a_blob_is_its_object():
    assert materialize(lambda: Blob([1]))() == [1]
