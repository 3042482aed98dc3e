"""Tuples into a PostgreSQL table with a key, in four states, against pg-bulk-ingest."""

from __future__ import annotations

from functools import partial

from benchmarks.cases.loads import PG_BULK_INGEST, load, make_tails
from benchmarks.harness import Contender
from benchmarks.report import Target

TITLE = "tuples into a table with a key"

_SHAPES = ("narrow", "mixed")
_FASTER = {"new": 3.0, "empty": 3.0, "unchanged": 2.5, "changed": 1.0}
TARGETS = tuple(
    Target(f"ixflow, {state}, {shape}", "wall", 1 / times, f"pg-bulk-ingest, {state}, {shape}")
    for shape in _SHAPES
    for state, times in _FASTER.items()
)


def prepare(url: str, rows: int) -> list[Contender]:
    """Give both for each state and shape."""
    make_tails(url, *_SHAPES)
    found = []
    for shape in _SHAPES:
        for state in _FASTER:
            name = f"{state}, {shape}"
            how = partial(load, url=url, rows=rows, shape=shape, state=state, key=True)
            found += [
                how(f"pg-bulk-ingest, {name}", who=PG_BULK_INGEST),
                how(f"ixflow, {name}"),
            ]
    return found
