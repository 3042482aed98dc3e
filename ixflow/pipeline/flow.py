"""`Flow`: stages and tasks as they were declared, and running them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

from ixflow.errors import FlowError
from ixflow.events import Event
from ixflow.pipeline import visualize
from ixflow.pipeline.cache import Rules
from ixflow.pipeline.config import ConfigContext
from ixflow.pipeline.containers import normalised
from ixflow.pipeline.context import Declaration, declaration
from ixflow.pipeline.engine import OrchestrationEngine, ThreadedEngine, check_engine
from ixflow.pipeline.locks.run_locks import RunLocks
from ixflow.pipeline.pipedag_config import PipedagConfig, configured
from ixflow.pipeline.result import Result
from ixflow.pipeline.run import Run
from ixflow.pipeline.stage import Stage
from ixflow.pipeline.task import Task, TaskGetItem
from ixflow.values import new_run_id

__all__ = ["Flow"]


class Flow:
    """A collection of stages and their tasks, declared in a ``with`` block.

    Raises:
        FlowError: another flow's block is open.

    >>> from ixflow.pipeline import Stage, materialize
    >>> @materialize(version="1")
    ... def answer():
    ...     return 42
    >>> with Flow("example") as flow:
    ...     with Stage("first"):
    ...         a = answer()
    >>> flow["first"]["answer"] is a
    True
    """

    def __init__(self, name: str = "default") -> None:
        self.name = name
        self.stages: dict[str, Stage] = {}
        self.tasks: list[Task] = []

    def __enter__(self) -> Self:
        """Open the block."""
        if declaration.get() is not None:
            msg = f"flow {self.name} is opened within another flow's block; close that first"
            raise FlowError(msg, flow=self.name)
        declaration.set(Declaration(self))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the block."""
        del kind, error, trace
        declaration.set(None)

    def __getitem__(self, name: str) -> Stage:
        """Find a stage by its name, which is case-insensitive.

        Raises:
            KeyError: there is none.

        """
        found = self.stages.get(normalised(name))
        if found is None:
            known = ", ".join(self.stages) or "none"
            msg = f"flow {self.name} has no stage {name!r}; it has {known}"
            raise KeyError(msg)
        return found

    def get_stage(self, name: str) -> Stage:
        """Find a stage; the same as ``flow[name]``."""
        return self[name]

    def run(
        self,
        *components: Task | TaskGetItem | Stage,
        config: ConfigContext | PipedagConfig | None = None,
        orchestration_engine: OrchestrationEngine | None = None,
        fail_fast: bool | None = None,
        ignore_cache_function: bool = False,
        transaction_id: str | None = None,
        on_event: Callable[[Event], None] | None = None,
        **kwargs: Any,
    ) -> Result:
        """Run the flow, or some stages of it, or some tasks.

        Without components everything runs and each stage is published when it is complete. Stages
        run with those nested in them and are published. Tasks run though they are valid, and are
        not published. ``config`` defaults to the innermost open `ConfigContext`, else to what
        `PipedagConfig.default` says of this flow; tasks find it with `ConfigContext.get`.
        ``orchestration_engine`` (default: the configuration's, else threads) runs the steps, and
        takes all ``kwargs`` that are not named here. With ``fail_fast`` (default: the
        configuration's) nothing starts after a failure; without, what does not wait for it goes on.
        ``ignore_cache_function`` takes results as valid whatever cache functions say. A failed run
        is taken up again by another with the same ``transaction_id``.

        Raises:
            FlowError: the components are of two kinds or of another flow, there is no
                configuration, or the engine does not know one of the ``kwargs``.
            IxflowError: the run failed and is to fail fast.

        >>> flow.run(config=create_basic_pipedag_config(url)).successful  # doctest: +SKIP
        True
        """
        if declaration.get() is not None:
            msg = f"flow {self.name} cannot run within its own `with` block; run it after"
            raise FlowError(msg, flow=self.name)
        tasks, commits = self._selection(components)
        with configured(config, self.name) as chosen:
            engine = orchestration_engine or chosen.orchestration_engine or ThreadedEngine()
            engine = check_engine(engine, kwargs)
            fail_fast = chosen.fail_fast if fail_fast is None else fail_fast
            run = Run(
                chosen.table_store,
                tasks,
                commits,
                transaction_id=transaction_id or new_run_id(),
                rules=Rules(
                    forced=not commits or chosen.force_task_execution,
                    ignore_cache_function=ignore_cache_function or chosen.ignore_cache_function,
                    ignore_task_version=chosen.ignore_task_version,
                ),
                blobs=chosen.blob_store,
                auto_blob=chosen.auto_blob,
                auto_table=chosen.auto_table,
                max_workers=chosen.max_workers,
                fail_fast=fail_fast,
                flow=self,
                config=chosen,
                locks=RunLocks(chosen, [stage.name for stage in commits]),
                on_event=on_event,
            )
            result = run.run(engine, kwargs)
        if result.exception is not None and fail_fast:
            raise result.exception
        return result

    def _selection(
        self, components: Sequence[Task | TaskGetItem | Stage]
    ) -> tuple[list[Task], list[Stage]]:
        if not components:
            return self.tasks, list(self.stages.values())
        stages = [component for component in components if isinstance(component, Stage)]
        if stages and len(stages) < len(components):
            msg = "run() takes stages (published) or tasks (not published), not both at once"
            raise FlowError(msg, flow=self.name)
        wanted = [c.task if isinstance(c, TaskGetItem) else c for c in components]
        foreign = [c for c in wanted if getattr(c, "flow", None) is not self]
        if foreign:
            msg = f"run() takes stages or tasks of flow {self.name}, not {foreign[0]!r}"
            raise FlowError(msg, flow=self.name)
        chosen = {stage for outer in stages for stage in outer.subtree()}
        tasks = [task for task in self.tasks if task in wanted or task.stage in chosen]
        return tasks, [stage for stage in self.stages.values() if stage in chosen]

    def visualize(self, result: Result | None = None) -> Any:
        """Show the flow as a graph, in a notebook or in a viewer; needs pydot and Graphviz.

        With a ``result``, the tasks have the colours of their states.

        Raises:
            FlowError: one of them is not installed.

        """
        return visualize.show(visualize.graph_of(self, result))

    def visualize_url(self, result: Result | None = None) -> str:
        """Give a URL at which the configuration's Kroki server shows the flow as a graph.

        Nothing is sent before the URL is opened; the names of stages and tasks are within it.

        Raises:
            FlowError: the configuration has ``kroki_url: null``.

        """
        dot = visualize.dot_of(visualize.graph_of(self, result))
        with contextlib.ExitStack() as stack:
            config = None if result is None else result.config_context
            config = config or stack.enter_context(configured(None, self.name))
            return visualize.url_of(dot, config.kroki_url)

    def visualize_pydot(self, result: Result | None = None) -> Any:
        """Give the flow as a `pydot.Dot`; needs pydot, but no Graphviz.

        Raises:
            FlowError: pydot is not installed.

        """
        return visualize.pydot_of(visualize.graph_of(self, result))

    def to_definitions(self, **options: Any) -> Any:
        """Give the flow as Dagster definitions: a subsettable multi-asset a stage.

        With ``execution="graph"`` each task of a stage is a step of its own. See
        `ixflow.dagster.flow_definitions` for the options.
        """
        from ixflow.dagster.stages import flow_definitions

        return flow_definitions(self, **options)

    def __repr__(self) -> str:
        """Show the name and the stages."""
        return f"<Flow {self.name}: {', '.join(self.stages)}>"
