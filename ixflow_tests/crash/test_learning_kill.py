"""A process that dies while it ends its run has taught nothing, or exactly once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa

from ixflow.extraction.api import execute, plan
from ixflow.extraction.backoff import Backoff
from ixflow.extraction.history import history
from ixflow.extraction.migrations import controller
from ixflow.extraction.notes import learned, notes_of
from ixflow.extraction.state import StatePlace
from ixflow_tests.sources import intent_for, make

ROOT = Path(__file__).parents[2]

DIES = """
import os, sys
from ixflow import ExtractionIntent, execute, plan
from ixflow.extraction import learning
from ixflow.extraction.state import State
step, kind, url, out, state = sys.argv[1:]
die = lambda *_, **__: os._exit(9)
if step == "after":
    ends = State.end_run
    State.end_run = lambda *given: (ends(*given), die())
else:
    setattr(learning, step, die)
intent = ExtractionIntent(kind, {"connection_string": url}, "t", out)
execute(plan(intent, state_url=state), state_url=state)
"""


@pytest.fixture(autouse=True)
def no_rest(monkeypatch):
    """Let no run rest, however busy the machine of the tests is: such a run teaches nothing."""
    monkeypatch.setattr(Backoff, "saw", lambda *_: None)


@pytest.fixture(params=["sqlite", "postgres"])
def state_url(request, tmp_path) -> str:
    """Give the URL of an empty state of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/state.sqlite"
    engine = request.getfixturevalue("fresh_postgres")
    return str(engine.url.render_as_string(hide_password=False))


@pytest.mark.parametrize(
    ("step", "count"), [("_count", 0), ("diagnose", 0), ("evaluate", 0), ("after", 1)]
)
def test_a_run_teaches_once_or_not_at_all(fresh_duckdb, tmp_path, state_url, step, count):
    make(fresh_duckdb, "CREATE TABLE t (a integer)", "INSERT INTO t VALUES (1)")
    intent = intent_for(fresh_duckdb, "t", tmp_path / "out")
    fresh_duckdb.dispose()
    url = intent.source_config["connection_string"]
    given = [step, intent.source_type, url, str(tmp_path / "out"), state_url]
    ended = subprocess.run([sys.executable, "-W", "ignore", "-c", DIES, *given], cwd=ROOT)  # noqa: PLW1510 - it must fail
    assert ended.returncode == 9
    # It had published, so it counts as a success; but nobody knows how long it took.
    (run,) = history(intent, state_url=state_url)
    assert (run.status, run.rows) == ("success", 1)
    place = StatePlace.of("", state_url)
    assert len(notes_of(intent.identity(), place)) == count
    assert len(learned(intent.identity(), place)) == count
    for _ in range(2):
        execute(plan(intent, state_url=state_url), state_url=state_url)
    with place.open() as state, state.reading() as conn:
        assert conn.execute(sa.select(controller.c.runs)).scalar_one() == count + 2
