"""Whatever fails, engines agree on what ran, what was not reached, and what is published."""

from __future__ import annotations

import itertools
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from ixflow import DaskEngine, Flow, SequentialEngine, Stage, ThreadedEngine, materialize
from ixflow.pipeline import TaskState
from ixflow.pipeline.task import Task
from ixflow_tests.behaviour.prefect_runs import config_for

ENGINES = [SequentialEngine(), ThreadedEngine(4), DaskEngine(scheduler="threads", num_workers=3)]
_numbers = itertools.count()


@materialize(version="1")
def step(number: int, *inputs: int, broken: bool):
    if broken:
        msg = f"{number} is broken"
        raise ValueError(msg)
    return number + sum(inputs)


#: A task: which earlier ones it takes (counted back), and whether it fails. Lists are stages.
tasks = st.tuples(st.lists(st.integers(1, 5), max_size=2), st.integers(0, 5).map(lambda n: n == 0))
stages = st.recursive(
    st.lists(tasks, min_size=1, max_size=3),
    lambda inner: st.lists(st.one_of(tasks, inner), min_size=1, max_size=3),
    max_leaves=4,
)


def declare(drawn: list[Any], flow: Flow) -> None:
    with Stage(f"s{len(flow.stages)}"):
        for item in drawn:
            if isinstance(item, list):
                declare(item, flow)
                continue
            back, broken = item
            taken = [flow.tasks[-n] for n in back if n <= len(flow.tasks)]
            step(len(flow.tasks), *taken, broken=broken)


def expected(flow: Flow) -> tuple[dict[Task, TaskState], set[str]]:
    """Say what has to come of a flow in which nothing is valid yet."""
    ended: dict[Task, TaskState] = {}
    published: set[str] = set()
    for task in flow.tasks:
        seen = [
            ended[up] is TaskState.COMPLETED
            and (
                up.stage == task.stage or task.stage.within(up.stage) or up.stage.name in published
            )
            for up in task.upstream
        ]
        ended[task] = TaskState.UNKNOWN
        if all(seen):
            broken = task.arguments.arguments["broken"]
            ended[task] = TaskState.FAILED if broken else TaskState.COMPLETED
        # A stage is complete when everything in it and in those nested in it is.
        for stage in flow.stages.values():
            within = [t for t in flow.tasks if t.stage in stage.subtree()]
            if all(ended.get(t) is TaskState.COMPLETED for t in within):
                published.add(stage.name)
    return ended, published


@settings(max_examples=12)
@given(st.lists(stages, min_size=1, max_size=3))
def test_a_failure_stops_what_waits_for_it_and_nothing_else(tmp_path, drawn):
    with Flow("any") as flow:
        for stage in drawn:
            declare(stage, flow)
    states, published = expected(flow)
    for engine in ENGINES:
        config = config_for(f"duckdb:///{tmp_path}/{next(_numbers)}.duckdb").get()
        result = flow.run(config=config, orchestration_engine=engine, fail_fast=False)
        assert {task.position: state for task, state in result.task_states.items()} == {
            task.position: state for task, state in states.items()
        }
        assert set(result.stages) == published
        assert result.successful == (set(states.values()) == {TaskState.COMPLETED})
