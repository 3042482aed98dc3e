"""One table's run: what an earlier one left of it, its tasks, and the proof that all rows came."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NoReturn

from ixflow.errors import ExecutionError
from ixflow.extraction.checkpoint import (
    Attempt,
    Checkpoint,
    DoneTask,
    mixing_refused,
    reader_of,
    tasks_to_keep,
)
from ixflow.extraction.executor import Outcome, TaskRun
from ixflow.extraction.incremental import Increment
from ixflow.extraction.intent import ExtractionIntent
from ixflow.extraction.limits import RunLimits
from ixflow.extraction.manifest import ColumnRecord, Left, Manifest, SnapshotRecord
from ixflow.extraction.output import Run, place_of
from ixflow.extraction.plan import ExecutionPlan
from ixflow.extraction.recording import Origin, Recording
from ixflow.extraction.selection import Statements, shown_error
from ixflow.extraction.snapshot import Moment, MomentRecord
from ixflow.secrets import redact

if TYPE_CHECKING:
    from ixflow.extraction.cluster import Cluster

__all__ = ["Job", "TableRun"]

_log = logging.getLogger("ixflow")


@dataclass(frozen=True)
class Job:
    """A plan to run, for whom, and where it comes from."""

    plan: ExecutionPlan
    intent: ExtractionIntent
    origin: Origin = field(default_factory=Origin)


class TableRun:
    """A table that is being extracted, from its empty directory to its manifest."""

    tasks: TaskRun
    moment: Moment

    def __init__(self, job: Job, directory: Run, recording: Recording) -> None:
        """Take where the files go; nothing is read yet."""
        self.plan, self.intent = job.plan, job.intent
        self.directory, self.recording = directory, recording
        self.resumed: tuple[DoneTask, ...] = ()
        self.resumed_from: str | None = None
        self.increment = Increment(job.plan, job.intent)

    @property
    def rows_resumed(self) -> int:
        """Count the rows that were not read again."""
        return sum(task.rows for task in self.resumed)

    def prepare(
        self,
        moment: Moment,
        limits: RunLimits,
        beside: TaskRun | None,
        cluster: Cluster | None = None,
    ) -> None:
        """Look what an earlier run has left, and make the tasks ready to be read."""
        self.moment = moment
        on_done = None
        window = self.increment.open(self.intent.dialect, moment.held)
        if self._is_resumable:
            checkpoint = Checkpoint(self.directory, self.plan, reader_of(self.intent), moment)
            used = self._resume()
            checkpoint.start(self.resumed, self.resumed_from or self.directory.run_id)
            if used is not None:
                # Its files are ours by now; what is left of it is of no use to anybody.
                self.directory.discard(used)

            def on_done(outcome: Outcome) -> None:
                checkpoint.done(outcome.chunk_id, outcome.seconds, outcome.files)

        done = [Outcome(task.chunk_id, task.rows, task.files, 0.0) for task in self.resumed]
        self.tasks = TaskRun(
            self.plan,
            self.intent.dialect,
            moment.held,
            self.directory,
            statements=Statements(
                self.plan, self.intent.dialect, salt=self.intent.mask_salt, window=window
            ),
            limits=limits,
            done=done,
            on_done=on_done,
            beside=beside,
            far=None if cluster is None else cluster.far(self, moment, limits, window),
        )

    @property
    def _is_resumable(self) -> bool:
        # What is done of an incremental run is of a window that no later run has.
        return len(self.plan.tasks) > 1 and self.plan.cursor is None

    def _resume(self) -> Left | None:
        """Take over the tasks of the newest dead run that can be used; remove the others."""
        found = [(left, Attempt.parse(left)) for left in self.directory.left()]
        found.sort(key=lambda pair: pair[1].moment.taken_at if pair[1] else "", reverse=True)
        used = None
        for left, attempt in found:
            if attempt is not None and used is None and self._adopted(attempt):
                used = left
            elif attempt is None or used is not None:
                self.directory.discard(left)
        return used

    def _adopted(self, attempt: Attempt) -> bool:
        now, reader = self.moment.record, reader_of(self.intent)
        kept, why = tasks_to_keep(attempt, self.plan, reader, now, self.intent.resume)
        what = (self.intent.object_name, attempt.run_id)
        if not kept:
            _log.warning("%s is read from the start, not on from run %s: %s", *what, why)
            self.directory.discard(attempt.left)
            return False
        whole = self.directory.adopt(attempt.left, [file for task in kept for file in task.files])
        if whole is None:
            return False
        self.resumed = tuple(t for t in kept if all(file.name in whole for file in t.files))
        self.resumed_from = attempt.run_id
        damaged = len(kept) - len(self.resumed)
        counts = (len(self.resumed), len(self.plan.tasks), damaged)
        _log.info("%s goes on from run %s: %d of %d tasks are done, %d damaged", *what, *counts)
        sizes = {t.chunk_id: (t.rows, sum(file.bytes for file in t.files)) for t in self.resumed}
        self.recording.resumed(attempt.run_id, sizes)
        return True

    def can_be_resumed(self, *, in_held_moment: bool) -> bool:
        """Say whether a rerun could use what is done: in a moment that others hold, or a newer."""
        if not hasattr(self, "tasks") or not self.tasks.outcomes or not self._is_resumable:
            return False
        newer = self.intent.resume == "newer snapshot" and mixing_refused(self.plan) is None
        return newer or (in_held_moment and self.plan.consistency == "one snapshot")

    def check(self) -> None:
        """Refuse to publish anything but the whole table, as the server sent it.

        Raises:
            ExecutionError: a task, a row or a file is missing.

        """
        run, secrets = self.tasks, self.intent.secrets
        if run.errors:
            chunk, first = next(iter(run.errors.items()))
            said = shown_error(first, self.intent)
            shown = redact(f"{first}", *secrets) == f"{first}" and not self.plan.hides
            cause = first if shown else None
            self.check_failed(f"failed in task {chunk}: {said}", cause=cause)
        if not run.complete():
            self.check_failed("is incomplete")
        files = [file for outcome in run.outcomes for file in outcome.files]
        if missing := self.directory.missing(files):
            wrong = {
                file.chunk_id: f"{file.name} is missing, or has another size"
                for file in files
                if file.name in missing
            }
            self.check_failed(f"lost {len(missing)} of its {len(files)} files", errors=wrong)
        names = {file.name for file in files}
        rows = sum(file.rows for file in files)
        if len(names) != len(files) or rows != sum(outcome.rows for outcome in run.outcomes):
            self.check_failed("does not add up: files are named twice, or rows are lost")

    def check_failed(
        self,
        what: str,
        *,
        errors: dict[str, str] | None = None,
        cause: Exception | None = None,
    ) -> NoReturn:
        """Raise the error of an extraction that publishes nothing."""
        run, table = self.tasks, str(self.plan.table)
        said = {
            chunk: f"{type(e).__name__}: {shown_error(e, self.intent)}"
            for chunk, e in run.errors.items()
        }
        done = f"{len(run.outcomes)} of {len(self.plan.tasks)} tasks were done"
        raise ExecutionError(
            f"extraction of {table} {what}; {done}, nothing was published",
            run_id=self.directory.run_id,
            table=table,
            errors={**said, **(errors or {})},
            rows_extracted=sum(outcome.rows for outcome in run.outcomes),
            tasks_done=len(run.outcomes),
            tasks_planned=len(self.plan.tasks),
        ) from cause

    def publish(self, started_at: str) -> tuple[Manifest, str]:
        """Let the run appear, unless it has nothing new; give what is published, and where.

        Raises:
            OutputNotWritable: the place refused; what was published before still is.
            ExecutionError: an incremental run goes on from another run than is published now.

        """
        base, rows = self.increment.base, sum(outcome.rows for outcome in self.tasks.outcomes)
        if base is not None and rows == 0:
            return base, place_of(self.intent).manifest_of(base)
        manifest = self.increment.complete(self.manifest(started_at), self.directory)
        return manifest, self.directory.publish(manifest)

    def manifest(self, started_at: str) -> Manifest:
        """Describe the complete extraction."""
        files = [file for outcome in self.tasks.outcomes for file in outcome.files]
        snapshots = self._snapshots()
        last, count = snapshots[-1], len(snapshots)
        several = "two snapshots" if count == 2 else f"{count} snapshots"  # noqa: PLR2004
        return Manifest(
            run_id=self.directory.run_id,
            object_name=self.intent.object_name,
            table=str(self.plan.table),
            source=self.intent.source(),
            identity=self.intent.identity(),
            plan_fingerprint=self.plan.fingerprint,
            consistency=several if count > 1 else self.plan.consistency,
            snapshot=last.snapshot,
            columns=tuple(ColumnRecord.of(column) for column in self.plan.columns),
            files=tuple(sorted(files, key=lambda file: file.name)),
            started_at=started_at,
            finished_at=datetime.now(UTC).isoformat(),
            output_format=self.plan.output_format,
            compression=self.plan.compression,
            moment=last.moment if self.moment.record.one else None,
            resumed_from=self.resumed_from,
            snapshots=snapshots,
            where=self.plan.where,
            query=self.plan.query,
            salt_digest=self.plan.salt_digest,
        )

    def _snapshots(self) -> tuple[SnapshotRecord, ...]:
        """List the moments of the rows; equal moments that were held by two sessions are one."""
        now = self.moment.record
        moments: dict[MomentRecord, list[str]] = {now: []}
        of = {task.chunk_id: task.moment for task in self.resumed}
        for task in self.plan.tasks:
            moment = of.get(task.chunk_id, now)
            same = next((known for known in moments if moment.same_as(known)), moment)
            moments.setdefault(same, []).append(task.chunk_id)
        return tuple(
            SnapshotRecord(moment.id, moment.snapshot, moment.taken_at, tuple(chunks))
            for moment, chunks in sorted(moments.items(), key=lambda pair: pair[0].taken_at)
            if chunks
        )
