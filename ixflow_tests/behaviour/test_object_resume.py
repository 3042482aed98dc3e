"""Resuming in a bucket: finished files are copied, checksums compared, and a lease tells who."""

from __future__ import annotations

import dataclasses
import hashlib
import json

import obstore
import pytest

from ixflow import execute, hold_snapshot, plan, published
from ixflow.extraction import objects
from ixflow.extraction.history import history
from ixflow.extraction.manifest import Manifest
from ixflow.extraction.processes import this_process
from ixflow_tests.behaviour.test_extraction_resume import (
    ROWS,
    TWO,
    abandon,
    executed,
    failed_after,
)
from ixflow_tests.behaviour.test_object_stores import rows, wanted
from ixflow_tests.sources import make


@pytest.fixture
def prefix(request):
    """Give a place of the test's own."""
    return f"é 100%/{hashlib.sha256(request.node.name.encode()).hexdigest()[:10]}"


@pytest.fixture
def made(fresh_postgres, object_server, prefix, monkeypatch, tmp_path):
    """Give a plan of several tasks for one worker, into a bucket."""
    monkeypatch.setenv("IXFLOW_STATE_URL", f"sqlite:///{tmp_path}/state.sqlite")
    make(
        fresh_postgres,
        "CREATE TABLE orders (id int PRIMARY KEY, x text)",
        f"INSERT INTO orders SELECT n, repeat('x', 220) FROM generate_series(1, {ROWS}) n",
        "ANALYZE orders",
    )
    intent = wanted(fresh_postgres, object_server, prefix)
    url = fresh_postgres.url.render_as_string(hide_password=False)
    intent = dataclasses.replace(intent, source_config={"connection_string": url})
    result = plan(intent, TWO)
    assert len(result.plan.tasks) >= 4
    return dataclasses.replace(result, plan=dataclasses.replace(result.plan, worker_count=1))


def runs_there(server, prefix) -> set[str]:
    return {key.split("/")[3] for key in server.keys(prefix)} - {"_manifest.json"}


def test_a_failed_run_in_a_held_moment_is_resumed(
    made, fresh_postgres, object_server, prefix, monkeypatch
):
    ids = [task.chunk_id for task in made.plan.tasks]
    with hold_snapshot(made) as moment:
        failed_after(monkeypatch, 2, made, moment=moment)
        (failed,) = history(made.intent)
        assert runs_there(object_server, prefix) == {failed.run_id}
        make(fresh_postgres, "DELETE FROM orders")
        result, read = executed(made, moment=moment)
    assert read == ids[2:]
    assert (result.resumed_from, result.tasks_resumed) == (failed.run_id, 2)
    assert sorted(rows(made.intent, object_server)["id"].to_pylist()) == list(range(1, ROWS + 1))
    home = f"{prefix}/orders"
    names = [f"{home}/{result.run_id}/{file.name}" for file in result.manifest.files]
    assert object_server.keys(prefix) == sorted([f"{home}/_manifest.json", *names])


def test_a_damaged_object_is_read_again(made, object_server, prefix, monkeypatch):
    with hold_snapshot(made) as moment:
        failed_after(monkeypatch, 3, made, moment=moment)
        files = [key for key in object_server.keys(prefix) if key.endswith(".parquet")]
        content = object_server.read(files[1])
        obstore.put(object_server.store(), files[1], content[:-9] + b"x" + content[-8:])
        result, read = executed(made, moment=moment)
    assert result.tasks_resumed == 2
    assert read == [made.plan.tasks[1].chunk_id, *[t.chunk_id for t in made.plan.tasks[3:]]]
    assert rows(made.intent, object_server).num_rows == ROWS


def test_a_failed_run_whose_moment_nobody_holds_leaves_nothing(
    made, object_server, prefix, monkeypatch
):
    failed_after(monkeypatch, 2, made)
    assert object_server.keys(prefix) == []


def leave_dead(made, monkeypatch, tasks: int, moment) -> None:
    """Leave what a killed process leaves: its lease too."""
    with monkeypatch.context() as patch:
        patch.setattr(objects.ObjectRun, "close", objects.ObjectRun._end)
        failed_after(monkeypatch, tasks, made, moment=moment)


def lease_of(server, prefix):
    (key,) = [key for key in server.keys(prefix) if key.endswith("/_lease")]
    return key


def test_a_lease_of_a_process_that_is_gone_tells_at_once(made, object_server, prefix, monkeypatch):
    with hold_snapshot(made) as moment:
        leave_dead(made, monkeypatch, 2, moment)
        lease = lease_of(object_server, prefix)
        assert json.loads(object_server.read(lease)) == dataclasses.asdict(this_process())
        gone = dataclasses.replace(this_process(), started=1)
        obstore.put(object_server.store(), lease, json.dumps(dataclasses.asdict(gone)).encode())
        result, _ = executed(made, moment=moment)
    assert result.tasks_resumed == 2
    assert runs_there(object_server, prefix) == {result.run_id}


@pytest.mark.parametrize("content", [None, b"this run is being written\n"])
def test_a_run_that_may_live_is_left_alone(made, object_server, prefix, monkeypatch, content):
    with hold_snapshot(made) as moment:
        leave_dead(made, monkeypatch, 2, moment)
        if content is not None:  # as another release has written it
            obstore.put(object_server.store(), lease_of(object_server, prefix), content)
        result, read = executed(made, moment=moment)
    assert len(read) == len(made.plan.tasks)
    assert result.resumed_from is None
    assert len(runs_there(object_server, prefix)) == 2


def test_a_run_that_was_published_since_ends_the_older_ones(
    made, object_server, prefix, monkeypatch
):
    with hold_snapshot(made) as moment:
        leave_dead(made, monkeypatch, 2, moment)
        execute(made, moment=moment)
        obstore.delete(object_server.store(), lease_of(object_server, prefix))
        result, read = executed(made, moment=moment)
    assert (len(read), result.tasks_resumed) in (
        (len(made.plan.tasks), 0),
        # A store that tells whole seconds cannot tell which came first.
        (len(made.plan.tasks) - 2, 2),
    )
    manifest = published(made.intent)
    assert isinstance(manifest, Manifest)
    assert manifest.total_rows == ROWS


def test_an_older_snapshot_is_read_from_the_start(
    made, fresh_postgres, object_server, prefix, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(objects.ObjectRun, "close", objects.ObjectRun._end)
        abandon(made, monkeypatch, 2)
    obstore.delete(object_server.store(), lease_of(object_server, prefix))
    make(fresh_postgres, "UPDATE orders SET x = 'new'")
    result, read = executed(made)
    assert len(read) == len(made.plan.tasks)
    assert set(rows(made.intent, object_server)["x"].to_pylist()) == {"new"}
    assert runs_there(object_server, prefix) == {result.run_id}
