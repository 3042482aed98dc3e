"""Running a check alone, as *Execute check* in the UI does."""

from typing import Any

import dagster as dg

__all__ = ["check_alone", "only_evaluation"]


def check_alone(
    check: dg.AssetChecksDefinition, instance: dg.DagsterInstance, **resources: Any
) -> dg.ExecuteInProcessResult:
    """Run the check of an asset that others make; failures are in the result."""
    defs = dg.Definitions(
        [dg.AssetSpec(check.check_key.asset_key)],
        asset_checks=[check],
        resources=resources,
        jobs=[dg.define_asset_job("check", dg.AssetSelection.checks(check))],
    )
    job = defs.resolve_job_def("check")
    return job.execute_in_process(instance=instance, raise_on_error=False)


def only_evaluation(result: dg.ExecuteInProcessResult) -> Any:
    """Give the one evaluation that was recorded."""
    [found] = result.get_asset_check_evaluations()
    return found
