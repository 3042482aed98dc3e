"""What is going on around the caller: the flow being declared, the run being executed."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ixflow.errors import StageError
from ixflow.store.frames import Wanted

if TYPE_CHECKING:
    from ixflow.pipeline.flow import Flow
    from ixflow.pipeline.stage import Stage

__all__ = [
    "Declaration",
    "RunningNames",
    "declaration",
    "running",
    "running_input_type",
    "undeclared",
]


@dataclass(frozen=True, slots=True)
class Declaration:
    """The innermost ``with Flow`` and ``with Stage`` blocks."""

    flow: Flow
    stage: Stage | None = None


class RunningNames(Protocol):
    """What a run tells its tasks about the schemas it uses."""

    def transaction_schema(self, stage: Stage) -> str:
        """Name the schema that the run writes the stage's tables to."""
        ...

    def current_schema(self, stage: Stage) -> str:
        """Name the schema where the run finds the stage's tables now."""
        ...


declaration: contextvars.ContextVar[Declaration | None] = contextvars.ContextVar(
    "ixflow_declaration", default=None
)
_running: contextvars.ContextVar[RunningNames | None] = contextvars.ContextVar(
    "ixflow_running", default=None
)


#: As what the task that is running got its tables.
running_input_type: contextvars.ContextVar[Wanted | None] = contextvars.ContextVar(
    "ixflow_running_input_type", default=None
)


def running(stage: Stage) -> RunningNames:
    """Give the run that the caller is part of.

    Raises:
        StageError: there is none.

    """
    found = _running.get()
    if found is None:
        msg = f"stage {stage.name} has a transaction only while a flow runs; ask within a task"
        raise StageError(msg, stage=stage.name)
    return found


@contextlib.contextmanager
def undeclared(run: RunningNames) -> Iterator[None]:
    """Let calls in this block be plain calls, and names be those of the run."""
    token, running_token = declaration.set(None), _running.set(run)
    try:
        yield
    finally:
        declaration.reset(token)
        _running.reset(running_token)
