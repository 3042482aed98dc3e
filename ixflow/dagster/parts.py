"""What a step makes, asset by asset or partition by partition, and what of it failed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import dagster as dg

from ixflow.dagster.failures import as_failure
from ixflow.errors import IxflowError

__all__ = ["Part", "raise_failed"]


@dataclass(frozen=True)
class Part:
    """What one extraction publishes: an asset, or one partition of it.

    ``rows`` says which rows are in the partition; those whose ``nullable`` columns are NULL are in
    none.

    >>> str(Part(dg.AssetKey(["extracted", "orders"]), "2024-05-01"))
    'extracted/orders (2024-05-01)'
    """

    key: dg.AssetKey
    partition: str | None = None
    rows: str = ""
    nullable: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Name it."""
        name = self.key.to_user_string()
        return name if self.partition is None else f"{name} ({self.partition})"

    @property
    def name(self) -> str:
        """Give its short name."""
        return self.key.path[-1] if self.partition is None else self.partition

    def metadata(self) -> dict[str, Any]:
        """Say which rows these are."""
        told = {} if self.partition is None else {"ixflow/partition": self.rows}
        if self.nullable:
            names = " or ".join(self.nullable)
            told["ixflow/in_no_partition"] = f"rows whose {names} is NULL"
        return told


def raise_failed(failed: Mapping[Part, Exception], total: int, verb: str, state: str) -> None:
    """Say which parts failed, and why; what is no error of ixflow is raised as it is.

    ``verb`` is what was not done with them, ``state`` what the others are.
    """
    for error in failed.values():
        if not isinstance(error, IxflowError):
            raise error
    made = {k: as_failure(e) for k, e in failed.items() if isinstance(e, IxflowError)}
    if not made:
        return
    if total == 1:
        ((part, failure),) = made.items()
        raise failure from failed[part]
    said = "; ".join(f"{part}: {made[part].description}" for part in made)
    others = f", the others are {state}" if len(made) < total else ""
    what = "partitions" if all(part.partition is not None for part in made) else "tables"
    msg = f"{len(made)} of {total} {what} were not {verb}{others}: {said}"
    raise dg.Failure(
        msg,
        metadata={f"ixflow/error/{part.name}": str(made[part].description) for part in made},
        allow_retries=any(failure.allow_retries for failure in made.values()),
    ) from next(iter(failed.values()))
