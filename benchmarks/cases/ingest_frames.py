"""Arrow, polars and pandas into a PostgreSQL table without a key, against `adbc_ingest`."""

from __future__ import annotations

from benchmarks.cases.loads import ADBC, load, make_tails
from benchmarks.harness import Contender
from benchmarks.report import Target

TITLE = "frames into a table without a key"

_SHAPES, _KINDS = ("narrow", "mixed"), ("arrow", "polars", "pandas")
_ALL = [f"{kind}, {shape}" for shape in _SHAPES for kind in _KINDS]
# At least 0.95 of the speed.
TARGETS = tuple(Target(f"ixflow, {x}", "wall", 1 / 0.95, f"adbc_ingest, {x}") for x in _ALL)


def prepare(url: str, rows: int) -> list[Contender]:
    """Give both for each kind of frame and each shape."""
    make_tails(url, *_SHAPES)
    found = []
    for shape in _SHAPES:
        for kind in _KINDS:
            name = f"{kind}, {shape}"
            found += [
                load(f"adbc_ingest, {name}", url, rows, who=ADBC, kind=kind, shape=shape),
                load(f"ixflow, {name}", url, rows, kind=kind, shape=shape),
            ]
    return found
