"""What a run costs at the caller's rates. An estimate, never a bill."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

from ixflow.errors import ValidationError

__all__ = ["GB", "CostConfig", "CostEstimate", "estimate_cost"]

GB = 1024**3


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
