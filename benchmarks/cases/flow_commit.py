"""Publishing a stage: tables in the place of as many others, and one beside a large one."""

from __future__ import annotations

from benchmarks.cases.flow_frames import Work, contender
from benchmarks.cases.source import connect, quieten
from benchmarks.harness import Contender
from benchmarks.report import Target

TITLE = "a commit of 1, 10 and 100 tables, and a stage in which one small task is new"

_COUNTS = (1, 10, 100)
_STORES = ("PostgreSQL", "DuckDB")
# What pipedag takes is known from its own timers: its commits cannot be run alone.
TARGETS = (
    Target("ixflow, commit-100, PostgreSQL", "wall", 0.015),
    Target("ixflow, commit-100, DuckDB", "wall", 0.058),
    *(Target(f"ixflow, beside-x, {s}", "wall", 1 / 4, f"pipedag, beside-x, {s}") for s in _STORES),
)


def prepare(url: str, rows: int) -> list[Contender]:
    """Give the commits of each size, and both libraries for one task beside many rows."""
    with connect(url) as conn:
        quieten(conn)
    commits = [
        contender("ixflow", Work(f"commit-{count}", 0, count), url, store)
        for store in _STORES
        for count in _COUNTS
    ]
    beside = [
        contender(who, Work("beside-x", rows, 1), url, store)
        for store in _STORES
        for who in ("pipedag", "ixflow")
    ]
    return [*commits, *beside]
