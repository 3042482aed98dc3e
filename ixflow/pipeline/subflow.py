"""What an orchestration engine gets: the steps of a run, in order, and what they wait for."""

from __future__ import annotations

import contextlib
import contextvars
import logging
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from ixflow.errors import FlowError, TaskError
from ixflow.events import TaskFinished, emit
from ixflow.pipeline.progress import Ended, name_of
from ixflow.pipeline.result import Result, TaskState
from ixflow.pipeline.stage import Stage
from ixflow.pipeline.task import Task
from ixflow.secrets import redact

if TYPE_CHECKING:
    from ixflow.pipeline.config import ConfigContext
    from ixflow.pipeline.flow import Flow
    from ixflow.pipeline.run import Run
    from ixflow.pipeline.schedule import Node
    from ixflow.pipeline.workers.leader import Leader

__all__ = ["Step", "Subflow"]

_log = logging.getLogger("ixflow.pipeline")

#: The runs that this process leads, so that a step that comes back runs here. A child that was
#: forked has another number, and no use for its parent's connections.
_here: dict[tuple[int, str], Subflow] = {}

T = TypeVar("T")


class Step:
    """One thing that an engine runs: a task, or the publication of a stage.

    ``task`` is None for a publication. ``waits_for`` are the steps that must have ended before.
    Within ``with subflow.other_processes():`` it can be pickled and run elsewhere; the copy has no
    other attributes than its ``name``.
    """

    def __init__(self, subflow: Subflow, index: int, node: Node) -> None:
        self._subflow = subflow
        self._index = index
        self.task = node if isinstance(node, Task) else None
        self.stage: Stage = node if isinstance(node, Stage) else node.stage
        self.name = f"publish {self.stage.name}"
        if self.task is not None:
            self.name = f"{self.stage.name}.{self.task.name}"
        self.waits_for: tuple[Step, ...] = ()

    def run(self) -> Ended:
        """Run the step, and say how it ended; a task that fails does not raise.

        It does nothing if a step that it waits for has failed, if any has and the run is to fail
        fast, or if it ran before.

        Raises:
            FlowError: a step that it waits for has not ended.

        """
        return self._subflow.perform(self._index)

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel as the address of the leader and a number."""
        return self._subflow.travelling(self._index, self.name)

    def __repr__(self) -> str:
        """Show the name."""
        return f"<Step {self.name}>"


class Subflow:
    """The part of a flow that a run was asked for, as an engine sees it.

    ``steps`` are in an order in which they can run, ``max_workers`` is how many of them the
    configuration wants to run at once, ``fail_fast`` says whether nothing more is to start after
    a failure, which the steps see to themselves.
    """

    def __init__(self, run: Run, nodes: list[Node]) -> None:
        self._run = run
        self._context = contextvars.copy_context()
        self._nodes = nodes
        self._leader: Leader | None = None
        self.flow: Flow | None = run.flow
        self.config: ConfigContext | None = run.config
        self.selected_tasks = frozenset(run.tasks)
        self.selected_stages = frozenset(run.commits)
        self.max_workers = run.max_workers
        self.fail_fast = run.progress.fail_fast
        self.steps = tuple(Step(self, index, node) for index, node in enumerate(nodes))
        place = {node: index for index, node in enumerate(nodes)}
        for node, step in zip(nodes, self.steps, strict=True):
            waits = sorted(place[other] for other in run.progress.graph[node])
            step.waits_for = tuple(self.steps[index] for index in waits)

    def perform(self, index: int) -> Ended:
        """Run the step of this number."""
        return self.within(lambda: self._run.perform(self._nodes[index]))

    def within(self, work: Callable[[], T]) -> T:
        """Do something in the caller's context, completed with what was set where the run began."""

        def completed() -> T:
            known = contextvars.copy_context()
            for var, value in self._context.items():
                if var not in known:
                    var.set(value)
            return work()

        return contextvars.copy_context().run(completed)

    @contextlib.contextmanager
    def other_processes(self) -> Iterator[None]:
        """Let steps run in other processes within the block: they can be pickled.

        This process leads: it says what may start, publishes and audits, and listens on the
        configuration's ``network_interface`` for the workers. What the engine raises in the block
        because a worker is gone is a failure of the task that the worker ran.

        Raises:
            FlowError: the flow cannot be sent, or the database allows one process only.
            TaskError: the engine raised, and no step did.

        """
        store = self._run.store
        if store.dialect.one_process:
            msg = (
                f"{store.dialect.name} lets one process at a time open {store.url.database}, so "
                f"tasks cannot run in others; use ThreadedEngine, SequentialEngine, "
                f"or DaskEngine(scheduler='threads')"
            )
            raise FlowError(msg)
        from ixflow.pipeline.workers.leader import Leader

        progress, stopped = self._run.progress, None
        with Leader(self._run, self._nodes, self.within) as leader:
            self._leader = leader
            _here[os.getpid(), leader.token] = self
            try:
                yield
            except Exception as error:  # noqa: BLE001 - an engine may raise anything
                stopped = error
            finally:
                self._leader = None
                del _here[os.getpid(), leader.token]
        for node in progress.running_now():
            self._lose(node, stopped)
        if stopped is None:
            return
        if not progress.failures:
            msg = f"no worker process could run a step: {type(stopped).__name__}: {stopped}"
            raise TaskError(redact(msg)) from stopped
        _log.error("the engine stopped: %s: %s", type(stopped).__name__, redact(str(stopped)))

    def _lose(self, node: Node, stopped: Exception | None) -> None:
        msg = f"the process that ran {name_of(node)} is gone; nothing of the stage is published"
        lost = TaskError(msg, step=name_of(node))
        lost.__cause__ = stopped
        self._run.progress.fail(node, lost)
        if isinstance(node, Task):
            emit(TaskFinished(node.stage.name, node.name, TaskState.FAILED, 0.0))

    def travelling(self, index: int, name: str) -> tuple[Any, ...]:
        """Say how a step travels to another process."""
        if self._leader is None:
            msg = f"step {name} can be pickled within `with subflow.other_processes():` only"
            raise FlowError(msg, step=name)
        return (
            _Elsewhere,
            (name, self._leader.address, self._leader.key, self._leader.token, index),
        )

    def result(self, underlying: Any = None) -> Result:
        """Say what came of the steps; ``underlying`` is what the engine has to say itself.

        Raises:
            FlowError: the engine has left out a step.

        """
        run = self._run
        left = run.progress.left()
        if left and run.error is None:
            msg = f"the engine has left out {name_of(left[0])}"
            raise FlowError(msg, step=name_of(left[0]))
        values = {task: run.relocated(task) for task in run.outcomes}
        every = run.tasks if self.flow is None else self.flow.tasks
        states = dict.fromkeys(every, TaskState.UNKNOWN)
        states.update({task: outcome.state for task, outcome in run.outcomes.items()})
        failed = run.progress.failures
        states.update({node: TaskState.FAILED for node in failed if isinstance(node, Task)})
        return Result(
            flow=self.flow,  # type: ignore[arg-type] # only run_stage has none, and uses no Result
            successful=run.error is None,
            config_context=self.config,
            task_values=values,
            task_states=states,
            exception=run.error,
            stages=dict(run.results),
            store=run.store,
            subflow=self,
            underlying=underlying,
            task_reasons={task: found.reason for task, found in run.outcomes.items()},
        )


class _Elsewhere:
    """A step in a process that did not make it."""

    def __init__(
        self, name: str, address: tuple[str, int], key: bytes, token: str, index: int
    ) -> None:
        self.name = name
        self._where = (address, key, token, index)

    def run(self) -> Ended:
        """Run the step; see `Step.run`."""
        address, key, token, index = self._where
        led_here = _here.get((os.getpid(), token))
        if led_here is not None:
            return led_here.perform(index)
        from ixflow.pipeline.workers.worker import run_remotely

        return run_remotely(address, key, token, index)

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel on."""
        return (_Elsewhere, (self.name, *self._where))

    def __repr__(self) -> str:
        """Show the name, not the key."""
        return f"<Step {self.name}>"
