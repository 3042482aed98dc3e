"""Tables that were read or written on this machine before come from Parquet files."""

from __future__ import annotations

import datetime as dt
import threading
from decimal import Decimal
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import sqlalchemy as sa

from ixflow import ParquetTableCache, PipedagConfig
from ixflow.errors import ValidationError
from ixflow.pipeline import Flow, Stage, Table, materialize
from ixflow.tables.read import read_table
from ixflow.values import TableName


@pytest.fixture
def config_of(warehouse_engine, tmp_path):
    """Give what makes a configuration with a cache."""

    def made(**flags):
        url = warehouse_engine.url.render_as_string(hide_password=False)
        cache = {"class": "ParquetTableCache", "args": {"base_path": str(tmp_path / "c")}, **flags}
        store = {"class": "SQLTableStore", "args": {"url": url}, "local_table_cache": cache}
        section = {"table_store": store, "fail_fast": True, "instance_id": "one"}
        return PipedagConfig({"instances": {"__any__": section}}).get()

    return made


MOMENT = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)
ROWS = pa.table(
    {
        "i": pa.array([1, None, 3], pa.int16()),
        "d": pa.array([Decimal("1.10"), None, Decimal("-0.01")], pa.decimal128(10, 2)),
        "t": pa.array(["a", "", None]),
        "at": pa.array([MOMENT, None, None], pa.timestamp("us", "UTC")),
        "day": pa.array([dt.date(1, 1, 1), dt.date(9999, 12, 31), None]),
        "f": pa.array([float("nan"), None, -0.0], pa.float64()),
        "b": pa.array([b"\x00\xff", b"", None]),
        "yes": pa.array([True, False, None]),
    }
)  # fmt: skip


def flow_of(version="1", rows=ROWS, type_=pa.Table, seen=None):
    """Declare a task that writes rows, and one that reads them every time."""

    @materialize(version=version)
    def made():
        return Table(rows, "made")

    @materialize(input_type=type_, outputs=[])
    def reader(made):
        (seen if seen is not None else []).append(made)

    with Flow("f") as flow, Stage("staging"):
        reader(made())
    return flow


@pytest.fixture
def reads(monkeypatch):
    """Count how often a table is read from the database."""
    from ixflow.tables import read

    count, whole = [], read._whole

    def counted(engine, table, *others):
        count.append(table.name)
        return whole(engine, table, *others)

    monkeypatch.setattr(read, "_whole", counted)
    return count


@pytest.mark.parametrize("type_", [pa.Table, pl.DataFrame, pd.DataFrame])
def test_what_is_cached_is_what_the_database_gives_in_every_type(
    config_of, warehouse_engine, reads, type_
):
    for flags in ({}, {"store_output": True}):
        seen: list[Any] = []
        for _ in range(2):
            flow_of(str(flags), type_=type_, seen=seen).run(config=config_of(**flags))
        assert len(reads) == (0 if flags else 1)
        reads.clear()
        as_arrow = [pa.table(frame) for frame in seen]
        assert as_arrow[0].schema.equals(as_arrow[1].schema)
        assert as_arrow[0].schema.types == as_arrow[1].schema.types
        direct = read_table(warehouse_engine, TableName("made", "staging"))
        if type_ is pa.Table:
            assert all(table.schema.equals(direct.schema) for table in as_arrow)
            assert all(repr(table.to_pylist()) == repr(direct.to_pylist()) for table in as_arrow)
        reads.clear()


def test_another_writing_of_the_same_version_is_not_taken_for_it(config_of, reads):
    seen: list[Any] = []
    flow_of(rows=pa.table({"x": [1]}), seen=seen).run(config=config_of())
    flow = flow_of(rows=pa.table({"x": [2]}), seen=seen)
    flow.run(config=config_of().evolve(force_task_execution=True))
    flow_of(rows=pa.table({"x": [2]}), seen=seen).run(config=config_of())
    assert [table["x"].to_pylist() for table in seen] == [[1], [2], [2]]
    assert reads == ["made", "made"]


def test_the_flags_say_what_is_stored_and_used(config_of, reads, tmp_path):
    for store_input, store_output, use, times in (
        (False, False, True, [1, 1]),
        (True, False, False, [1, 1]),
        (True, False, True, [1, 0]),
        (False, True, True, [0, 0]),
    ):
        flags = {
            "store_input": store_input,
            "store_output": store_output,
            "use_stored_input_as_cache": use,
        }
        version = repr(flags)
        found = []
        for _ in times:
            reads.clear()
            flow_of(version).run(config=config_of(**flags))
            found.append(len(reads))
        assert found == times
    assert [path.name for path in (tmp_path / "c" / "one" / "staging").iterdir()] == [
        "made.parquet"
    ]


@pytest.mark.parametrize("broken", [b"", b"PAR1 this is no file PAR1", None])
def test_a_broken_file_is_a_miss_with_a_warning(config_of, reads, tmp_path, caplog, broken):
    flow_of().run(config=config_of())
    path = tmp_path / "c" / "one" / "staging" / "made.parquet"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] if broken is None else broken)
    flow_of().run(config=config_of())
    assert "cannot be read, so its table is read anew" in caplog.text
    assert len(reads) == 2
    flow_of().run(config=config_of())
    assert len(reads) == 2


def test_a_place_that_cannot_be_written_is_a_warning(config_of, reads, tmp_path, caplog):
    (tmp_path / "c").write_text("a file, not a directory", encoding="utf-8")
    assert flow_of().run(config=config_of(store_output=True)).successful
    assert "cannot be written, so its table is not cached" in caplog.text
    assert len(reads) == 1


def test_a_query_is_not_cached_as_output_but_its_table_is_when_it_is_read(
    config_of, reads, tmp_path
):
    @materialize(version="1")
    def made():
        return Table(sa.text("SELECT 1 AS x"), "made")

    @materialize(input_type=sa.Table, lazy=True)
    def query(made):
        return Table(sa.select(made.c.x), "query")

    @materialize(input_type=pl.DataFrame, outputs=[])
    def reader(query):
        assert query["x"].to_list() == [1]

    with Flow("f") as flow, Stage("staging"):
        reader(query(made()))
    for _ in range(2):
        flow.run(config=config_of(store_output=True))
    assert reads == ["query"]
    assert {path.name for path in (tmp_path / "c" / "one" / "staging").iterdir()} == {
        "query.parquet"
    }


def test_rows_that_are_replaced_while_they_are_read_are_not_kept_as_the_old_ones(
    config_of, monkeypatch
):
    from ixflow.tables import read

    flow_of(rows=pa.table({"x": [1]})).run(config=config_of(store_input=False))
    whole = read._whole

    def slow(*arguments):
        monkeypatch.setattr(read, "_whole", whole)
        worker = threading.Thread(
            target=lambda: flow_of("2", pa.table({"x": [2]})).run(
                config=config_of(store_input=False)
            )
        )
        worker.start()
        worker.join()
        return whole(*arguments)

    monkeypatch.setattr(read, "_whole", slow)
    place = TableName("made", "staging")
    with config_of() as config:
        for _ in range(2):
            assert config.table_store.read(place, pa.Table)["x"].to_pylist() == [2]


def test_the_cache_takes_a_directory_only():
    with pytest.raises(ValidationError, match="takes a directory, not the URL"):
        ParquetTableCache("s3://bucket/cache")
