"""Which tasks of a run are done, written down as they finish, and which of them a rerun may keep.

A checkpoint is lines of JSON. An ``attempt`` line says who reads what in which moment; the ``task``
lines behind it name the files of the tasks that were read in it. A line is written when its files
are durable, and while the session that holds the moment lives: so what it says stays true whatever
dies next. A torn last line counts as not written, and files that no line names are removed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from ixflow.extraction.intent import ExtractionIntent
from ixflow.extraction.manifest import FileRecord, Left
from ixflow.extraction.output import Run
from ixflow.extraction.plan import ExecutionPlan
from ixflow.extraction.snapshot import Moment, MomentRecord

__all__ = [
    "Attempt",
    "Checkpoint",
    "DoneTask",
    "mixing_refused",
    "reader_of",
    "resume_advisories",
    "tasks_to_keep",
]

_log = logging.getLogger("ixflow")

_VERSION = 1

MOST_AGE = timedelta(hours=24)
"""Rows of an older attempt are not put beside those of a newer snapshot."""


@dataclass(frozen=True, slots=True)
class DoneTask:
    """A task whose files are durable, and the moment that they are of."""

    chunk_id: str
    seconds: float
    files: tuple[FileRecord, ...]
    moment: MomentRecord

    @property
    def rows(self) -> int:
        """Count the rows of its files."""
        return sum(file.rows for file in self.files)


@dataclass(frozen=True)
class Attempt:
    """A run that did not publish, by its checkpoint."""

    left: Left
    run_id: str
    fingerprint: str
    reader: str
    moment: MomentRecord
    tasks: tuple[DoneTask, ...]

    @classmethod
    def parse(cls, left: Left) -> Attempt | None:
        """Read a checkpoint as far as it is whole; None: this release cannot."""
        about: dict[str, Any] | None = None
        tasks: dict[str, DoneTask] = {}
        for line in _whole_lines(left.text):
            try:
                if "attempt" in line:
                    about = _about(line["attempt"])
                elif about is not None:
                    done = _done(line["task"], about["moment"])
                    tasks[done.chunk_id] = done
            except (KeyError, TypeError):
                return None
            if about is None:
                return None
        return None if about is None else cls(left, tasks=tuple(tasks.values()), **about)


def _whole_lines(text: str) -> Iterator[dict[str, Any]]:
    for line in text.splitlines(keepends=True):
        try:
            given = json.loads(line) if line.endswith("\n") else None
        except ValueError:
            given = None
        if not isinstance(given, dict):
            return
        yield given


def _about(given: dict[str, Any]) -> dict[str, Any] | None:
    if given["version"] != _VERSION:
        return None
    names = ("run_id", "fingerprint", "reader")
    return {**{n: given[n] for n in names}, "moment": MomentRecord(**given["moment"])}


def _done(given: dict[str, Any], moment: MomentRecord) -> DoneTask:
    files = tuple(FileRecord(**file) for file in given["files"])
    return DoneTask(given["chunk_id"], given["seconds"], files, moment)


class Checkpoint:
    """The checkpoint of a run that is reading; a run of one short task needs none."""

    def __init__(self, run: Run, plan: ExecutionPlan, reader: str, moment: Moment) -> None:
        """Take where it is written and what it says; nothing is written yet."""
        self._run, self._plan, self._reader, self._moment = run, plan, reader, moment
        self._lock = threading.Lock()
        self._failed = False

    def start(self, kept: Sequence[DoneTask], resumed_from: str) -> None:
        """Begin it with the tasks of an earlier attempt."""
        lines = []
        for moment in dict.fromkeys(task.moment for task in kept):
            lines.append(self._attempt(resumed_from, moment))
            lines += [_task(t.chunk_id, t.seconds, t.files) for t in kept if t.moment == moment]
        lines.append(self._attempt(self._run.run_id, self._moment.record))
        self._write("".join(lines), first=True)

    def done(self, chunk_id: str, seconds: float, files: Sequence[FileRecord]) -> None:
        """Write that a task is done; called by its worker, and never fails it."""
        # A reader whose leader is gone may have met a table that was emptied meanwhile.
        if self._moment.alive():
            self._write(_task(chunk_id, seconds, files))

    def _attempt(self, run_id: str, moment: MomentRecord) -> str:
        return _line(
            attempt={
                "version": _VERSION,
                "run_id": run_id,
                "fingerprint": self._plan.fingerprint,
                "reader": self._reader,
                "moment": dataclasses.asdict(moment),
            }
        )

    def _write(self, text: str, *, first: bool = False) -> None:
        with self._lock:
            if self._failed:
                return
            try:
                self._run.checkpoint(text, first=first)
            except Exception as error:  # noqa: BLE001 - the load is worth more than its checkpoint
                # After a torn line nothing more would be read, so nothing more is written.
                self._failed = True
                _log.warning("run %s cannot be resumed: %s", self._run.run_id, error)


def _task(chunk_id: str, seconds: float, files: Sequence[FileRecord]) -> str:
    listed = [dataclasses.asdict(file) for file in files]
    return _line(task={"chunk_id": chunk_id, "seconds": seconds, "files": listed})


def _line(**what: Any) -> str:
    return json.dumps(what, ensure_ascii=False) + "\n"


def reader_of(intent: ExtractionIntent) -> str:
    """Hash who reads what how: another user may see other rows of the same table."""
    parts = [intent.identity(), intent.url().set(password=None).render_as_string()]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def tasks_to_keep(
    attempt: Attempt, plan: ExecutionPlan, reader: str, now: MomentRecord, resume: str
) -> tuple[tuple[DoneTask, ...], str]:
    """Choose the tasks that need not be read again in the moment ``now``; say why not, if none."""
    if attempt.fingerprint != plan.fingerprint:
        return (), "the table is read by another plan now"
    if attempt.reader != reader:
        return (), "another user reads it now"
    if not attempt.tasks:
        return (), "none of its tasks was done"
    why = "the snapshot that its tasks were read in is gone"
    if resume == "newer snapshot":
        refused = mixing_refused(plan) or _too_old(attempt.tasks)
        if refused is None:
            return attempt.tasks, ""
        why = f"{why}, and {refused}"
    if plan.consistency != "one snapshot":
        return (), why
    return tuple(task for task in attempt.tasks if task.moment.same_as(now)), why


def mixing_refused(plan: ExecutionPlan) -> str | None:
    """Say why tasks of two snapshots must not stand side by side; None: they may.

    They may where each row belongs to one task for ever: where all tasks are ranges of columns of
    the primary key. A row that changes moves to another page, and perhaps to another partition.
    """
    key = {column.name for column in plan.columns if column.key_position}
    if any(task.keys is None for task in plan.tasks):
        return (
            "a row that changes may move from one task to another, since the tasks are not ranges "
            "of the primary key"
        )
    others = {n for t in plan.tasks if t.keys for n in t.keys.columns if n not in key}
    if others:
        names = ", ".join(sorted(others))
        return f"rows may move from one task to another, since {names} is not of the primary key"
    if len({task.part.table for task in plan.tasks}) > 1:
        return "rows may move from one part of the table to another"
    return None


def resume_advisories(plan: ExecutionPlan, resume: str) -> list[str]:
    """Say what the intent's ``resume`` means for a plan."""
    if resume != "newer snapshot":
        return []
    refused = "it is read in one task" if len(plan.tasks) == 1 else mixing_refused(plan)
    if refused is not None:
        return [f"resume='newer snapshot' has no effect: {refused}"]
    return ["a rerun after a failure reads the rest in a newer snapshot: rows of two moments"]


def _too_old(tasks: Sequence[DoneTask]) -> str | None:
    taken = min(datetime.fromisoformat(task.moment.taken_at) for task in tasks)
    if datetime.now(UTC) - taken > MOST_AGE:
        return f"its rows are of {taken:%Y-%m-%d %H:%M} UTC, more than {MOST_AGE} ago"
    return None
