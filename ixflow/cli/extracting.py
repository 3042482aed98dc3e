"""The commands that speak to a source: profile, plan, execute, explain, replay."""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

import click

from ixflow.cli import intents
from ixflow.cli import options as given
from ixflow.cli.progress import bar
from ixflow.cli.showing import (
    execution_lines,
    plan_document,
    print_json,
    print_lines,
    profile_document,
)
from ixflow.extraction import api
from ixflow.extraction.explain import Explanation
from ixflow.extraction.history import find_row
from ixflow.extraction.plan import PlanResult
from ixflow.extraction.replay import replay as replay_run
from ixflow.extraction.replay import stored_plan
from ixflow.extraction.state import StatePlace

__all__ = ["execute", "explain", "plan", "profile", "replay"]

_NOT_RECOMMENDED = 2


@click.command()
@click.argument("object_name", metavar="TABLE")
@intents.source_options
@intents.rows_options
@given.as_json
def profile(object_name: str, *, as_json: bool, **options: Any) -> None:
    """Show what statistics say about TABLE. Nothing is read from it."""
    seen = api.profile(intents.make_intent(object_name, options))
    document = profile_document(seen)
    if as_json:
        print_json(document)
        return
    columns = document.pop("columns")
    print_lines(f"{name}: {value}" for name, value in document.items())
    print_lines(f"  {c['name']}: {c['sql_type']} -> {c['arrow_type']}" for c in columns)


@click.command()
@click.argument("object_name", metavar="TABLE")
@intents.source_options
@intents.selection_options
@intents.rows_options
@intents.limit_options
@intents.output_options
@given.context_options
@given.cost_options
@click.option("--force", is_flag=True, help="accepted as by execute; a plan is only shown")
@given.state_option
@given.as_json
def plan(object_name: str, *, force: bool, as_json: bool, **options: Any) -> None:
    """Show how TABLE would be extracted, and whether that is recommended. Nothing is extracted."""
    del force
    result = _planned(object_name, options)
    if as_json:
        print_json(plan_document(result))
    else:
        click.echo(str(Explanation(result)))


@click.command()
@click.argument("object_name", metavar="TABLE")
@intents.source_options
@intents.selection_options
@intents.rows_options
@intents.limit_options
@intents.output_options
@given.context_options
@given.cost_options
@click.option("--force", is_flag=True, help="run a plan that is NOT RECOMMENDED")
@given.state_option
@given.as_json
def execute(object_name: str, *, force: bool, as_json: bool, **options: Any) -> int:
    """Plan the extraction of TABLE, run it, and publish its files.

    A plan that is NOT RECOMMENDED is asked about on a terminal, and ends with 2 elsewhere.
    """
    result = _planned(object_name, options)
    if not as_json:
        click.echo(str(Explanation(result)))
    if result.is_not_recommended and not force:
        if as_json or not sys.stdin.isatty():
            reason = "; ".join(result.advisories)
            click.echo(f"ixflow: {result.verdict}: {reason}; --force runs it", err=True)
            return _NOT_RECOMMENDED
        if not click.confirm(f"{result.verdict}. Extract it all the same?", err=True):
            return 0
    with bar(result.plan, quiet=as_json):
        done = api.execute(result, force=True, state_url=options["state_url"])
    _show(done, as_json=as_json)
    return 0


@click.command()
@click.argument("object_name", metavar="TABLE")
@intents.source_options
@intents.rows_options
@given.output_option
@given.state_option
@given.as_json
def explain(object_name: str, *, as_json: bool, **options: Any) -> None:
    """Explain the last plan of TABLE: workers, tasks, advisories, verdict. Nothing is read."""
    intent = intents.make_intent(object_name, options)
    explanation = api.explain(intent, state_url=options["state_url"])
    if as_json:
        print_json(plan_document(explanation.result))
    else:
        click.echo(str(explanation))


@click.command()
@click.argument("run_id", metavar="RUN", required=False)
@click.option("--run-id", "run_id_option", metavar="RUN", help="the same, as an option")
@intents.source_options
@intents.limit_options
@intents.rows_options
@click.option(
    *("--output", "--output-dir"),
    default="./output",
    show_default=True,
    help="output directory",
)
@intents.storage_options
@click.option("--force", is_flag=True, help="try a plan of another version")
@given.state_option
@given.as_json
def replay(
    run_id: str | None, run_id_option: str | None, *, force: bool, as_json: bool, **options: Any
) -> None:
    """Run the stored plan of RUN again; RUN is an id or the beginning of one.

    The state is that of the output directory, unless --state-url names another.
    """
    wanted = run_id_option or run_id
    if not wanted:
        raise click.UsageError("name the run to replay")
    place = StatePlace.of(options["output"], options["state_url"])
    row = find_row(wanted, place)
    intent = intents.make_intent(row["object_name"], options)
    with bar(stored_plan(row, force=force), quiet=as_json):
        done = replay_run(row["run_id"], intent, force=force, state_url=options["state_url"])
    _show(done, as_json=as_json)


def _planned(object_name: str, options: dict[str, Any]) -> PlanResult:
    intent = intents.make_intent(object_name, options)
    context, rates = given.make_context(options), given.make_rates(options)
    return api.plan(intent, context, rates, state_url=options["state_url"])


def _show(done: api.ExecutionResult, *, as_json: bool) -> None:
    if as_json:
        print_json(dataclasses.asdict(done))
    else:
        print_lines(execution_lines(done))
