"""The options that commands share, and the values that are made of them."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import sqlalchemy as sa

from ixflow.dialects import dialect_named, dialect_of
from ixflow.errors import ValidationError
from ixflow.extraction.context import RuntimeContext
from ixflow.extraction.cost import CostConfig
from ixflow.extraction.intent import ExtractionIntent
from ixflow.secrets import secrets_of

__all__ = [
    "as_json",
    "context_options",
    "cost_options",
    "make_context",
    "make_intent",
    "make_rates",
    "names_source",
    "output_options",
    "source_options",
    "state_option",
]

Command = TypeVar("Command", bound=Callable[..., Any])


def _together(*options: Callable[[Any], Any]) -> Callable[[Command], Command]:
    def decorate(command: Command) -> Command:
        decorated: Any = command
        for option in reversed(options):
            decorated = option(decorated)
        return decorated  # type: ignore[no-any-return] # an option returns what it decorates

    return decorate


source_options = _together(
    click.option("--source-type", help="postgresql, mysql, sqlite, duckdb; default: of the URL"),
    click.option("--host", help="default: localhost"),
    click.option("--port", type=int, help="default: the database's own"),
    click.option("--database", help="name of the database, or path of its file"),
    click.option("--user", help="who reads"),
    click.option("--password-env", metavar="NAME", help="environment variable with the password"),
    click.option("--ask-password", is_flag=True, help="ask for the password on the terminal"),
    click.option("--connection-string", metavar="URL", help="instead of all of these"),
)

output_options = _together(
    click.option("--output", default="./output", show_default=True, help="output directory"),
    click.option("--output-format", default="parquet", show_default=True),
    click.option("--compression", default="zstd", show_default=True),
)

state_option = click.option(
    "--state-url", metavar="URL", help="state database; default: $IXFLOW_STATE_URL, else a file"
)

as_json = click.option("--json", "as_json", is_flag=True, help="print one JSON document")

context_options = _together(
    click.option("--max-workers", type=int),
    click.option("--min-workers", type=int),
    click.option("--source-load", help="low, normal or high"),
    click.option("--network-quality", help="good, normal or degraded"),
    click.option("--priority", help="low, normal or high"),
    click.option("--target-duration-seconds", type=float),
    click.option("--maintenance-window-minutes", type=float),
    click.option("--disk-budget-gb", type=float),
    click.option("--egress-budget-gb", type=float),
    click.option("--context-file", metavar="PATH", help="JSON with these names as keys"),
)

cost_options = _together(
    click.option("--compute-rate", type=float, help="per worker and second"),
    click.option("--egress-rate", type=float, help="per GB"),
    click.option("--connection-rate", type=float, help="per connection and second"),
    click.option("--cost-file", metavar="PATH", help="JSON with these names as keys"),
)

_SERVER = ("host", "port", "user")
_NAMES = ("database", "connection_string", "source_type")


def names_source(options: dict[str, Any]) -> bool:
    """Say whether the options speak of a database at all."""
    return any(options[name] for name in (*_SERVER, *_NAMES))


def make_intent(object_name: str, options: dict[str, Any]) -> ExtractionIntent:
    """Make an intent of the options of a command line."""
    if not (options["database"] or options["connection_string"]):
        raise click.UsageError("name the database: --database or --connection-string")
    taken = {name: options[name] for name in ("output_format", "compression") if name in options}
    return ExtractionIntent(
        _source_type(options), _config(options), object_name, options["output"], **taken
    )


def _source_type(options: dict[str, Any]) -> str:
    if options["source_type"]:
        return str(options["source_type"])
    if not options["connection_string"]:
        return "postgresql"
    try:
        return dialect_of(options["connection_string"]).name
    except sa.exc.ArgumentError:
        msg = "--connection-string is not a URL like postgresql://user@host/database"
        raise ValidationError(msg, argument="connection_string") from None


def _config(options: dict[str, Any]) -> dict[str, Any]:
    """Make the source_config; its secrets go to those that no message may hold."""
    config = _made_config(options)
    click.get_current_context().ensure_object(list).extend(secrets_of(config))
    return config


def _made_config(options: dict[str, Any]) -> dict[str, Any]:
    given = {name: options[name] for name in (*_SERVER, "database") if options[name] is not None}
    password = _password(options)
    if not options["connection_string"]:
        return given if password is None else {**given, "password": password}
    if given:
        names = ", ".join(f"--{name}" for name in given)
        raise click.UsageError(f"--connection-string stands for all of it; leave out {names}")
    if password is None:
        return {"connection_string": options["connection_string"]}
    url = dialect_named(_source_type(options)).url(
        {"connection_string": options["connection_string"]}
    )
    whole = url.set(password=password).render_as_string(hide_password=False)
    return {"connection_string": whole}


def _password(options: dict[str, Any]) -> str | None:
    name = options["password_env"]
    if name:
        if name not in os.environ:
            msg = f"the environment variable {name} is not set; --password-env names it"
            raise ValidationError(msg, variable=name)
        return os.environ[name]
    if not options["ask_password"]:
        return None
    if not sys.stdin.isatty():
        msg = "there is no terminal to ask for the password on; use --password-env"
        raise ValidationError(msg, argument="ask_password")
    asked: str = click.prompt("Password", hide_input=True, err=True)
    return asked


def make_context(options: dict[str, Any]) -> RuntimeContext | None:
    """Make a runtime context of the options and their file; None if there are none."""
    names = [field.name for field in dataclasses.fields(RuntimeContext)]
    given: dict[str, Any] = {}
    if options["context_file"]:
        given = _object_in(options["context_file"], names)
    given |= {name: options[name] for name in names if options[name] is not None}
    return RuntimeContext(**given) if given else None


def _object_in(path: str, names: list[str]) -> dict[str, Any]:
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValidationError(f"cannot read a context from {path}: {error}", path=path) from None
    if not isinstance(found, dict) or set(found) - set(names):
        msg = f"{path} must hold a JSON object with keys among {', '.join(names)}"
        raise ValidationError(msg, path=path)
    return found


def make_rates(options: dict[str, Any]) -> CostConfig | None:
    """Make rates of the options and their file; an option wins. None if there are none."""
    names = [field.name for field in dataclasses.fields(CostConfig)]
    given = {name: options[name] for name in names if options[name] is not None}
    if options["cost_file"]:
        return dataclasses.replace(CostConfig.from_file(options["cost_file"]), **given)
    return CostConfig.from_cli_args(given) if given else None
