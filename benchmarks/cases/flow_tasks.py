"""Many small tasks of one stage: what ixflow itself costs, beside pipedag."""

from __future__ import annotations

from benchmarks.cases.flow_frames import Work, contender
from benchmarks.cases.source import connect, quieten
from benchmarks.flows import TASKS
from benchmarks.harness import Contender
from benchmarks.report import Target

TITLE = "a stage of 50 tasks with a table of one row each"
ROWS = TASKS

_WORK = {"tasks-cold": 1 / 3, "tasks-valid": 1 / 5, "run-valid": 1 / 4}
_STORES = ("PostgreSQL", "DuckDB")
TARGETS = tuple(
    Target(f"ixflow, {work}, {store}", "wall", most, f"pipedag, {work}, {store}")
    for work, most in _WORK.items()
    for store in _STORES
)


def prepare(url: str, rows: int) -> list[Contender]:
    """Give both for each kind of work and each store; pipedag, the measure, first."""
    with connect(url) as conn:
        quieten(conn)
    return [
        contender(who, Work(work, rows, 1 if work.startswith("run") else TASKS), url, store)
        for work in _WORK
        for store in _STORES
        for who in ("pipedag", "ixflow")
    ]
