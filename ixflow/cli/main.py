"""The group of commands, and the one way that every one of them fails: a line on stderr."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from types import FrameType

import click

from ixflow.cli.extracting import execute, explain, plan, profile, replay
from ixflow.cli.looking import diagnose, history, inspect, metrics
from ixflow.cli.measuring import benchmark, forget
from ixflow.errors import IxflowError
from ixflow.secrets import redact

__all__ = ["cli", "main"]

_ENDED_BY = 128
"""What a shell adds to the number of the signal that ended a command."""


def _version() -> str:
    try:
        return version("ixflow")
    except PackageNotFoundError:
        return "of a source tree"


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(_version(), prog_name="ixflow")
def cli() -> None:
    """Extract database tables to files: profiled, planned, in one snapshot, published at once.

    Exit codes: 0 done, 1 failed or refused, 2 wrong usage. `execute` also gives 2 for a plan that
    is NOT RECOMMENDED, and `inspect` 1 for attention and 2 for degraded.
    """


for command in (
    *(profile, plan, execute, explain, replay),
    *(history, metrics, inspect, diagnose),
    *(benchmark, forget),
):
    cli.add_command(command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and end the process with its exit code."""
    with _signals_heard() as heard:
        _run(arguments, heard)


@contextlib.contextmanager
def _signals_heard() -> Iterator[list[int]]:
    """Let a signal that asks the process to end do what Ctrl-C does; give those that came.

    A run ends its queries, leaves no file, and says in the state that it has failed.
    """
    heard: list[int] = []

    def hear(number: int, _frame: FrameType | None) -> None:
        heard.append(number)
        raise KeyboardInterrupt

    mine = []
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP):
            # What nohup ignores stays ignored.
            if signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, hear)
                mine.append(number)
    try:
        yield heard
    finally:
        for number in mine:
            signal.signal(number, signal.SIG_DFL)


def _run(arguments: Sequence[str] | None, heard: Sequence[int]) -> None:
    secrets: list[str] = []
    try:
        code = cli.main(arguments, prog_name="ixflow", standalone_mode=False, obj=secrets)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(error.exit_code)
    except click.ClickException as error:
        _say(error.format_message(), secrets)
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        _say("stopped", secrets)
        sys.exit(_ENDED_BY + (heard[0] if heard else signal.SIGINT))
    except BrokenPipeError:
        # Whoever reads the output has seen enough; keep the interpreter from flushing into it.
        sys.stderr.close()
        sys.exit(1)
    except IxflowError as error:
        _say(str(error), secrets)
        sys.exit(1)
    except Exception as error:  # noqa: BLE001 - a person gets a line, not a traceback
        _say(f"{type(error).__name__}: {error}", secrets)
        sys.exit(1)
    sys.exit(code if isinstance(code, int) else 0)


def _say(text: str, secrets: Sequence[str]) -> None:
    click.echo(f"ixflow: {redact(' '.join(text.split()), *secrets)}", err=True)
