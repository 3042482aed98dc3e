"""The command ``ixflow``: the same functions, for a terminal, a crontab and a script."""

from __future__ import annotations

from ixflow.cli.main import main

__all__ = ["main"]
