"""`PrefectEngine`: the steps of a flow as the tasks of a Prefect flow."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import re
import uuid
from typing import Any

from ixflow.errors import FlowError, TaskError
from ixflow.pipeline.engine import OrchestrationEngine
from ixflow.pipeline.result import Result, TaskState
from ixflow.pipeline.subflow import Step, Subflow

__all__ = ["PrefectEngine", "PrefectOneEngine", "PrefectTwoEngine"]


class PrefectEngine(OrchestrationEngine):
    """Hands a flow over to Prefect 3; the extra ``prefect`` installs it.

    ``flow_kwargs`` are those of the ``@prefect.flow`` decorator. With a ``task_runner`` other than
    Prefect's `ThreadPoolTaskRunner`, such as `ProcessPoolTaskRunner`, the tasks run in other
    processes. The `Result` has the Prefect flow's state as ``underlying``.

    Raises:
        FlowError: Prefect 3 is not installed.

    """

    def __init__(self, flow_kwargs: dict[str, Any] | None = None) -> None:
        _check_version("PrefectEngine", 3)
        self.flow_kwargs = dict(flow_kwargs or {})

    def run(self, subflow: Subflow) -> Result:
        """Run the Prefect flow, and wait for it.

        Raises:
            FlowError: other processes cannot run the flow.

        """
        import prefect
        from prefect.task_runners import ThreadPoolTaskRunner

        options = {"name": _flow_name(subflow), **self.flow_kwargs}
        runner = options.setdefault("task_runner", ThreadPoolTaskRunner(subflow.max_workers))
        kind = runner if isinstance(runner, type) else type(runner)
        elsewhere = not issubclass(kind, ThreadPoolTaskRunner)

        token = uuid.uuid4().hex

        @prefect.flow(validate_parameters=False, **options)
        def steps() -> list[Any]:
            return _submitted(token)

        _subflows[token] = subflow
        with subflow.other_processes() if elsewhere else contextlib.nullcontext():
            try:
                state = steps(return_state=True)
            finally:
                del _subflows[token]
        return subflow.result(underlying=state)


PrefectTwoEngine = PrefectEngine
"""The name that the adapter had for Prefect 2."""


class PrefectOneEngine(OrchestrationEngine):
    """Hands a flow over to Prefect 1, where that is installed.

    ``flow_kwargs`` are those of `prefect.Flow`. The tasks run in this process, as many at once as
    its ``executor`` runs threads. The `Result` has the Prefect flow's state as ``underlying``.

    Raises:
        FlowError: Prefect 1 is not installed.

    """

    def __init__(self, flow_kwargs: dict[str, Any] | None = None) -> None:
        _check_version("PrefectOneEngine", 1)
        self.flow_kwargs = dict(flow_kwargs or {})

    def run(self, subflow: Subflow) -> Result:
        """Run the Prefect flow, and wait for it."""
        prefect: Any = importlib.import_module("prefect")
        options = {"name": _flow_name(subflow), **self.flow_kwargs}
        with prefect.Flow(**options) as steps:
            tasks: dict[Step, Any] = {}
            for step in subflow.steps:
                waits = [tasks[other] for other in step.waits_for]
                tasks[step] = prefect.task(_run_raising, name=step.name)(step, upstream_tasks=waits)
        return subflow.result(underlying=steps.run())


def _flow_name(subflow: Subflow) -> str:
    """Name the flow for Prefect, which puts the name into addresses."""
    name = subflow.flow.name if subflow.flow else ""
    return re.sub(r"[/%&<>]", "-", name) or "ixflow"


def _run_raising(step: Step) -> str:
    """Run a step, and raise if it fails, from which Prefect 1 knows."""
    ended = step.run()
    if ended.state is TaskState.FAILED:
        raise TaskError(ended.message)
    return str(ended.state)


#: What runs now, by a name that other processes may know: Prefect sends them its flow.
_subflows: dict[str, Subflow] = {}


def _submitted(token: str) -> list[Any]:
    """Submit the steps of a run; give their futures."""
    futures: dict[Step, Any] = {}
    for step in _subflows[token].steps:
        waits = [futures[other] for other in step.waits_for]
        futures[step] = _task_of(step).submit(step, wait_for=waits)
    return list(futures.values())


def _task_of(step: Step) -> Any:
    import prefect
    from prefect.cache_policies import NO_CACHE

    version = step.task.definition.version if step.task is not None else None
    task: Any = prefect.task(
        name=step.name,
        task_run_name=step.name,
        version=version if isinstance(version, str) else None,
        cache_policy=NO_CACHE,
        persist_result=False,
    )
    return task(_run)


def _run(step: Step) -> Any:
    """Run a step, and tell its state in Prefect's words."""
    from prefect.states import Cancelled, Completed, Failed

    ended = step.run()
    if ended.state is TaskState.FAILED:
        return Failed(message=ended.message)
    if ended.state is TaskState.UNKNOWN:
        return Cancelled(message=ended.message)
    return Completed(name=str(ended.state).capitalize())


def _check_version(engine: str, major: int) -> None:
    """Look without importing: that alone would set up Prefect's logging."""
    try:
        found = importlib.metadata.version("prefect")
    except importlib.metadata.PackageNotFoundError as error:
        wanted = "'ixflow[prefect]'" if major > 1 else "'prefect<2'"
        msg = f"{engine} needs Prefect {major}, which is not installed: pip install {wanted}"
        raise FlowError(msg) from error
    if int(found.partition(".")[0]) != major:
        other = "PrefectEngine is for Prefect 3, PrefectOneEngine for Prefect 1"
        msg = f"{engine} needs Prefect {major}, and {found} is installed; {other}"
        raise FlowError(msg)
