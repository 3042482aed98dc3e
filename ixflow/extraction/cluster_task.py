"""One task of an extraction on a worker of a Dask cluster, read in the leader's snapshot.

Each attempt writes files of its own: a worker that was given up for lost, and is not, can add
nothing to what another one wrote in its place. What goes wrong is returned, not raised, since Dask
logs what is raised, with whatever a driver's words quote.
"""

from __future__ import annotations

import contextlib
import functools
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from ixflow.dialects import Reader
from ixflow.dialects.guest import visiting
from ixflow.errors import ExecutionError, IxflowError
from ixflow.extraction.cluster_files import files_of_attempt
from ixflow.extraction.executor import TaskRun
from ixflow.extraction.intent import ExtractionIntent
from ixflow.extraction.limits import RunLimits
from ixflow.extraction.manifest import FileRecord
from ixflow.extraction.pieces import Piece
from ixflow.extraction.plan import ExecutionPlan
from ixflow.extraction.selection import Statements, shown_error
from ixflow.secrets import redact

__all__ = ["Order", "Report", "read_order"]

_LOOK_SECONDS = 1.0


@dataclass(frozen=True, repr=False)
class Order:
    """What a worker is told of one task. It holds credentials, which its repr does not show.

    ``plan`` has this task alone. ``parts`` is the directory for the files of attempts, which the
    leader has made; None: they go to the bucket, below the run.
    """

    intent: ExtractionIntent
    plan: ExecutionPlan
    run_id: str
    snapshot: str
    limits: RunLimits
    parts: str | None
    window: str | None = None
    keep_empty: bool = False

    @property
    def chunk_id(self) -> str:
        """Name the task."""
        return self.plan.tasks[0].chunk_id

    def __repr__(self) -> str:
        """Show which task of which run it is."""
        return f"Order({self.plan.object_name!r}, run_id={self.run_id!r}, task={self.chunk_id!r})"


@dataclass(frozen=True, slots=True)
class Report:
    """What became of an attempt: its files, or the error.

    In a directory the files begin with ``attempt`` and a hyphen until the leader names them.
    ``latencies_ms`` is how long the source took to accept each query.
    """

    attempt: str = ""
    files: tuple[FileRecord, ...] = ()
    latencies_ms: tuple[float, ...] = ()
    error: IxflowError | None = None


@dataclass(frozen=True, slots=True)
class _Joining:
    """The way to readers in a snapshot that another process holds."""

    open_reader: Callable[[], AbstractContextManager[Reader]]
    shared: bool = True


class _Attempt(TaskRun):
    """One task; the leader decides when the source needs a rest."""

    latencies_ms: tuple[float, ...] = ()

    def _saw(self, latency_ms: float, piece: Piece) -> None:
        del piece
        self.latencies_ms += (latency_ms,)


def read_order(order: Order) -> Report:
    """Read one task, and report what was written; never raises what a source or a disk says."""
    try:
        with visiting(order.limits.guest(order.run_id)):
            return _read(order)
    except Exception as error:  # noqa: BLE001 - the leader raises it, without its secrets
        return Report(error=_shown(error, order))


def _read(order: Order) -> Report:
    intent, attempt = order.intent, secrets.token_hex(4)
    opening = functools.partial(intent.dialect.reader, intent.url(), snapshot=order.snapshot)
    run = _Attempt(
        order.plan,
        intent.dialect,
        _Joining(opening),
        files_of_attempt(intent, order.run_id, order.parts, attempt),
        statements=Statements(
            order.plan, intent.dialect, salt=intent.mask_salt, window=order.window
        ),
        limits=order.limits,
        keep_empty=order.keep_empty,
    )
    with _while_wanted(run):
        run.run(1)
    for error in run.errors.values():
        raise error
    if not run.complete():
        msg = f"task {order.chunk_id} is no longer wanted, or was stopped"
        raise ExecutionError(msg, task=order.chunk_id)
    (outcome,) = run.outcomes
    return Report(attempt, outcome.files, run.latencies_ms)


@contextlib.contextmanager
def _while_wanted(run: TaskRun) -> Iterator[None]:
    """Stop reading when Dask wants the task no more: the leader has ended, or given it up."""
    import distributed

    worker = distributed.get_worker()
    key, ended = worker.get_current_task(), threading.Event()

    def look() -> None:
        while not ended.wait(_LOOK_SECONDS):
            if not _is_wanted(worker, key):
                run.crew.end()
                return

    looking = threading.Thread(target=look, name="ixflow-wanted", daemon=True)
    looking.start()
    try:
        yield
    finally:
        ended.set()
        looking.join()


def _is_wanted(worker: Any, key: Any) -> bool:
    task = worker.state.tasks.get(key)
    return task is not None and task.state == "executing"


def _shown(error: Exception, order: Order) -> IxflowError:
    """Give an error that can travel: with its type if it is ours and shows no secret."""
    text = f"{error}"
    same = redact(text, *order.intent.secrets) == text
    if isinstance(error, IxflowError) and same and not order.plan.hides:
        return error
    msg = f"{type(error).__name__}: {shown_error(error, order.intent)}"
    return ExecutionError(msg, task=order.chunk_id)
