"""The options about the moment, the cost and the state, and the values that are made of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from ixflow.extraction.context import RuntimeContext
from ixflow.extraction.cost import CostConfig

__all__ = [
    "as_json",
    "context_options",
    "cost_options",
    "make_context",
    "make_rates",
    "output_option",
    "state_option",
    "together",
]

Command = TypeVar("Command", bound=Callable[..., Any])


def together(*options: Callable[[Any], Any]) -> Callable[[Command], Command]:
    """Make one decorator of several options."""

    def decorate(command: Command) -> Command:
        decorated: Any = command
        for option in reversed(options):
            decorated = option(decorated)
        return decorated  # type: ignore[no-any-return] # an option returns what it decorates

    return decorate


output_option = click.option(
    "--output", default="./output", show_default=True, help="output directory"
)

state_option = click.option(
    "--state-url", metavar="URL", help="state database; default: $IXFLOW_STATE_URL, else a file"
)

as_json = click.option("--json", "as_json", is_flag=True, help="print one JSON document")

context_options = together(
    click.option("--max-workers", type=int, help="the most workers for this run"),
    click.option("--min-workers", type=int),
    click.option("--max-source-connections", type=int, help="of all runs on this machine"),
    click.option(
        "--concurrent-extractions", type=int, help="connections of runs elsewhere, within these"
    ),
    click.option(
        "--source-maintenance-scheduled", is_flag=True, default=None, help="halves the workers"
    ),
    click.option("--source-load", help="low, normal or high"),
    click.option("--network-quality", help="good, normal or degraded"),
    click.option("--priority", help="low, normal or high"),
    click.option("--target-duration-seconds", type=float),
    click.option("--maintenance-window-minutes", type=float),
    click.option("--disk-budget-gb", type=float),
    click.option("--egress-budget-gb", type=float),
    click.option("--dask-address", metavar="ADDRESS", help="a Dask cluster that reads the tasks"),
    click.option("--context-file", metavar="PATH", help="JSON with these names as keys"),
)

cost_options = together(
    click.option("--compute-rate", type=float, help="per worker and second"),
    click.option("--egress-rate", type=float, help="per GB"),
    click.option("--connection-rate", type=float, help="per connection and second"),
    click.option("--cost-file", metavar="PATH", help="JSON with these names as keys"),
)


def make_context(options: Mapping[str, Any]) -> RuntimeContext | None:
    """Make a runtime context of the options and their file; None if there are none."""
    return RuntimeContext.from_cli_args(options)


def make_rates(options: Mapping[str, Any]) -> CostConfig | None:
    """Make rates of the options and their file; an option wins. None if there are none."""
    names = [field.name for field in dataclasses.fields(CostConfig)]
    given = {name: options[name] for name in names if options[name] is not None}
    if options["cost_file"]:
        return dataclasses.replace(CostConfig.from_file(options["cost_file"]), **given)
    return CostConfig.from_cli_args(given) if given else None
