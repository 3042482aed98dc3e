"""The page of the command line names everything that the command line has."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from ixflow.cli.main import cli

PAGE = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_every_command_and_option_is_in_the_docs(name):
    command = cli.commands[name]
    assert f"ixflow {name}" in PAGE
    assert command.help
    options = [o for o in command.params if isinstance(o, click.Option)]
    missing = [flag for o in options for flag in o.opts[:1] if f"`{flag}`" not in PAGE]
    assert missing == []
