"""However transactions interleave with incremental runs, a settled cursor loses nothing.

Rows are stamped with now(), the start of their transaction, and committed in any order.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis.strategies as st
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given, settings

from ixflow.dialects import run
from ixflow.dialects.postgres import queries
from ixflow.extraction.api import execute, plan
from ixflow.tables.cursor import Cursor
from ixflow_tests.sources import intent_for, make

if TYPE_CHECKING:
    import sqlalchemy as sa

_numbers = itertools.count(1)
WRITERS = 3
STEPS = st.one_of(
    st.tuples(st.sampled_from(["insert", "update", "commit", "rollback"]), st.integers(0, 2)),
    st.just(("extract", 0)),
)


class Harness:
    """A table, writers with open transactions, and incremental runs of one cursor."""

    def __init__(self, engine: sa.Engine, output: Path, semantics: str) -> None:
        self.engine, self.output = engine, output
        self.table = f"t{next(_numbers)}"
        make(
            engine,
            f"CREATE TABLE {self.table} (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, "
            f"version int NOT NULL DEFAULT 0, ts timestamptz NOT NULL DEFAULT now())",
            f"CREATE INDEX ON {self.table} (ts)",
        )
        cursor = Cursor("ts", semantics)
        options = {"mode": "incremental", "incremental_key": cursor}
        self.intent = intent_for(engine, self.table, output, **options)
        self.writers = [engine.connect() for _ in range(WRITERS)]

    def do(self, what: str, who: int) -> None:
        """Let a writer, or the extraction, take one step."""
        if what == "extract":
            execute(plan(self.intent))
        elif what == "insert":
            run(self.writers[who], f"INSERT INTO {self.table} DEFAULT VALUES")
        elif what == "update":
            # Rows that another writer has locked are left, so that nobody waits.
            run(
                self.writers[who],
                f"UPDATE {self.table} SET version = version + 1, ts = now() WHERE id IN (SELECT id "
                f"FROM {self.table} ORDER BY id FOR UPDATE SKIP LOCKED LIMIT 1)",
            )
        else:
            getattr(self.writers[who], what)()

    def end(self) -> None:
        """Commit everything, let it settle, and extract for the last time."""
        for writer in self.writers:
            writer.commit()
            writer.close()
        self.do("extract", 0)

    def compare(self) -> tuple[set[tuple[int, int]], list[tuple[int, int]]]:
        """Give the rows of the table that were never read, and those that were read twice."""
        with self.engine.connect() as conn:
            there = {tuple(row) for row in run(conn, f"SELECT id, version FROM {self.table}").all()}
        files = sorted((self.output / self.table).glob("*.parquet"))
        read = pa.concat_tables([pq.read_table(file) for file in files]).to_pylist()
        found = Counter((row["id"], row["version"]) for row in read)
        return there - set(found), [row for row, times in found.items() if times > 1]


# The steps follow each other, so nobody is in the middle of beginning a transaction.
@settings(max_examples=15)
@given(steps=st.lists(STEPS, min_size=4, max_size=16))
def test_no_row_is_lost_or_doubled_however_commits_are_ordered(fresh_postgres, tmp_path, steps):
    margin, queries.MARGIN = queries.MARGIN, "0 seconds"
    try:
        harness = Harness(fresh_postgres, tmp_path, "settled")
        for step in steps:
            harness.do(*step)
        harness.end()
        assert harness.compare() == (set(), [])
    finally:
        queries.MARGIN = margin


SLOW = [
    ("insert", 0),
    ("insert", 1),
    ("commit", 1),
    ("extract", 0),
    ("commit", 0),
    ("insert", 2),
    ("commit", 2),
    ("extract", 0),
]


def test_the_naive_rule_loses_what_commits_late(fresh_postgres, tmp_path):
    harness = Harness(fresh_postgres, tmp_path, "exclusive")
    for step in SLOW:
        harness.do(*step)
    harness.end()
    lost, doubled = harness.compare()
    assert (lost, doubled) == ({(1, 0)}, [])


def test_the_settled_rule_does_not(fresh_postgres, tmp_path, monkeypatch):
    monkeypatch.setattr(queries, "MARGIN", "0 seconds")
    harness = Harness(fresh_postgres, tmp_path, "settled")
    for step in SLOW:
        harness.do(*step)
    harness.end()
    assert harness.compare() == (set(), [])


def test_writers_at_full_speed_lose_nothing(fresh_postgres, tmp_path):
    harness = Harness(fresh_postgres, tmp_path, "settled")
    ends = time.monotonic() + 6
    failed: list[BaseException] = []

    def write(who: int) -> None:
        chance = random.Random(who)
        try:
            while time.monotonic() < ends:
                harness.do(chance.choice(["insert", "insert", "update"]), who)
                if chance.random() < 0.2:
                    time.sleep(chance.uniform(0, 1.5))
                harness.do(chance.choice(["commit", "commit", "rollback"]), who)
        except BaseException as error:  # noqa: BLE001 - the test reports it
            failed.append(error)

    threads = [threading.Thread(target=write, args=(who,)) for who in range(WRITERS)]
    for thread in threads:
        thread.start()
    runs = 0
    while any(thread.is_alive() for thread in threads):
        harness.do("extract", 0)
        runs += 1
    for thread in threads:
        thread.join()
    time.sleep(1.1)
    harness.end()
    assert not failed
    assert runs > 1
    assert harness.compare() == (set(), [])
