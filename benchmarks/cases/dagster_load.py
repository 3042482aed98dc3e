"""Loading a code location with many tables: what it takes after `import dagster`."""

from __future__ import annotations

import sys

from benchmarks.cases.source import connect, quieten
from benchmarks.harness import Contender
from benchmarks.report import Target

TITLE = "a code location of 1,000 tables, loaded after `import dagster`"
ROWS = 1000

_WORK = {
    "Dagster, plain assets": "load-bare",
    "ixflow, an asset each": "load-assets",
    "ixflow, one step": "load-step",
    "ixflow, extractions and ingests": "load-ingests",
}
TARGETS = (
    Target("ixflow, an asset each", "wall", 2),
    Target("ixflow, an asset each", "client_cpu", 2),
    Target("ixflow, one step", "wall", 2),
    Target("ixflow, one step", "client_cpu", 2),
)


def prepare(url: str, rows: int) -> list[Contender]:
    """Give plain assets, the measure, and ixflow's."""
    with connect(url) as conn:
        quieten(conn)
    return [
        Contender(name, (sys.executable, "-m", "benchmarks.dagster_work", work, str(rows), url))
        for name, work in _WORK.items()
    ]
