"""Runs with a lock manager: they queue, a lost lock publishes nothing, and none stays behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from kazoo.client import KazooClient

from ixflow import (
    ConfigContext,
    LockState,
    PipedagConfig,
    StageLockContext,
    create_basic_pipedag_config,
)
from ixflow.errors import LockError, LockNotAvailable, StageError
from ixflow_tests.behaviour.locking import (
    configured,
    flow_of,
    is_free,
    lose_lock,
    section_of,
    store_of,
    with_timeout,
)
from ixflow_tests.stages import rows

PAIRS = [
    "postgres-database",
    "postgres-file",
    "postgres-zookeeper",
    "duckdb-file",
    "duckdb-zookeeper",
]


#: One of each, where the kind of lock makes no difference.
FEW = pytest.mark.parametrize("locked_config", ["postgres-database", "duckdb-file"], indirect=True)


@pytest.fixture(params=PAIRS)
def locked_config(request, tmp_path) -> PipedagConfig:
    """Give a fresh warehouse with each lock manager that goes with it."""
    database, kind = request.param.split("-")
    engine = request.getfixturevalue(f"fresh_{database}")
    hosts = request.getfixturevalue("zookeeper_server").hosts if kind == "zookeeper" else ""
    return configured(engine.url, section_of(kind, tmp_path, hosts))


def test_a_stage_is_locked_from_before_its_tasks_until_after_its_commit(locked_config):
    seen = []
    guard = threading.Lock()

    def look() -> None:
        with guard:
            seen.append([is_free(locked_config, name) for name in ("a", "b", "c")])

    flow = flow_of(look, "b", "a", "c")
    assert flow.run(flow["a"], flow["b"], config=locked_config).successful
    assert len(seen) == 2
    assert seen[0] == [False, False, True]
    # By now the other stage may be published.
    assert seen[1] in ([False, False, True], [True, False, True], [False, True, True])
    assert is_free(locked_config, "a", "b", "c")
    seen.clear()
    # Tasks alone publish nothing, so they keep nobody away.
    assert flow.run(flow["a"]["numbers"], config=locked_config).successful
    assert seen == [[True, True, True]]


@FEW
def test_a_failed_run_leaves_no_lock_behind(locked_config):
    def fail() -> None:
        raise RuntimeError

    with pytest.raises(Exception, match="numbers"):
        flow_of(fail).run(config=locked_config)
    result = flow_of(fail).run(config=locked_config, fail_fast=False)
    assert not result.successful
    assert is_free(locked_config, "staging")


def test_a_run_that_waits_too_long_has_done_nothing_and_names_the_holder(locked_config):
    ran = []
    with locked_config as config, config.lock_manager("staging"):
        short = with_timeout(locked_config, 0)
        with pytest.raises(LockNotAvailable, match=f"pid {os.getpid()} "):
            flow_of(lambda: ran.append(1)).run(config=short)
        result = flow_of(lambda: ran.append(1)).run(config=short, fail_fast=False)
    assert isinstance(result.exception, LockNotAvailable)
    assert not result.successful
    assert ran == []
    # The stages before it in the order are free again.
    with locked_config as config, config.lock_manager("staging"):
        short = with_timeout(locked_config, 0)
        assert not flow_of(print, "a", "staging").run(config=short, fail_fast=False).successful
        assert is_free(locked_config, "a")


@FEW
def test_a_rollback_waits_for_the_stage_too(locked_config):
    flow = flow_of()
    flow.run(config=locked_config)
    impatient = with_timeout(locked_config, 0)
    with (
        locked_config as config,
        config.lock_manager("staging"),
        pytest.raises(LockNotAvailable),
    ):
        flow["staging"].rollback(config=impatient)
    with pytest.raises(StageError, match="no version before"):
        flow["staging"].rollback(config=locked_config)
    assert is_free(locked_config, "staging")


def test_a_lost_lock_publishes_nothing(locked_config):
    flow_of().run(config=locked_config)
    with pytest.raises(LockError, match="INVALID") as raised:
        flow_of(lambda: lose_lock(locked_config)).run(config=locked_config)
    assert not isinstance(raised.value, LockNotAvailable)
    with store_of(locked_config) as store:
        assert store.published("staging").version == 1
        assert rows(store, "staging", "numbers") == [{"n": 0}]
    assert flow_of().run(config=locked_config).successful
    with store_of(locked_config) as store:
        assert store.published("staging").version == 2
    assert is_free(locked_config, "staging")


@pytest.mark.parametrize("locked_config", ["postgres-zookeeper"], indirect=True)
def test_an_expired_session_publishes_nothing(locked_config):
    def expire() -> None:
        manager = ConfigContext.get().lock_manager
        # Whoever closes a session closes it for all who have it.
        twin = KazooClient(hosts=manager._servers, client_id=manager._client.client_id)
        twin.start()
        twin.stop()
        twin.close()

    with pytest.raises(LockError, match="INVALID"):
        flow_of(expire).run(config=locked_config)
    with store_of(locked_config) as store:
        assert store.published("staging").version == 0
    assert flow_of().run(config=locked_config).successful


_RUNS = textwrap.dedent("""
    import json, os, sys, time
    from pathlib import Path
    from ixflow import PipedagConfig
    from ixflow_tests.behaviour.locking import flow_of
    config, log, seconds = json.loads(sys.argv[1]), sys.argv[2], float(sys.argv[3])

    def work():
        with open(log, "a") as file:
            print("begin", os.getpid(), file=file, flush=True)
        time.sleep(seconds)
        with open(log, "a") as file:
            print("end", os.getpid(), file=file, flush=True)

    print("up", flush=True)
    sys.stdin.readline()
    flow_of(work).run(config=PipedagConfig(config))
""")


@contextlib.contextmanager
def runs(config: PipedagConfig, log: Path, seconds: float) -> Iterator[subprocess.Popen[str]]:
    """Run the flow in a process of its own, once it is told to."""
    import json

    command = [sys.executable, "-c", _RUNS, json.dumps(dict(config.raw_config)), str(log)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([*command, str(seconds)], **pipes) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "up\n"
            yield process
        finally:
            process.kill()


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


@pytest.mark.slow
def test_two_processes_run_one_after_the_other(locked_config, tmp_path):
    log = tmp_path / "log"
    with runs(locked_config, log, 0.2) as one, runs(locked_config, log, 0.2) as two:
        for process in (one, two):
            go(process)
        assert [process.wait(120) for process in (one, two)] == [0, 0]
    lines = [line.split() for line in log.read_text().splitlines()]
    # Nothing was computed twice, which is what an input that moved would have cost.
    assert [what for what, _ in lines] == ["begin", "end", "begin", "end"]
    assert lines[0][1] == lines[1][1] != lines[2][1] == lines[3][1]
    with store_of(locked_config) as store:
        assert store.published("staging").version == 2


@pytest.mark.slow
@FEW
def test_a_killed_run_lets_its_locks_go(locked_config, tmp_path):
    log = tmp_path / "log"
    with runs(locked_config, log, 300) as process:
        go(process)
        while not log.exists():
            assert process.poll() is None
            threading.Event().wait(0.02)
        assert not is_free(locked_config, "staging")
        os.kill(process.pid, signal.SIGKILL)
    assert flow_of().run(config=with_timeout(locked_config, 60)).successful


@FEW
def test_flows_that_name_their_stages_in_another_order_do_not_wait_in_a_circle(locked_config):
    config = with_timeout(locked_config, 60)
    flows = [flow_of(print, "a", "b"), flow_of(print, "b", "a")] * 3
    with config, ThreadPoolExecutor(len(flows)) as pool:
        results = list(pool.map(lambda flow: flow.run(config=config), flows))
    assert all(result.successful for result in results)
    assert is_free(locked_config, "a", "b")


# -- StageLockContext ------------------------------------------------------------------------------


def test_a_stage_lock_context_keeps_what_a_run_has_made(locked_config):
    flow = flow_of()
    task = flow["staging"]["numbers"]
    with StageLockContext() as context:
        assert StageLockContext.get() is context
        result = flow.run(config=locked_config)
        assert not is_free(locked_config, "staging")
        with ThreadPoolExecutor(1) as pool:
            other = pool.submit(flow_of().run, config=with_timeout(locked_config, 0))
            assert isinstance(other.exception(60), LockNotAvailable)
        assert result.get(task, as_type=pl.DataFrame).rows() == [(0,)]
        # Another run within it has the lock already, though it has another configuration object.
        assert flow.run(config=locked_config).successful
        assert not is_free(locked_config, "staging")
    assert is_free(locked_config, "staging")


@FEW
def test_contexts_can_be_nested_and_entered_again(locked_config):
    outer, inner = StageLockContext(), StageLockContext()
    with outer:
        flow_of().run(config=locked_config)
        with inner:
            assert StageLockContext.get() is inner
            flow_of(print, "staging", "mart").run(config=locked_config)
            with inner:
                pass
            assert not is_free(locked_config, "mart")
        assert StageLockContext.get() is outer
        assert is_free(locked_config, "mart")
        assert not is_free(locked_config, "staging")
    assert is_free(locked_config, "staging")
    with outer:
        flow_of().run(config=locked_config)
        assert not is_free(locked_config, "staging")
    assert is_free(locked_config, "staging", "mart")


@FEW
def test_a_context_that_ends_with_an_error_frees_its_locks(locked_config):
    def fails() -> None:
        with StageLockContext():
            flow_of().run(config=locked_config)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails()
    assert is_free(locked_config, "staging")


@FEW
def test_a_lock_that_a_context_has_lost_stops_the_next_run_in_it(locked_config):
    with StageLockContext():
        result = flow_of().run(config=locked_config)
        lose_lock(locked_config)
        with pytest.raises(LockError, match="INVALID"):
            flow_of().run(config=locked_config)
        with pytest.raises(LockError, match="INVALID"):
            result.get(result.flow["staging"]["numbers"])


def test_there_is_no_context_outside_of_one():
    with pytest.raises(LookupError):
        StageLockContext.get()
    with StageLockContext():
        pass
    with pytest.raises(LockError, match="StageLockContext"):
        StageLockContext.get()


# -- Result.get ------------------------------------------------------------------------------------


@FEW
def test_with_a_lock_manager_results_are_read_within_a_context(locked_config):
    flow = flow_of()
    task = flow["staging"]["numbers"]
    result = flow.run(config=locked_config)
    with pytest.raises(LockError, match="StageLockContext"):
        result.get(task)
    lax = locked_config.get().evolve(strict_result_get_locking=False)
    assert flow.run(config=lax).get(task, as_type=pl.DataFrame).rows() == [(0,)]
    result = flow.run(config=locked_config)
    with StageLockContext():
        assert result.get(task, as_type=pl.DataFrame).rows() == [(0,)]
        assert not is_free(locked_config, "staging")
    assert is_free(locked_config, "staging")


# -- configuration ---------------------------------------------------------------------------------


def test_without_a_lock_manager_nothing_is_locked_while_a_task_runs(fresh_postgres):
    held = []

    def look() -> None:
        query = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
        with fresh_postgres.connect() as conn:
            held.append(conn.exec_driver_sql(query).scalar_one())

    assert flow_of(look).run(config=configured(fresh_postgres.url, None)).successful
    assert held == [0]


def test_a_basic_configuration_has_the_locks_that_it_is_asked_for(fresh_duckdb, tmp_path):
    config = create_basic_pipedag_config(fresh_duckdb.url, file_locking_directory=tmp_path / "l")
    assert flow_of().run(config=config).successful
    assert (tmp_path / "l" / "pipeline" / "staging.lock").exists()
    config = create_basic_pipedag_config(fresh_duckdb.url, disable_stage_locking=True)
    with StageLockContext():
        result = flow_of().run(config=config)
        manager = config.get().lock_manager
        assert manager.get_lock_state("staging") is LockState.UNLOCKED
        task = result.flow["staging"]["numbers"]
        assert result.get(task, as_type=pl.DataFrame).rows() == [(0,)]
