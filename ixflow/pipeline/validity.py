"""Which stored result a task would have: its key, from its version, inputs and cache function."""

from __future__ import annotations

from typing import Any

from ixflow.pipeline.auto_version import AutoVersion, auto_version
from ixflow.pipeline.cache import Rules, inputs_key, task_key, task_key_of
from ixflow.pipeline.containers import ExternalTableReference, Table
from ixflow.pipeline.encoding import encoded, leaves
from ixflow.pipeline.outputs import value_form
from ixflow.pipeline.task import Task
from ixflow.store import SQLTableStore, StageTransaction

__all__ = ["key_of"]


def key_of(
    task: Task,
    arguments: dict[str, Any],
    rules: Rules,
    transaction: StageTransaction,
    store: SQLTableStore,
) -> tuple[str, bool]:
    """Give the key of a task's result, and whether equal keys mean equal content.

    Raises:
        FlowError: an argument, or what the cache function said, cannot be written down.

    """
    made = task.definition
    external = made.cache is None and any(_is_external(leaf) for leaf in leaves(arguments))
    version = _version(task, arguments, rules, store)
    versioned = (version is not None or made.lazy) and not external
    # A task that always runs has a key of this attempt: a retry finds it, the next run not.
    version = version if versioned else f"always {transaction.schema}"
    where = f"the arguments of task {task.stage.name}.{task.name}"
    inputs = encoded(arguments, value_form, where=where)
    plain = task_key(task.name, version or "", inputs, None)
    if made.cache is None:
        return plain, versioned
    if rules.ignore_cache_function:
        for result in transaction.published.results:
            if result.position == task.position and inputs_key(result.task_key) == plain:
                return task_key_of(result.task_key), versioned
    answer = task.call(made.cache, arguments)
    cached = encoded(answer, value_form, where=f"the cache function of {task.name}")
    return task_key(task.name, version or "", inputs, cached), versioned


def _version(
    task: Task, arguments: dict[str, Any], rules: Rules, store: SQLTableStore
) -> str | None:
    given = task.definition.version
    if isinstance(given, AutoVersion):
        return auto_version(task, arguments, store, lambda empty: task.call(task.fn, empty))
    ignored = rules.ignore_task_version and not task.definition.lazy
    return None if ignored else given


def _is_external(leaf: Any) -> bool:
    external = isinstance(leaf, Table) and leaf.external is not None
    return external or isinstance(leaf, ExternalTableReference)
