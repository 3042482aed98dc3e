"""Tables through Dagster's command: as one stage, and as assets with a process each."""

from __future__ import annotations

import sys

from benchmarks.cases.flow_frames import clear
from benchmarks.cases.source import connect, quieten
from benchmarks.harness import Contender
from benchmarks.report import Target

TITLE = "50 tables of one row through `dagster asset materialize`"
ROWS = 50

PLAIN, STAGE = "plain assets", "ixflow, one stage"
_WORK = {PLAIN: "command-plain", STAGE: "command-stage"}
TARGETS = (
    Target(STAGE, "wall", 0.1, PLAIN),
    Target(STAGE, "client_cpu", 0.1, PLAIN),
)


def prepare(url: str, rows: int) -> list[Contender]:
    """Give the plain assets, the measure, and the stage."""
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
