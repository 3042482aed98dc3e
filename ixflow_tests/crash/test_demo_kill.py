"""The demo is killed at random moments; finishing it then gives what an undisturbed one gives."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ixflow.demo.postgres_server import PostgresServer
from ixflow.dialects import connected, dialect_of
from ixflow.tables.read import read_table
from ixflow.values import TableName
from ixflow_tests.servers import make_engine

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

ROOT = Path(__file__).parents[2]
ORDERS = 500
SCHEMAS = ("raw", "staging", "mart")

Tables = dict[str, list[tuple[Any, ...]]]


def command(home: Path, *options: str) -> list[str]:
    """Give the command line of a demo that ends by itself."""
    small = ["--no-serve", "--orders", str(ORDERS), "--home", str(home)]
    return [sys.executable, "-m", "ixflow.demo", *small, *options]


def finish(home: Path, *options: str) -> float:
    """Run the demo to its end; give the seconds it took."""
    started = time.monotonic()
    done = subprocess.run(
        command(home, *options), cwd=ROOT, capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return time.monotonic() - started


def kill_after(seconds: float, home: Path, *options: str) -> bool:
    """Start the demo and kill its process group; say whether it was still at work."""
    process = subprocess.Popen(
        command(home, *options),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    alive = process.poll() is None
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return alive


def tables_of(url: str) -> Tables:
    """Read all published tables, rows sorted; by schema and name."""
    engine = make_engine(url)
    dialect = dialect_of(engine)
    with connected(engine) as conn:
        names = [TableName(t, s) for s in SCHEMAS for t in dialect.tables_in(conn, s)]
    found = {}
    for name in names:
        rows = read_table(engine, name).to_pylist()
        found[str(name)] = sorted((tuple(row.items()) for row in rows), key=repr)
    return found


def duckdb_tables(home: Path) -> Tables:
    """Read the published tables of a demo on DuckDB."""
    return tables_of(f"duckdb:///{home}/warehouse.duckdb")


def postgres_tables(home: Path) -> Tables:
    """Read the published tables of a demo on PostgreSQL, whose server has stopped with it."""
    with PostgresServer(data_dir=home / "postgres") as server:
        return tables_of(re.sub(r"/postgres$", "/warehouse", server.url))


def completed(home: Path) -> int:
    """Say how many runs of a home came to their end; each adds orders to the shop."""
    return int(json.loads((home / "progress.json").read_text())["completed"])


def moments(count: int) -> list[float]:
    """Draw parts of a run's time, one of each stretch, in random order; some come too late."""
    chance = random.Random(20261121)
    drawn = [(number + chance.random()) / count * 1.05 for number in range(count)]
    chance.shuffle(drawn)
    return drawn


def check(tmp_path: Path, look: Callable[[Path], Tables], rounds: list[int], *options: str) -> None:
    """Kill as often as each round says, then finish and compare with a home left in peace."""
    peace, killed = tmp_path / "peace", tmp_path / "killed"
    left, hits = moments(sum(rounds)), 0
    for kills in rounds:
        seconds = finish(peace, *options)
        for _ in range(kills):
            hits += kill_after(left.pop() * seconds, killed, *options)
        finish(killed, *options)
        # A kill that came after the end of a run left one more run completed.
        while completed(peace) < completed(killed):
            finish(peace, *options)
        expected, found = look(peace), look(killed)
        assert len(expected) == 7
        assert sorted(found) == sorted(expected)
        for table, rows in expected.items():
            assert found[table] == rows, table
    assert hits >= sum(rounds) / 2


def test_on_duckdb_twenty_kills_change_nothing(reachable_tmp_path):
    check(reachable_tmp_path, duckdb_tables, [5, 5, 5, 5])


def test_on_postgres_kills_change_nothing(reachable_tmp_path):
    check(reachable_tmp_path, postgres_tables, [3, 3], "--postgres")
