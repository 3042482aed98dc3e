"""Plan checks of a step that extracts several tables: each table's plan is judged on its own."""

from collections.abc import Callable, Iterator, Mapping

import dagster as dg

from ixflow.dagster.held import object_of
from ixflow.dagster.parts import Part, raise_failed
from ixflow.dagster.plan_checks import PlanCheck
from ixflow.errors import IxflowError
from ixflow.extraction.cost import CostConfig
from ixflow.extraction.plan import PlanResult

__all__ = ["PLAN_CHECK", "Checks", "asked_checks", "dry_runs", "verdicts"]

PLAN_CHECK = "ixflow/plan_check"

Checks = Mapping[dg.AssetKey, PlanCheck]


def asked_checks(context: dg.AssetExecutionContext) -> dict[dg.AssetKey, PlanCheck]:
    """Find the plan checks that the run shall evaluate, by the assets that have them."""
    found: dict[dg.AssetKey, PlanCheck] = {}
    for asked in sorted(context.selected_asset_check_keys):
        metadata = context.assets_def.metadata_by_key.get(asked.asset_key)
        check = object_of(metadata, PLAN_CHECK, PlanCheck)
        if check is not None and check.name == asked.name:
            found[asked.asset_key] = check
    return found


def dry_runs(
    context: dg.AssetExecutionContext,
    checks: Checks,
    planned: Callable[[dg.AssetKey, CostConfig | None], PlanResult],
    *,
    force: bool,
) -> Iterator[tuple[Part, dg.AssetCheckResult]]:
    """Judge the plans of assets of which nothing but the check was asked for.

    Raises:
        dagster.Failure: tables could not be planned, which it names; all others were judged.

    """
    failed: dict[Part, Exception] = {}
    alone = [key for key in checks if key not in context.selected_asset_keys]
    for key in alone:
        try:
            plan = planned(key, checks[key].rates)
        except IxflowError as error:
            failed[Part(key)] = error
        else:
            yield Part(key), checks[key].result(plan, key, force=force)
    raise_failed(failed, len(alone), "planned", "judged")


def verdicts(
    plans: Mapping[Part, PlanResult], checks: Checks, *, force: bool
) -> tuple[dict[Part, dg.AssetCheckResult], dict[Part, dg.AssetCheckResult]]:
    """Judge plans: those that are refused, and those whose verdict is told with their rows."""
    refused: dict[Part, dg.AssetCheckResult] = {}
    kept: dict[Part, dg.AssetCheckResult] = {}
    for part, planned in plans.items():
        if part.key in checks:
            verdict = checks[part.key].result(planned, part.key, force=force)
            (kept if verdict.passed or force else refused)[part] = verdict
    return refused, kept
