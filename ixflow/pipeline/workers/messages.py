"""What a worker and the leader of a run tell each other about a task; all of it can be pickled."""

from __future__ import annotations

import dataclasses
import pickle
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ixflow.errors import IxflowError, TaskError
from ixflow.pipeline.execute import Outcome, decoded_value
from ixflow.pipeline.result import TaskState
from ixflow.pipeline.task import Task
from ixflow.secrets import redact
from ixflow.store import InputRead, StageState, StageTransaction, StoredResult

__all__ = ["Assignment", "Failure", "Report"]


@dataclass(frozen=True, slots=True)
class Assignment:
    """A task to run: its number in the flow, and what it needs of the run.

    ``values`` holds the values of the tasks that it takes, by their numbers, ``reads`` what of
    these was published by others, ``schema`` the transaction schema of its stage.
    """

    task: int
    values: Mapping[int, Any]
    reads: tuple[InputRead, ...]
    schema: str


@dataclass(frozen=True, slots=True)
class Report:
    """What a task came to, with the tables and the result that its transaction holds since.

    The value travels as the result's text: a class of the leader's script is another one here.
    """

    result: StoredResult
    state: TaskState
    seconds: float
    made: StageState
    reason: str = ""

    @classmethod
    def of(cls, outcome: Outcome, transaction: StageTransaction) -> Report:
        """Describe an outcome."""
        held, result = transaction.held, outcome.result
        found = {name: held.table(name, key) for name, key in result.pairs()}
        tables = {name: table for name, table in found.items() if table is not None}
        whole = held.whole(result.task_key)
        made = StageState(0, tables, () if whole is None else (whole,))
        return cls(result, outcome.state, outcome.seconds, made, outcome.reason)

    def outcome(self, task: Task, transaction: StageTransaction) -> Outcome:
        """Give the outcome in this process, whose transaction learns of the tables."""
        transaction.learn(self.made)
        text = self.result.output
        value = decoded_value(text, lambda name, key: transaction.located(name, key)[0])
        result = dataclasses.replace(self.result, position=task.position, task=task.name)
        return Outcome(task, value, result, self.state, self.seconds, self.reason)


@dataclass(frozen=True, slots=True)
class Failure:
    """An error, with what pickling would leave out of it."""

    error: Exception
    notes: tuple[str, ...] = ()
    cause: BaseException | None = field(default=None, repr=False)

    @classmethod
    def in_worker(cls, error: Exception, *secrets: str) -> Failure:
        """Describe an error of a worker; the text of its traceback becomes a note."""
        shown = redact("".join(traceback.format_exception(error)), *secrets)
        error.add_note(f"in a worker process:\n{shown}")
        return cls.of(error, *secrets)

    @classmethod
    def of(cls, error: Exception, *secrets: str) -> Failure:
        """Describe an error of this process."""
        notes = tuple(getattr(error, "__notes__", ()))
        cause = error.__cause__
        made: Exception = TaskError(redact(f"{type(error).__name__}: {error}", *secrets))
        if isinstance(error, IxflowError):
            made = _alone(error) or made
        return cls(made, notes, cause if cause is not None and _can_travel(cause) else None)

    def arrived(self) -> Exception:
        """Give the error, with what did not travel with it."""
        error = self.error
        # A library of the engine's may have taught errors to travel whole.
        for note in self.notes:
            if note not in getattr(error, "__notes__", ()):
                error.add_note(note)
        error.__cause__ = error.__cause__ or self.cause
        return error


def _alone(error: IxflowError) -> IxflowError | None:
    """Copy an error without what hangs on it, which may not be able to travel."""
    try:
        made = type(error)(error.message, **error.fields)
    except TypeError:  # a class of the user's that is made in another way
        return None
    return made if _can_travel(made) else None


def _can_travel(error: BaseException) -> bool:
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    except Exception:  # noqa: BLE001 - an error of the user's may do anything here
        return False
    return True
