"""The page of the command line names everything that the command line has."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click
import pytest

from ixflow.cli.main import cli
from ixflow.extraction.context import RuntimeContext
from ixflow.extraction.cost import CostConfig
from ixflow.extraction.intent import ExtractionIntent

PAGE = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_every_command_and_option_is_in_the_docs(name):
    command = cli.commands[name]
    assert f"ixflow {name}" in PAGE
    assert command.help
    options = [o for o in command.params if isinstance(o, click.Option)]
    missing = [flag for o in options for flag in o.opts[:1] if f"`{flag}`" not in PAGE]
    assert missing == []


OTHER_NAMES = {
    "source_config": "--connection-string",
    "object_name": None,
    "output_dir": "--output",
    "columns": "--column",
    "mask_salt": "--mask-salt-env",
    "mode": "--incremental",
    "incremental_key": "--incremental",
    "max_workers": "--table-max-workers",
    "storage_options": "--storage-option",
}
"""Options that are called otherwise than what they set; TABLE is the argument."""


@pytest.mark.parametrize("kind", [ExtractionIntent, RuntimeContext, CostConfig])
def test_everything_that_can_be_said_in_python_can_be_said_on_the_command_line(kind):
    flags = {flag for option in cli.commands["execute"].params for flag in option.opts}
    names = [field.name for field in dataclasses.fields(kind)]
    others = OTHER_NAMES if kind is ExtractionIntent else {}
    wanted = [others.get(name, f"--{name.replace('_', '-')}") for name in names]
    assert [flag for flag in wanted if flag is not None and flag not in flags] == []
