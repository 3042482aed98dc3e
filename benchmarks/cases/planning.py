"""Planning the extraction of pgbench_accounts: statistics, or counting.

``python -m benchmarks.cases.planning URL ROWS`` is ixflow's contender.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.cases.accounts import TABLE, ixflow_intent, make_accounts
from benchmarks.harness import Contender, contend
from benchmarks.peers import peer
from benchmarks.report import Target

TITLE = "a plan for pgbench_accounts"
ROWS = 5_000_000

IXFLOW, IXTRACT = "ixflow.plan", "ixtract.plan"
TARGETS = (Target(IXFLOW, "wall", 0.05, IXTRACT),)


def prepare(url: str, rows: int) -> list[Contender]:
    """Fill the source; give the contenders, ixflow first."""
    make_accounts(url, TABLE, rows)
    command = (sys.executable, "-m", "benchmarks.cases.planning", url, str(rows))
    return [
        Contender(IXFLOW, command),
        peer(IXTRACT, "ixtract", "ixtract-plan", url, TABLE, rows),
    ]


def ixflow_plan(url: str, rows: int, output: Path) -> Callable[[], int]:
    """Plan, as a user would; one plan is made before, which imports and connects."""
    import ixflow

    intent = ixflow_intent(url, TABLE, output)
    ixflow.plan(intent)

    def work() -> int:
        planned = ixflow.plan(intent)
        assert planned.plan.estimated_rows > 0.9 * rows
        return rows

    return work


if __name__ == "__main__":
    _, server, count = sys.argv
    with tempfile.TemporaryDirectory(prefix="ixflow-bench-") as place:
        contend(ixflow_plan(server, int(count), Path(place)))
