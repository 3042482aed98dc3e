"""What a run costs at the caller's rates. An estimate, never a bill."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

from ixflow.errors import ValidationError

__all__ = [
    "GB",
    "CostConfig",
    "CostEstimate",
    "CostOption",
    "compare_costs",
    "cost_lines",
    "estimate_cost",
]

GB = 1024**3

_MINUTE = 60


@dataclass(frozen=True)
class CostConfig:
    """The rates, in any one currency; all zero by default.

    Args:
        compute_rate: per worker and second.
        egress_rate: per GB (1024**3 bytes) that leaves the source.
        connection_rate: per connection and second.

    Raises:
        ValidationError: a rate is not a finite number from 0.

    >>> CostConfig(compute_rate=0.05).is_zero
    False

    """

    compute_rate: float = 0.0
    egress_rate: float = 0.0
    connection_rate: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what is not a rate."""
        wrong = {k: v for k, v in asdict(self).items() if not _is_rate(v)}
        if wrong:
            raise ValidationError(f"CostConfig: {wrong} must be numbers from 0", rates=wrong)

    @property
    def is_zero(self) -> bool:
        """Say that nothing costs anything."""
        return not any(asdict(self).values())

    @classmethod
    def from_file(cls, path: str | Path) -> Self:
        """Read the rates from a JSON file with the field names as keys.

        Raises:
            ValidationError: no such file, not a JSON object, an unknown key or a wrong rate.

        """
        try:
            given = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            msg = f"cannot read rates from {path}: {error}"
            raise ValidationError(msg, path=str(path)) from None
        known = [f.name for f in fields(cls)]
        if not isinstance(given, dict) or set(given) - set(known):
            keys = ", ".join(known)
            msg = f"{path} must hold a JSON object with the keys {keys}; it holds {given!r}"
            raise ValidationError(msg, path=str(path))
        return cls(**given)

    @classmethod
    def from_cli_args(cls, args: Mapping[str, Any]) -> Self:
        """Take the rates from parsed command-line options; others and None are ignored.

        Raises:
            ValidationError: a rate is not a number from 0.

        >>> CostConfig.from_cli_args({"compute_rate": "0.05", "verbose": True})
        CostConfig(compute_rate=0.05, egress_rate=0.0, connection_rate=0.0)
        """
        given = {f.name: args[f.name] for f in fields(cls) if args.get(f.name) is not None}
        try:
            rates = {name: float(value) for name, value in given.items()}
        except (TypeError, ValueError):
            raise ValidationError(f"rates must be numbers, not {given}") from None
        return cls(**rates)


def _is_rate(value: Any) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and math.isfinite(value) and value >= 0


@dataclass(frozen=True, slots=True)
class CostEstimate:
    """The estimated cost of a run and its parts, in the currency of the rates."""

    total: float
    compute: float
    egress: float
    connections: float

    @property
    def breakdown(self) -> dict[str, float]:
        """Give the parts by name."""
        return {
            "compute": self.compute,
            "egress": self.egress,
            "connections": self.connections,
        }


def estimate_cost(
    rates: CostConfig, *, workers: int, seconds: float, size_bytes: int
) -> CostEstimate:
    """Price a run of this many workers over these seconds that moves these bytes.

    >>> estimate_cost(CostConfig(0.05, 0.01), workers=2, seconds=10, size_bytes=GB).total
    1.01
    """
    compute = round(workers * seconds * rates.compute_rate, 4)
    egress = round(size_bytes / GB * rates.egress_rate, 4)
    connections = round(workers * seconds * rates.connection_rate, 4)
    return CostEstimate(round(compute + egress + connections, 4), compute, egress, connections)


@dataclass(frozen=True, slots=True)
class CostOption:
    """What a number of workers is estimated to take and to cost."""

    workers: int
    estimated_duration_seconds: float
    cost: float
    is_planned: bool = False

    @property
    def estimated_duration_minutes(self) -> float:
        """Give the minutes, with one decimal."""
        return round(self.estimated_duration_seconds / _MINUTE, 1)

    def __str__(self) -> str:
        """Say it in one line.

        >>> str(CostOption(2, 90.0, 0.5, is_planned=True))
        '2 workers: 1.5 min, 0.5000 (planned)'
        """
        seconds, minutes = self.estimated_duration_seconds, self.estimated_duration_minutes
        time = f"{seconds:.0f} s" if seconds < _MINUTE else f"{minutes:g} min"
        return f"{self.workers} workers: {time}, {self.cost:.4f}" + " (planned)" * self.is_planned


def compare_costs(
    rates: CostConfig, *, workers: int, most: int, seconds: float, size_bytes: int
) -> list[CostOption]:
    """Compare the planned workers with half as many and half as many more, up to ``most``.

    Time goes down with the root of the workers, as estimates do. An option that is neither faster
    nor cheaper than another is left out, but the planned one is not.

    >>> options = compare_costs(CostConfig(0.1), workers=4, most=8, seconds=60, size_bytes=0)
    >>> [(option.workers, option.cost) for option in options]
    [(2, 16.9706), (4, 24.0), (6, 29.3939)]
    """
    if rates.is_zero or seconds <= 0:
        return []
    step = max(1, round(workers * 0.5))
    options = []
    for count in sorted({max(1, workers - step), workers, max(workers, min(most, workers + step))}):
        takes = round(seconds * math.sqrt(workers / count), 4)
        total = estimate_cost(rates, workers=count, seconds=takes, size_bytes=size_bytes).total
        options.append(CostOption(count, takes, total, is_planned=count == workers))
    return [one for one in options if one.is_planned or not _is_beaten(one, options)]


def _is_beaten(one: CostOption, options: Sequence[CostOption]) -> bool:
    return any(
        other.estimated_duration_seconds <= one.estimated_duration_seconds
        and other.cost <= one.cost
        for other in options
        if other is not one
    )


def cost_lines(options: Sequence[CostOption]) -> Iterator[str]:
    """Show a comparison, and what it costs to be faster than the cheapest."""
    planned = next((option for option in options if option.is_planned), None)
    if planned is None or len(options) == 1:
        return
    yield from (f"  {option}" for option in options)
    cheapest = min(options, key=lambda option: option.cost)
    saved = cheapest.estimated_duration_seconds - planned.estimated_duration_seconds
    if saved > 0 and cheapest.cost > 0:
        more = planned.cost - cheapest.cost
        percent = more / cheapest.cost
        yield f"  saving {saved:.0f} s costs {more:.4f} more ({percent:+.0%})"
