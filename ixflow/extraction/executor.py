"""Running a plan's tasks: a queue, a few threads with a reader each, one snapshot.

A reader whose connection breaks is replaced by a new one in the same snapshot, and its task is
redone from the start. Any other failure stops all workers.
"""

from __future__ import annotations

import contextlib
import contextvars
import logging
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass

from ixflow.dialects import Cancellable, Dialect, Held, Reader
from ixflow.dialects.types import arrow_schema
from ixflow.errors import DataError, SnapshotUnavailable
from ixflow.events import ChunkExtracted, emit
from ixflow.extraction.manifest import FileRecord
from ixflow.extraction.output import Run
from ixflow.extraction.plan import ExecutionPlan, ExtractionTask
from ixflow.extraction.writer import ChunkWriter, FileFormat

__all__ = ["Outcome", "TaskRun"]

_log = logging.getLogger("ixflow")

_ATTEMPTS = 4
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0


class _Stopped(Exception):
    """This worker was told to stop."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one task has written."""

    chunk_id: str
    rows: int
    files: tuple[FileRecord, ...]
    seconds: float


class TaskRun:
    """One run of all tasks; `outcomes` and `errors` hold what came of it."""

    def __init__(
        self,
        plan: ExecutionPlan,
        dialect: Dialect,
        held: Held,
        directory: Run,
    ) -> None:
        """Take everything a task needs; nothing is opened yet."""
        self.plan, self.dialect, self.held = plan, dialect, held
        self.directory = directory
        self.outcomes: list[Outcome] = []
        self.errors: dict[str, Exception] = {}
        self._queue = deque(plan.tasks)
        self._schema = arrow_schema(plan.columns)
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._sessions: set[_Session] = set()

    def run(self) -> None:
        """Read all tasks; returns when every worker has ended, however it did."""
        workers = self.plan.worker_count
        with ThreadPoolExecutor(workers, thread_name_prefix="ixflow-extract") as pool:
            # Listeners of events are heard from the workers too.
            futures = [
                pool.submit(contextvars.copy_context().run, self._work) for _ in range(workers)
            ]
            try:
                wait(futures)
            finally:
                self._end()
        for future in futures:
            future.result()

    def complete(self) -> bool:
        """Say whether every planned task has reported, exactly once."""
        return sorted(o.chunk_id for o in self.outcomes) == sorted(
            task.chunk_id for task in self.plan.tasks
        )

    def _work(self) -> None:
        session = _Session(self)
        with self._lock:
            self._sessions.add(session)
        try:
            while not self._stop.is_set():
                try:
                    task = self._queue.popleft()
                except IndexError:
                    return
                self._finish(task, session)
        except _Stopped:
            return
        finally:
            with self._lock:
                self._sessions.discard(session)
            session.close()

    def _finish(self, task: ExtractionTask, session: _Session) -> None:
        """Read a task, again on a new connection if that can help; or fail the run."""
        for attempt in range(_ATTEMPTS):
            try:
                outcome = self._read(task, session.reader())
            except _Stopped:
                raise
            except Exception as error:  # noqa: BLE001 - kept, and raised by whoever asked for the run
                session.close()
                if self._stop.is_set():
                    raise _Stopped from None
                if attempt + 1 == _ATTEMPTS or not self._may_retry(error):
                    self.errors[task.chunk_id] = error
                    self._end()
                    raise _Stopped from None
                what = (task.chunk_id, self.plan.table, type(error).__name__)
                _log.warning("task %s of %s is read again after %s", *what)
                self._stop.wait(min(_FIRST_PAUSE * 4**attempt, _LONGEST_PAUSE))
            else:
                self.outcomes.append(outcome)
                return

    def _read(self, task: ExtractionTask, reader: Reader) -> Outcome:
        started = time.perf_counter()
        columns = self.plan.columns
        sql = self.dialect.select_part(task.part, columns, pages=task.pages, keys=task.keys)
        file_format: FileFormat = "csv" if self.plan.output_format == "csv" else "parquet"
        chunk = ChunkWriter(
            self.directory, task.chunk_id, self._schema, file_format, self.plan.compression
        )
        try:
            with reader.read(sql, columns) as batches:
                for batch in batches:
                    self._check_stopped()
                    chunk.write(batch)
            # Also an empty table has one file, which tells its columns.
            files = chunk.finish(keep_empty=task is self.plan.tasks[0])
        except BaseException:
            chunk.abort()
            raise
        rows, size = sum(file.rows for file in files), sum(file.bytes for file in files)
        seconds = time.perf_counter() - started
        emit(ChunkExtracted(self.directory.run_id, task.chunk_id, rows, size, seconds))
        return Outcome(task.chunk_id, rows, files, seconds)

    def _check_stopped(self) -> None:
        if self._stop.is_set():
            raise _Stopped

    def _may_retry(self, error: Exception) -> bool:
        """Only a broken connection is worth it, and only if the rows of one snapshot remain so."""
        if isinstance(error, (DataError, SnapshotUnavailable)):
            return False
        same_rows = self.held.shared or len(self.plan.tasks) == 1
        return same_rows and self.dialect.is_transient(error)

    def _end(self) -> None:
        """Let every worker stop, also one that waits for the server."""
        self._stop.set()
        with self._lock:
            for session in self._sessions:
                session.cancel()


class _Session:
    """The reader of one worker: opened when needed, replaced when broken."""

    def __init__(self, run: TaskRun) -> None:
        self._run = run
        self._lock = threading.Lock()
        self._stack = contextlib.ExitStack()
        self._reader: Reader | None = None

    def reader(self) -> Reader:
        """Give the open reader, or open one."""
        if self._reader is None:
            reader = self._stack.enter_context(self._run.held.open_reader())
            with self._lock:
                self._reader = reader
        return self._reader

    def cancel(self) -> None:
        """Stop a query that runs in another thread."""
        with self._lock:
            reader: object = self._reader
            if isinstance(reader, Cancellable):
                reader.cancel()

    def close(self) -> None:
        """Close the reader; what a broken connection says about it is of no interest."""
        with self._lock:
            self._reader = None
        with contextlib.suppress(Exception):
            self._stack.close()
