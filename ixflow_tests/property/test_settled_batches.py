"""However transactions interleave with incremental ingests, no version of a row is lost or doubled.

The warehouse's table has no key, so that whatever comes twice is seen twice.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import hypothesis.strategies as st
import pytest
import sqlalchemy as sa
from hypothesis import given, settings

from ixflow import Exclusive, incremental_batches, ingest
from ixflow.dialects import run
from ixflow_tests.servers import make_engine
from ixflow_tests.sources import make

if TYPE_CHECKING:
    from ixflow.ingestion.semantics import Semantics

_numbers = itertools.count(1)
WRITERS = 3
WRITES = ["insert", "update", "nested", "undone", "commit", "rollback"]
STEPS = st.one_of(
    st.tuples(st.sampled_from(WRITES), st.integers(0, WRITERS - 1)),
    st.tuples(st.sampled_from(["ingest", "ingest and die"]), st.just(0)),
)


class Dies(Exception):
    """Stands for a process that is gone between two batches."""


class Harness:
    """A table, writers with open transactions, and incremental ingests of it."""

    def __init__(
        self,
        engine: sa.Engine,
        into: sa.Engine,
        cursor: str | None,
        semantics: Semantics | None = None,
        batch_rows: int = 2,
    ) -> None:
        self.engine, self.into = engine, into
        self.table = f"t{next(_numbers)}"
        make(
            engine,
            f"CREATE TABLE {self.table} (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, "
            f"version int NOT NULL DEFAULT 0, ts timestamptz DEFAULT now())",
        )
        integers = [sa.Column(name, sa.INTEGER) for name in ("id", "version")]
        self.target = sa.Table(self.table, sa.MetaData(), *integers, schema="app")
        rows = None if cursor is None else batch_rows
        self.new = incremental_batches(
            engine,
            self.target,
            cursor=cursor,
            semantics=semantics,
            source_table=self.table,
            batch_rows=rows,
        )
        self.writers = [engine.connect() for _ in range(WRITERS)]

    def do(self, what: str, who: int) -> None:
        """Let a writer, or the ingest, take one step."""
        writer = self.writers[who]
        if what == "ingest":
            self.ingest(self.new)
        elif what == "ingest and die":
            with pytest.raises(Dies):
                self.ingest(self.one_batch)
        elif what == "insert":
            run(writer, f"INSERT INTO {self.table} DEFAULT VALUES")
        elif what in ("nested", "undone"):
            nested = writer.begin_nested()
            run(writer, f"INSERT INTO {self.table} (ts) VALUES (NULL)")
            run(writer, f"INSERT INTO {self.table} DEFAULT VALUES")
            (nested.commit if what == "nested" else nested.rollback)()
        elif what == "update":
            # Rows that another writer has locked are left, so that nobody waits.
            run(
                writer,
                f"UPDATE {self.table} SET version = version + 1, ts = now() WHERE id IN (SELECT id "
                f"FROM {self.table} ORDER BY id FOR UPDATE SKIP LOCKED LIMIT 1)",
            )
        else:
            getattr(writer, what)()

    def ingest(self, batches: Any) -> None:
        """Ingest what is new."""
        with self.into.connect() as conn:
            ingest(conn, self.target.metadata, batches)

    def one_batch(self, high_watermark: Any) -> Any:
        """Give one batch, then die."""
        yield from itertools.islice(self.new(high_watermark), 1)
        raise Dies

    def end(self) -> None:
        """Commit everything and ingest for the last time."""
        for writer in self.writers:
            writer.commit()
            writer.close()
        self.do("ingest", 0)

    def compare(self) -> tuple[set[tuple[int, int]], list[tuple[int, int]]]:
        """Give the rows of the table that never arrived, and those that arrived twice."""
        with self.engine.connect() as conn:
            there = {tuple(row) for row in run(conn, f"SELECT id, version FROM {self.table}").all()}
        with self.into.connect() as conn:
            arrived = run(conn, f"SELECT id, version FROM app.{self.table}").all()
        found = Counter(tuple(row) for row in arrived)
        return there - set(found), [row for row, times in found.items() if times > 1]


# An update in the hole between two ingests hides the version before, which nobody has to see.
@pytest.mark.parametrize("cursor", ["ts", "id", None])
@settings(max_examples=4)
@given(steps=st.lists(STEPS, min_size=6, max_size=16))
def test_no_version_is_lost_or_doubled_however_commits_are_ordered(fresh_postgres, cursor, steps):
    harness = Harness(fresh_postgres, fresh_postgres, cursor)
    for step in steps:
        harness.do(*step)
    harness.end()
    assert harness.compare() == (set(), [])


def test_the_naive_rule_loses_what_commits_late(fresh_postgres):
    harness = Harness(fresh_postgres, fresh_postgres, "id", Exclusive())
    for step in [("insert", 0), ("insert", 1), ("commit", 1), ("ingest", 0), ("commit", 0)]:
        harness.do(*step)
    harness.end()
    assert harness.compare() == ({(1, 0)}, [])


@pytest.mark.parametrize("cursor", ["ts", None])
def test_slow_committers_at_full_speed_lose_nothing(fresh_postgres, tmp_path, cursor):
    into = make_engine(f"duckdb:///{tmp_path}/warehouse.duckdb")
    harness = Harness(fresh_postgres, into, cursor, batch_rows=500)
    enough = threading.Event()
    failed: list[BaseException] = []

    def write(who: int) -> None:
        chance = random.Random(who)
        try:
            while not enough.is_set():
                harness.do(chance.choice(["insert", "insert", "nested", "update"]), who)
                time.sleep(chance.choice([0.01, 0.01, 0.01, 0.5]))
                harness.do(chance.choice(["commit", "commit", "rollback"]), who)
        except BaseException as error:  # noqa: BLE001 - the test reports it
            failed.append(error)

    threads = [threading.Thread(target=write, args=(who,)) for who in range(WRITERS)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(4):
            harness.do("ingest", 0)
    finally:
        enough.set()
    for thread in threads:
        thread.join()
    harness.end()
    into.dispose()
    assert not failed
    assert harness.compare() == (set(), [])
