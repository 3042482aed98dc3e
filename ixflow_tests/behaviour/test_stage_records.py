"""The records of a commit: those of the transaction, turned into those of what is published."""

from __future__ import annotations

import pyarrow as pa
import pytest
import sqlalchemy as sa

from ixflow.store import SQLTableStore, StageTransaction, StoredResult, TableSpec
from ixflow.store.transaction import TableWrite
from ixflow_tests.stages import execute, objects


@pytest.fixture
def store(warehouse_engine):
    made = SQLTableStore(warehouse_engine.url)
    with made.held_open():
        yield made
    made.dispose()


def written(store, run, names):
    """Write a table for each name in a transaction of a run."""
    transaction = StageTransaction(store, "staging", run)
    transaction.begin()
    results = []
    for name in names:
        result = StoredResult(name, name, f"{run} {name}", f'"{run}"', (name,))
        write = TableWrite(pa.table({"run": [run]}), TableSpec(name))
        transaction.write(result, [write])
        results.append(result)
    return transaction, results


def records(store):
    """Count the records of tables and results, by scope."""
    found = {}
    with store.begin() as conn:
        for table in ("tables", "results"):
            query = f'SELECT scope, count(*) FROM "ixflow"."{table}" GROUP BY scope'
            found[table] = {row[0]: row[1] for row in conn.execute(sa.text(query))}
    return found


def test_what_is_published_is_recorded_once_and_nothing_else_is(store):
    first, results = written(store, "one", ["a", "b", "c"])
    first.commit(results, full=True)
    assert records(store) == {"tables": {"": 3}, "results": {"": 3}}
    # One table stays, one is replaced, one goes, one is new, and one was never asked for.
    second, mine = written(store, "two", ["b", "d", "left"])
    second.commit([results[0], *mine[:2]], full=True)
    assert records(store) == {"tables": {"": 3}, "results": {"": 3}}
    state = store.published("staging")
    assert {name: table.transaction_id for name, table in state.tables.items()} == {
        "a": "one",
        "b": "two",
        "d": "two",
    }
    assert set(state.results) == {results[0], *mine[:2]}
    assert state.version == 2
    assert sorted(objects(store, "staging")) == ["a", "b", "d"]


@pytest.mark.parametrize(
    "change",
    [
        "DELETE FROM ixflow.tables WHERE name = 'b' AND scope <> ''",
        "DELETE FROM ixflow.results WHERE task = 'b' AND scope <> ''",
        "INSERT INTO ixflow.results SELECT * FROM ixflow.results WHERE task = 'b' AND scope <> ''",
    ],
)
def test_records_that_somebody_has_changed_are_written_anew(store, change):
    first, results = written(store, "one", ["a", "b"])
    first.commit(results, full=True)
    second, results = written(store, "two", ["a", "b"])
    execute(store.engine, change)
    second.commit(results, full=True)
    assert records(store) == {"tables": {"": 2}, "results": {"": 2}}
    state = store.published("staging")
    assert {table.transaction_id for table in state.tables.values()} == {"two"}
    assert set(state.results) == set(results)


def test_a_commit_sees_what_another_one_has_published_since_its_transaction_began(store):
    first, results = written(store, "one", ["a"])
    late, mine = written(store, "late", ["b"])
    first.commit(results, full=True)
    done = late.commit(mine, full=False)
    assert done.version == 2
    assert sorted(store.published("staging").tables) == ["a", "b"]
    assert set(store.published("staging").results) == {*results, *mine}
