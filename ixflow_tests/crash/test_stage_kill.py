"""Killing a run at any moment, then running it again: the tables of an uninterrupted run."""

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

from ixflow.pipeline import Flow, Stage, Table, materialize, run_stage
from ixflow.store import SQLTableStore
from ixflow_tests.stages import objects, rows, transactions


def chained(version):
    """Declare a stage of three tables that follow from each other and show the version."""

    @materialize(version=str(version))
    def first():
        return Table(pl.DataFrame({"id": range(500), "v": [version] * 500}), primary_key="id")

    @materialize(version="1", input_type=sa.Table)
    def second(first):
        return Table(sa.select(first.c.id, first.c.v).where(first.c.id < 100))

    @materialize(version="1", input_type=pl.DataFrame)
    def third(second, version):
        return Table(second, f"third_{version % 2}")

    with Flow("f") as flow, Stage("staging"):
        third(second(first()), version)
    return flow["staging"]


_LOOP = textwrap.dedent("""
    from ixflow.pipeline import run_stage
    from ixflow.store import SQLTableStore
    from ixflow_tests.crash.test_stage_kill import chained
    store = SQLTableStore({url!r})
    version = store.published("staging").version
    print("up", flush=True)
    while True:
        version += 1
        run_stage(chained(version), store, transaction_id=f"run-{{version}}")
""")


def _shown(store):
    """Read the published tables and check that they are one version; give it."""
    third = next(name for name in objects(store, "staging") if name.startswith("third"))
    found = {t: rows(store, "staging", t) for t in ("first", "second", third)}
    versions = {row["v"] for table in found.values() for row in table}
    assert len(versions) == 1
    assert {name: len(table) for name, table in found.items()} == {
        "first": 500,
        "second": 100,
        third: 100,
    }
    return versions.pop()


@pytest.mark.slow
def test_a_killed_run_leaves_whole_tables_and_its_rerun_goes_on(warehouse_engine):
    url = warehouse_engine.url.render_as_string(hide_password=False)
    store = SQLTableStore(url)
    run_stage(chained(1), store)
    chance = random.Random(7)
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", _LOOP.format(url=url)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        time.sleep(chance.uniform(0.05, 0.8))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        published = store.published("staging").version
        assert _shown(store) == published
        result = run_stage(chained(published + 1), store, transaction_id=f"run-{published + 1}")
        assert result.version == published + 1
        assert _shown(store) == published + 1
    left = [schema for schema in transactions(store, "staging") if objects(store, schema)]
    assert len(left) <= 2
    store.dispose()


def _steps(store, monkeypatch, limit):
    """Let the database fail at the statement of this number; give the counter."""
    from ixflow.store import metadata, transaction

    count = {"n": 0}

    def counted(method):
        def wrapper(*args, **kwargs):
            count["n"] += 1
            if count["n"] == limit:
                raise KeyboardInterrupt
            return method(*args, **kwargs)

        return wrapper

    for owner, names in (
        (
            metadata.Metadata,
            ("add", "forget", "settle", "set_version", "put_transaction", "install"),
        ),
        (type(store.dialect), ("create_schema", "publish", "drop_schema")),
        (transaction.StageTransaction, ("_validate",)),
    ):
        for name in names:
            monkeypatch.setattr(owner, name, counted(getattr(owner, name)))
    return count


def test_stopping_before_any_step_leaves_the_old_tables_or_the_new_ones(
    warehouse_engine, monkeypatch
):
    store = SQLTableStore(warehouse_engine.url)
    with store.held_open():
        _stop_at_every_step(store, monkeypatch)
    store.dispose()


def _stop_at_every_step(store, monkeypatch):
    run_stage(chained(1), store)
    version, step, ended = 1, 0, False
    while not ended:
        step += 1
        with monkeypatch.context() as patch:
            _steps(store, patch, step)
            try:
                run_stage(chained(version + 1), store, transaction_id=f"t{version}", max_workers=1)
                ended = True
            except KeyboardInterrupt:
                pass
        shown = _shown(store)
        assert shown == store.published("staging").version
        assert shown in (version, version + 1)
        if shown == version:
            run_stage(chained(version + 1), store, transaction_id=f"t{version}")
        version += 1
        assert _shown(store) == version
    assert step > 10
