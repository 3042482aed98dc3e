"""Checks that YAML asks for: of an extraction's plan, and of the warehouse against the source."""

from collections.abc import Sequence
from typing import Annotated, Any

import dagster as dg

from ixflow.dagster.components.fields import shown
from ixflow.dagster.components.schema import PreciseFields
from ixflow.dagster.plan_checks import PlanCheck, plan_check
from ixflow.dagster.reconcile import reconcile
from ixflow.extraction.cost import CostConfig
from ixflow.extraction.intent import ExtractionIntent

__all__ = ["PlanChecked", "Reconciled"]


class Rates(dg.Model, dg.Resolvable):
    """What an extraction costs, in any one currency."""

    compute_rate: Annotated[float, shown("per worker and second")] = 0.0
    egress_rate: Annotated[float, shown("per GB that leaves the source")] = 0.0
    connection_rate: Annotated[float, shown("per connection and second")] = 0.0


class PlanChecked(PreciseFields, dg.Model):
    """The check of each table's plan, which is a dry run when it is executed alone.

    >>> PlanChecked(rates=Rates(egress_rate=0.09)).check().name
    'plan'
    """

    name: Annotated[str, shown("the name of the check")] = "plan"
    rates: Annotated[Rates | None, shown("rates, to show the cost too")] = None

    def check(self) -> PlanCheck:
        """Make it."""
        rates = None if self.rates is None else CostConfig(**self.rates.model_dump())
        return plan_check(rates=rates, name=self.name)


class Reconciled(dg.Model, dg.Resolvable):
    """The check that a table of the warehouse has the rows of its source."""

    name: Annotated[str, shown("the name of the check")] = "reconcile"
    key: Annotated[str | None, shown("a number or time, for databases without checksums")] = None
    columns: Annotated[Sequence[str] | None, shown("what is compared; default: all")] = None
    where: Annotated[str | None, shown("a condition that both databases understand")] = None
    checksum: Annotated[bool, shown("compare values too, where both databases can")] = True
    warn: Annotated[bool, shown("warn of a difference, instead of failing")] = False
    blocking: Annotated[bool, shown("stop what depends on the table")] = False

    def check(
        self, source: ExtractionIntent, target: str, **options: Any
    ) -> dg.AssetChecksDefinition:
        """Make it for a table, ``schema.table``; the options are those of `reconcile`."""
        severity = dg.AssetCheckSeverity.WARN if self.warn else dg.AssetCheckSeverity.ERROR
        given = self.model_dump(exclude={"warn"})
        return reconcile(source=source, target=target, severity=severity, **given, **options)
