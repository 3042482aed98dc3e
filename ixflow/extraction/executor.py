"""Running a plan's tasks: a queue, a few threads with a reader each, one snapshot.

A reader whose connection breaks is replaced by a new one in the same snapshot, and its task is
redone from the start; a task whose query a replica ends is cut in two shorter ones. Any other
failure stops all workers.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from ixflow.dialects import Dialect, Reader
from ixflow.dialects.guest import refuse_long_row
from ixflow.dialects.types import arrow_schema
from ixflow.errors import (
    DataError,
    ExecutionError,
    SnapshotTooOld,
    SnapshotUnavailable,
    SourceLimitReached,
    SourceUnavailable,
    StatementTimeout,
    ValueDoesNotFit,
)
from ixflow.events import BackedOff, ChunkExtracted, emit
from ixflow.extraction.limits import RunLimits
from ixflow.extraction.manifest import FileRecord
from ixflow.extraction.output import Files
from ixflow.extraction.pieces import Piece
from ixflow.extraction.plan import ExecutionPlan, ExtractionTask
from ixflow.extraction.selection import Statements
from ixflow.extraction.workers import Crew, Session, Stopped
from ixflow.extraction.writer import ChunkWriter, FileFormat

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Far", "FarReport", "Outcome", "Readers", "TaskRun"]

_log = logging.getLogger("ixflow")

_ATTEMPTS = 4
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one task has written."""

    chunk_id: str
    rows: int
    files: tuple[FileRecord, ...]
    seconds: float


class Readers(Protocol):
    """The way to readers; ``shared`` says that all of them read one moment."""

    @property
    def open_reader(self) -> Callable[[], AbstractContextManager[Reader]]:
        """Open a reader."""

    @property
    def shared(self) -> bool:
        """Say whether a reader that replaces another reads the same moment."""


class FarReport(Protocol):
    """What another machine has written, and how long the source took to accept each query."""

    @property
    def files(self) -> tuple[FileRecord, ...]:
        """Describe the files, which are in the run by now."""

    @property
    def latencies_ms(self) -> tuple[float, ...]:
        """Give the times, one for each query."""


class Far(Protocol):
    """Other machines that read tasks."""

    def read(
        self, task: ExtractionTask, stop: threading.Event, /, *, keep_empty: bool
    ) -> FarReport | None:
        """Let a task be read; None: ``stop`` was set before it was."""


# What another try cannot mend.
_TERMINAL = (DataError, SnapshotUnavailable, SourceLimitReached)


class TaskRun:
    """One run of all tasks; `outcomes` and `errors` hold what came of it.

    ``done`` are outcomes of an earlier attempt, whose tasks are not read again; ``on_done`` hears
    of every other task when its files are durable. A run ``beside`` another is read by the workers
    of the other, in the same moment: `run` is called for the other alone. Where there is a ``far``
    the workers only wait for it. ``keep_empty`` is for a run of one task: whether it has a file
    also without rows.
    """

    def __init__(
        self,
        plan: ExecutionPlan,
        dialect: Dialect,
        held: Readers,
        directory: Files,
        *,
        statements: Statements | None = None,
        limits: RunLimits | None = None,
        done: Sequence[Outcome] = (),
        on_done: Callable[[Outcome], None] | None = None,
        beside: TaskRun | None = None,
        far: Far | None = None,
        keep_empty: bool = True,
    ) -> None:
        """Take everything a task needs; nothing is opened yet."""
        self.plan, self.dialect, self.held = plan, dialect, held
        self.directory, self._on_done = directory, on_done
        self._far, self._keep_empty = far, keep_empty
        self._statements = statements or Statements(plan, dialect)
        self.limits = limits or RunLimits()
        self.outcomes: list[Outcome] = list(done)
        self.errors: dict[str, Exception] = {}
        self.backoffs = 0
        self._replayed: Exception | None = None
        self._schema = arrow_schema(plan.columns)
        known = {outcome.chunk_id for outcome in done}
        self.crew: Crew[tuple[TaskRun, ExtractionTask]] = (
            Crew(self.limits) if beside is None else beside.crew
        )
        self.crew.queue.extend((self, task) for task in plan.tasks if task.chunk_id not in known)

    def run(self, workers: int | None = None) -> None:
        """Read all tasks; returns when every worker has ended, however it did."""
        workers = min(workers or self.plan.worker_count, max(1, len(self.crew.queue)))

        def work(item: tuple[TaskRun, ExtractionTask], session: Session) -> None:
            run, task = item
            run.finish(task, session)

        left = self.crew.run(workers, self.held.open_reader, work, self._too_old)
        for session in left:
            error = self._lost(session) if session.lost else self._late(session.reading)
            self.errors.setdefault(session.reading, error)

    def complete(self) -> bool:
        """Say whether every planned task has reported, exactly once."""
        return sorted(o.chunk_id for o in self.outcomes) == sorted(
            task.chunk_id for task in self.plan.tasks
        )

    def finish(self, task: ExtractionTask, session: Session) -> None:
        """Read a task, again on a new connection if that can help; or fail the run."""
        started = time.perf_counter()
        # Also an empty table has one file, which tells its columns.
        keep_empty = self._keep_empty and task is self.plan.tasks[0]
        if self._far is None:
            read = self._files_of(Piece.whole(task), session, keep_empty=keep_empty)
        else:
            read = self._from_afar(self._far, task, keep_empty=keep_empty)
        files = tuple(replace(file, chunk_id=task.chunk_id) for file in read)
        rows, size = sum(file.rows for file in files), sum(file.bytes for file in files)
        seconds = time.perf_counter() - started
        emit(ChunkExtracted(self.directory.run_id, task.chunk_id, rows, size, seconds))
        outcome = Outcome(task.chunk_id, rows, files, seconds)
        if self._on_done is not None:
            self._on_done(outcome)
        self.outcomes.append(outcome)

    def _from_afar(
        self, far: Far, task: ExtractionTask, *, keep_empty: bool
    ) -> tuple[FileRecord, ...]:
        try:
            report = far.read(task, self.crew.stop, keep_empty=keep_empty)
        except Exception as error:  # noqa: BLE001 - kept, and raised by whoever asked for the run
            self.errors[task.chunk_id] = error
            self.crew.end()
            raise Stopped from None
        if report is None:
            raise Stopped
        for latency_ms in report.latencies_ms:
            self._saw(latency_ms, Piece.whole(task))
        return report.files

    def _files_of(
        self, piece: Piece, session: Session, *, keep_empty: bool
    ) -> tuple[FileRecord, ...]:
        for attempt in range(_ATTEMPTS):
            try:
                return self._read(piece, session, keep_empty=keep_empty)
            except Stopped:
                raise
            except Exception as error:  # noqa: BLE001 - kept, and raised by whoever asked for the run
                halves = self._halves_after(error, piece, session, attempt)
            if halves is not None:
                low = self._files_of(halves[0], session, keep_empty=keep_empty)
                high = self._files_of(halves[1], session, keep_empty=keep_empty and not low)
                return low + high
        raise Stopped

    def _halves_after(
        self, error: Exception, piece: Piece, session: Session, attempt: int
    ) -> tuple[Piece, Piece] | None:
        """Give the halves to read instead, or return to read again, or fail the run."""
        overdue = session.overdue
        session.close()
        self._check_stopped()
        what = (piece.name, self.plan.table, type(error).__name__)
        # Halves on another connection are the same rows only in a moment that all share.
        if self.dialect.is_cancelled_by_replay(error):
            self._replayed, overdue = error, False
            halves = piece.halves() if self.held.shared else None
            if halves is not None:
                _log.warning("task %s of %s is cut in two after %s", *what)
                return halves
        if overdue or attempt + 1 == _ATTEMPTS or not self._may_retry(error):
            self.errors[piece.task.chunk_id] = (
                self._late(piece.name) if overdue else self._explained(error, session.lost)
            )
            self.crew.end()
            raise Stopped from None
        _log.warning("task %s of %s is read again after %s", *what)
        self.crew.stop.wait(min(_FIRST_PAUSE * 4**attempt, _LONGEST_PAUSE))
        return None

    def _read(self, piece: Piece, session: Session, *, keep_empty: bool) -> tuple[FileRecord, ...]:
        task = piece.task
        sql = self._statements.of(task)
        file_format: FileFormat = "csv" if self.plan.output_format == "csv" else "parquet"
        chunk = ChunkWriter(
            self.directory,
            piece.name,
            self._schema,
            file_format,
            self.plan.compression,
            group_bytes=self.limits.group_bytes,
            upload_bytes=self.limits.upload_bytes,
        )
        received = 0
        try:
            with session.query(piece.name) as reader:
                for batch in self._timed(session, reader, sql, piece):
                    self._check_stopped()
                    received += batch.num_rows
                    refuse_long_row(batch.nbytes // max(1, batch.num_rows))
                    chunk.write(batch)
            files = chunk.finish(keep_empty=keep_empty)
        except BaseException:
            chunk.abort()
            raise
        rows = sum(file.rows for file in files)
        if rows != received:
            msg = f"{received} rows were received and {rows} written"
            raise ExecutionError(msg, received=received, rows=rows)
        return files

    def _timed(
        self, session: Session, reader: Reader, sql: str, piece: Piece
    ) -> Iterable[pa.RecordBatch]:
        """Give the batches of a query, and note how long the source took to accept it."""
        asked = time.perf_counter()
        with session.waiting():
            opened = reader.read(sql, self.plan.columns)
        with opened as batches:
            self._saw((time.perf_counter() - asked) * 1000, piece)
            yield from session.each(batches)

    def _saw(self, latency_ms: float, piece: Piece) -> None:
        # A file is not busy with others; where nothing is known of the usual, nothing is unusual.
        if self.dialect.default_port is None or not self.limits.latency_ms:
            return
        if rest := self.crew.backoff.saw(latency_ms):
            self.backoffs += 1
            found = (round(rest.latency_ms, 1), rest.threshold_ms, rest.seconds)
            emit(BackedOff(self.directory.run_id, piece.task.chunk_id, *found))

    def _check_stopped(self) -> None:
        if self.crew.stop.is_set():
            raise Stopped

    def _may_retry(self, error: Exception) -> bool:
        """Only a broken connection is worth it, and only if the rows of one snapshot remain so."""
        if isinstance(error, _TERMINAL) or self.dialect.is_cancelled_by_replay(error):
            return False
        return self._same_rows() and self.dialect.is_transient(error)

    def _same_rows(self) -> bool:
        """Say whether another connection can see what the tasks before were read from."""
        return self.held.shared or len(self.plan.tasks) == 1

    def _explained(self, error: Exception, lost: str) -> Exception:
        """Say what an error of the source means, and of which table it is."""
        table = str(self.plan.table)
        if not self._same_rows() and self.dialect.is_transient(error):
            msg = (
                f"the connection was lost ({lost or error}), and with it the moment that the "
                f"tasks of {table} are read in, which no other connection can see; extract again"
            )
            return SourceUnavailable(msg, table=table)
        if isinstance(error, SnapshotUnavailable) and self._replayed is not None:
            # The replica has ended the session that held the snapshot for the same reason.
            error = self._replayed
        if isinstance(error, ValueDoesNotFit) and "column" in error.fields:
            message = f"{table}.{error.message.removeprefix('query.')}"
            return ValueDoesNotFit(message, **{**error.fields, "table": table})
        return self.dialect.explained(error, table) or error

    def _late(self, name: str) -> StatementTimeout:
        seconds = self.limits.statement_seconds or 0.0
        msg = (
            f"the query of task {name} was not answered in full within {seconds:g} s: the source "
            f"is too slow, or the network is silent; give the intent a longer statement_timeout"
        )
        return StatementTimeout(msg, table=str(self.plan.table), setting="statement_timeout")

    def _lost(self, session: Session) -> SourceUnavailable:
        msg = (
            f"the connection that read task {session.reading} was silent for longer than the "
            f"intent's silence_timeout, and it is lost: {session.lost}"
        )
        return SourceUnavailable(msg, table=str(self.plan.table))

    def _too_old(self) -> None:
        seconds = self.limits.snapshot_seconds or 0.0
        msg = (
            f"the snapshot was open for {seconds:g} s, the intent's max_snapshot_age: while it is "
            f"open the source cannot clean up what others delete; use more workers, select less, "
            f"or raise max_snapshot_age"
        )
        error = SnapshotTooOld(msg, table=str(self.plan.table), setting="max_snapshot_age")
        self.errors.setdefault("snapshot", error)
