"""The plan of an extraction as an asset check: what would be read, by whom, at what cost.

The check is part of the extraction's own step. *Execute check* in the UI runs it alone: a plan is
made and shown, no row is read and nothing is published.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import dagster as dg

from ixflow.dagster.guard import guarded
from ixflow.extraction.cost import CostConfig
from ixflow.extraction.explain import Explanation
from ixflow.extraction.plan import PlanResult

__all__ = ["PlanCheck", "plan_check"]

_MOST_LINES = 60


@dataclass(frozen=True)
class PlanCheck:
    """What `plan_check` gives to an extraction asset."""

    name: str = "plan"
    rates: CostConfig | None = None

    def spec(self, asset: dg.AssetKey) -> dg.AssetCheckSpec:
        """Declare the check of an asset."""
        return dg.AssetCheckSpec(
            self.name,
            asset=asset,
            blocking=True,
            description="Plans the extraction; alone it is a dry run, which reads no rows. "
            "NOT RECOMMENDED stops the extraction unless it is forced.",
        )

    def result(
        self, planned: PlanResult, asset: dg.AssetKey, *, force: bool
    ) -> dg.AssetCheckResult:
        """Tell the verdict of a plan, and all that a person needs to judge it."""
        refused = planned.is_not_recommended
        return dg.AssetCheckResult(
            asset_key=asset,
            check_name=self.name,
            passed=not refused,
            severity=dg.AssetCheckSeverity.WARN if force else dg.AssetCheckSeverity.ERROR,
            description="; ".join([planned.verdict, *planned.advisories])
            + ("; extracted all the same, it is forced" if refused and force else ""),
            metadata=guarded("the plan", lambda: _metadata(planned), *planned.intent.secrets),
        )


def plan_check(*, rates: CostConfig | None = None, name: str = "plan") -> PlanCheck:
    """Make the check that plans an extraction: `extraction_asset(intent, check=plan_check())`.

    It shows the verdict, how the number of workers came about, tasks, estimated rows, bytes and
    seconds, and with ``rates`` the cost. NOT RECOMMENDED fails it with severity ERROR and the
    extraction does not begin, unless ``force`` is set in the Launchpad: then it only warns.

    >>> plan_check(rates=CostConfig(egress_rate=0.09)).name
    'plan'
    """
    return PlanCheck(name, rates)


def _metadata(planned: PlanResult) -> dict[str, Any]:
    plan, cost = planned.plan, planned.cost_estimate
    found: dict[str, Any] = {
        "ixflow/verdict": planned.verdict,
        "ixflow/dry_run": dg.MetadataValue.md(markdown(planned)),
        "ixflow/workers": plan.worker_count,
        "ixflow/tasks": len(plan.tasks),
        "ixflow/estimated_bytes": plan.estimated_bytes,
        "ixflow/estimated_seconds": round(plan.estimated_seconds, 3),
        "ixflow/consistency": plan.consistency,
        "ixflow/plan_fingerprint": plan.fingerprint,
    }
    if plan.estimated_rows >= 0:
        found["ixflow/estimated_rows"] = plan.estimated_rows
    if cost is not None:
        found["ixflow/estimated_cost"] = round(cost.total, 6)
    return found


def markdown(planned: PlanResult) -> str:
    """Show a plan as a table, the advisories as a list, and the explanation below."""
    rows = "\n".join(f"| {what} | {_cell(value)} |" for what, value in _facts(planned))
    advisories = "".join(f"- {_cell(advisory)}\n" for advisory in planned.advisories)
    lines = str(Explanation(planned)).splitlines()
    shown = lines[:_MOST_LINES]
    if len(lines) > len(shown):
        shown.append(f"... and {len(lines) - len(shown)} more lines")
    text = "\n".join(shown).replace("```", "'''")
    head = f"| plan | {_cell(planned.plan.object_name)} |\n|---|---|\n{rows}\n\n"
    return f"{head}{advisories}\n```\n{text}\n```"


def _facts(planned: PlanResult) -> Iterator[tuple[str, str]]:
    plan, cost = planned.plan, planned.cost_estimate
    yield "verdict", f"**{planned.verdict}**"
    yield "workers", f"{plan.worker_count} ({planned.worker_resolution})"
    yield "tasks", f"{len(plan.tasks):,} by {plan.strategy}"
    yield "estimated rows", "unknown" if plan.estimated_rows < 0 else f"{plan.estimated_rows:,}"
    yield "estimated bytes", f"{plan.estimated_bytes:,}"
    basis = f"{planned.throughput_method}, {planned.throughput_confidence} confidence"
    speed = f"{planned.throughput_estimate:,.0f} rows/s ({basis})"
    yield "estimated time", f"{plan.estimated_seconds:g} s at {speed}"
    yield "consistency", plan.consistency
    parts = "" if cost is None else ", ".join(f"{k} {v:g}" for k, v in cost.breakdown.items())
    yield "cost", "no rates are given" if cost is None else f"{cost.total:.4f} ({parts})"


def _cell(text: str) -> str:
    """Keep a text within its cell."""
    return " ".join(text.split()).replace("|", "\\|")
