"""The commands about what is learned: benchmark, which measures it, and forget, which drops it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import click

from ixflow.cli import intents
from ixflow.cli import options as given
from ixflow.cli.showing import print_json, print_lines
from ixflow.extraction.benchmark import GRID, Benchmark
from ixflow.extraction.benchmark import benchmark as measure
from ixflow.extraction.learning import forget as drop_learned

__all__ = ["benchmark", "forget"]


def _grid(_context: click.Context, _option: click.Parameter, text: str) -> tuple[int, ...]:
    """Read numbers between commas."""
    try:
        return tuple(int(piece) for piece in text.split(","))
    except ValueError:
        raise click.BadParameter("it is numbers of workers like 1,2,4,8") from None


@click.command()
@click.argument("object_name", metavar="TABLE")
@click.option(
    "--worker-grid",
    default=",".join(map(str, GRID)),
    show_default=True,
    callback=_grid,
    help="numbers of workers to try",
)
@click.option("--force", is_flag=True, help="also a table that is hardly worth it")
@intents.source_options
@intents.selection_options
@intents.rows_options
@intents.limit_options
@given.output_option
@given.state_option
@given.as_json
def benchmark(
    object_name: str, *, worker_grid: tuple[int, ...], force: bool, as_json: bool, **options: Any
) -> None:
    """Read probes of TABLE with several numbers of workers, and use the best for a week.

    The rows are dropped, nothing is extracted.
    """
    intent = intents.make_intent(object_name, options)
    made = measure(intent, force=force, grid=worker_grid, state_url=options["state_url"])
    if as_json:
        print_json(dataclasses.asdict(made))
    else:
        print_lines(_lines(made))


def _lines(made: Benchmark) -> Iterator[str]:
    if made.skipped is not None:
        yield f"{made.object_name}: not benchmarked: {made.skipped}"
        return
    for workers, speeds in sorted(made.throughput.items()):
        shown = "  ".join(f"{speed:,.0f}" for speed in speeds)
        yield f"{workers} workers: {sum(speeds) / len(speeds):,.0f} rows/s ({shown})"
    yield (
        f"Best: {made.optimal_workers} workers; curve {made.curve}, confidence "
        f"{made.confidence:.2f}, signal {made.signal_strength:.2f}"
    )


@click.command()
@click.argument("object_name", metavar="TABLE")
@intents.source_options
@intents.rows_options
@given.output_option
@given.state_option
@given.as_json
def forget(object_name: str, *, as_json: bool, **options: Any) -> None:
    """Forget what was learned about TABLE. Its runs, plans and notes stay."""
    intent = intents.make_intent(object_name, options)
    drop_learned(intent, state_url=options["state_url"])
    if as_json:
        print_json({"forgotten": object_name})
    else:
        click.echo(f"{object_name}: the next run starts from the profile")
