"""Tuples into a PostgreSQL table without a key, against pg-bulk-ingest."""

from __future__ import annotations

from benchmarks.cases.loads import PG_BULK_INGEST, load, make_tails
from benchmarks.harness import Contender
from benchmarks.report import Target

TITLE = "tuples into a table without a key"

_SHAPES = ("narrow", "mixed")
TARGETS = tuple(Target(f"ixflow, {s}", "wall", 1 / 3, f"pg-bulk-ingest, {s}") for s in _SHAPES)


def prepare(url: str, rows: int) -> list[Contender]:
    """Give both for each shape."""
    make_tails(url, *_SHAPES)
    found = []
    for shape in _SHAPES:
        found += [
            load(f"pg-bulk-ingest, {shape}", url, rows, who=PG_BULK_INGEST, shape=shape),
            load(f"ixflow, {shape}", url, rows, shape=shape),
        ]
    return found
