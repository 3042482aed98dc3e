"""Which rows a partition of a table may have, and what its columns may be."""

import datetime as dt
import uuid
from collections import Counter
from decimal import Decimal
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ixflow.errors import ColumnMismatch, DataError, ValidationError, ValueDoesNotFit
from ixflow.tables.read import read_table
from ixflow_tests.dagster.seen import rows
from ixflow_tests.dagster.slicing import PLACE, put
from ixflow_tests.sources import make

HOURS = dg.HourlyPartitionsDefinition("2026-03-01-00:00", timezone="Europe/Berlin")
DAYS = dg.DailyPartitionsDefinition("2026-03-01", timezone="Europe/Berlin")


@pytest.fixture
def store(warehouse):
    return warehouse.store()


def of(part, n=0):
    """Give one row."""
    return pa.table({"part": [part], "n": [n]})


def clock(text):
    """Give what a clock shows, without a zone."""
    return dt.datetime.fromisoformat(text)


@pytest.mark.parametrize("strange", ["fr", None, "DE", "de ", ""])
def test_rows_of_another_partition_are_refused_by_name(strange, store):
    put(store, of("de", 1), "de")
    both = pa.table({"part": ["de", strange], "n": [2, 3]})
    with pytest.raises(ValueDoesNotFit, match="1 rows for st") as got:
        put(store, both, "de")
    assert str(got.value).endswith(
        f"part = {'NULL' if strange is None else strange}; nothing was written"
    )
    assert rows(store.engine, "st.t") == [("de", 1)]


TYPES: dict[str, tuple[str, list[str], list[Any]]] = {
    "text": ("varchar(20)", ["a", "A"], ["a", "A"]),
    "uuid": ("uuid", [str(uuid.UUID(int=1)), str(uuid.UUID(int=2**127))], []),
    "decimal": ("numeric(12,2)", ["1.50", "-2"], [Decimal("1.50"), Decimal("-2.00")]),
    "number": ("bigint", ["7", "-8"], [7, -8]),
    "date": ("date", ["2026-03-01", "1900-01-01"], [dt.date(2026, 3, 1), dt.date(1900, 1, 1)]),
    "boolean": ("boolean", ["true", "false"], [True, False]),
    "double": ("double precision", ["0.1", "-2"], [0.1, -2.0]),
}


@pytest.mark.parametrize("name", TYPES)
def test_the_column_may_be_of_any_type_that_a_key_can_name(name, store):
    sql_type, keys, values = TYPES[name]
    make(store.engine, "CREATE SCHEMA st", f"CREATE TABLE st.t (part {sql_type}, n int)")
    for n, place in enumerate([0, 1, 0]):
        done = put(store, of((values or keys)[place], n), keys[place])
        assert done.slices == {keys[place]: 1}
    both = pa.table({"part": values or keys, "n": [7, 8]})
    assert [n for (n,) in rows(store.engine, "(SELECT n FROM st.t) q")] == [1, 2]
    assert put(store, both, *keys).deleted == 2


@pytest.mark.parametrize(
    ("sql_type", "key"), [("numeric(4,1)", "1.55"), ("bigint", "x"), ("uuid", "x"), ("date", "1.5")]
)
def test_a_key_that_is_no_value_of_its_column_is_refused(sql_type, key, store):
    make(store.engine, "CREATE SCHEMA st", f"CREATE TABLE st.t (part {sql_type}, n int)")
    nothing = pa.table({"part": pa.nulls(0), "n": pa.array([], pa.int32())})
    with pytest.raises(ValidationError, match="is no value of "):
        put(store, nothing, key)


def test_a_window_has_its_first_moment_and_not_its_last(store):
    for text in ("2026-03-02", "2026-03-02 23:59:59.999999"):
        assert put(store, of(clock(text)), "2026-03-02", definition=DAYS).slices == {
            "2026-03-02": 1
        }
    with pytest.raises(ValueDoesNotFit, match="such as part = 2026-03-03 00:00:00"):
        put(store, of(clock("2026-03-03")), "2026-03-02", definition=DAYS)
    zoned = dt.datetime(2026, 3, 1, 23, tzinfo=dt.UTC)  # midnight in Berlin
    make(store.engine, "DROP TABLE st.t")
    assert put(store, of(zoned), "2026-03-02", definition=DAYS).rows == 1
    with pytest.raises(ValueDoesNotFit):
        put(store, of(zoned), "2026-03-01", definition=DAYS)


def test_hours_cannot_be_told_by_a_date(store):
    with pytest.raises(ValidationError, match="within a day"):
        put(store, of(dt.date(2026, 3, 1)), "2026-03-01-05:00", definition=HOURS)


def test_an_hour_that_the_clock_shows_twice_needs_a_zone(store):
    with pytest.raises(ValidationError, match="twice when it is set back"):
        put(store, of(clock("2026-10-25 02:00")), "2026-10-25-02:00", definition=HOURS)


def test_a_range_with_holes_replaces_what_it_names(store):
    days = [f"2026-03-0{n}" for n in range(1, 7)]
    whole = pa.table({"part": [dt.date.fromisoformat(d) for d in days], "n": [0] * 6})
    put(store, whole, *days, definition=DAYS)
    some = ["2026-03-02", "2026-03-03", "2026-03-06"]
    done = put(store, of(dt.date(2026, 3, 3), 1), *some, definition=DAYS)
    assert (done.deleted, done.slices) == (3, {some[0]: 0, some[1]: 1, some[2]: 0})
    left = rows(store.engine, "st.t")
    assert [(day.day, n) for day, n in left] == [(1, 0), (3, 1), (4, 0), (5, 0)]


def test_many_partitions_are_written_at_once(store):
    keys = [f"k{n}" for n in range(250)]
    frame = pa.table({"part": keys + keys, "n": list(range(500))})
    for _ in range(2):
        done = put(store, frame, *keys)
        assert set(done.slices.values()) == {2}
        assert len(done.slices) == 250
    assert len(rows(store.engine, "st.t")) == 500


def test_new_columns_come_with_one_partition_and_others_keep_their_rows(store):
    more = pa.table({"more": [1.5], "n": [5], "part": ["a"]})
    for evolution in ("fail", "add", "recreate"):
        make(store.engine, "CREATE SCHEMA IF NOT EXISTS st", "DROP TABLE IF EXISTS st.t")
        for key in ("a", "b"):
            put(store, of(key, 1), key, evolution=evolution)
        if evolution == "fail":
            with pytest.raises(ColumnMismatch, match="the table lacks more") as got:
                put(store, more, "a", evolution=evolution)
            assert got.value.surplus == ["more"]
            assert rows(store.engine, "st.t") == [("a", 1), ("b", 1)]
        else:
            done = put(store, more, "a", evolution=evolution)
            assert (done.added, done.rebuilt) == (("more",), evolution == "recreate")
            found = rows(store.engine, "(SELECT part, n, more FROM st.t) q")
            assert found == [("a", 5, 1.5), ("b", 1, None)]


def test_a_key_of_the_table_belongs_to_one_partition(store):
    said: dict[str, Any] = {"primary_key": ("n",)}
    put(store, of("a", 1), "a", **said)
    put(store, of("b", 2), "b", **said)
    for rest in ([1, 1], [None]):
        with pytest.raises(DataError, match="primary key"):
            put(store, pa.table({"part": ["a"] * len(rest), "n": rest}), "a", **said)
    with pytest.raises(DataError, match="such as a key that other rows have already"):
        put(store, of("a", 2), "a", **said)
    assert rows(store.engine, "st.t") == [("a", 1), ("b", 2)]
    put(store, of("a", 1), "a", **said)
    assert rows(store.engine, "st.t") == [("a", 1), ("b", 2)]


def test_a_table_and_columns_may_have_reserved_names(store):
    names = {"select": ["x'"], 'order "by"': [1], "100%": [None]}
    place = type(PLACE)("table", "from")
    for _ in range(2):
        put(store, pa.table(names), "x'", expr="select", table=place)
    assert rows(store.engine, '"from"."table"') == [("x'", 1, None)]


@pytest.mark.parametrize("needed", ["int", "int NOT NULL"])
def test_a_table_that_the_rows_do_not_have_all_of_gets_null_or_a_default(needed, store):
    columns = f"part text, n int, made int DEFAULT 7, needed {needed}"
    make(store.engine, "CREATE SCHEMA st", f"CREATE TABLE st.t ({columns})")
    if needed == "int":
        put(store, of("a", 1), "a", evolution="add")
        assert rows(store.engine, "st.t") == [("a", 1, 7, None)]
    else:
        with pytest.raises(ColumnMismatch, match="the rows lack needed"):
            put(store, of("a", 1), "a", evolution="add")


# Dagster takes no control characters and no three dots.
KEYS = st.text(st.characters(exclude_characters=".", exclude_categories=["Cs", "Cc"]), max_size=6)
WRITES = st.lists(
    st.dictionaries(KEYS, st.lists(st.none() | st.integers(-9, 9), max_size=3), min_size=1),
    min_size=1,
    max_size=3,
)


@settings(max_examples=12)
@given(writes=WRITES)
def test_partitions_with_any_keys_are_what_was_written_to_them_last(writes, store):
    make(store.engine, "CREATE SCHEMA IF NOT EXISTS st", "DROP TABLE IF EXISTS st.t")
    last: dict[str, list[int | None]] = {}
    for write in writes:
        pairs = [(key, n) for key, numbers in write.items() for n in numbers]
        columns: tuple[Any, ...] = tuple(zip(*pairs, strict=True)) or ((), ())
        names = pa.array(columns[0], pa.string()), pa.array(columns[1], pa.int64())
        done = put(store, pa.table(names, ["part", "n"]), *write)
        last |= write
        assert done.slices == {key: len(numbers) for key, numbers in write.items()}
    found = read_table(store.engine, PLACE).to_pylist()
    wanted = [(key, n) for key, numbers in last.items() for n in numbers]
    assert Counter((row["part"], row["n"]) for row in found) == Counter(wanted)
