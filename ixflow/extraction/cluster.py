"""A Dask cluster that reads the tasks of a run, in the snapshot that this process holds.

The leader is whoever executes the plan: it holds and exports the snapshot, gives each task to the
cluster, takes what the workers report, and verifies and publishes as it does without a cluster. A
lost worker's tasks are given to others by Dask.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import replace
from pathlib import Path
from typing import Any

from ixflow.errors import ExecutionError, SnapshotUnavailable, ValidationError
from ixflow.extraction.cluster_files import accept
from ixflow.extraction.cluster_task import Order, Report, read_order
from ixflow.extraction.executor import Far
from ixflow.extraction.limits import RunLimits
from ixflow.extraction.output import place_of
from ixflow.extraction.plan import ExtractionTask
from ixflow.extraction.snapshot import Moment
from ixflow.extraction.storage import OutputPlace, RunDirectory
from ixflow.extraction.table_run import Job, TableRun
from ixflow.secrets import redact, redact_url

__all__ = ["Cluster", "cluster_address", "cluster_at"]

_CONNECT_SECONDS = 30.0
_NO_WORKER_SECONDS = 60.0
_LOOK_SECONDS = 0.2


def cluster_address(jobs: Sequence[Job]) -> str | None:
    """Give the address of the cluster that the jobs ask for; None: they are read here.

    Raises:
        ValidationError: they ask for several.
        SnapshotUnavailable: their database has no snapshot that other machines can join.

    """
    contexts = [job.origin.runtime_context for job in jobs]
    found = {None if context is None else context.dask_address for context in contexts}
    if len(found) > 1:
        msg = "the plans were made with different values of dask_address; plan them with one"
        raise ValidationError(msg, argument="dask_address")
    (address,) = found
    dialect = jobs[0].intent.dialect
    if address is not None and not dialect.shares_snapshot:
        msg = (
            f"dask_address is given, and {dialect.name} has no snapshot that the workers of a "
            f"cluster could join; extract {jobs[0].intent.object_name} without it"
        )
        raise SnapshotUnavailable(msg, setting="dask_address")
    return address


@contextlib.contextmanager
def cluster_at(address: str | None) -> Iterator[Cluster | None]:
    """Connect to a cluster for the block; what it has left to do then is not done.

    Raises:
        ValidationError: Dask's package `distributed` is not installed.
        ExecutionError: there is no cluster, or it has no worker.

    """
    if address is None:
        yield None
        return
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(_client(address))
        yield Cluster(client, address, stack)


@contextlib.contextmanager
def _client(address: str) -> Iterator[Any]:
    try:
        import distributed
    except ImportError:
        msg = "dask_address needs Dask's distributed: pip install 'dask[distributed]'"
        raise ValidationError(msg, argument="dask_address") from None
    try:
        client = distributed.Client(  # type: ignore[no-untyped-call] # Dask has few types
            address, timeout=_CONNECT_SECONDS, set_as_default=False, name="ixflow"
        )
    except (OSError, ValueError) as error:
        msg = f"no Dask scheduler answers at {redact_url(address)}: {redact(str(error))}"
        raise ExecutionError(msg, dask_address=redact_url(address)) from None
    with client:
        yield client


class Cluster:
    """A cluster that reads tasks for as long as its block."""

    def __init__(self, client: Any, address: str, stack: contextlib.ExitStack) -> None:
        """Take an open client; ``stack`` ends with the block."""
        self._client, self._stack = client, stack
        self.address = redact_url(address)

    def far(self, table: TableRun, moment: Moment, limits: RunLimits, window: str | None) -> Far:
        """Give the way to read a table's tasks.

        Raises:
            SnapshotUnavailable: the moment cannot be joined by others.

        """
        snapshot = moment.held.snapshot
        if snapshot is None:
            msg = f"{moment.dialect.name} gave no snapshot that the workers could join"
            raise SnapshotUnavailable(msg, setting="dask_address")
        order = Order(
            intent=table.intent,
            plan=table.plan,
            run_id=table.directory.run_id,
            snapshot=snapshot,
            # The leader hears what each task took, and decides for all of them.
            limits=replace(limits, latency_ms=0.0),
            parts=self._parts(table),
            window=window,
        )
        return _Far(self, order, table)

    def _parts(self, table: TableRun) -> str | None:
        """Make the directory for the files of attempts, which goes with the block."""
        place = place_of(table.intent)
        if not isinstance(place, OutputPlace):
            return None
        parts = self._stack.enter_context(place.new_run(f"{table.directory.run_id}-parts"))
        return str(parts.path)

    def read(self, order: Order, stop: threading.Event) -> Report | None:
        """Let a worker read a task; None: we were stopped before it had.

        Raises:
            ExecutionError: the cluster could not.

        """
        key = f"ixflow-{order.run_id}-{order.plan.table.name}-{order.chunk_id}"
        future = self._client.submit(read_order, order, key=key, pure=False)
        ended = threading.Event()
        future.add_done_callback(lambda _: ended.set())
        alone = 0.0
        while not ended.wait(_LOOK_SECONDS):
            alone = 0.0 if self._has_workers() else alone + _LOOK_SECONDS
            if stop.is_set() or alone > _NO_WORKER_SECONDS:
                future.cancel(force=True)
                if stop.is_set():
                    return None
                raise self._failed(order, f"it had no worker for {_NO_WORKER_SECONDS:g} s")
        try:
            found: Report = future.result()
        except (Exception, CancelledError, asyncio.CancelledError) as error:  # noqa: BLE001 - Dask's
            said = redact(f"{type(error).__name__}: {error}", *order.intent.secrets)
            raise self._failed(order, said) from None
        finally:
            future.release()
        return found

    def _has_workers(self) -> bool:
        return bool(self._client.scheduler_info(n_workers=-1)["workers"])

    def _failed(self, order: Order, why: str) -> ExecutionError:
        msg = f"the Dask cluster at {self.address} did not read task {order.chunk_id}: {why}"
        return ExecutionError(msg, task=order.chunk_id, dask_address=self.address)


class _Far:
    """The tasks of one table, read by a cluster."""

    def __init__(self, cluster: Cluster, order: Order, table: TableRun) -> None:
        self._cluster, self._order, self._table = cluster, order, table

    def read(
        self, task: ExtractionTask, stop: threading.Event, *, keep_empty: bool
    ) -> Report | None:
        """Read a task; None: we were stopped."""
        alone = replace(self._order.plan, tasks=(task,))
        order = replace(self._order, plan=alone, keep_empty=keep_empty)
        report = self._cluster.read(order, stop)
        if report is None:
            return None
        if report.error is not None:
            raise report.error
        directory = self._table.directory
        if order.parts is not None and isinstance(directory, RunDirectory):
            accept(order.parts, report.attempt, report.files, Path(directory.path))
        return report
