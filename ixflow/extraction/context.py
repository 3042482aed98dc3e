"""What the caller says about the moment of a run, and how that changes the number of workers."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

from ixflow.errors import ValidationError

__all__ = ["RuntimeContext", "WorkerResolution", "resolve_workers"]

_LOAD = {"low": 1.0, "normal": 1.0, "high": 0.5}
_NETWORK = {"good": 1.0, "normal": 1.0, "degraded": 0.75}
_PRIORITY = {"low": 0.75, "normal": 1.0, "high": 1.25}
_MAINTENANCE, _LEAST_FACTOR = 0.5, 0.25

_WORDS = {"source_load": _LOAD, "network_quality": _NETWORK, "priority": _PRIORITY}
_COUNTS = {"max_workers": 1, "min_workers": 1, "max_source_connections": 1}
_COUNTS["concurrent_extractions"] = 0
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
        concurrent_extractions: connections to this database of extractions that this machine cannot
            see; they count within ``max_source_connections``.
        source_maintenance_scheduled: True halves the workers.
        dask_address: the scheduler of a Dask cluster, such as ``tcp://dask:8786``, whose workers
            read the tasks in this process's snapshot; None: threads of this process do.

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
    concurrent_extractions: int | None = None
    source_maintenance_scheduled: bool | None = None
    dask_address: str | None = None

    def __post_init__(self) -> None:
        """Refuse wrong values, all of them in one message."""
        wrong = [text for f in fields(self) if (text := _wrong(f.name, getattr(self, f.name)))]
        if not wrong and self.max_workers and (self.min_workers or 0) > self.max_workers:
            wrong = [f"min_workers {self.min_workers} is above max_workers {self.max_workers}"]
        if wrong:
            raise ValidationError("RuntimeContext: " + "; ".join(wrong))

    @classmethod
    def from_file(cls, path: str | Path) -> Self:
        """Read a JSON file with the field names as keys.

        Raises:
            ValidationError: no such file, not a JSON object, an unknown key or a wrong value.

        """
        return cls(**_object_in(path, [f.name for f in fields(cls)]))

    @classmethod
    def from_cli_args(cls, args: Mapping[str, Any]) -> Self | None:
        """Take parsed command-line options, which win over the file ``context_file`` among them.

        Other names, and None, are ignored; None if nothing is said.

        Raises:
            ValidationError: as `from_file`.

        >>> RuntimeContext.from_cli_args({"priority": "low", "verbose": True}).priority
        'low'
        """
        names = [f.name for f in fields(cls)]
        given = _object_in(args["context_file"], names) if args.get("context_file") else {}
        given |= {name: args[name] for name in names if args.get(name) is not None}
        return cls(**given) if given else None


def _object_in(path: str | Path, names: list[str]) -> dict[str, Any]:
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        msg = f"cannot read a context from {path}: {error}"
        raise ValidationError(msg, path=str(path)) from None
    if not isinstance(found, dict) or set(found) - set(names):
        msg = f"{path} must hold a JSON object with keys among {', '.join(names)}"
        raise ValidationError(msg, path=str(path))
    return found


def _wrong(name: str, value: Any) -> str | None:
    if value is None:
        return None
    if name in _WORDS:
        allowed = ", ".join(_WORDS[name])
        known = isinstance(value, str) and value in _WORDS[name]
        return None if known else f"{name} is {value!r}; it is one of {allowed}"
    if name == "source_maintenance_scheduled":
        return None if isinstance(value, bool) else f"{name} is {value!r}; it is True or False"
    if name == "dask_address":
        good = isinstance(value, str) and "://" in value
        return None if good else f"{name} is {value!r}; it is an address like 'tcp://dask:8786'"
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if name in _COUNTS:
        good = number and isinstance(value, int) and value >= _COUNTS[name]
        return None if good else f"{name} is {value!r}; it is a whole number from {_COUNTS[name]}"
    above = number and math.isfinite(value) and (value >= 0 if name.endswith("_gb") else value > 0)
    return None if above else f"{name} is {value!r}; it is a number above 0"


@dataclass(frozen=True, slots=True)
class WorkerResolution:
    """How a number of workers came about: each step as (what, workers after it).

    ``warnings`` name what was said and changed nothing.
    """

    workers: int
    steps: tuple[tuple[str, int], ...]
    infeasible: str | None = None
    warnings: tuple[str, ...] = ()

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
    capped = max(1, min(base, ctx.max_workers or base, base if limit is None else limit))
    steps = [("base", base), ("hard caps", capped)][: 1 + (capped != base)]
    factor, words = _product(ctx)
    workers = max(1, math.floor(capped * factor))
    if factor != 1:
        steps.append((f"{words} x{factor:g}", workers))
    bias, before = _factor(_PRIORITY, ctx.priority), workers
    if bias != 1:
        workers = max(1, min(capped, math.floor(workers * bias)))
        steps.append((f"priority {ctx.priority}", workers))
    if ctx.min_workers and workers < ctx.min_workers:
        workers = ctx.min_workers
        steps.append(("min_workers", workers))
    infeasible = None if limit is None else _infeasible(ctx, limit)
    if limit is not None and workers > max(1, limit):
        workers = max(1, limit)
        steps.append(("limit of the source", workers))
    idle = bias != 1 and before == max(1, min(capped, math.floor(before * bias)))
    warnings = tuple(_without_effect(ctx, idle_priority=idle))
    return WorkerResolution(workers, tuple(steps), infeasible, warnings)


def _product(ctx: RuntimeContext) -> tuple[float, str]:
    """Multiply what is said of the source and the network; never below a quarter."""
    factors = {
        "load": _factor(_LOAD, ctx.source_load),
        "network": _factor(_NETWORK, ctx.network_quality),
        "maintenance": _MAINTENANCE if ctx.source_maintenance_scheduled else 1.0,
    }
    said = [name for name, factor in factors.items() if factor != 1]
    return max(_LEAST_FACTOR, math.prod(factors.values())), " and ".join(said)


def _infeasible(ctx: RuntimeContext, limit: int) -> str | None:
    if limit < 1:
        return (
            f"no connection is left: {ctx.concurrent_extractions} of other extractions are within "
            f"the cap on connections"
        )
    if (ctx.min_workers or 0) > limit:
        return f"min_workers {ctx.min_workers} is above the {limit} that can be had"
    return None


def _without_effect(ctx: RuntimeContext, *, idle_priority: bool) -> Iterator[str]:
    if idle_priority:
        yield f"priority {ctx.priority} changed nothing"


def _factor(table: dict[str, float], word: str | None) -> float:
    return 1.0 if word is None else table[word]
