"""How far a run is: what has ended, what failed, and what cannot start any more."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from threading import Lock
from typing import NamedTuple

from ixflow.errors import FlowError
from ixflow.pipeline.result import TaskState
from ixflow.pipeline.schedule import Node
from ixflow.pipeline.task import Task

__all__ = ["Ended", "Progress", "name_of"]


class Ended(NamedTuple):
    """How a step of a run ended, and why, if it failed or never started (UNKNOWN)."""

    state: TaskState
    message: str = ""


class Progress:
    """What has begun and ended of the nodes of a graph; safe for threads.

    ``failures`` are in the order in which they happened.
    """

    def __init__(self, graph: Mapping[Node, Collection[Node]], *, fail_fast: bool) -> None:
        self.graph = graph
        self.fail_fast = fail_fast
        self.failures: dict[Node, Exception] = {}
        self._running: set[Node] = set()
        self._ended: dict[Node, Ended] = {}
        self._lock = Lock()

    def begin(self, node: Node) -> Ended | None:
        """Begin a node, None; or say how it ended, if it did, or why it cannot start.

        Raises:
            FlowError: it waits for something that has not ended.

        """
        with self._lock:
            if node in self._ended:
                return self._ended[node]
            hindrance = self._hindrance(node)
            if hindrance is None:
                self._running.add(node)
                return None
            ended = Ended(TaskState.UNKNOWN, f"not started, because {hindrance}")
            self._ended[node] = ended
            return ended

    def _hindrance(self, node: Node) -> str | None:
        if self.fail_fast and self.failures:
            return f"{name_of(next(iter(self.failures)))} failed"
        for other in self.graph[node]:
            if other not in self._ended:
                msg = f"the engine ran {name_of(node)} before {name_of(other)} had ended"
                raise FlowError(msg, step=name_of(node))
            if not self._ended[other].state.is_successful():
                return f"{name_of(other)} did not succeed"
        return None

    def running_now(self) -> list[Node]:
        """List what has begun and not ended."""
        with self._lock:
            return [node for node in self.graph if node in self._running]

    def left(self) -> list[Node]:
        """List what has not ended."""
        with self._lock:
            return [node for node in self.graph if node not in self._ended]

    def succeed(self, node: Node, state: TaskState) -> Ended:
        """Remember that a node has done its work."""
        return self._end(node, Ended(state))

    def fail(self, node: Node, error: Exception) -> Ended:
        """Remember that a node has failed."""
        self.failures[node] = error
        return self._end(node, Ended(TaskState.FAILED, str(error)))

    def _end(self, node: Node, ended: Ended) -> Ended:
        with self._lock:
            self._ended[node] = ended
            self._running.discard(node)
        return ended


def name_of(node: Node) -> str:
    """Name a task or the publication of a stage in a message.

    >>> from ixflow.pipeline.stage import Stage
    >>> name_of(Stage("staging"))
    'the publication of stage staging'
    """
    if isinstance(node, Task):
        return f"task {node.stage.name}.{node.name}"
    return f"the publication of stage {node.name}"
