"""A process that forks writers of slices: some are killed, others write at the same time.

It imports what they need and starts no thread, so that forking is safe; what it finds it prints as
JSON lines. Call it with the URL of a database and ``kill`` or ``together``, and for ``kill`` how
many statements lie between two that it is killed at.
"""

import importlib
import json
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import pyarrow as pa
import sqlalchemy as sa

from ixflow.store import SQLTableStore
from ixflow.store.writing import Write, write_table
from ixflow.tables.slices import PartitionBy, RowsOfKey, Slice
from ixflow.values import TableName

__all__ = ["write"]

ROUNDS = 2
IMPORTED = ("pandas", "duckdb_sqlalchemy", "psycopg", "sqlalchemy.dialects.postgresql.psycopg")
"""What each of the processes would import again."""


def write(url: str, key: str, n: int, before: Callable[[Any], None] | None = None) -> None:
    """Write two rows with the number into the slice; ``before`` is called before statements."""
    store = SQLTableStore(url)
    if before is not None:
        for event in ("before_cursor_execute", "commit"):
            sa.event.listen(store.engine, event, lambda *_: before(None))
    one = Slice((key,), (RowsOfKey(PartitionBy("part"), key),))
    rows = pa.table({"part": [key, key], "n": [n, n]})
    write_table(store, TableName("t", "st"), rows, Write("partition", slices=(one,)))
    store.dispose()


def killed_at(limit: int) -> Callable[[Any], None]:
    """Kill this process at a statement of this number."""
    count = 0

    def before(_: Any) -> None:
        nonlocal count
        count += 1
        if count == limit:
            os.kill(os.getpid(), signal.SIGKILL)

    return before


def forked(work: Callable[[], None]) -> int:
    """Do work in a process of its own; give the process."""
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        work()
        status = 0
    finally:
        os._exit(status)


def tell(url: str) -> None:
    """Write what the table has."""
    engine = SQLTableStore(url).engine
    with engine.connect() as conn:
        found = conn.exec_driver_sql("SELECT part, n FROM st.t").all()
        tables = conn.exec_driver_sql(
            "SELECT count(*) FROM information_schema.tables WHERE table_schema = 'st'"
        ).scalar()
    engine.dispose()
    say({"rows": sorted(map(list, found)), "tables": tables})


def say(what: Any) -> None:
    """Write a line."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def write_rounds(url: str, key: str) -> None:
    """Write a slice several times."""
    for n in range(ROUNDS):
        write(url, key, n)


def write_killed(url: str, limit: int) -> None:
    """Say what is there, then begin to write, and be killed at a statement."""
    tell(url)
    write(url, "a", limit, killed_at(limit))


def main(url: str, what: str, step: str = "1") -> None:
    """Do what the command line says."""
    for name in IMPORTED:
        importlib.import_module(name)
    if what == "together":
        writers = [forked(partial(write_rounds, url, key)) for key in "abc"]
        say([os.waitpid(process, 0)[1] for process in writers])
        os.waitpid(forked(partial(tell, url)), 0)
        return
    for key in "ab":
        os.waitpid(forked(partial(write, url, key, 0)), 0)
    for limit in range(1, 200, int(step)):
        status = os.waitpid(forked(partial(write_killed, url, limit)), 0)[1]
        if status == 0:
            os.waitpid(forked(partial(tell, url)), 0)
            say(limit)
            return
        assert os.WIFSIGNALED(status)


if __name__ == "__main__":
    main(*sys.argv[1:])
