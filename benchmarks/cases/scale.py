"""Twenty times the rows: the time has to grow with them, the memory must not."""

from __future__ import annotations

from benchmarks.cases.accounts import IXFLOW, make_accounts, own
from benchmarks.harness import Contender
from benchmarks.report import Target

TITLE = "pgbench_accounts to Parquet, a twentieth, a quarter and all of the rows"
ROWS = 20_000_000

PARTS = {20: "1/20 of the rows", 4: "1/4 of the rows", 1: "all rows"}
# Twenty times the rows may take a tenth more than twenty times as long; the memory is a plan's,
# with two workers: two row groups and two batches.
TARGETS = (
    Target(PARTS[1], "wall", 22, PARTS[20]),
    Target(PARTS[1], "client_cpu", 22, PARTS[20]),
    Target(PARTS[1], "over_mb", 128),
)


def prepare(url: str, rows: int) -> list[Contender]:
    """Fill a table of each size; the smallest is the measure."""
    found = []
    for part, label in PARTS.items():
        count, table = max(1, rows // part), f"accounts_{part}"
        make_accounts(url, table, count)
        found.append(own(IXFLOW, url, table, label=label, rows=count))
    return found
