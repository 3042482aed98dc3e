"""What the caller says about the moment of a run, and how that changes the number of workers."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

from ixflow.errors import ValidationError

__all__ = ["RuntimeContext", "WorkerResolution", "resolve_workers"]

_LOAD = {"low": 1.0, "normal": 1.0, "high": 0.5}
_NETWORK = {"good": 1.0, "normal": 1.0, "degraded": 0.75}
_PRIORITY = {"low": 0.75, "normal": 1.0, "high": 1.25}
_LEAST_FACTOR = 0.25

_WORDS = {"source_load": _LOAD, "network_quality": _NETWORK, "priority": _PRIORITY}
_COUNTS = ("max_workers", "min_workers", "max_source_connections")
_AMOUNTS = (
    "target_duration_seconds",
    "maintenance_window_minutes",
    "disk_budget_gb",
    "egress_budget_gb",
)


@dataclass(frozen=True)
class RuntimeContext:
    """Limits and hints for one run; None everywhere means no limit and no hint.

    Args:
        max_workers: hard upper limit of connections.
        min_workers: hard lower limit; a plan that cannot have them is NOT RECOMMENDED.
        source_load: ``low``, ``normal`` or ``high``: high halves the workers.
        network_quality: ``good``, ``normal`` or ``degraded``: degraded takes a quarter.
        priority: ``low``, ``normal`` or ``high``: a quarter less or more, within the limits.
        target_duration_seconds: a longer estimate is a warning.
        maintenance_window_minutes: a longer estimate is NOT RECOMMENDED.
        disk_budget_gb: a larger estimate is NOT RECOMMENDED (GB of 1024**3 bytes).
        egress_budget_gb: a larger estimate is a warning.
        max_source_connections: the most connections to this database at the same time of all runs
            of this user on this machine that say so, the one that holds the snapshot included;
            None: what the environment's ``IXFLOW_MAX_SOURCE_CONNECTIONS`` says.

    Raises:
        ValidationError: naming every field with a wrong value.

    >>> RuntimeContext(source_load="high").source_load
    'high'

    """

    max_workers: int | None = None
    min_workers: int | None = None
    source_load: str | None = None
    network_quality: str | None = None
    priority: str | None = None
    target_duration_seconds: float | None = None
    maintenance_window_minutes: float | None = None
    disk_budget_gb: float | None = None
    egress_budget_gb: float | None = None
    max_source_connections: int | None = None

    def __post_init__(self) -> None:
        """Refuse wrong values, all of them in one message."""
        wrong = [text for f in fields(self) if (text := _wrong(f.name, getattr(self, f.name)))]
        if not wrong and self.max_workers and (self.min_workers or 0) > self.max_workers:
            wrong = [f"min_workers {self.min_workers} is above max_workers {self.max_workers}"]
        if wrong:
            raise ValidationError("RuntimeContext: " + "; ".join(wrong))


def _wrong(name: str, value: Any) -> str | None:
    if value is None:
        return None
    if name in _WORDS:
        allowed = ", ".join(_WORDS[name])
        known = isinstance(value, str) and value in _WORDS[name]
        return None if known else f"{name} is {value!r}; it is one of {allowed}"
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if name in _COUNTS:
        good = number and isinstance(value, int) and value >= 1
        return None if good else f"{name} is {value!r}; it is a whole number from 1"
    above = number and math.isfinite(value) and (value >= 0 if name.endswith("_gb") else value > 0)
    return None if above else f"{name} is {value!r}; it is a number above 0"


@dataclass(frozen=True, slots=True)
class WorkerResolution:
    """How a number of workers came about: each step as (what, workers after it)."""

    workers: int
    steps: tuple[tuple[str, int], ...]
    infeasible: str | None = None

    def __str__(self) -> str:
        """Show the chain in one line."""
        return " -> ".join(f"{what}: {workers}" for what, workers in self.steps)


def resolve_workers(
    base: int, context: RuntimeContext | None, *, limit: int | None = None
) -> WorkerResolution:
    """Apply a context to a base number of workers; ``limit`` is what the source can give.

    >>> hint = RuntimeContext(network_quality="degraded", source_load="high", priority="low")
    >>> resolve_workers(8, hint).workers
    2
    """
    ctx = context or RuntimeContext()
    base = max(1, base)
    steps = [("base", base)]
    capped = min(base, ctx.max_workers or base, limit or base)
    if capped != base:
        steps.append(("hard caps", capped))
    factor = _factor(_LOAD, ctx.source_load) * _factor(_NETWORK, ctx.network_quality)
    factor = max(_LEAST_FACTOR, factor)
    workers = max(1, math.floor(capped * factor))
    if factor != 1:
        steps.append((f"load and network x{factor:g}", workers))
    bias = _factor(_PRIORITY, ctx.priority)
    if bias != 1:
        workers = max(1, min(capped, math.floor(workers * bias)))
        steps.append((f"priority {ctx.priority}", workers))
    if ctx.min_workers and workers < ctx.min_workers:
        workers = ctx.min_workers
        steps.append(("min_workers", workers))
    infeasible = None
    if limit is not None and (ctx.min_workers or 0) > limit:
        infeasible = f"min_workers {ctx.min_workers} is above the {limit} that can be had"
        workers = limit
        steps.append(("limit of the source", workers))
    return WorkerResolution(workers, tuple(steps), infeasible)


def _factor(table: dict[str, float], word: str | None) -> float:
    return 1.0 if word is None else table[word]
