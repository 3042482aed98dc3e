"""The circumstances of a run: how busy its source, its machine and the network are, and when it is.

They are stored with every run, so that an estimate can lean on the runs that were like this one.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from ixflow.extraction.profile import SourceProfile

__all__ = ["LOADS", "NETWORKS", "Circumstances", "machine_load", "network_of", "source_load_of"]

LOADS = ("low", "normal", "high", "critical")
"""How busy a source is, in steps."""

NETWORKS = ("excellent", "good", "degraded", "poor")
"""How quickly a source answers, in steps."""

_LOAD_BELOW, _ANSWERS_BELOW_MS = (0.20, 0.60, 0.80), (1.0, 5.0, 20.0)
_HOURS_OF_A_BAND, _BANDS = 4, 6
_MOST_CONCURRENT, _MOST_LOAD = 20, 2.0
_VERSION = 1


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What a run's speed depends on besides its table and its workers.

    ``source_load`` and ``network_quality`` are among `LOADS` and `NETWORKS`; ``time_band`` counts
    the day in pieces of four hours, from midnight UTC; ``concurrent_extractions`` are others of the
    same source, at most 20 count; ``row_estimate`` is -1 and ``system_load_per_core`` (0 to 2, of
    the last minute) None where nothing is known.

    >>> Circumstances(time_band=6)
    Traceback (most recent call last):
    ValueError: these are no circumstances: time_band
    """

    source_load: str = "normal"
    concurrent_extractions: int = 0
    time_band: int = 0
    network_quality: str = "good"
    row_estimate: int = -1
    system_load_per_core: float | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be compared."""
        load = self.system_load_per_core
        good = {
            "source_load": self.source_load in LOADS,
            "concurrent_extractions": _whole(self.concurrent_extractions, _MOST_CONCURRENT),
            "time_band": _whole(self.time_band, _BANDS - 1),
            "network_quality": self.network_quality in NETWORKS,
            "row_estimate": type(self.row_estimate) is int,
            "system_load_per_core": load is None or 0 <= load <= _MOST_LOAD,
        }
        if wrong := [name for name, fine in good.items() if not fine]:
            raise ValueError(f"these are no circumstances: {', '.join(wrong)}")

    def __str__(self) -> str:
        """Say it in one line.

        >>> str(Circumstances(time_band=2, system_load_per_core=0.5))
        'source load normal, 0 other runs, 08-12 h UTC, network good, machine load 0.50'
        """
        hour, load = self.time_band * _HOURS_OF_A_BAND, self.system_load_per_core
        machine = "unknown" if load is None else f"{load:.2f}"
        return (
            f"source load {self.source_load}, {self.concurrent_extractions} other runs, "
            f"{hour:02}-{hour + _HOURS_OF_A_BAND:02} h UTC, network {self.network_quality}, "
            f"machine load {machine}"
        )

    @classmethod
    def seen(
        cls, profile: SourceProfile, *, concurrent: int, at: datetime, load: float | None
    ) -> Self:
        """Give the circumstances of a plan: of its profile, the state, the clock and the machine.

        ``load`` is what `machine_load` gives.
        """
        return cls(
            source_load=source_load_of(profile.active_connections, profile.max_connections),
            concurrent_extractions=min(max(0, concurrent), _MOST_CONCURRENT),
            time_band=_band(at),
            network_quality=network_of(profile.latency_p50_ms),
            row_estimate=profile.row_count_estimate,
            system_load_per_core=load,
        )

    def at_start(self, *, concurrent: int, at: datetime, load: float | None) -> Self:
        """Give those of the run that begins now; only the source is taken as the plan saw it."""
        return dataclasses.replace(
            self,
            concurrent_extractions=min(max(0, concurrent), _MOST_CONCURRENT),
            time_band=_band(at),
            system_load_per_core=load,
        )

    def to_json(self) -> str:
        """Give them as they are stored.

        >>> Circumstances.from_json(Circumstances().to_json()) == Circumstances()
        True
        """
        return json.dumps({"version": _VERSION, **dataclasses.asdict(self)})

    @classmethod
    def from_json(cls, text: str | None) -> Self | None:
        """Read what `to_json` gave; None if it is something else, such as of another release."""
        try:
            found = json.loads(text or "null")
        except ValueError:
            return None
        if not isinstance(found, Mapping) or found.get("version") != _VERSION:
            return None
        return cls.of({name: value for name, value in found.items() if name != "version"})

    @classmethod
    def of(cls, found: Mapping[str, Any] | None) -> Self | None:
        """Make them of the fields by name; None if these are others or make no sense."""
        try:
            return None if found is None else cls(**found)
        except (TypeError, ValueError):
            return None


def _whole(value: object, most: int) -> bool:
    return type(value) is int and 0 <= value <= most


def _band(at: datetime) -> int:
    return at.astimezone(UTC).hour // _HOURS_OF_A_BAND


def source_load_of(active: int, most: int) -> str:
    """Name the share of a server's connections that is used; ``normal`` where it says nothing.

    >>> source_load_of(10, 100), source_load_of(85, 100), source_load_of(3, 0)
    ('low', 'critical', 'normal')
    """
    if most <= 0:
        return "normal"
    return LOADS[sum(active / most >= bound for bound in _LOAD_BELOW)]


def network_of(latency_ms: float) -> str:
    """Name the median time of an answer.

    >>> network_of(0.2), network_of(5)
    ('excellent', 'degraded')
    """
    return NETWORKS[sum(latency_ms >= bound for bound in _ANSWERS_BELOW_MS)]


def machine_load() -> float | None:
    """Ask this machine for its load for each processor in the last minute, from 0 to 2."""
    try:
        average = os.getloadavg()[0]
    except (AttributeError, OSError):  # Windows has none
        return None
    return round(min(max(0.0, average / (os.cpu_count() or 1)), _MOST_LOAD), 3)
