"""Why a task ran: what is published, compared with what the task would make."""

from __future__ import annotations

from ixflow.pipeline.cache import Rules, inputs_key, task_key_of
from ixflow.pipeline.task import Task
from ixflow.store import StageState, StoredResult

__all__ = ["reason_to_run"]


def reason_to_run(
    task: Task, key: str, published: StageState, rules: Rules, *, versioned: bool
) -> str:
    """Say in a few words why what is published is not the result of the task.

    ``versioned`` says whether equal keys mean equal content. A version is hashed together with the
    inputs, so that it cannot be told which of them is another.
    """
    if rules.forced:
        return "valid results were not to be used"
    if not versioned:
        return _always(task, rules)
    before = next((r for r in published.results if r.position == task.position), None)
    if before is None:
        return "nothing of this call was published"
    return _changed(task, key, published, before)


def _changed(task: Task, key: str, published: StageState, before: StoredResult) -> str:
    if task_key_of(before.task_key) != key:
        same = inputs_key(before.task_key) == inputs_key(key)
        return f"its {'cache function gave another value' if same else 'version or inputs changed'}"
    if task.definition.lazy and published.holds(before):
        return "its queries or rows, or how they are stored, changed"
    return "a table or blob of it is gone"


def _always(task: Task, rules: Rules) -> str:
    if task.definition.version is None and not task.definition.lazy:
        return "it has no version"
    if rules.ignore_task_version and not task.definition.lazy:
        return "versions were to be ignored"
    return "it reads a table that others write, and has no cache function"
