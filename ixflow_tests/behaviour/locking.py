"""Flows with a lock manager, for the tests, and looking at their locks from outside."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import sqlalchemy as sa
from kazoo.client import KazooClient

from ixflow import ConfigContext, Flow, PipedagConfig, SQLTableStore, Stage, Table, materialize
from ixflow.errors import LockNotAvailable

__all__ = [
    "configured",
    "flow_of",
    "is_free",
    "lose_lock",
    "section_of",
    "store_of",
    "with_timeout",
]


def section_of(kind: str, directory: Path, hosts: str) -> dict[str, Any]:
    """Write the section of a configuration, once by each kind of name that a class has."""
    if kind == "database":
        return {"class": "DatabaseLockManager"}
    if kind == "file":
        name = "pydiverse.pipedag.backend.lock.FileLockManager"
        return {"class": name, "args": {"base_path": str(directory / "locks")}}
    args = {"hosts": hosts, "timeout": 2.0}
    return {"class": "ixflow.ZooKeeperLockManager", "args": args}


def configured(url: sa.URL, locks: dict[str, Any] | None, **more: Any) -> PipedagConfig:
    text = url.render_as_string(hide_password=False).replace("{", "{{").replace("}", "}}")
    store = {"class": "SQLTableStore", "args": {"url": text}}
    section = {"instance_id": "locked", "fail_fast": True, "table_store": store, **more}
    if locks is not None:
        section["lock_manager"] = locks
    return PipedagConfig({"instances": {"__any__": section}})


def with_timeout(config: PipedagConfig, seconds: float) -> ConfigContext:
    """Give the same configuration, in another run's objects, which waits so long for a lock."""
    section = dict(config.raw_config["instances"]["__any__"])
    locks = dict(section["lock_manager"])
    section["lock_manager"] = locks | {
        "args": (locks.get("args") or {}) | {"lock_timeout": seconds}
    }
    return PipedagConfig({"instances": {"__any__": section}}).get()


def is_free(config: PipedagConfig, *stages: str) -> bool:
    """Say whether another process could lock the stages now."""
    with with_timeout(config, 0) as other, contextlib.ExitStack() as stack:
        try:
            for stage in stages:
                stack.enter_context(other.lock_manager(stage))
        except LockNotAvailable:
            return False
    return True


@contextlib.contextmanager
def store_of(config: PipedagConfig) -> Iterator[SQLTableStore]:
    with config.get() as chosen:
        yield chosen.table_store


def flow_of(
    work: Callable[[], None] = lambda: None, *names: str, version: str | None = None
) -> Flow:
    """Declare stages in this order, each with one table; ``work`` is done within each task."""

    @materialize(version=version)
    def numbers(n: int) -> Table[Any]:
        work()
        return Table(pl.DataFrame({"n": [n]}), "numbers")

    with Flow("locked") as flow:
        for number, name in enumerate(names or ("staging",)):
            with Stage(name):
                numbers(number)
    return flow


def lose_lock(config: PipedagConfig) -> None:
    """Take the lock of stage staging away from whoever has it, from outside."""
    section = config.raw_config["instances"]["__any__"]
    args = section["lock_manager"].get("args") or {}
    if "base_path" in args:
        (Path(args["base_path"]) / "locked" / "staging.lock").unlink()
    elif "hosts" in args:
        client = KazooClient(hosts=args["hosts"])
        client.start()
        client.delete("/ixflow/locks/locked/staging", recursive=True)
        client.stop()
        client.close()
    else:
        engine = sa.create_engine(section["table_store"]["args"]["url"], poolclass=sa.NullPool)
        query = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE "
        with engine.connect() as conn:
            found = conn.exec_driver_sql(query + "application_name LIKE 'ixflow locked%%'").all()
        assert found == [(True,)]
