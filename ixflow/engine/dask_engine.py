"""`DaskEngine`: the steps of a flow as one Dask graph."""

from __future__ import annotations

import contextlib
import uuid
from typing import Any

from ixflow.errors import FlowError
from ixflow.pipeline.engine import OrchestrationEngine
from ixflow.pipeline.progress import Ended
from ixflow.pipeline.result import Result
from ixflow.pipeline.subflow import Step, Subflow

__all__ = ["DaskEngine"]


class DaskEngine(OrchestrationEngine):
    """Runs steps with Dask; the extra ``dask`` installs it.

    The arguments are those of `dask.compute`. Without a ``scheduler`` it is Dask's configured one,
    an open `distributed.Client`, or else ``"processes"``, one for each processor core
    (``num_workers``). ``"threads"`` and ``"synchronous"`` stay in this process, which DuckDB needs.

    Raises:
        FlowError: Dask is not installed.

    """

    def __init__(self, **dask_compute_kwargs: Any) -> None:
        try:
            import dask  # noqa: F401 - only to say early that it is missing
        except ImportError as error:
            msg = "DaskEngine needs dask: pip install 'ixflow[dask]'"
            raise FlowError(msg) from error
        self.dask_compute_kwargs = dask_compute_kwargs

    def run(self, subflow: Subflow, **dask_compute_kwargs: Any) -> Result:
        """Compute the graph; the arguments are added to those of the engine.

        The `Result` has what `dask.compute` gave as ``underlying``.

        Raises:
            FlowError: other processes cannot run the flow.

        """
        from dask.delayed import delayed

        options = {**self.dask_compute_kwargs, **dask_compute_kwargs}
        elsewhere = _leaves_this_process(options)
        ended: dict[Step, Any] = {}
        for step in subflow.steps:
            waits = [ended[other] for other in step.waits_for]
            # A cluster keeps what it has computed by name, so no other run may have these names.
            name = f"{step.name}-{uuid.uuid4().hex}"
            ended[step] = delayed(_run, pure=False)(step, waits, dask_key_name=name)
        computed = None
        with subflow.other_processes() if elsewhere else contextlib.nullcontext():
            computed = _base().compute(*ended.values(), optimize_graph=False, **options)
        return subflow.result(underlying=computed)


def _run(step: Step, waited_for: list[Ended]) -> Ended:
    del waited_for
    return step.run()


def _leaves_this_process(options: dict[str, Any]) -> bool:
    """Choose the scheduler, in the options, and say whether steps leave this process."""
    import dask.local
    import dask.threaded

    found = _base().get_scheduler(scheduler=options.get("scheduler"))
    if found is None:
        options["scheduler"] = "processes"
        found = _base().get_scheduler(scheduler="processes")
    # Dask would send several steps at once to a process, where they run one after the other.
    options.setdefault("chunksize", 1)
    return found not in (dask.local.get_sync, dask.threaded.get)


def _base() -> Any:
    """Give the module of Dask that computes; its functions have no types."""
    import dask.base

    return dask.base
