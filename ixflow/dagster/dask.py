"""`dask_executor`: dagster-dask's executor, for jobs whose steps have pools; needs `dagster-dask`.

dagster-dask 0.29 hands the whole run to Dask, and since 2025 Dask looks into what it is handed: it
fails at the counts of pools, which a run has as soon as a step has a pool, as all of ours have. The
steps do not need the counts, and dagster-dask heeds no pools: `max_concurrent_runs` and the number
of the cluster's threads are what bounds its steps.
"""

from collections.abc import Iterator
from typing import Any

import dagster as dg
from dagster._core.execution.context.system import PlanOrchestrationContext
from dagster._core.execution.plan.plan import ExecutionPlan
from dagster_dask import executor as dagster_dask_executor

__all__ = ["dask_executor"]

_theirs: Any = dagster_dask_executor.dask_executor


class _DaskExecutor(dagster_dask_executor.DaskExecutor):
    """Runs the steps of a run that says nothing of pools."""

    def execute(
        self, plan_context: PlanOrchestrationContext, execution_plan: ExecutionPlan
    ) -> Iterator[dg.DagsterEvent]:
        """Run the steps on the cluster."""
        data = plan_context.plan_data
        run = data.dagster_run._replace(run_op_concurrency=None)
        plain = PlanOrchestrationContext(
            plan_data=data._replace(dagster_run=run),
            log_manager=plan_context.log,
            executor=self,
            output_capture=plan_context.output_capture,
            resume_from_failure=plan_context.resume_from_failure,
        )
        yield from super().execute(plain, execution_plan)


def _made(context: dg.InitExecutorContext) -> dg.Executor:
    theirs = _theirs.executor_creation_fn(context)
    ours: Any = _DaskExecutor
    made: dg.Executor = ours(theirs.cluster_type, theirs.cluster_configuration)
    return made


dask_executor = dg.ExecutorDefinition(
    name="dask",
    config_schema=_theirs.config_schema,
    requirements=dg.multiple_process_executor_requirements(),
    executor_creation_fn=_made,
    description="Runs each step on a Dask cluster, configured as dagster-dask's executor is.",
)
"""Runs each step on a Dask cluster, configured as dagster-dask's executor is."""
