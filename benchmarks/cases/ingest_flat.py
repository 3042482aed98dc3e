"""Ten times the rows: the client's memory must not grow with them."""

from __future__ import annotations

from benchmarks.cases.loads import load, make_tails
from benchmarks.harness import Contender
from benchmarks.report import Target

TITLE = "tuples, and Arrow batches, a tenth and all of the rows"
ROWS = 10_000_000

_KINDS = {"tuples": "tuples", "reader": "Arrow batches"}
_PARTS = {10: "1/10", 1: "all"}
TARGETS = tuple(
    target
    for kind in _KINDS.values()
    for target in (
        Target(f"{kind}, all", "over_mb", 64),
        Target(f"{kind}, all", "over_mb", 1.25, f"{kind}, 1/10"),
        Target(f"{kind}, all", "wall", 11, f"{kind}, 1/10"),
    )
)


def prepare(url: str, rows: int) -> list[Contender]:
    """Load a tenth of the rows and all of them, of each kind; the first is the measure."""
    make_tails(url, "narrow")
    return [
        load(f"{label}, {name}", url, max(1, rows // part), kind=kind)
        for kind, label in _KINDS.items()
        for part, name in _PARTS.items()
    ]
