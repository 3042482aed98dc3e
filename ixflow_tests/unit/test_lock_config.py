"""The section ``lock_manager`` of a configuration: its classes, their names and arguments."""

from __future__ import annotations

import sys
from typing import Any

import pytest

import ixflow
from ixflow import BaseLockManager, LockState, PipedagConfig, StageLockContext
from ixflow.backend import lock
from ixflow.errors import ConfigError
from ixflow.pipeline.locks.run_locks import RunLocks

POSTGRES = "postgresql://app:s3cret@db.example/x"
ARGS: dict[str, dict[str, Any]] = {
    "DatabaseLockManager": {"lock_timeout": 7, "lock_schema": "locks", "create_lock_schema": True},
    "FileLockManager": {"lock_timeout": 7, "base_path": "/locks"},
    "NoLockManager": {},
    "ZooKeeperLockManager": {"lock_timeout": 7, "hosts": "zk1:2181,zk2:2182", "timeout": 5.0},
}


def config_of(locks: dict[str, Any], url: str = POSTGRES) -> PipedagConfig:
    section = {
        "instance_id": "shop_full",
        "table_store": {"class": "SQLTableStore", "args": {"url": url}},
        "lock_manager": locks,
    }
    return PipedagConfig({"instances": {"__any__": section}})


@pytest.mark.parametrize("path", ["{}", "ixflow.{}", "pydiverse.pipedag.backend.lock.{}"])
@pytest.mark.parametrize("name", ARGS)
def test_a_lock_manager_is_named_in_three_ways(name: str, path: str):
    config = config_of({"class": path.format(name), "args": ARGS[name]})
    with config as chosen:
        manager = chosen.lock_manager
        assert type(manager) is getattr(ixflow, name) is getattr(lock, name)
        assert manager.get_lock_state("staging") is LockState.UNLOCKED
        assert manager.lock_timeout == ARGS[name].get("lock_timeout", 86400)
        assert "s3cret" not in repr(manager) + str(manager.scope)
        if name == "FileLockManager":
            assert str(manager.base_path) == "/locks/shop_full"
        elif name == "ZooKeeperLockManager":
            assert manager.base_path == "/ixflow/locks/shop_full"
            assert "zk1:2181,zk2:2182" in repr(manager)
        elif name == "DatabaseLockManager":
            assert manager.instance_id == "shop_full"


@pytest.mark.parametrize(
    ("name", "args", "said"),
    [
        ("FileLockManager", {"base_pat": "/locks"}, "did you mean 'base_path'"),
        ("FileLockManager", {"base_path": 1}, "base_path"),
        ("DatabaseLockManager", {"lock_timeout": "soon"}, "seconds"),
        ("NoLockManager", {"base_path": "/locks"}, "base_path"),
        ("FileLock", {}, "FileLockManager"),
    ],
)
def test_a_wrong_argument_is_named_with_its_place(name: str, args: dict[str, Any], said: str):
    with pytest.raises(ConfigError, match=said) as raised:
        config_of({"class": name, "args": args}).get()
    assert raised.value.path.startswith("instances.__any__.lock_manager")


@pytest.mark.parametrize(
    ("locks", "url", "said"),
    [
        ({"class": "DatabaseLockManager"}, "duckdb:////tmp/x.duckdb", "FileLockManager"),
        ({"class": "FileLockManager"}, POSTGRES, "base_path"),
        ({"class": "FileLockManager", "args": {"base_path": "s3://b"}}, POSTGRES, "directory"),
        ({"class": "ZooKeeperLockManager", "args": {"host": "zk"}}, POSTGRES, "host"),
    ],
)
def test_what_cannot_be_made_is_an_error_when_it_is_needed(locks, url: str, said: str):
    with config_of(locks, url) as config, pytest.raises(ConfigError, match=said):
        _ = config.lock_manager


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "kazoo.client", None)
    config = config_of({"class": "ZooKeeperLockManager"})
    with config as chosen, pytest.raises(ConfigError, match=r"ixflow\[zookeeper\]"):
        _ = chosen.lock_manager


class Own(BaseLockManager):
    """A lock manager of the user's."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit
        self.taken: list[str] = []

    def _take(self, name: str, seconds: float) -> bool:
        self.taken.append(name)
        return True

    def _drop(self, name: str) -> None:
        self.taken.remove(name)


class Fails(Own):
    """One that cannot do its work."""

    def _take(self, name: str, seconds: float) -> bool:
        if name == "c":
            raise RuntimeError(name)
        return super()._take(name, seconds)


class NoManager:
    """Something else."""


def test_a_class_of_ones_own_takes_its_arguments():
    with config_of({"class": f"{__name__}.Own", "args": {"limit": 3}}) as config:
        manager = config.lock_manager
        with RunLocks(config, ["b", "a"]) as locks:
            assert manager.taken == ["a", "b"]
            locks.check("a")
            locks.done("a")
            locks.done("a")
            assert manager.taken == ["b"]
        assert manager.taken == []
        with StageLockContext(), RunLocks(config, ["b"]) as locks:
            locks.done("b")
            assert manager.taken == ["b"]
        assert manager.taken == []
    assert manager.limit == 3


def test_what_was_locked_before_a_failure_is_let_go():
    with config_of({"class": f"{__name__}.Fails", "args": {"limit": 3}}) as config:
        manager = config.lock_manager
        with pytest.raises(RuntimeError), RunLocks(config, ["a", "b", "c"]):
            pytest.fail("there is no lock c")
        assert manager.taken == []
        with pytest.raises(RuntimeError), StageLockContext(), RunLocks(config, ["a", "c"]):
            pytest.fail("there is no lock c")
        assert manager.taken == []


def test_a_listener_that_raises_changes_nothing(caplog):
    manager = Own(1)

    def refuse(*_: Any) -> None:
        raise RuntimeError

    manager.add_lock_state_listener(refuse)
    with manager("a"):
        assert manager.get_lock_state("a") is LockState.LOCKED
    assert manager.taken == []
    assert "listener" in caplog.text


def test_what_is_no_lock_manager_is_refused():
    with (
        config_of({"class": f"{__name__}.NoManager"}) as config,
        pytest.raises(ConfigError, match="BaseLockManager"),
        RunLocks(config, ["a"]),
    ):
        pytest.fail("it has no locks")
