"""The commands that read the state only: history, metrics, inspect, diagnose."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import click

from ixflow.cli import intents
from ixflow.cli import options as given
from ixflow.cli.showing import number, print_json, print_lines, table
from ixflow.extraction.diagnosis import ADVICE, skew_level, task_skew
from ixflow.extraction.explain import basis_lines
from ixflow.extraction.health import HEALTHY, judge
from ixflow.extraction.history import (
    Run,
    Task,
    last_estimate,
    last_planned_at,
    run_named,
    tasks_of,
)
from ixflow.extraction.history import history as runs_of
from ixflow.extraction.notes import Learned, Note, learned, note_of, notes_of
from ixflow.extraction.plan_record import read_basis
from ixflow.extraction.state import StatePlace

__all__ = ["diagnose", "history", "inspect", "metrics"]

_INSPECTED, _LOOKED_THROUGH, _SLOWEST = 5, 100, 3


def _runs(object_name: str | None, options: dict[str, Any], limit: int) -> list[Run]:
    """Read the runs of a table: of the named database, or of whichever the state knows."""
    state_url = options["state_url"]
    if object_name is not None and intents.names_source(options):
        intent = intents.make_intent(object_name, options)
        return runs_of(intent, limit=limit, state_url=state_url)
    output: str = options["output"]
    return runs_of(output, object_name=object_name, limit=limit, state_url=state_url)


@click.command()
@click.argument("object_name", metavar="[TABLE]", required=False)
@click.option("--limit", default=10, show_default=True, type=click.IntRange(1))
@intents.source_options
@intents.rows_options
@given.output_option
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
        number(run.rows),
        number(run.seconds, ".2f"),
        number(run.rows_per_second, ",.0f"),
    ]


@click.command()
@click.argument("run_id", metavar="[RUN]", required=False)
@click.option("--object", "object_name", metavar="TABLE", help="its last run, without RUN")
@intents.source_options
@intents.rows_options
@given.output_option
@given.state_option
@given.as_json
def metrics(run_id: str | None, object_name: str | None, *, as_json: bool, **options: Any) -> None:
    """Show what each task of RUN, or else of the last run, did, and how unevenly."""
    place = StatePlace.of(options["output"], options["state_url"])
    run = run_named(run_id, place) if run_id else _last_run(object_name, options)
    tasks = tasks_of(run, place)
    skew = _skew(tasks)
    if as_json:
        listed = [dataclasses.asdict(task) for task in tasks]
        print_json({"run": dataclasses.asdict(run), "tasks": listed, "skew": skew})
        return
    print_lines(table(["task", "status", "rows", "bytes", "seconds"], [_task(t) for t in tasks]))
    if skew is not None:
        click.echo(f"Slowest task: {skew:.1f} times the median ({skew_level(skew)} skew)")


def _task(task: Task) -> list[str]:
    seconds = number(task.seconds, ".3f")
    return [task.chunk_id, task.status, number(task.rows), number(task.bytes), seconds]


def _skew(tasks: list[Task]) -> float | None:
    return task_skew([task.seconds for task in tasks if task.seconds is not None])


@click.command()
@click.argument("object_name", metavar="TABLE")
@click.option("--profile-stale-hours", default=24.0, show_default=True)
@intents.source_options
@intents.rows_options
@given.output_option
@given.state_option
@given.as_json
def inspect(object_name: str, *, profile_stale_hours: float, as_json: bool, **options: Any) -> int:
    """Judge the last runs of TABLE: exit code 0 healthy, 1 needs attention, 2 degraded."""
    found = _inspected(object_name, options)
    planned, notes, state, estimate = None, dict[str, Note](), None, None
    if found:
        identity = found[0].identity
        place = StatePlace.of(options["output"], options["state_url"])
        planned, notes = last_planned_at(identity, place), notes_of(identity, place)
        state = _searched(identity, place, notes.get(found[0].run_id))
        estimate = last_estimate(identity, place)
    health = judge(found, planned, stale_hours=profile_stale_hours, notes=notes, learned=state)
    if as_json:
        reasons = list(health.reasons)
        print_json({"health": health.status, "reasons": reasons, "estimate": estimate})
    else:
        print_lines([f"{object_name}: {health.status}", *(f"  {r}" for r in health.reasons)])
        print_lines(_estimated(estimate))
    return HEALTHY.index(health.status)


def _estimated(estimate: dict[str, Any] | None) -> Iterator[str]:
    if estimate is None:
        return
    yield (
        f"Last estimate: {estimate['estimated_seconds']:g} s at "
        f"{estimate['throughput_estimate']:,.0f} rows/s "
        f"({estimate.get('throughput_method', 'cold start')}, "
        f"{estimate.get('throughput_confidence', 'low')} confidence)"
    )
    yield from basis_lines(read_basis(estimate.get("throughput_basis")))


def _inspected(object_name: str, options: dict[str, Any]) -> list[Run]:
    """Read a table's last runs; without a database, of that which the newest run has read."""
    found = _runs(object_name, options, _LOOKED_THROUGH)
    return [run for run in found if run.identity == found[0].identity][:_INSPECTED]


def _searched(identity: str, place: StatePlace, note: Note | None) -> Learned | None:
    """Give what is learned for runs like the noted one."""
    shape = None if note is None else note.shape
    return next((found for found in learned(identity, place) if found.shape == shape), None)


@click.command()
@click.argument("run_id", metavar="[RUN]", required=False)
@click.option("--object", "object_name", metavar="TABLE", help="its last run, without RUN")
@intents.source_options
@intents.rows_options
@given.output_option
@given.state_option
@given.as_json
def diagnose(run_id: str | None, object_name: str | None, *, as_json: bool, **options: Any) -> None:
    """Say what RUN, or else the last run, deviated by: from its estimate, and from earlier runs."""
    place = StatePlace.of(options["output"], options["state_url"])
    run = run_named(run_id, place) if run_id else _last_run(object_name, options)
    note, tasks = note_of(run.run_id, place), tasks_of(run, place)
    state = _searched(run.identity, place, note)
    if as_json:
        print_json(
            {
                "run": dataclasses.asdict(run),
                "note": None if note is None else dataclasses.asdict(note),
                "controller": None if state is None else dataclasses.asdict(state),
                "slowest_tasks": [dataclasses.asdict(task) for task in _slowest(tasks)],
            }
        )
        return
    print_lines(_diagnosed(run, note, state, tasks))


def _last_run(object_name: str | None, options: dict[str, Any]) -> Run:
    found = _runs(object_name, options, 1)
    if not found:
        place = StatePlace.of(options["output"], options["state_url"])
        raise click.UsageError(f"no run of {object_name or 'any table'} is known in {place}")
    return found[0]


def _slowest(tasks: list[Task]) -> list[Task]:
    timed = [task for task in tasks if task.seconds is not None]
    return sorted(timed, key=lambda task: -(task.seconds or 0.0))[:_SLOWEST]


def _diagnosed(
    run: Run, note: Note | None, state: Learned | None, tasks: list[Task]
) -> Iterator[str]:
    yield f"{run.run_id}: {run.object_name}, {run.status}, {run.workers} workers"
    if run.error:
        yield f"  {run.error}"
    if note is None:
        yield "Nothing was noted: only runs that succeeded are compared."
        return
    for category, reason in zip(note.categories, note.reasons, strict=True):
        yield f"{category}: {reason}"
        yield f"  {ADVICE.get(category, '')}"
    if note.circumstances is not None:
        yield f"Circumstances: {note.circumstances}"
    if note.deviation_ratio is not None:
        seconds = f"{run.seconds:.2f} s, estimated {note.predicted_seconds:g} s"
        yield f"Estimate: {seconds} ({note.deviation_ratio:g} times)"
    if note.baseline_mean is not None:
        usual = f"{note.baseline_mean:,.0f} +- {note.baseline_sigma:,.0f}"
        runs = note.baseline_runs
        yield f"Throughput: {note.rows_per_second:,.0f} rows/s, usually {usual} ({runs} runs)"
    if note.skew is not None:
        slowest = ", ".join(f"{task.chunk_id} {task.seconds:.3f} s" for task in _slowest(tasks))
        times = f"{note.skew:g} times the median ({skew_level(note.skew)} skew)"
        yield f"Tasks: the slowest took {times}: {slowest}"
    if note.not_learned is not None:
        yield f"Nothing was learned from it: {note.not_learned}"
    if state is not None:
        word = "converged" if state.converged else "exploring"
        yield f"Controller: {word}, the next run has {state.workers} workers ({state.reason})"
