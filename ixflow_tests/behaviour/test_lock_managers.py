"""Lock managers: one holder at a time, who waits is told why, and a lost lock is noticed."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import sqlalchemy as sa
from kazoo.client import KazooClient

from ixflow import (
    BaseLockManager,
    DatabaseLockManager,
    FileLockManager,
    LockState,
    NoLockManager,
    ZooKeeperLockManager,
)
from ixflow.errors import (
    LockError,
    LockNotAvailable,
    OutputNotWritable,
    SourceUnavailable,
    UnsupportedDatabase,
    ValidationError,
)
from ixflow.pipeline.locks.base import holder_name
from ixflow_tests.tcp_proxy import Proxy


class Place(NamedTuple):
    """Where locks are kept: code that makes a manager for it, in any process."""

    kind: str
    target: str

    def manager(self, instance_id: str = "test", **options: Any) -> BaseLockManager:
        if self.kind == "database":
            engine = sa.create_engine(self.target)
            return DatabaseLockManager(engine, instance_id, **options)
        if self.kind == "file":
            return FileLockManager(self.target, instance_id, **options)
        client = KazooClient(hosts=self.target, timeout=2.0)
        return ZooKeeperLockManager(
            client, f"/test/{instance_id}", instance_id=instance_id, **options
        )


KINDS = ["database", "file", "zookeeper"]


@pytest.fixture(params=KINDS)
def place(request, tmp_path) -> Place:
    """Give each place of locks that exclude each other."""
    if request.param == "database":
        engine = request.getfixturevalue("fresh_postgres")
        return Place("database", engine.url.render_as_string(hide_password=False))
    if request.param == "file":
        return Place("file", str(tmp_path / "locks"))
    return Place("zookeeper", request.getfixturevalue("zookeeper_server").hosts)


@pytest.fixture
def make(place) -> Iterator[Any]:
    """Give managers of a place, and dispose of them."""
    with contextlib.ExitStack() as stack:

        def made(*args: Any, **options: Any) -> BaseLockManager:
            manager: BaseLockManager = place.manager(*args, **options)
            stack.callback(manager.dispose)
            return manager

        yield made


def test_one_holder_at_a_time(make):
    first, second = make(), make(lock_timeout=0)
    with first("staging"):
        assert first.get_lock_state("staging") is LockState.LOCKED
        assert second.get_lock_state("staging") is LockState.UNLOCKED
        with pytest.raises(LockNotAvailable) as raised:
            second.acquire("staging")
        with second("mart"):
            pass
    assert first.get_lock_state("staging") is LockState.UNLOCKED
    with second("staging"):
        second.ensure("staging")
    text = str(raised.value)
    assert f"pid {os.getpid()} " in text
    assert "since 20" in text
    assert "staging" in text


def test_other_instances_are_apart(make):
    first, second = make("one"), make("two", lock_timeout=0)
    with first("staging"), second("staging"):
        assert first.scope != second.scope
    assert first.scope == make("one").scope


def test_who_waits_is_told_for_whom_and_gets_it_next(make, caplog):
    caplog.set_level(logging.INFO, "ixflow.pipeline")
    first, second = make(), make()
    first.acquire("staging")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(second.acquire, "staging")
        while "waiting for the lock of stage staging" not in caplog.text:
            assert not waiting.done()
            threading.Event().wait(0.01)
        assert f"pid {os.getpid()} " in caplog.text
        first.release("staging")
        waiting.result(30)
    second.release("staging")


def test_runs_of_one_manager_wait_for_each_other(make):
    manager = make(lock_timeout=30)
    entered, inside = [], []

    def work(number: int) -> None:
        with manager("staging"):
            inside.append(number)
            entered.append(len(inside))
            inside.remove(number)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(20)))
    assert set(entered) == {1}
    assert len(entered) == 20


def test_a_wait_for_the_same_manager_ends_too(make):
    manager = make(lock_timeout=0)
    with manager("staging"), pytest.raises(LockNotAvailable, match="this process"):
        manager.acquire("staging")


def test_who_waits_keeps_nobody_of_its_process_from_looking_after_other_locks(make):
    manager, other = make(lock_timeout=120), make()
    other.acquire("b")
    manager.acquire("a")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(manager.acquire, "b")
        for _ in range(3):
            manager.ensure("a")
        manager.release("a")
        assert not waiting.done()
        other.release("b")
        waiting.result(60)


def test_a_lock_may_be_released_in_another_thread(make):
    first, second = make(), make(lock_timeout=0)
    first.acquire("staging")
    thread = threading.Thread(target=first.release, args=("staging",))
    thread.start()
    thread.join()
    with second("staging"):
        pass


def test_what_is_not_held_cannot_be_released(make):
    manager = make()
    with pytest.raises(LockError, match="not held"):
        manager.release("staging")


def test_disposing_frees_everything_and_it_can_be_used_again(make, place):
    first, second = make(), make(lock_timeout=0)
    for name in ("a", "b"):
        first.acquire(name)
    first.release_all()
    with second("a"), second("b"):
        pass
    first.acquire("a")
    first.dispose()
    with second("a"):
        pass
    if place.kind != "zookeeper":  # a KazooClient that was closed is not started again
        with first("a"):
            first.ensure("a")


def test_listeners_hear_of_changes(make):
    manager, heard = make(), []
    manager.add_lock_state_listener(lambda *change: heard.append(change))
    with manager("staging"):
        pass
    locked, unlocked = LockState.LOCKED, LockState.UNLOCKED
    assert heard == [("staging", unlocked, locked), ("staging", locked, unlocked)]


def test_names_are_any_text(make):
    manager = make(lock_timeout=0)
    names = ["..", "a b", "ünï", "a#b", "%41", "a/b", "x" * 60]
    with contextlib.ExitStack() as stack:
        for name in names:
            stack.enter_context(manager(name))
        assert all(manager.get_lock_state(name) is LockState.LOCKED for name in names)


_HOLDER = textwrap.dedent("""
    import sys, time
    from ixflow_tests.behaviour.test_lock_managers import Place
    manager = Place(sys.argv[1], sys.argv[2]).manager()
    manager.acquire("staging")
    print("held", flush=True)
    time.sleep(300)
""")


def test_a_killed_holder_lets_go(make, place):
    second = make(lock_timeout=60)
    command = [sys.executable, "-c", _HOLDER, place.kind, place.target]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        impatient = make(lock_timeout=0)
        with pytest.raises(LockNotAvailable, match=f"pid {holder.pid} "):
            impatient.acquire("staging")
        os.kill(holder.pid, signal.SIGKILL)
    with second("staging"):
        second.ensure("staging")


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_has_no_locks_and_takes_none_along(make):
    manager, second = make(), make(lock_timeout=0)
    manager.acquire("staging")
    child = os.fork()
    if child == 0:
        state = manager.get_lock_state("staging")
        manager.dispose()
        os._exit(0 if state is LockState.UNLOCKED else 1)
    assert os.waitpid(child, 0)[1] == 0
    manager.ensure("staging")
    with pytest.raises(LockNotAvailable):
        second.acquire("staging")


# -- the database ----------------------------------------------------------------------------------


def _ended(engine: sa.Engine) -> int:
    """End the sessions that keep locks, as an administrator does."""
    query = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE application_name"
    with engine.connect() as conn:
        return len(conn.exec_driver_sql(f"{query} LIKE 'ixflow test%%'").all())


def test_a_session_that_ends_loses_its_locks(fresh_postgres):
    manager = DatabaseLockManager(fresh_postgres, "test", lock_timeout=0)
    heard = []
    manager.acquire("a")
    manager.acquire("b")
    manager.add_lock_state_listener(lambda *change: heard.append(change))
    assert _ended(fresh_postgres) == 1
    with pytest.raises(LockError, match="INVALID"):
        manager.ensure("a")
    assert manager.get_lock_state("b") is LockState.INVALID
    manager.release("a")
    with manager("a"):
        manager.ensure("a")
    # What was lost is not found again with the new session.
    assert manager.get_lock_state("b") is LockState.INVALID
    assert ("b", LockState.LOCKED, LockState.INVALID) in heard
    manager.dispose()


def test_a_session_that_another_has_unlocked_is_noticed(fresh_postgres):
    # As behind a pooler that gives the session to others.
    manager = DatabaseLockManager(fresh_postgres, "test", lock_timeout=0)
    manager.acquire("a")
    conn = manager._session()
    conn.exec_driver_sql("SELECT pg_advisory_unlock_all()")
    with pytest.raises(LockError, match="INVALID"):
        manager.ensure("a")
    manager.dispose()


def test_two_that_wait_for_each_other_are_told(fresh_postgres):
    first, second = (DatabaseLockManager(fresh_postgres, "test") for _ in range(2))
    first.acquire("a")
    second.acquire("b")
    with ThreadPoolExecutor(2) as pool:
        waiting = {first: pool.submit(first.acquire, "b"), second: pool.submit(second.acquire, "a")}
        done, _ = wait(waiting.values(), timeout=120, return_when=FIRST_COMPLETED)
        (refused,) = done
        assert isinstance(refused.exception(), LockNotAvailable)
        assert "waits for a lock that is held here" in str(refused.exception())
        (gives_way,) = [manager for manager, one in waiting.items() if one is refused]
        gives_way.release_all()
        for manager, one in waiting.items():
            if one is not refused:
                one.result(60)
                manager.ensure("a")
                manager.ensure("b")
            manager.dispose()


def test_locks_take_no_place_of_the_pool_and_survive_its_end(fresh_postgres):
    engine = sa.create_engine(fresh_postgres.url, pool_size=1, max_overflow=0, pool_timeout=5)
    manager = DatabaseLockManager(engine, "test", lock_timeout=0)
    with manager("a"):
        with engine.connect() as conn:
            assert conn.exec_driver_sql("SELECT 1").scalar() == 1
        engine.dispose()
        manager.ensure("a")
    manager.dispose()


def test_timeouts_of_the_role_do_not_end_a_wait_or_the_session(fresh_postgres):
    name = fresh_postgres.url.database
    with fresh_postgres.begin() as conn:
        for setting in ("statement_timeout", "idle_session_timeout"):
            conn.exec_driver_sql(f"ALTER DATABASE {name} SET {setting} = '200ms'")
    first, second = (DatabaseLockManager(fresh_postgres, "test") for _ in range(2))
    first.acquire("a")
    # A client whose machine died must not hold it for hours.
    assert first._session().exec_driver_sql("SHOW tcp_keepalives_idle").scalar() == "60"
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(second.acquire, "a")
        threading.Event().wait(1.0)
        first.ensure("a")
        assert not waiting.done()
        first.release("a")
        waiting.result(30)
    first.dispose()
    second.dispose()


def test_a_database_that_cannot_be_reached_is_a_typed_error_without_a_password():
    engine = sa.create_engine("postgresql+psycopg://app:s3cret@127.0.0.1:1/x")
    with pytest.raises(SourceUnavailable) as raised:
        DatabaseLockManager(engine, "test").acquire("a")
    assert "s3cret" not in str(raised.value)


def test_a_database_without_such_locks_names_what_to_take(fresh_duckdb):
    with pytest.raises(UnsupportedDatabase, match="FileLockManager"):
        DatabaseLockManager(fresh_duckdb, "test")


# -- files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("again", [False, True])
def test_a_deleted_lock_file_is_a_lost_lock(tmp_path, again: bool):
    first, second = (FileLockManager(tmp_path, "test", lock_timeout=0) for _ in range(2))
    first.acquire("staging")
    (tmp_path / "test" / "staging.lock").unlink()
    if again:
        second.acquire("staging")
    with pytest.raises(LockError, match="INVALID"):
        first.ensure("staging")
    first.release("staging")
    if again:
        second.ensure("staging")
    first.dispose()
    second.dispose()


def test_a_lock_file_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputNotWritable, match="file"):
        FileLockManager(tmp_path / "file").acquire("staging")
    with pytest.raises(ValidationError, match="directory"):
        FileLockManager("s3://bucket/locks")


def test_the_instance_id_is_one_part_of_the_path(tmp_path):
    manager = FileLockManager(tmp_path / "locks", "../up")
    with manager("../x"):
        found = [path.relative_to(tmp_path) for path in tmp_path.rglob("*.lock")]
    assert found == [Path("locks") / "..%2Fup" / "..%2Fx.lock"]


# -- ZooKeeper -------------------------------------------------------------------------------------


def test_an_expired_session_has_lost_its_locks(zookeeper_server):
    with Proxy(sa.make_url(f"zookeeper://{zookeeper_server.hosts}")) as proxy:
        url = proxy.url
        client = KazooClient(hosts=f"{url.host}:{url.port}", timeout=1.0)
        manager = ZooKeeperLockManager(client, "/expiry", instance_id="test")
        second = ZooKeeperLockManager(
            KazooClient(hosts=zookeeper_server.hosts), "/expiry", lock_timeout=60
        )
        states: list[LockState] = []
        lost = threading.Event()

        def hear(_name: str, _old: LockState, new: LockState) -> None:
            states.append(new)
            if new is LockState.INVALID:
                lost.set()

        manager.acquire("staging")
        manager.add_lock_state_listener(hear)
        proxy.stalled.set()
        # The server lets the next one in before the client can know.
        with second("staging"):
            proxy.stalled.clear()
            assert lost.wait(60)
            assert states == [LockState.UNCERTAIN, LockState.INVALID]
            with pytest.raises(LockError, match="INVALID"):
                manager.ensure("staging")
            manager.release("staging")
            second.ensure("staging")
        with manager("staging"):
            manager.ensure("staging")
        manager.dispose()
        second.dispose()


def test_a_commit_waits_while_the_servers_are_away(tmp_path):
    from ixflow_tests.zookeeper import ZooKeeperServer

    with ZooKeeperServer(tmp_path) as server:
        client = KazooClient(hosts=server.hosts, timeout=4.0)
        manager = ZooKeeperLockManager(client, "/away", lock_timeout=60)
        manager.acquire("staging")
        server.stop()
        while manager.get_lock_state("staging") is not LockState.UNCERTAIN:
            threading.Event().wait(0.02)
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(manager.ensure, "staging")
            assert not waiting.done()
            server.start()
            waiting.result(60)
        manager.dispose()


def test_a_deleted_node_is_a_lost_lock(zookeeper_server):
    manager = Place("zookeeper", zookeeper_server.hosts).manager()
    manager.acquire("staging")
    client = KazooClient(hosts=zookeeper_server.hosts)
    client.start()
    client.delete("/test/test/staging", recursive=True)
    client.stop()
    client.close()
    with pytest.raises(LockError, match="INVALID"):
        manager.ensure("staging")
    manager.dispose()


def test_a_zookeeper_that_is_not_there_is_a_typed_error(tmp_path, monkeypatch):
    client = KazooClient(hosts="127.0.0.1:1")
    monkeypatch.setattr(client, "start", lambda: KazooClient.start(client, timeout=0.5))
    manager = ZooKeeperLockManager(client, "/x")
    with pytest.raises(SourceUnavailable, match=r"127\.0\.0\.1:1"):
        manager.acquire("staging")
    manager.dispose()


# -- none ------------------------------------------------------------------------------------------


def test_without_locks_everybody_holds_everything_until_he_lets_go():
    manager = NoLockManager()
    with manager("staging"):
        with manager("staging"):
            manager.ensure("staging")
        manager.ensure("staging")
    with pytest.raises(LockError, match="UNLOCKED"):
        manager.ensure("staging")
    with pytest.raises(LockError):
        manager.release("staging")
    assert str(os.getpid()) in holder_name()


@pytest.mark.parametrize("seconds", [-1, float("nan")])
def test_a_timeout_is_a_number_of_seconds(tmp_path, seconds: float):
    with pytest.raises(ValidationError, match="lock_timeout"):
        FileLockManager(tmp_path, lock_timeout=seconds)
