"""Parts of a stage that cannot be one graph, since other stages stand between its tables.

Dagster splits a multi-asset for which this is so, but not a graph. It can be so only through an
`ExternalTableReference` to a table of another stage, which in turn reads a table of this one.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import dagster as dg

from ixflow.dagster.stage_specs import read_by, table_key
from ixflow.pipeline.stage import Stage
from ixflow.pipeline.task import Task

__all__ = ["Part", "parts_of"]


@dataclass(frozen=True)
class Part:
    """Tasks of a stage that are published together; part 2 reads what was made of part 1."""

    stage: Stage
    number: int
    tasks: tuple[Task, ...]

    @property
    def tables(self) -> tuple[str, ...]:
        """Name the tables of this part."""
        return tuple(name for task in self.tasks for name in task.output_names)


def parts_of(stage: Stage) -> list[Part]:
    """Give the parts of a stage, in their order; nearly every stage has one."""
    tasks = stage.tasks if stage.flow is None else stage.flow.tasks
    makers = {table_key(task.stage, name): task for task in tasks for name in task.output_names}
    known: dict[Task, int] = {}
    numbers = {task: _number(task, stage, makers, known) for task in stage.tasks}
    found: list[Part] = []
    for number in sorted({numbers[task] for task in stage.tasks if task.output_names}):
        chosen = {task for task in stage.tasks if numbers[task] == number}
        chosen |= {one for task in chosen for one in _constants(task, stage)}
        within = tuple(task for task in stage.tasks if task in chosen)
        found.append(Part(stage, len(found) + 1, within))
    return found


def _constants(task: Task, stage: Stage) -> set[Task]:
    """Find the tasks that make only constants, and that a task needs."""
    own = {up for up in task.upstream if up.stage == stage and not up.output_names}
    return own | {one for up in own for one in _constants(up, stage)}


def _number(
    task: Task, stage: Stage, makers: Mapping[dg.AssetKey, Task], known: dict[Task, int]
) -> int:
    """Say how often what a task reads has left the stage and come back to it."""
    if task not in known:
        known[task] = 0  # what reads itself is for Dagster to refuse
        above = {makers[key] for key in read_by(task) if key in makers}
        numbers = [
            _number(one, stage, makers, known) + (one.stage == stage != task.stage) for one in above
        ]
        known[task] = max(numbers, default=0)
    return known[task]
