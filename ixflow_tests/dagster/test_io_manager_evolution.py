"""What happens to a table when rows come that have other columns, values or keys."""

import itertools
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
import sqlalchemy as sa

from ixflow.dialects.waiting import LockPatience, lock_patience
from ixflow.errors import (
    ColumnMismatch,
    DataError,
    LockNotAvailable,
    ValidationError,
    ValueDoesNotFit,
)
from ixflow.store import SQLTableStore
from ixflow.store.writing import Write, WrittenTable, write_table
from ixflow_tests.dagster.seen import rows
from ixflow_tests.dagster.slicing import PLACE
from ixflow_tests.sources import make

FIRST = pl.DataFrame({"id": [1], "v": ["x"]})
_runs = itertools.count()
KEYED: dict[str, Any] = {"primary_key": ("id",)}


@pytest.fixture
def store(warehouse_engine):
    made = SQLTableStore(warehouse_engine.url.render_as_string(hide_password=False))
    yield made
    made.dispose()


def keep(store, mode, obj, **said: Any) -> WrittenTable:
    """Write the table; each call is a run of its own."""
    if mode == "upsert":
        said = KEYED | said
    return write_table(store, PLACE, obj, Write(mode, run=str(next(_runs)), **said))


def ids_and(store, *columns):
    return rows(store.engine, f"(SELECT id, {', '.join(columns)} FROM st.t) q")


OTHERS = {
    "another": (pl.DataFrame({"id": [2], "v": ["y"], "new": [2.5]}), "the table lacks new .doub"),
    "fewer": (pl.DataFrame({"id": [2]}), "the rows lack v "),
    "retyped": (pl.DataFrame({"id": [2], "v": [5]}), "and comes as bigint"),
}
MODES = ("replace", "append", "upsert")


@pytest.mark.parametrize("other", OTHERS)
def test_other_columns_are_refused_by_name_and_nothing_is_written(other, store):
    frame, words = OTHERS[other]
    for mode in MODES:
        make(store.engine, "CREATE SCHEMA IF NOT EXISTS st", "DROP TABLE IF EXISTS st.t")
        keep(store, mode, FIRST, evolution="fail")
        with pytest.raises(ColumnMismatch, match=words):
            keep(store, mode, frame, evolution="fail")
        assert ids_and(store, "v") == [(1, "x")]


@pytest.mark.parametrize("mode", MODES)
def test_new_columns_are_added_and_missing_ones_are_null(mode, store):
    keep(store, mode, FIRST, evolution="add")
    done = keep(store, mode, pl.DataFrame({"new": [2.5], "id": [2]}), evolution="add")
    assert done.added == ("new",)
    first = [] if mode == "replace" else [(1, "x", None)]
    assert ids_and(store, "v", "new") == [*first, (2, None, 2.5)]
    with pytest.raises(ColumnMismatch, match="v is "):
        keep(store, mode, OTHERS["retyped"][0], evolution="add")


@pytest.mark.parametrize("mode", ["append", "upsert"])
def test_a_table_is_rebuilt_with_other_columns_and_keeps_its_rows(mode, store):
    said = {"evolution": "recreate"}
    keep(store, mode, pl.DataFrame({"id": [1], "v": ["5"], "gone": [0]}), **said)
    done = keep(store, mode, pl.DataFrame({"v": [7], "id": [2], "new": [True]}), **said)
    assert done.rebuilt
    assert ids_and(store, "v", "new") == [(1, 5, None), (2, 7, True)]
    assert [column.name for column in done.columns][:3] == ["v", "id", "new"]
    keep(store, mode, pl.DataFrame({"v": ["no number"], "id": [3], "new": [True]}), **said)
    with pytest.raises(ValueDoesNotFit, match="would change or fail as"):
        keep(store, mode, pl.DataFrame({"v": [8], "id": [4], "new": [True]}), **said)
    assert len(ids_and(store, "v")) == 3


def test_a_table_is_rebuilt_only_where_a_type_holds_too_little(store):
    narrow = pa.table({"id": pa.array([1], pa.int32()), "d": pa.array([1], pa.decimal128(5, 1))})
    wide = pa.table({"id": pa.array([2**40]), "d": pa.array([2], pa.decimal128(9, 3))})
    seen = [keep(store, "append", t, evolution="recreate").rebuilt for t in (narrow, wide, narrow)]
    assert seen == [False, True, False]
    assert rows(store.engine, "(SELECT id FROM st.t) q") == [(1,), (1,), (2**40,)]


def test_values_of_another_kind_never_become_others(store):
    keep(store, "append", pa.table({"id": [1], "v": pa.array(["2026-03-01 10:00"])}))
    clock = pa.table({"id": [2], "v": pa.array([10**15], pa.timestamp("us"))})
    with pytest.raises(ColumnMismatch):
        keep(store, "append", clock)
    keep(store, "replace", clock)
    day = pa.table({"id": [3], "v": pa.array([1], pa.date32())})
    with pytest.raises(ValueDoesNotFit, match="would change or fail as"):
        keep(store, "upsert", day, evolution="recreate")


def test_a_number_that_would_be_rounded_is_refused(store):
    make(store.engine, "CREATE SCHEMA st", "CREATE TABLE st.t (n numeric(6,2))")

    def query(text):
        return sa.select(sa.cast(text, sa.Numeric(9, 4)).label("n"))

    for whole in (query("1.50"), pa.table({"n": [2]})):
        keep(store, "append", whole)
    for other in (query("1.555"), pa.table({"n": [1.555]})):
        with pytest.raises(ValueDoesNotFit):
            keep(store, "append", other)
    assert [float(n) for (n,) in rows(store.engine, "(SELECT n FROM st.t) q")] == [1.5, 2]


def test_no_rows_are_no_reason_to_fail(store):
    empty = pl.DataFrame(schema={"id": pl.Int64, "v": pl.String})
    for mode in MODES:
        make(store.engine, "CREATE SCHEMA IF NOT EXISTS st", "DROP TABLE IF EXISTS st.t")
        for frame, count in ((empty, 0), (FIRST, 1), (empty, 0 if mode == "replace" else 1)):
            keep(store, mode, frame)
            assert len(rows(store.engine, "st.t")) == count


@pytest.mark.parametrize(
    ("ids", "said"),
    [([1, 1, 2], "1 values of the primary key .id. of st.t"), ([None, 4], "1 rows for st.t have")],
)
def test_a_key_that_comes_twice_or_is_missing_is_refused(ids, said, store):
    keep(store, "upsert", pl.DataFrame({"id": [7]}))
    with pytest.raises(DataError, match=said):
        keep(store, "upsert", pl.DataFrame({"id": ids}))
    assert rows(store.engine, "st.t") == [(7,)]


def test_a_key_that_the_table_does_not_have_is_refused_or_made(store):
    keep(store, "replace", pl.DataFrame({"id": [1], "v": [1]}))
    new = pl.DataFrame({"id": [1, 2], "v": [5, 6]})
    with pytest.raises(ValidationError, match="but the table's is none"):
        keep(store, "upsert", new)
    keep(store, "upsert", new, evolution="recreate")
    assert rows(store.engine, "st.t") == [(1, 5), (2, 6)]


def test_a_key_of_several_columns_of_any_type_is_upserted(store):
    said = {"primary_key": ("part", "day")}
    frame = pl.DataFrame({"day": ["2026-03-01", "2026-03-02"], "part": ["a", "a"], "n": [1, 2]})
    frame = frame.with_columns(pl.col("day").str.to_date())
    keep(store, "upsert", frame, **said)
    done = keep(store, "upsert", frame.with_columns(n=pl.Series([1, 7])), **said)
    assert (done.inserted, done.updated, done.unchanged) == (0, 1, 1)
    assert [n for (n,) in rows(store.engine, "(SELECT n FROM st.t) q")] == [1, 7]


def test_rows_that_would_not_change_are_not_written(fresh_postgres):
    store = SQLTableStore(fresh_postgres.url.render_as_string(hide_password=False))
    keep(store, "upsert", pl.DataFrame({"id": [1, 2], "v": [1.5, 2.5]}))
    before = ids_and(store, "xmin::text")
    done = keep(store, "upsert", pl.DataFrame({"id": [1, 2], "v": [1.5, 9.0]}))
    after = ids_and(store, "xmin::text")
    assert [old == new for old, new in zip(before, after, strict=True)] == [True, False]
    assert (done.updated, done.unchanged) == (1, 1)
    store.dispose()


def test_a_column_is_added_behind_a_reader_and_not_while_others_would_wait(fresh_postgres):
    store = SQLTableStore(fresh_postgres.url.render_as_string(hide_password=False))
    keep(store, "append", FIRST)
    wider = FIRST.with_columns(new=pl.lit(1))
    with fresh_postgres.connect() as reader, lock_patience(LockPatience(0.6)):
        reader.exec_driver_sql("SELECT * FROM st.t")
        with pytest.raises(LockNotAvailable, match="held by pid"):
            keep(store, "append", wider, evolution="add")
        reader.rollback()
        assert keep(store, "append", wider, evolution="add").added == ("new",)
    store.dispose()
