"""Stopping before every statement of a commit that keeps versions, and of a rollback."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import textwrap
import time

import polars as pl
import pytest
import sqlalchemy as sa

from ixflow.pipeline import ConfigContext, Flow, Stage, Table, materialize, run_stage
from ixflow.store import SQLTableStore
from ixflow_tests.stages import objects, rows, transactions


def kept(version):
    """Declare a stage of two tables that show the version, and one that never changes."""

    @materialize(version=str(version))
    def first():
        return Table(pl.DataFrame({"id": [1, 2], "v": [version] * 2}), primary_key="id")

    @materialize(version=str(version))
    def second():
        return Table(pl.DataFrame({"v": [version]}), f"second_{version % 2}")

    @materialize(version="1")
    def fixed():
        return Table(pl.DataFrame({"v": [0]}))

    with Flow("f") as flow, Stage("staging", keep_versions=2):
        first()
        second()
        fixed()
    return flow["staging"]


def shown(store):
    """Read the published tables and check that they are one version; give it."""
    (second,) = (name for name in objects(store, "staging") if name.startswith("second"))
    found = {row["v"] for name in ("first", second) for row in rows(store, "staging", name)}
    assert len(found) == 1
    assert rows(store, "staging", "fixed") == [{"v": 0}]
    return found.pop()


READS = ("SELECT", "SHOW", "SET", "WITH", "LOCK")


def stopped_at_every_statement(store, work):
    """Call the work again and again, each time stopped one statement later, until it ends.

    Between two statements that change nothing there is nothing to stop.
    """
    count = {"n": 0, "limit": 0}

    def stop(_conn, _cursor, statement, *_):
        if statement.lstrip().upper().startswith(READS):
            return
        count["n"] += 1
        if count["n"] == count["limit"]:
            raise KeyboardInterrupt

    sa.event.listen(store.engine, "before_cursor_execute", stop)
    try:
        while True:
            count["n"] = 0
            count["limit"] += 1
            try:
                work()
            except KeyboardInterrupt:
                count["n"] = -10_000
                yield
            else:
                count["n"] = -10_000
                break
    finally:
        sa.event.remove(store.engine, "before_cursor_execute", stop)
    assert count["limit"] > 10


@pytest.fixture
def store(warehouse_engine):
    made = SQLTableStore(warehouse_engine.url)
    with made.held_open():
        yield made
    made.dispose()


def test_a_commit_that_is_stopped_leaves_the_old_version_or_the_new_one(store):
    config = ConfigContext.of_store(store)
    for version in (1, 2, 3):
        run_stage(kept(version), store)
    stage = kept(4)

    def commit():
        run_stage(stage, store, transaction_id="t", max_workers=1)

    found = set()
    for _ in stopped_at_every_statement(store, commit):
        versions = stage.versions(config=config)
        assert versions[0].version == shown(store)
        assert all(one.whole for one in versions)
        assert [one.version for one in versions[:3]] in ([3, 2, 1], [4, 3, 2])
        found.add(shown(store))
    assert shown(store) == 4
    assert found == {3, 4}
    assert [one.version for one in stage.versions(config=config)] in ([4, 3, 2], [4, 3, 2, 1])
    run_stage(kept(5), store)
    assert [one.version for one in stage.versions(config=config)] == [5, 4, 3]


def test_a_rollback_that_is_stopped_leaves_the_old_version_or_the_new_one(store):
    config = ConfigContext.of_store(store)
    for version in (1, 2):
        run_stage(kept(version), store)
    stage, found, version = kept(2), set(), 2
    for _ in stopped_at_every_statement(store, lambda: stage.rollback(config=config)):
        versions = stage.versions(config=config)
        assert all(one.whole for one in versions)
        done = versions[0].version > version
        assert shown(store) in (1, 2)
        found.add(done)
        if done:
            # It was stopped while it collected: undo it, which collects.
            stage.rollback(config=config)
        version = stage.versions(config=config)[0].version
    assert False in found
    before = shown(store)
    stage.rollback(config=config)
    assert shown(store) == 3 - before
    assert not [state for state in transactions(store, "staging").values() if state == "open"]


_LOOP = textwrap.dedent("""
    from ixflow.pipeline import ConfigContext, run_stage
    from ixflow.store import SQLTableStore
    from ixflow_tests.crash.test_versions_kill import kept
    store = SQLTableStore({url!r})
    config = ConfigContext.of_store(store)
    print("up", flush=True)
    while True:
        kept(2).rollback(config=config)
""")


@pytest.mark.slow
def test_a_killed_rollback_leaves_whole_versions(warehouse_engine):
    url = warehouse_engine.url.render_as_string(hide_password=False)
    store = SQLTableStore(url)
    config = ConfigContext.of_store(store)
    for version in (1, 2):
        run_stage(kept(version), store)
    chance = random.Random(5)
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", _LOOP.format(url=url)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        time.sleep(chance.uniform(0.05, 0.6))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        before = shown(store)
        assert before in (1, 2)
        assert all(one.whole for one in kept(2).versions(config=config))
        kept(2).rollback(config=config)
        assert shown(store) == 3 - before
    store.dispose()
