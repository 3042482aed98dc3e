"""Replaying a run: exactly its plan, or a refusal that says why."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import sqlalchemy as sa

from ixflow.errors import (
    ExecutionError,
    IxtractError,
    PlanCorruptionError,
    UnsupportedPlanVersion,
    ValidationError,
)
from ixflow.extraction.api import execute, execute_plan, plan, published
from ixflow.extraction.context import RuntimeContext
from ixflow.extraction.history import history
from ixflow.extraction.migrations import runs
from ixflow.extraction.replay import replay
from ixflow.extraction.state import StatePlace
from ixflow_tests.sources import intent_for, make, rows_of


@pytest.fixture
def intent(any_engine, tmp_path):
    """Give an intent to extract three orders."""
    make(
        any_engine,
        "CREATE TABLE orders (id integer PRIMARY KEY, name varchar(20))",
        "INSERT INTO orders VALUES (1, 'a'), (2, 'b'), (3, NULL)",
    )
    return intent_for(any_engine, "orders", tmp_path / "out")


def stored(intent, change) -> None:
    """Change the stored plan of all runs."""
    with StatePlace.of(intent.output_dir).open() as state, state._engine.begin() as conn:
        text = conn.execute(sa.select(runs.c.plan_json)).scalars().one()
        conn.execute(sa.update(runs).values(plan_json=change(text)))


def changed(**values):
    """Change top-level values of a stored plan."""
    return lambda text: json.dumps({**json.loads(text), **values})


def test_the_stored_plan_is_executed_as_it_was(fresh_postgres, tmp_path):
    make(fresh_postgres, "CREATE TABLE t AS SELECT n FROM generate_series(1, 30000) n")
    intent = intent_for(fresh_postgres, "t", tmp_path)
    made = plan(intent, RuntimeContext(min_workers=2))
    first = execute(made)
    again = replay(first.run_id, intent)
    assert again.run_id != first.run_id
    assert rows_of(again).sort_by("n").equals(rows_of(first).sort_by("n"))
    manifest = published(intent)
    assert manifest is not None
    assert (manifest.run_id, manifest.plan_fingerprint) == (again.run_id, made.plan.fingerprint)
    newest, oldest = history(intent)
    assert (newest.replay_of, oldest.replay_of) == (first.run_id, None)
    assert newest.workers == 2
    assert not newest.comparable


def test_every_run_can_be_replayed_by_the_beginning_of_its_id(intent):
    first = execute_plan(plan(intent).plan, intent)
    again = replay(first.run_id[:-2], intent)
    assert again.rows_extracted == 3
    with pytest.raises(ValidationError, match="2 runs begin with ix-"):
        replay("ix-", intent)
    assert replay(again.run_id, intent).rows_extracted == 3
    for marks in ("%", "_x-"):
        with pytest.raises(ValidationError, match="no run"):
            replay(marks, intent)


def test_an_exact_id_wins_over_longer_ones(intent):
    execute(plan(intent))
    with StatePlace.of(intent.output_dir).open() as state, state._engine.begin() as conn:
        conn.execute(sa.update(runs).values(run_id="run_1"))
    execute(plan(intent))
    with StatePlace.of(intent.output_dir).open() as state, state._engine.begin() as conn:
        conn.execute(sa.update(runs).where(runs.c.run_id != "run_1").values(run_id="run_12"))
    assert replay(run_id="run_1", intent=intent).rows_extracted == 3
    assert history(intent)[0].replay_of == "run_1"


def test_the_files_go_where_the_intent_says(intent, any_engine, tmp_path):
    first = execute(plan(intent))
    state_url = f"sqlite:///{intent.output_dir}/.ixflow/.state.sqlite"
    other = intent_for(any_engine, "orders", tmp_path / "other")
    with pytest.raises(ValidationError, match="no run"):
        replay(first.run_id, other)
    again = replay(first.run_id, other, state_url=state_url)
    assert Path(again.output_files[0]).is_relative_to(tmp_path / "other")
    assert all(Path(path).exists() for path in first.output_files)
    assert len(history(intent)) == 2


@pytest.mark.parametrize(
    "change",
    [
        changed(worker_count=7),
        changed(compression="none"),
        changed(columns=[]),
        changed(surplus=1),
        changed(tasks=[]),
        lambda text: text[:-9],
        lambda _: "[]",
        lambda text: text.replace('"varchar(20)"', '"text"').replace('"VARCHAR', '"text'),
    ],
)
def test_a_tampered_plan_is_refused_even_by_force(fresh_sqlite, tmp_path, change):
    make(fresh_sqlite, "CREATE TABLE orders (id integer PRIMARY KEY, name VARCHAR(20))")
    intent = intent_for(fresh_sqlite, "orders", tmp_path)
    first = execute(plan(intent))
    stored(intent, change)
    for force in (False, True):
        with pytest.raises(PlanCorruptionError) as caught:
            replay(first.run_id, intent, force=force)
        assert isinstance(caught.value, IxtractError)
        assert caught.value.run_id == first.run_id
    assert len(history(intent)) == 1


def test_a_plan_of_another_version_is_refused_before_it_is_looked_at(intent):
    first = execute(plan(intent))
    stored(intent, lambda _: json.dumps({"plan_version": "9.0", "unheard": ["of"]}))
    with pytest.raises(UnsupportedPlanVersion, match=r"'9\.0'"):
        replay(first.run_id, intent)
    with pytest.raises(UnsupportedPlanVersion, match="cannot be run"):
        replay(first.run_id, intent, force=True)


def test_force_runs_a_plan_of_another_version_that_is_unharmed(intent):
    import dataclasses

    first = execute(plan(intent))
    newer = dataclasses.replace(plan(intent).plan, plan_version="2.1")
    stored(intent, lambda _: json.dumps(newer.to_dict()))
    with StatePlace.of(intent.output_dir).open() as state, state._engine.begin() as conn:
        conn.execute(sa.update(runs).values(plan_fingerprint=newer.fingerprint))
    with pytest.raises(UnsupportedPlanVersion, match="or force it"):
        replay(first.run_id, intent)
    assert replay(first.run_id, intent, force=True).rows_extracted == 3
    stored_twice = changed(plan_version="2.1", worker_count=5)
    with StatePlace.of(intent.output_dir).open() as state, state._engine.begin() as conn:
        conn.execute(sa.delete(runs).where(runs.c.run_id != first.run_id))
    stored(intent, stored_twice)
    with pytest.raises(PlanCorruptionError):
        replay(first.run_id, intent, force=True)


def test_a_table_that_has_changed_since_stops_the_replay(intent, any_engine):
    first = execute(plan(intent))
    make(any_engine, "ALTER TABLE orders ADD COLUMN extra integer")
    with pytest.raises(ExecutionError, match="extra is new"):
        replay(first.run_id, intent)
    assert [run.status for run in history(intent)] == ["failed", "success"]


def test_another_table_cannot_be_replayed_into(intent, any_engine):
    make(any_engine, "CREATE TABLE other (id integer)")
    first = execute(plan(intent))
    with pytest.raises(ValidationError, match="the plan reads orders"):
        replay(first.run_id, intent_for(any_engine, "other", intent.output_dir))


@pytest.mark.parametrize("wrong", [None, 7, ""])
def test_what_is_no_id_is_refused(intent, wrong):
    with pytest.raises(ValidationError, match="run_id"):
        replay(wrong, intent)
    with pytest.raises(ValidationError, match="intent"):
        replay("x", wrong)
