"""Extractions beside writers that move money and replace rows: none may differ by a unit.

A counted run is `RUNS` extractions by two workers, so that the usual five make a hundred. Each is
verified: every account once, and as much money as there is. What costs more than without writers
is the source's work, not ours; a wrong sum stops the benchmark.
``python -m benchmarks.cases.storm CONTENDER URL`` is one contender.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.harness import Contender, contend

TITLE = "extractions beside writers, each verified"
ROWS = 100_000
RUNS = 20

_MOVE = """
    WITH pair AS (
        SELECT (random() * {half})::int + 1 AS a, (random() * {half})::int + {half} + 2 AS b)
    UPDATE accounts SET balance = balance + CASE id WHEN a THEN -1 ELSE 1 END
    FROM pair WHERE id IN (a, b)
"""
_REPLACE = """
    WITH gone AS (DELETE FROM accounts WHERE id = (random() * {half})::int + 1 RETURNING *)
    INSERT INTO accounts SELECT * FROM gone
"""


def prepare(url: str, rows: int) -> list[Contender]:
    """Make accounts that hold 100 each; give the contenders, the quiet one first."""
    import psycopg

    with psycopg.connect(url.replace("+psycopg", "")) as conn:
        conn.execute("CREATE TABLE accounts (id int PRIMARY KEY, balance int, filler text)")
        conn.execute(
            "INSERT INTO accounts SELECT n, 100, repeat('x', 600) FROM generate_series(1, %s) n",
            [rows],
        )
        conn.commit()
        conn.autocommit = True
        conn.execute("VACUUM ANALYZE accounts")
    command = (sys.executable, "-m", "benchmarks.cases.storm")
    return [Contender(name, (*command, name, url)) for name in CONTENDERS]


def extractions(url: str, output: Path, *, writers: int) -> Callable[[], int]:
    """Extract again and again while writers are at work; the rows of one extraction."""
    from ixflow import ExtractionIntent, RuntimeContext, execute, plan

    intent = ExtractionIntent("postgresql", {"connection_string": url}, "accounts", output)

    def work() -> int:
        rows = 0
        with _storm(url, writers):
            for _ in range(RUNS):
                done = execute(plan(intent, RuntimeContext(min_workers=2)))
                rows = _verified(done.output_files)
        return rows

    return work


def _verified(files: list[str]) -> int:
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    tables = [pq.read_table(file, columns=["id", "balance"]) for file in files]
    ids = [one for table in tables for one in table["id"].chunks]
    rows: int = sum(table.num_rows for table in tables)
    money = sum(pc.sum(table["balance"]).as_py() or 0 for table in tables)
    distinct = len({value for chunk in ids for value in chunk.to_pylist()})
    assert distinct == rows, f"{rows} rows, but {distinct} accounts"
    assert money == rows * 100, f"{money} in {rows} accounts that hold 100 each"
    return rows


@contextlib.contextmanager
def _storm(url: str, writers: int) -> Iterator[None]:
    stop = threading.Event()
    threads = [threading.Thread(target=_write, args=(url, stop)) for _ in range(writers)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def _write(url: str, stop: threading.Event) -> None:
    """Move money between accounts and put accounts elsewhere, until told to stop."""
    import psycopg

    with psycopg.connect(url.replace("+psycopg", "")) as conn:
        row: Any = conn.execute("SELECT max(id) / 2 - 2 FROM accounts").fetchone()
        move, replace = (sql.format(half=row[0]) for sql in (_MOVE, _REPLACE))
        while not stop.is_set():
            with contextlib.suppress(psycopg.errors.DeadlockDetected), conn.transaction():
                # Another writer may have taken one of the two away: then nothing moves.
                if conn.execute(move.encode()).rowcount != 2:
                    raise psycopg.Rollback
                conn.execute(replace.encode())


CONTENDERS: dict[str, Callable[[str, Path], Callable[[], int]]] = {
    "nobody writes": partial(extractions, writers=0),
    "two writers": partial(extractions, writers=2),
}


if __name__ == "__main__":
    _, chosen, server = sys.argv
    with tempfile.TemporaryDirectory(prefix="ixflow-bench-") as place:
        contend(CONTENDERS[chosen](server, Path(place)))
