"""Writers that are stopped at any statement, and writers that work at the same time."""

import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pytest
import sqlalchemy as sa

from ixflow.errors import DataError
from ixflow.store import SQLTableStore
from ixflow.store.writing import Write, write_table
from ixflow_tests.dagster import slice_process
from ixflow_tests.dagster.seen import rows
from ixflow_tests.dagster.slicing import PLACE, put


@pytest.fixture
def store(warehouse_engine):
    made = SQLTableStore(warehouse_engine.url.render_as_string(hide_password=False))
    yield made
    made.dispose()


class _Stopped(BaseException):
    """What a test raises in the place of a statement."""


class Stopper:
    """Stops the store's transactions before the statement of a number; counts them."""

    def __init__(self, store, monkeypatch):
        self.limit = self.count = 0
        for event in ("before_cursor_execute", "commit"):
            sa.event.listen(store.engine, event, self.next)
        load = type(store.dialect).load

        def counted(*args: Any) -> Any:
            self.next()
            return load(*args)

        monkeypatch.setattr(type(store.dialect), "load", counted)

    def next(self, *_: Any) -> None:
        self.count += 1
        if self.count == self.limit:
            raise _Stopped

    def stops(self, limit, work):
        """Say whether the work was stopped."""
        self.limit, self.count = limit, 0
        try:
            work()
        except _Stopped:
            return True
        finally:
            self.limit = 0
        return False


def append(store, obj, run):
    return write_table(store, PLACE, obj, Write("append", run=run))


def upsert(store, obj, **said):
    return write_table(store, PLACE, obj, Write("upsert", primary_key=("n",), **said))


WAYS = {
    "partition": lambda store, obj: put(store, obj, "a"),
    "added": lambda store, obj: put(
        store, obj.append_column("x", pa.array([1, 1])), "a", evolution="add"
    ),
    "rebuilt": lambda store, obj: put(
        store, obj.append_column("x", pa.array([1, 1])), "a", evolution="recreate"
    ),
    "append": lambda store, obj: append(store, obj, "again"),
}


@pytest.mark.parametrize("way", WAYS)
def test_stopping_at_any_statement_leaves_the_old_rows_or_the_new_ones(way, store, monkeypatch):
    old = pa.table({"part": ["a", "b"], "n": [0, 0]})
    if way == "append":
        append(store, old, "before")
        append(store, old, "again")
    else:
        put(store, old, "a", "b")
    before = rows(store.engine, "(SELECT part, n FROM st.t) q")
    stopper, limit = Stopper(store, monkeypatch), 1
    new = pa.table({"part": ["a", "a"], "n": [7, 7]})
    while stopper.stops(limit, lambda: WAYS[way](store, new)):
        assert rows(store.engine, "(SELECT part, n FROM st.t) q") == before
        with store.begin() as conn:
            assert store.dialect.tables_in(conn, "st") == ("t",)
        limit += 1
    assert limit > 8
    kept = [("a", 0), ("b", 0)] if way == "append" else [("b", 0)]
    assert rows(store.engine, "(SELECT part, n FROM st.t) q") == sorted([*kept, ("a", 7), ("a", 7)])


def process(store, *what: str) -> list[Any]:
    """Run the process that forks writers; give what it has found."""
    url = store.url.render_as_string(hide_password=False)
    done = subprocess.run(
        [sys.executable, "-m", slice_process.__name__, url, *what],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_process_killed_at_any_statement_leaves_the_old_slice_or_the_new_one(store):
    # Opening and closing a file takes long; stopping without a kill is tried at each statement.
    step = 4 if store.dialect.one_process else 1
    *found, last = process(store, "kill", str(step))
    others = [["b", 0], ["b", 0]]
    assert {one["tables"] for one in found} == {1}
    states = [one["rows"] for one in found]
    assert states[:-1] == [[["a", 0], ["a", 0], *others]] * (1 + (last - 1) // step)
    assert states[-1] == [["a", last], ["a", last], *others]
    assert last > 8


def test_processes_write_different_partitions_at_once(store):
    statuses, found = process(store, "together")
    assert statuses == [0, 0, 0]
    last = slice_process.ROUNDS - 1
    assert found["rows"] == [[key, last] for key in "aabbcc"]


def together(*works):
    """Do the works on threads that begin at the same time; give what they gave or raised."""
    start = threading.Barrier(len(works))

    def begin(work):
        start.wait()
        return work()

    with ThreadPoolExecutor(len(works)) as pool:
        return [future.exception() for future in [pool.submit(begin, work) for work in works]]


def of(key, n, **more):
    return pa.table({"part": [key] * 3, "n": [n] * 3} | {k: [v] * 3 for k, v in more.items()})


def test_threads_write_different_partitions_of_a_table_that_is_not_there_yet(store):
    works = [
        lambda key=key: [put(store, of(key, n), key) for n in range(4)] for key in ("a", "b", "c")
    ]
    assert together(*works) == [None] * 3
    assert rows(store.engine, "st.t") == [(key, 3) for key in "aaabbbccc"]


def test_threads_write_the_same_partition_one_after_the_other(store):
    put(store, of("a", 0), "a")
    works = [lambda n=n: [put(store, of("a", n), "a") for _ in range(3)] for n in (1, 2, 3)]
    assert together(*works) == [None] * 3
    found = rows(store.engine, "st.t")
    assert found in [[("a", n)] * 3 for n in (1, 2, 3)]


def test_columns_are_added_while_others_write(store):
    put(store, of("z", 0), "z")

    def work(key, rounds, **more):
        return lambda: [put(store, of(key, n, **more), key, evolution="add") for n in range(rounds)]

    works = [work("a", 3, x_a=1), work("b", 3, x_b=1), work("c", 6), work("d", 2, x_d="d")]
    assert together(*works) == [None] * 4
    found = rows(store.engine, "(SELECT DISTINCT part, n, x_a IS NULL, x_b IS NULL FROM st.t) q")
    assert found == [
        ("a", 2, False, True),
        ("b", 2, True, False),
        ("c", 5, True, True),
        ("d", 1, True, True),
        ("z", 0, True, True),
    ]


def test_a_table_is_rebuilt_while_others_write(store):
    put(store, of("z", 0), "z")
    said: dict[str, Any] = {"evolution": "recreate"}
    works = [
        lambda: [put(store, of("a", n, x=n), "a", **said) for n in range(3)],
        lambda: [put(store, of("b", n, x=n), "b", **said) for n in range(3)],
    ]
    assert together(*works) == [None] * 2
    found = rows(store.engine, "(SELECT part, n, count(*) FROM st.t GROUP BY part, n) q")
    assert found == [("a", 2, 3), ("b", 2, 3), ("z", 0, 3)]


def test_upserts_of_the_same_keys_in_another_order_do_not_deadlock(store):
    numbers = list(range(300))
    upsert(store, pa.table({"n": numbers, "by": ["first"] * 300}))

    def work(name, order):
        return lambda: [upsert(store, pa.table({"n": order, "by": [name] * 300})) for _ in range(3)]

    assert together(work("up", numbers), work("down", numbers[::-1])) == [None, None]
    assert len(rows(store.engine, "st.t")) == 300
    assert len({by for _, by in rows(store.engine, "st.t")}) == 1


def test_two_attempts_of_one_run_append_its_rows_once(store):
    works = [lambda n=n: append(store, of("a", n), "run") for n in (1, 2)]
    assert together(*works, lambda: append(store, of("b", 5), "other")) == [None] * 3
    found = rows(store.engine, "(SELECT part, n FROM st.t) q")
    assert found in [[("a", n)] * 3 + [("b", 5)] * 3 for n in (1, 2)]


def test_first_tables_of_a_schema_are_made_at_once(store):
    places = [type(PLACE)(name, "newly") for name in ("t", "u", "v")]
    works = [lambda place=place: put(store, of("a", 1), "a", table=place) for place in places]
    assert together(*works) == [None] * 3
    with store.begin() as conn:
        assert sorted(store.dialect.tables_in(conn, "newly")) == ["t", "u", "v"]


def test_a_session_that_is_used_again_has_no_leftovers(store):
    for n in range(3):
        put(store, of("a", n), "a")
    with pytest.raises(DataError):
        upsert(store, of("a", 1), evolution="recreate")
    with store.begin() as conn:
        assert store.dialect.tables_in(conn, store.dialect.temporary_schema) == ()
        assert store.dialect.tables_in(conn, "st") == ("t",)
