"""The commands that read the state only: history, metrics, inspect."""

from __future__ import annotations

import dataclasses
import statistics
from typing import Any

import click

from ixflow.cli import options as given
from ixflow.cli.showing import print_json, print_lines, table
from ixflow.extraction.health import HEALTHY, judge
from ixflow.extraction.history import (
    Run,
    Task,
    last_planned_at,
    run_named,
    tasks_of,
)
from ixflow.extraction.history import history as runs_of
from ixflow.extraction.state import StatePlace

__all__ = ["history", "inspect", "metrics"]

_INSPECTED, _LOOKED_THROUGH = 5, 100
_output = click.option("--output", default="./output", show_default=True, help="output directory")


def _runs(object_name: str | None, options: dict[str, Any], limit: int) -> list[Run]:
    """Read the runs of a table: of the named database, or of whichever the state knows."""
    state_url = options["state_url"]
    if object_name is not None and given.names_source(options):
        intent = given.make_intent(object_name, options)
        return runs_of(intent, limit=limit, state_url=state_url)
    output: str = options["output"]
    return runs_of(output, object_name=object_name, limit=limit, state_url=state_url)


@click.command()
@click.argument("object_name", metavar="[TABLE]", required=False)
@click.option("--limit", default=10, show_default=True, type=click.IntRange(1))
@given.source_options
@_output
@given.state_option
@given.as_json
def history(object_name: str | None, *, limit: int, as_json: bool, **options: Any) -> None:
    """List the last runs, of TABLE or of all tables, the newest first."""
    found = _runs(object_name, options, limit)
    if not found and object_name is not None:
        place = StatePlace.of(options["output"], options["state_url"])
        raise click.UsageError(f"no run of {object_name} is known in {place}")
    if as_json:
        print_json([dataclasses.asdict(run) for run in found])
        return
    heads = ["run", "table", "status", "started (UTC)", "workers", "rows", "seconds", "rows/s"]
    print_lines(table(heads, [_cells(run) for run in found]))
    print_lines(f"{run.run_id}: {run.error}" for run in found if run.error)


def _cells(run: Run) -> list[str]:
    return [
        run.run_id,
        run.object_name,
        f"{run.status} (replay)" if run.replay_of else run.status,
        run.started_at[:19],
        str(run.workers),
        _number(run.rows),
        _number(run.seconds, ".2f"),
        _number(run.rows_per_second, ",.0f"),
    ]


def _number(value: float | None, form: str = ",") -> str:
    return "" if value is None else format(value, form)


@click.command()
@click.argument("run_id", metavar="RUN")
@_output
@given.state_option
@given.as_json
def metrics(run_id: str, *, as_json: bool, **options: Any) -> None:
    """Show what each task of RUN did, and how unevenly."""
    place = StatePlace.of(options["output"], options["state_url"])
    run = run_named(run_id, place)
    tasks = tasks_of(run, place)
    skew = _skew(tasks)
    if as_json:
        listed = [dataclasses.asdict(task) for task in tasks]
        print_json({"run": dataclasses.asdict(run), "tasks": listed, "skew": skew})
        return
    print_lines(table(["task", "status", "rows", "bytes", "seconds"], [_task(t) for t in tasks]))
    if skew is not None:
        click.echo(f"Slowest task: {skew:.1f} times the median")


def _task(task: Task) -> list[str]:
    seconds = _number(task.seconds, ".3f")
    return [task.chunk_id, task.status, _number(task.rows), _number(task.bytes), seconds]


def _skew(tasks: list[Task]) -> float | None:
    """Give the slowest task's seconds over the median's; None: there is nothing to compare."""
    seconds = [task.seconds for task in tasks if task.seconds is not None]
    if len(seconds) < 2 or not (median := statistics.median(seconds)):  # noqa: PLR2004 - a pair
        return None
    return round(max(seconds) / median, 2)


@click.command()
@click.argument("object_name", metavar="TABLE")
@click.option("--profile-stale-hours", default=24.0, show_default=True)
@given.source_options
@_output
@given.state_option
@given.as_json
def inspect(object_name: str, *, profile_stale_hours: float, as_json: bool, **options: Any) -> int:
    """Judge the last runs of TABLE: exit code 0 healthy, 1 needs attention, 2 degraded."""
    found = _inspected(object_name, options)
    planned = None
    if found:
        place = StatePlace.of(options["output"], options["state_url"])
        planned = last_planned_at(found[0].identity, place)
    health = judge(found, planned, stale_hours=profile_stale_hours)
    if as_json:
        print_json({"health": health.status, "reasons": list(health.reasons)})
    else:
        print_lines([f"{object_name}: {health.status}", *(f"  {r}" for r in health.reasons)])
    return HEALTHY.index(health.status)


def _inspected(object_name: str, options: dict[str, Any]) -> list[Run]:
    """Read a table's last runs; without a database, of that which the newest run has read."""
    found = _runs(object_name, options, _LOOKED_THROUGH)
    return [run for run in found if run.identity == found[0].identity][:_INSPECTED]
