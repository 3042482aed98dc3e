"""The options that say what to extract from where to where, and the intent that is made of them."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import sys
from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import click
import sqlalchemy as sa

from ixflow.cli.options import output_option, together
from ixflow.dialects import dialect_named, dialect_of
from ixflow.errors import ValidationError
from ixflow.extraction.intent import ExtractionIntent
from ixflow.extraction.limits import seconds_of
from ixflow.secrets import secrets_of
from ixflow.tables.cursor import NULLS, SEMANTICS, Cursor

__all__ = [
    "limit_options",
    "make_intent",
    "names_source",
    "output_options",
    "rows_options",
    "selection_options",
    "source_options",
    "storage_options",
]

source_options = together(
    click.option(
        "--source-type", help="postgresql, mysql, sqlserver, sqlite, duckdb; default: of the URL"
    ),
    click.option("--host", help="default: localhost"),
    click.option("--port", type=int, help="default: the database's own"),
    click.option("--database", help="name of the database, or path of its file"),
    click.option("--user", help="who reads"),
    click.option("--password-env", metavar="NAME", help="environment variable with the password"),
    click.option("--ask-password", is_flag=True, help="ask for the password on the terminal"),
    click.option("--connection-string", metavar="URL", help="instead of all of these"),
)

rows_options = together(
    click.option("--where", metavar="SQL", help="extract only the rows of this condition"),
    click.option(
        "--partition",
        multiple=True,
        metavar="NAME",
        help="which partition these rows are: the files go to a directory of that name",
    ),
    click.option("--query", metavar="SQL", help="extract the rows of this SELECT as TABLE"),
)

selection_options = together(
    click.option("--column", "columns", multiple=True, help="a column to extract; may be repeated"),
    click.option("--drop", multiple=True, metavar="COLUMN", help="a column not to extract"),
    click.option("--as-text", multiple=True, metavar="COLUMN", help="a column to read as text"),
    click.option("--mask", multiple=True, metavar="COLUMN=HOW", help="hash, null, redact, ..."),
    click.option("--incremental", metavar="COLUMN", help="extract only what is new by this column"),
    click.option("--incremental-value", help="where the first incremental run begins"),
    click.option("--semantics", type=click.Choice(SEMANTICS), help="what the column promises"),
    click.option("--overlap", help="how far to go back: a number, or a time like 10min"),
    click.option("--nulls", type=click.Choice(NULLS), help="rows without a value in the column"),
)

limit_options = together(
    click.option("--mask-salt-env", metavar="NAME", help="environment variable with the salt"),
    click.option("--require-snapshot", is_flag=True, help="refuse to do without one snapshot"),
    click.option("--table-max-workers", type=int, help="the most workers for TABLE in any run"),
    click.option("--resume", help="same snapshot, or newer snapshot"),
    click.option("--memory-budget", help="what a run may hold in memory; default: 256MB"),
    click.option("--statement-timeout", help="how long a query may take, such as 30min"),
    click.option("--lock-timeout", help="how long to wait for locks; default: 60s"),
    click.option("--silence-timeout", help="when to ask a silent server; default: 60s"),
    click.option("--max-snapshot-age", help="how long a snapshot may stay open; default: 4h"),
)

storage_options = together(
    click.option("--storage-option", multiple=True, metavar="KEY=VALUE", help="for a bucket"),
    click.option("--storage-options-file", metavar="PATH", help="JSON object, for secrets"),
)

output_options = together(
    output_option,
    click.option("--output-format", default="parquet", show_default=True),
    click.option("--compression", default="zstd", show_default=True),
    storage_options,
)

_SERVER = ("host", "port", "user")
_NAMES = ("database", "connection_string", "source_type")
_SAME = (
    *("output_format", "compression", "columns", "drop", "as_text", "where", "query", "resume"),
    "partition",
    *("require_snapshot", "memory_budget", "statement_timeout", "lock_timeout"),
    "silence_timeout",
    *("max_snapshot_age", "incremental_value"),
)


def names_source(options: Mapping[str, Any]) -> bool:
    """Say whether the options speak of a database at all."""
    return any(options[name] for name in (*_SERVER, *_NAMES))


def make_intent(object_name: str, options: Mapping[str, Any]) -> ExtractionIntent:
    """Make an intent of the options of a command line."""
    if not (options["database"] or options["connection_string"]):
        raise click.UsageError("name the database: --database or --connection-string")
    given = {name: options[name] for name in _SAME if options.get(name)}
    place = options.get("output") or "./output"
    return ExtractionIntent(
        _source_type(options),
        _config(options),
        object_name,
        place,
        **{**given, **_limits(options), **_masked(options), **_incremental(options)},
        storage_options=_storage(options),
    )


def _limits(options: Mapping[str, Any]) -> dict[str, Any]:
    most = options.get("table_max_workers")
    return {} if most is None else {"max_workers": most}


def _masked(options: Mapping[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {"mask": _pairs("--mask", options.get("mask", ()))}
    if name := options.get("mask_salt_env"):
        made["mask_salt"] = _from_environment(name, "--mask-salt-env")
        _keep_secret([made["mask_salt"]])
    return made


def _incremental(options: Mapping[str, Any]) -> dict[str, Any]:
    column = options.get("incremental")
    extras = [name for name in ("semantics", "overlap", "nulls") if options.get(name)]
    if not column:
        if extras or options.get("incremental_value"):
            raise click.UsageError("--incremental names the column that these options are about")
        return {}
    if not extras:
        return {"mode": "incremental", "incremental_key": column}
    overlap = None if options["overlap"] is None else _overlap(options["overlap"])
    nulls = options["nulls"] or "refuse"
    cursor = Cursor(column, options["semantics"], overlap=overlap, nulls=nulls)
    return {"mode": "incremental", "incremental_key": cursor}


def _overlap(text: str) -> dt.timedelta | int | Decimal:
    with contextlib.suppress(InvalidOperation):
        number = Decimal(text)
        return int(number) if number == number.to_integral_value() else number
    return dt.timedelta(seconds=seconds_of("overlap", text) or 0)


def _storage(options: Mapping[str, Any]) -> dict[str, Any]:
    """Make the storage options; no message may hold any of their values."""
    found: dict[str, Any] = {}
    if path := options.get("storage_options_file"):
        found = _object_in(path)
    found |= _pairs("--storage-option", options.get("storage_option", ()))
    _keep_secret([str(value) for value in found.values() if value and value is not True])
    return found


def _object_in(path: str) -> dict[str, Any]:
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        # What a parser quotes could be a secret.
        said = error.strerror if isinstance(error, OSError) else "it is not JSON"
        raise ValidationError(f"cannot read storage options from {path}: {said}") from None
    if not isinstance(found, dict):
        raise ValidationError(f"{path} must hold a JSON object", path=path)
    return found


def _pairs(option: str, given: Sequence[str]) -> dict[str, str]:
    made = {}
    for place, text in enumerate(given, 1):
        name, equals, value = text.partition("=")
        if not equals or not name:
            # The text itself could be a secret.
            raise click.UsageError(f"number {place} of the {option}s is not NAME=VALUE")
        made[name] = value
    return made


def _source_type(options: Mapping[str, Any]) -> str:
    if options["source_type"]:
        return str(options["source_type"])
    if not options["connection_string"]:
        return "postgresql"
    try:
        return dialect_of(options["connection_string"]).name
    except sa.exc.ArgumentError:
        msg = "--connection-string is not a URL like postgresql://user@host/database"
        raise ValidationError(msg, argument="connection_string") from None


def _config(options: Mapping[str, Any]) -> dict[str, Any]:
    """Make the source_config; its secrets go to those that no message may hold."""
    config = _made_config(options)
    _keep_secret(secrets_of(config))
    return config


def _keep_secret(values: Sequence[str]) -> None:
    click.get_current_context().ensure_object(list).extend(values)


def _made_config(options: Mapping[str, Any]) -> dict[str, Any]:
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


def _password(options: Mapping[str, Any]) -> str | None:
    if name := options["password_env"]:
        return _from_environment(name, "--password-env")
    if not options["ask_password"]:
        return None
    if not sys.stdin.isatty():
        msg = "there is no terminal to ask for the password on; use --password-env"
        raise ValidationError(msg, argument="ask_password")
    asked: str = click.prompt("Password", hide_input=True, err=True)
    return asked


def _from_environment(name: str, option: str) -> str:
    if name not in os.environ:
        msg = f"the environment variable {name} is not set; {option} names it"
        raise ValidationError(msg, variable=name)
    return os.environ[name]
