"""What telling Dagster of a stage's tables costs, beside the stage and beside Dagster."""

from __future__ import annotations

import sys

from benchmarks.cases.flow_frames import clear
from benchmarks.cases.source import connect, quieten
from benchmarks.harness import Contender
from benchmarks.report import Target

TITLE = "a stage of 50 tables with and without Dagster, in one process"
ROWS = 50

BARE, WITHOUT, STAGE = "Dagster, bare events", "ixflow, run_stage", "ixflow, in Dagster"
_WORK = {BARE: "events-bare", WITHOUT: "events-without", STAGE: "events-stage"}
# 20 ms a table, beyond what the stage and Dagster take by themselves.
_SECONDS = 0.02 * ROWS
TARGETS = (
    Target(STAGE, "wall", _SECONDS, over=(WITHOUT,)),
    Target(STAGE, "client_cpu", _SECONDS, over=(WITHOUT,)),
    Target(STAGE, "wall", _SECONDS, over=(WITHOUT, BARE)),
    Target(STAGE, "client_cpu", _SECONDS, over=(WITHOUT, BARE)),
)


def prepare(url: str, rows: int) -> list[Contender]:
    """Give bare events, the measure, and the stage without and in Dagster."""
    with connect(url) as conn:
        quieten(conn)
    return [
        Contender(
            name,
            (sys.executable, "-m", "benchmarks.dagster_work", work, str(rows), url),
            before=lambda: clear(url),
        )
        for name, work in _WORK.items()
    ]
