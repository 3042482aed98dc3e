"""`OrchestrationEngine`: what runs the steps of a flow; here, one by one or on threads."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ixflow.errors import FlowError, ValidationError
from ixflow.pipeline.schedule import run_graph

if TYPE_CHECKING:
    from ixflow.pipeline.result import Result
    from ixflow.pipeline.subflow import Subflow

__all__ = ["OrchestrationEngine", "SequentialEngine", "ThreadedEngine", "check_engine"]


class OrchestrationEngine(ABC):
    """Runs the steps of a flow; derive from it to run them in a way of your own.

    An engine decides when and where a step runs. What a step does, whether it may still start
    after a failure, and what the run comes to is not its concern: `Step.run` does not raise if a
    task fails, and does nothing where nothing is to be done.

    >>> class InOrder(OrchestrationEngine):
    ...     def run(self, subflow):
    ...         for step in subflow.steps:
    ...             step.run()
    ...         return subflow.result()
    """

    @abstractmethod
    def run(self, subflow: Subflow) -> Result:
        """Run every step of ``subflow.steps`` once those in its ``waits_for`` have ended.

        Keyword arguments that a subclass takes here are passed on by `Flow.run`. If an input
        changes while the flow runs, this is called again, with the steps that are left.
        """


class SequentialEngine(OrchestrationEngine):
    """Runs one step after the other, in the order of their declaration."""

    def run(self, subflow: Subflow) -> Result:
        """Run the steps in the caller's thread."""
        for step in subflow.steps:
            step.run()
        return subflow.result()


class ThreadedEngine(OrchestrationEngine):
    """Runs steps on threads of this process; the default.

    ``max_workers`` is how many run at once, by default the configuration's ``max_workers``.

    Raises:
        ValidationError: it is not at least 1.

    """

    def __init__(self, max_workers: int | None = None) -> None:
        if max_workers is not None and (type(max_workers) is not int or max_workers < 1):
            msg = f"ThreadedEngine(max_workers=) takes a whole number from 1, not {max_workers!r}"
            raise ValidationError(msg, max_workers=max_workers)
        self.max_workers = max_workers

    def run(self, subflow: Subflow) -> Result:
        """Run the steps on a pool of threads."""
        graph = {step: step.waits_for for step in subflow.steps}
        run_graph(graph, lambda step: step.run(), self.max_workers or subflow.max_workers)
        return subflow.result()


def check_engine(engine: Any, options: Mapping[str, Any]) -> OrchestrationEngine:
    """Check that this is an engine, and that its ``run`` takes these arguments.

    Raises:
        FlowError: so it is not.

    """
    if not isinstance(engine, OrchestrationEngine):
        msg = (
            f"flow.run(orchestration_engine=) takes an engine, such as SequentialEngine(), "
            f"not {engine!r}"
        )
        raise FlowError(msg)
    name = type(engine).__name__
    signature = inspect.signature(engine.run)
    try:
        signature.bind(None, **options)
    except TypeError as error:
        known = ", ".join(list(signature.parameters)[1:]) or "none"
        msg = f"flow.run() passes arguments on to {name}.run: {error}; it takes {known}"
        raise FlowError(msg, engine=name) from error
    return engine
