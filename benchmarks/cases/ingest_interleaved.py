"""Tuples for four tables with keys, in turn, against pg-bulk-ingest and against one table."""

from __future__ import annotations

from functools import partial

from benchmarks.cases.loads import PG_BULK_INGEST, load, make_tails
from benchmarks.harness import Contender
from benchmarks.report import Target

TITLE = "tuples for four tables in turn, with keys, all rows unchanged"

ONE, FOUR, PEER = "ixflow, one table", "ixflow, four tables", "pg-bulk-ingest, four tables"
TARGETS = (Target(FOUR, "wall", 1.2, ONE), Target(FOUR, "wall", 1 / 2.5, PEER))


def prepare(url: str, rows: int) -> list[Contender]:
    """Load the same number of rows into one table and into four."""
    make_tails(url, "narrow")
    how = partial(load, url=url, rows=rows - rows % 4, state="unchanged", key=True)
    return [
        how(ONE),
        how(FOUR, tables=4),
        how(PEER, who=PG_BULK_INGEST, tables=4),
    ]
