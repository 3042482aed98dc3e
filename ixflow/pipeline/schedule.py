"""What waits for what in a flow, an order for it, and running it on threads."""

from __future__ import annotations

import contextvars
import graphlib
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

from ixflow.errors import StageError
from ixflow.pipeline.containers import normalised
from ixflow.pipeline.stage import Stage
from ixflow.pipeline.task import Task

__all__ = ["Node", "dependencies", "making", "ordered", "run_graph"]

N = TypeVar("N")
Node = Task | Stage
"""A task, or a stage that stands for its own commit."""


def dependencies(tasks: Collection[Task], stages: Collection[Stage]) -> dict[Node, set[Node]]:
    """Say what each task and each commit waits for, among those that run.

    There is no cycle: a stage is declared in one block, and a task takes only earlier tasks.
    A commit waits for everything in its stage and in the stages nested in it. A task waits for the
    tasks it takes; if one is of another stage, then for that stage's commit, unless the task is
    nested in that stage: then it reads what is not yet published.
    """
    graph: dict[Node, set[Node]] = {}
    for task in tasks:
        waits: set[Node] = {upstream for upstream in task.upstream if upstream in tasks}
        waits |= {
            upstream.stage
            for upstream in task.upstream
            if upstream.stage in stages
            and upstream.stage != task.stage
            and not task.stage.within(upstream.stage)
        }
        graph[task] = waits
    for stage in stages:
        graph[stage] = {task for task in tasks if task.stage in stage.subtree()}
        graph[stage] |= {inner for inner in stage.subtree()[1:] if inner in stages}
    return graph


def ordered(graph: Mapping[Node, Collection[Node]]) -> list[Node]:
    """Give an order in which nothing comes before what it waits for.

    Tasks come as they were declared; a stage is published as soon as its last task is done.
    """
    stages = [node for node in graph if isinstance(node, Stage)]
    found: dict[Node, None] = {}
    # Those without tasks wait for nothing, but for an inner one of the kind.
    for stage in reversed(stages):
        if set(graph[stage]) <= found.keys():
            found[stage] = None
    for task in graph:
        if isinstance(task, Task):
            found[task] = None
            outer: Stage | None = task.stage
            while outer is not None:
                if outer in graph and set(graph[outer]) <= found.keys():
                    found[outer] = None
                outer = outer.outer
    return list(found)


def run_graph(
    graph: Mapping[N, Collection[N]], work: Callable[[N], object], max_workers: int
) -> None:
    """Do the work of every node once those it waits for are done, several at a time.

    After a failure nothing new starts; what runs is let finish, and the first error is raised.
    """
    sorter = graphlib.TopologicalSorter({node: set(waits) for node, waits in graph.items()})
    sorter.prepare()
    running: dict[Future[object], N] = {}
    failures: list[BaseException] = []
    with ThreadPoolExecutor(max_workers, thread_name_prefix="ixflow") as pool:
        try:
            while sorter.is_active() and not failures:
                for node in sorter.get_ready():
                    context = contextvars.copy_context()
                    running[pool.submit(context.run, work, node)] = node
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                failures += [error for error in (f.exception() for f in done) if error is not None]
                sorter.done(*(running.pop(f) for f in done if f.exception() is None))
        finally:
            # What has not started never will, be it for a failure or for Ctrl-C.
            pool.shutdown(wait=False, cancel_futures=True)
    if failures:
        raise failures[0]


def making(stage: Stage, tables: Collection[str]) -> list[Task]:
    """Find the tasks that make these tables, with those upstream that only make constants.

    Raises:
        StageError: no task of the stage is known to make one of them.

    """
    wanted = {normalised(table) for table in tables}
    known = set(stage.output_names)
    if not wanted <= known:
        unknown = ", ".join(sorted(wanted - known))
        msg = f"stage {stage.name} makes no {unknown}; it makes {', '.join(sorted(known))}"
        raise StageError(msg, stage=stage.name, tables=sorted(wanted - known))
    chosen = {task for task in stage.tasks if wanted.intersection(task.output_names)}
    grown = True
    while grown:
        constants = {
            upstream
            for task in chosen
            for upstream in task.upstream
            if upstream.stage == stage and upstream.definition.outputs == ()
        }
        grown = not constants <= chosen
        chosen |= constants
    return [task for task in stage.tasks if task in chosen]
