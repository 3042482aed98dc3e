"""A bar on a terminal, of the tasks that are done, with the rows and how fast they come."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator

import click

from ixflow.events import ChunkExtracted, Event, listen
from ixflow.extraction.plan import ExecutionPlan

__all__ = ["bar", "progress_line"]


def progress_line(rows: int, seconds: float) -> str:
    """Say how many rows have come, and how fast.

    >>> progress_line(30_000, 2.0)
    '30,000 rows, 15,000 rows/s'
    """
    return f"{rows:,} rows, {rows / max(seconds, 0.001):,.0f} rows/s"


@contextlib.contextmanager
def bar(plan: ExecutionPlan, *, quiet: bool) -> Iterator[None]:
    """Show how a plan's tasks get done, if stderr is a terminal; elsewhere nothing."""
    if quiet or not sys.stderr.isatty():
        yield
        return
    lock, clock = threading.Lock(), time.perf_counter()
    rows, done = 0, set[str]()
    with click.progressbar(
        length=len(plan.tasks),
        label=f"Extracting {plan.object_name}",
        show_percent=True,
        show_pos=True,
        item_show_func=lambda said: said,
        file=sys.stderr,
    ) as progress:

        def hear(event: Event) -> None:
            nonlocal rows
            if isinstance(event, ChunkExtracted):
                with lock:
                    rows += event.rows
                    new = event.chunk_id not in done
                    done.add(event.chunk_id)
                    said = progress_line(rows, time.perf_counter() - clock)
                    progress.update(int(new), said)

        with listen(hear):
            yield
