"""An ingest that dies anywhere and is run again leaves what an uninterrupted one leaves."""

from __future__ import annotations

import itertools
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from ixflow.dialects import run
from ixflow.ingestion.batch import BatchWriter
from ixflow_tests.behaviour.ingesting import relations, rows
from ixflow_tests.crash import ingest_script
from ixflow_tests.crash.ingest_script import tables
from ixflow_tests.servers import make_engine

KILLS = 5


class Vanished(BaseException):
    """Stands for a process that is gone: no handler of ours may catch it."""


def state(engine: sa.Engine) -> dict[str, Any]:
    """Read everything that should not depend on how often the ingest died."""
    both = tables(wide=True)
    with engine.connect() as conn:
        whole = run(conn, COMMENT[engine.dialect.name]).scalar()
    return {
        "rows": [rows(engine, table) for table in both],
        "watermark": json.loads(str(whole))["pg-bulk-ingest"],
        "relations": {name for name in relations(engine) if name.startswith("app.")},
    }


COMMENT = {
    "postgresql": "SELECT obj_description('app.keyed'::regclass)",
    "duckdb": "SELECT comment FROM duckdb_tables() WHERE table_name = 'keyed'",
}


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Give what the ingest makes when nothing happens to it."""
    engine = make_engine(f"duckdb:///{tmp_path_factory.mktemp('whole')}/whole.duckdb")
    ingest_script.run(engine)
    found = state(engine)
    engine.dispose()
    return found


def same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    for part in ("rows", "watermark"):
        assert found[part] == expected[part]
    assert not [name for name in found["relations"] if "tmp" in name]


def start(engine: sa.Engine, statements: int = 0) -> subprocess.Popen[str]:
    url = engine.url.render_as_string(hide_password=False)
    command = [sys.executable, "-m", ingest_script.__name__, url, str(statements)]
    root = Path(__file__).parents[2]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root)


@pytest.mark.parametrize("database", ["fresh_postgres", "fresh_duckdb"])
def test_killed_five_times_at_random_it_ends_as_if_never_killed(request, database, uninterrupted):
    engine = request.getfixturevalue(database)
    seed = random.randrange(10**6)
    chance = random.Random(seed)
    killed = 0
    while True:
        process = start(engine)
        assert process.stdout is not None
        if killed < KILLS:
            # From the first batch on, so that a kill hits the work and not the imports.
            process.stdout.readline()
            time.sleep(chance.random() * 0.05)
            process.kill()
        process.stdout.read()
        code = process.wait(60)
        process.stdout.close()
        assert code in (0, -signal.SIGKILL)
        if code == 0:
            break
        killed += 1
    print(f"seed {seed}: killed {killed} times")  # noqa: T201 - shown when the test fails
    assert killed > 0
    same(state(engine), uninterrupted)


@pytest.mark.parametrize("database", ["fresh_postgres", "fresh_duckdb"])
def test_a_process_that_vanishes_before_its_commit_leaves_nothing(request, database):
    """The nth statement never runs, and the process ends without closing anything."""
    engine = request.getfixturevalue(database)
    process = start(engine, statements=9)
    assert process.stdout is not None
    process.stdout.read()
    assert process.wait(60) == 42
    process.stdout.close()
    deadline = time.monotonic() + 10
    while relations(engine) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert relations(engine) == set()


@pytest.mark.parametrize("database", ["fresh_postgres", "fresh_duckdb"])
def test_dying_between_every_two_statements_and_running_again_gives_the_same(
    request, database, monkeypatch
):
    """Every statement, load and commit of a first batch, an upsert and a migration, one by one."""
    engine = request.getfixturevalue(database)
    monkeypatch.setattr(ingest_script, "ROWS", 4)
    monkeypatch.setattr(ingest_script, "WITH_LOG", False)
    last, middle = 2, 1
    ingest_script.run(engine, last, middle)
    expected = state(engine)
    mortal = Mortal(engine, monkeypatch)
    with engine.connect():  # holds a DuckDB file open, which is slow to open again
        point = _every_point(engine, mortal, expected, last, middle)
    assert point > 40


def _every_point(
    engine: sa.Engine, mortal: Mortal, expected: dict[str, Any], last: int, middle: int
) -> int:
    for point in itertools.count():
        with engine.begin() as conn:
            run(conn, "DROP SCHEMA app CASCADE")
        died = mortal.dies_before(point, last, middle)
        ingest_script.run(engine, last, middle)
        found = state(engine)
        same(found, expected)
        assert found["relations"] == expected["relations"]
        if not died:
            return point
    raise AssertionError


class Mortal:
    """An engine of its own, whose ingest stops at the statement it is told to stop at."""

    def __init__(self, engine: sa.Engine, patch: pytest.MonkeyPatch) -> None:
        self.engine = make_engine(engine.url.render_as_string(hide_password=False))
        self.left = 10**9
        sa.event.listen(self.engine, "before_cursor_execute", self.one_more)
        sa.event.listen(self.engine, "commit", self.one_more)
        loading = BatchWriter._load

        def load(*given: Any) -> None:
            self.one_more()
            loading(*given)

        patch.setattr(BatchWriter, "_load", load)

    def one_more(self, *_: Any) -> None:
        self.left -= 1
        if self.left == -1:
            raise Vanished

    def dies_before(self, point: int, last: int, middle: int) -> bool:
        """Ingest until the statement of this number; say whether it got there."""
        self.left = point
        try:
            ingest_script.run(self.engine, last, middle)
        except Vanished:
            return True
        return False
