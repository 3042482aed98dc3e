"""How alike the circumstances of two runs are, and which earlier runs are like the one to come."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from ixflow.extraction.circumstances import LOADS, NETWORKS, Circumstances
from ixflow.extraction.controller import Sample, similar

__all__ = ["WEIGHTS", "Match", "like_size", "matches", "similarity", "weights"]

WEIGHTS: Mapping[str, float] = MappingProxyType(
    {
        "source_load": 0.30,
        "concurrent_extractions": 0.25,
        "time_band": 0.20,
        "system_load": 0.15,
        "network_quality": 0.10,
    }
)
"""What each of the circumstances counts for."""

# By how many steps two are apart.
_LOAD, _NETWORK, _TIME = (1.0, 0.5, 0.1, 0.1), (1.0, 0.5, 0.2, 0.0), (1.0, 0.6, 0.2, 0.0)
_BANDS = 6
_LEAST_SIMILAR = 0.20


def weights(*, system_load: bool = True) -> dict[str, float]:
    """Give what each of the circumstances counts for; they add up to one.

    Without ``system_load`` its weight goes to the others, in proportion to theirs.

    >>> weights(system_load=False)["source_load"]
    0.352941
    """
    if system_load:
        return dict(WEIGHTS)
    left = {name: weight for name, weight in WEIGHTS.items() if name != "system_load"}
    whole = math.fsum(left.values())
    spread = {name: round(weight / whole, 6) for name, weight in left.items()}
    largest = max(spread, key=lambda name: spread[name])
    spread[largest] = round(spread[largest] + 1 - math.fsum(spread.values()), 6)
    return spread


def similarity(one: Circumstances, other: Circumstances) -> float:
    """Say how alike two circumstances are: 1 the same, 0 nothing in common; in either order.

    The load of the machine counts only where both know it.

    >>> similarity(Circumstances(), Circumstances())
    1.0
    >>> similarity(Circumstances(time_band=0), Circumstances(time_band=5))
    0.9059
    """
    loads = one.system_load_per_core, other.system_load_per_core
    parts = {
        "source_load": _LOAD[_steps(LOADS, one.source_load, other.source_load)],
        "concurrent_extractions": _bell(
            one.concurrent_extractions - other.concurrent_extractions, 8
        ),
        "time_band": _TIME[_around(one.time_band, other.time_band)],
        "network_quality": _NETWORK[_steps(NETWORKS, one.network_quality, other.network_quality)],
    }
    if loads[0] is not None and loads[1] is not None:
        parts["system_load"] = _bell(loads[0] - loads[1], 0.5)
    counts = weights(system_load="system_load" in parts)
    return round(math.fsum(counts[name] * alike for name, alike in parts.items()), 4)


def _steps(scale: Sequence[str], one: str, other: str) -> int:
    return abs(scale.index(one) - scale.index(other))


def _around(one: int, other: int) -> int:
    """Count from one band of the day to the other, the shorter way around."""
    apart = abs(one - other)
    return min(apart, _BANDS - apart)


def _bell(apart: float, width: float) -> float:
    return math.exp(-(apart**2) / width)


@dataclass(frozen=True, slots=True)
class Match:
    """An earlier run, and how alike its circumstances were."""

    sample: Sample
    score: float


def like_size(sample: Sample, rows: int) -> bool:
    """Say whether a run was of a table of like size; so it is where one is not known (-1).

    Estimates are compared with estimates: a filter lets a run extract fewer rows than there are.
    """
    known = sample.circumstances
    seen = sample.rows if known is None or known.row_estimate < 0 else known.row_estimate
    return rows < 0 or similar(seen, rows)


def matches(history: Sequence[Sample], now: Circumstances | None) -> list[Match]:
    """Choose the runs that were in circumstances like these, the most similar first.

    Left out are runs whose circumstances are not known, of tables of another size, or that are less
    than 0.2 alike.
    """
    if now is None:
        return []
    found = [
        Match(sample, similarity(sample.circumstances, now))
        for sample in history
        if sample.circumstances is not None and like_size(sample, now.row_estimate)
    ]
    alike = [match for match in found if match.score >= _LEAST_SIMILAR]
    return sorted(alike, key=lambda match: (-match.score, -match.sample.number))
