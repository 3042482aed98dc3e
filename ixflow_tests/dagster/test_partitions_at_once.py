"""Partitions of one table by several processes at once: nothing is lost, nobody waits forever."""

import subprocess
import sys
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from ixflow_tests.dagster.seen import rows

# Takes lines like "keyed p0 p1 p2", of a table and the partitions to replace one after the other;
# before it would commit the partition p9 it waits for its end.
PROCESS = """
import sys
import time
import sqlalchemy as sa
from ixflow.dialects import dialect_of
from ixflow.ingestion.by_slice import ingest_slice
from ixflow.tables.slices import PartitionBy, RowsOfKey, Slice

url, mark = sys.argv[1], int(sys.argv[2])
engine = dialect_of(sa.make_url(url)).engine(url)


def wait(conn, about):
    print("inside", flush=True)
    time.sleep(600)


print("ready", flush=True)
for line in sys.stdin:
    name, *parts = line.split()
    metadata = sa.MetaData()
    id_ = sa.Column("id", sa.BigInteger, primary_key=name.startswith("keyed"), autoincrement=False)
    columns = [sa.Column("part", sa.Text), sa.Column("mark", sa.BigInteger)]
    table = sa.Table(name, metadata, id_, *columns, schema="raw")
    for part in parts:
        start = 1000 * int(part.strip("p"))
        slice_ = Slice((part,), (RowsOfKey(PartitionBy("part"), part),))
        with engine.connect() as conn:
            pairs = [(table, (start + n, part, mark)) for n in range(100)]
            last = wait if part == "p9" else ()
            ingest_slice(
                conn, metadata, lambda _: [(None, None, pairs)], slice_, on_before_visible=last
            )
    print("done", flush=True)
engine.dispose()
"""

OWN = ("p0 p2 p0 p2 p4 p0", "p1 p3 p1 p3 p5 p1")
SAME = ("p0 p1 p2 p0 p1 p2", "p0 p1 p2 p0 p1 p2")


@pytest.fixture
def both(fresh_postgres) -> Iterator[list[subprocess.Popen[str]]]:
    url = fresh_postgres.url.render_as_string(hide_password=False)
    pipe = subprocess.PIPE
    found = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, url, mark],
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            text=True,
        )
        for mark in ("0", "1")
    ]
    yield found
    for one in found:
        one.kill()
        one.communicate()


def tell(process, line):
    process.stdin.write(f"{line}\n")
    process.stdin.flush()


def test_two_processes_replace_partitions_of_one_table_at_once_and_one_is_killed(
    fresh_postgres, both
):
    assert [one.stdout.readline() for one in both] == ["ready\n"] * 2
    for name in ("keyed", "without"):
        for kind, parts in {"own": OWN, "same": SAME}.items():
            # Neither has made the table before.
            for one, wanted in zip(both, parts, strict=True):
                tell(one, f"{name}_{kind} {wanted}")
            said = [one.stdout.readline() for one in both]
            assert said == ["done\n"] * 2, [one.communicate()[1] for one in both]
            found = rows(fresh_postgres, f"raw.{name}_{kind}")
            every = sorted({part for text in parts for part in text.split()})
            assert len(found) == 100 * len(every)
            for part in every:
                ids = {row[0] for row in found if row[1] == part}
                marks = {row[2] for row in found if row[1] == part}
                assert (len(ids), len(marks)) == (100, 1), part
    before = rows(fresh_postgres, "raw.keyed_own")
    tell(both[0], "keyed_own p9")
    assert both[0].stdout.readline() == "inside\n"
    # It holds the lock of the table; the other one's rows are loaded, and wait for it.
    tell(both[1], "keyed_own p4")
    both[0].kill()
    assert both[1].stdout.readline() == "done\n"
    after = [(id_, part, 1 if part == "p4" else mark) for id_, part, mark in before]
    assert rows(fresh_postgres, "raw.keyed_own") == after
    with fresh_postgres.connect() as conn:
        statement = sa.text("SELECT relname FROM pg_class WHERE relname LIKE '%ixflow_stage%'")
        assert not conn.execute(statement).all()
