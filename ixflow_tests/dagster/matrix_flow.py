"""The flows of the matrix, as every step process builds them anew; files say what shall happen.

No module of Dagster's steps is faked: a run gets its database, its directory and its number as
arguments of the job, and tasks look into the directory for who is to fail or to wait.
"""

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

import ixflow.dagster as ixd
from ixflow.pipeline import (
    AuditResult,
    ExternalTableReference,
    Flow,
    Stage,
    Table,
    audit,
    materialize,
)

__all__ = ["Told", "interleaved_job", "narrow_job", "shop_job"]

_PATIENCE_SECONDS = 120.0
# What every step process would import; so its server does, once.
_PRELOADED = (
    __name__,
    "alembic.config",
    "dagster._core.execution.plan.resume_retry",
    "dagster._core.instance.factory",
    "dagster._core.remote_representation",
    "dagster._core.storage.event_log.sqlite",
    "dagster._core.storage.local_compute_log_manager",
    "dagster._core.storage.root",
    "dagster._core.storage.runs.sqlite",
    "dagster._core.storage.schedules.sqlite.sqlite_schedule_storage",
    "pandas",
    "psycopg",
)


class Told:
    """What a test and the steps of its runs tell each other in a directory."""

    def __init__(self, place: str | Path) -> None:
        self.place = Path(place)

    def say(self, **what: Any) -> None:
        """Say what shall happen from now on: ``broken`` tasks, whether the audit ``refuses``."""
        new = self.place / "new.json"
        new.write_text(json.dumps(what), encoding="utf-8")
        new.replace(self.place / "said.json")

    def said(self, what: str) -> Any:
        """Read what was said; nothing was."""
        with contextlib.suppress(FileNotFoundError):
            return json.loads((self.place / "said.json").read_text(encoding="utf-8")).get(what)
        return None

    def call(self, task: str) -> None:
        """Note that a task runs in this process, wait at a gate, fail if it shall."""
        with (self.place / "calls").open("a", encoding="utf-8") as file:
            file.write(f"{task} {os.getpid()}\n")
        if task in (self.said("gates") or ()):
            (self.place / f"at-{task}-{os.getpid()}").touch()
            self.wait((self.place / f"go-{task}").exists)
        if task in (self.said("broken") or ()):
            msg = f"{task} is broken"
            raise ZeroDivisionError(msg)

    def calls(self) -> list[str]:
        """Name the tasks that ran, in order."""
        return [name for name, _ in self._calls()]

    def processes(self, task: str) -> list[int]:
        """Give the numbers of the processes that a task ran in."""
        return [int(pid) for name, pid in self._calls() if name == task]

    def _calls(self) -> Iterator[list[str]]:
        with contextlib.suppress(FileNotFoundError):
            text = (self.place / "calls").read_text(encoding="utf-8")
            yield from (line.split(" ") for line in text.splitlines())

    def at(self, task: str) -> int:
        """Say how many processes have come to a gate."""
        return len(list(self.place.glob(f"at-{task}-*")))

    def wait(self, until: Any) -> None:
        """Wait until something is so."""
        end = time.monotonic() + _PATIENCE_SECONDS
        while not until():
            assert time.monotonic() < end, "nothing happened"
            time.sleep(0.02)


def _one(value: int) -> Table[Any]:
    return Table(pl.DataFrame({"v": [value]}))


def _shop(told: Told, value: int) -> Flow:
    """Declare t1 -> t2, and t3, which is audited; a column says which run made a table."""

    @materialize
    def t1() -> Table[Any]:
        told.call("t1")
        return _one(value)

    @materialize(input_type=pl.DataFrame)
    def t2(t1: pl.DataFrame) -> Table[Any]:
        told.call("t2")
        return _one(int(t1["v"][0]))

    @materialize
    def t3() -> Table[Any]:
        told.call("t3")
        return _one(value)

    with Flow("shop") as flow, Stage("st") as stage:
        t2(t1())
        t3()

    @audit(stage)
    def acceptable(t3: pl.DataFrame) -> AuditResult:
        told.call("acceptable")
        return AuditResult(not told.said("refuses"), f"{t3.height} rows seen")

    return flow


def _interleaved(told: Told, value: int) -> Flow:
    """Declare a.t1 -> b.x -> a.t2, and a.t3."""

    @materialize
    def t1() -> Table[Any]:
        told.call("t1")
        return _one(value)

    @materialize(input_type=pl.DataFrame)
    def x(t1: pl.DataFrame) -> Table[Any]:
        told.call("x")
        return Table(t1)

    @materialize(input_type=pl.DataFrame)
    def t2(x: pl.DataFrame) -> Table[Any]:
        told.call("t2")
        return Table(x)

    with Flow("interleaved") as flow:
        with Stage("a"):
            first = t1()
            t2(ExternalTableReference("x", "b"))
        with Stage("b"):
            x(first)
    return flow


def _job(flow: Flow, execution: str, url: str, name: str) -> dg.JobDefinition:
    forked = {"start_method": {"forkserver": {"preload_modules": list(_PRELOADED)}}}
    definitions = dg.Definitions.merge(
        flow.to_definitions(
            execution=execution,
            table_store=ixd.SQLTableStoreResource(url=url),
            executor=dg.multiprocess_executor.configured({"max_concurrent": 2} | forked),
        ),
        dg.Definitions(
            jobs=[
                dg.define_asset_job(
                    "narrow",
                    selection=[dg.AssetKey(["st", "t1"])],
                    executor_def=dg.multiprocess_executor.configured(
                        {"max_concurrent": 2} | forked
                    ),
                )
            ]
            if name == "narrow"
            else []
        ),
    )
    return definitions.resolve_job_def(name)


def shop_job(execution: str, url: str, place: str, value: int) -> dg.JobDefinition:
    """Give the job of the whole stage."""
    return _job(_shop(Told(place), value), execution, url, "shop_flow")


def narrow_job(execution: str, url: str, place: str, value: int) -> dg.JobDefinition:
    """Give a job of one table of the stage."""
    return _job(_shop(Told(place), value), execution, url, "narrow")


def interleaved_job(execution: str, url: str, place: str, value: int) -> dg.JobDefinition:
    """Give the job of the stages that stand between each other's tables."""
    return _job(_interleaved(Told(place), value), execution, url, "interleaved_flow")
