"""Telling the state about a run: before it starts, while it lives, and how it ended.

The row is there before anything is read. Later a state that fails is logged and otherwise ignored:
remembering a run must never undo what the run has published.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ixflow.errors import ExecutionError
from ixflow.events import BackedOff, ChunkExtracted, Event, listen
from ixflow.extraction.circumstances import machine_load
from ixflow.extraction.context import RuntimeContext
from ixflow.extraction.diagnosis import RunFacts
from ixflow.extraction.experience import Lesson
from ixflow.extraction.intent import ExtractionIntent
from ixflow.extraction.learning import add_lesson, lesson_for, running_now
from ixflow.extraction.plan import ExecutionPlan
from ixflow.extraction.processes import this_process
from ixflow.extraction.state import State, StatePlace, now
from ixflow.secrets import redact

if TYPE_CHECKING:
    import sqlalchemy as sa

    from ixflow.extraction.run import ExecutionResult

__all__ = ["SECONDS_BETWEEN_SIGNS", "Origin", "Recording", "recorded"]

_log = logging.getLogger("ixflow")

SECONDS_BETWEEN_SIGNS = 15.0

_SECONDS_OF_TASKS = 1.0
"""How long finished tasks are gathered before they are told together."""


@dataclass(frozen=True)
class Origin:
    """What a run is known to come from, besides its plan and intent."""

    runtime_context: RuntimeContext | None = None
    replay_of: str | None = None
    state_url: str | sa.URL | None = None
    lesson: Lesson | None = None


class Recording:
    """One run on its way into the state."""

    def __init__(
        self,
        place: StatePlace,
        run_id: str,
        intent: ExtractionIntent,
        plan: ExecutionPlan,
        origin: Origin,
    ) -> None:
        """Take what the run is called and comes from, and whose secrets its errors may quote."""
        self._place, self._run_id, self._intent = place, run_id, intent
        self._plan, self._lesson = plan, lesson_for(plan, intent, origin.lesson)
        self._tasks: dict[str, dict[str, Any]] = {}
        self._untold: dict[str, dict[str, Any]] = {}
        self._telling_tasks = threading.Lock()
        self._ended, self._news = threading.Event(), threading.Event()
        self._published = False

    def begins(self, state: State) -> None:
        """Note the circumstances of the moment, before the run itself is one that runs."""
        planned = self._lesson.circumstances
        if planned is None:
            return
        with state.reading() as conn:
            concurrent = running_now(conn, self._intent)
        moment, load = datetime.now(UTC), machine_load()
        seen = planned.at_start(concurrent=concurrent, at=moment, load=load)
        self._lesson = dataclasses.replace(self._lesson, circumstances=seen)

    def hear(self, event: Event) -> None:
        """Keep what a task of this run has done."""
        if isinstance(event, ChunkExtracted) and event.run_id == self._run_id:
            self._note(event.chunk_id, "success", event)
        if isinstance(event, BackedOff) and event.run_id == self._run_id:
            self.teaches_nothing("it rested because the source answered slowly")

    def teaches_nothing(self, reason: str) -> None:
        """Keep the run out of what later plans are told."""
        self._lesson = dataclasses.replace(self._lesson, not_learned=reason)

    def resumed(self, run_id: str, tasks: Mapping[str, tuple[int, int]]) -> None:
        """Note the run that this one goes on from, with the rows and bytes of its tasks."""
        with self._telling("where it goes on") as state:
            state.note_run(self._run_id, {"resumed_from": run_id})
        for chunk_id, (rows, size) in tasks.items():
            self._note(chunk_id, "resumed", ChunkExtracted(self._run_id, chunk_id, rows, size, 0.0))
        self.teaches_nothing("it went on where another run had ended")

    def finished(self, result: ExecutionResult) -> None:
        """Write that the run was published."""
        self._published = True
        values = {
            "status": "success",
            "rows_extracted": result.rows_extracted,
            "bytes_written": result.bytes_written,
            "effective_workers": result.effective_workers,
            "seconds": result.duration_seconds,
        }
        if result.resumed_from is not None:
            self.teaches_nothing(f"it went on where {result.resumed_from} had ended")
        facts = RunFacts(
            workers=self._plan.worker_count,
            rows=round(result.throughput_rows_sec * result.duration_seconds),
            seconds=result.duration_seconds,
            predicted_seconds=self._plan.estimated_seconds,
            task_seconds=[task["seconds"] or 0.0 for task in self._tasks.values()],
            busy=result.effective_workers,
            latency_ms=self._plan.latency_ms,
        )
        whose = (self._run_id, self._intent.identity())
        self._end(values, lambda conn: add_lesson(conn, *whose, self._lesson, facts))

    def failed(self, error: BaseException) -> None:
        """Write that the run published nothing, and why; not if it is published after all."""
        if self._published:
            return
        if isinstance(error, ExecutionError):
            for chunk_id, text in error.fields.get("errors", {}).items():
                self._note(chunk_id, "failed", error=text)
        rows = sum(task["rows_extracted"] or 0 for task in self._tasks.values())
        text = f"{type(error).__name__}: {error}" if f"{error}" else type(error).__name__
        said = redact(text, *self._intent.secrets)
        self._end({"status": "failed", "rows_extracted": rows, "error": said})

    def _note(
        self,
        chunk_id: str,
        status: str,
        done: ChunkExtracted | None = None,
        error: str | None = None,
    ) -> None:
        task = {
            "chunk_id": chunk_id,
            "status": status,
            "rows_extracted": done and done.rows,
            "bytes_written": done and done.bytes_written,
            "seconds": done and done.seconds,
            "error": error,
        }
        with self._telling_tasks:
            self._tasks[chunk_id] = self._untold[chunk_id] = task
        self._news.set()

    def _end(
        self, values: dict[str, Any], also: Callable[[sa.Connection], object] | None = None
    ) -> None:
        self._ended.set()
        self._news.set()
        self._tell_tasks()
        done = {**values, "finished_at": now(), "seen_at": now()}
        with self._telling("how the run ended") as state:
            state.end_run(self._run_id, done, [], also)

    @contextlib.contextmanager
    def alive(self) -> Iterator[None]:
        """Give signs of life during the block, for readers on other machines."""
        thread = threading.Thread(target=self._give_signs, name="ixflow-state", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            self._news.set()
            thread.join()
            self._tell_tasks()  # what the thread was about to tell, and could not

    def _give_signs(self) -> None:
        last = time.monotonic()
        while not self._ended.is_set():
            self._news.wait(max(0.0, last + SECONDS_BETWEEN_SIGNS - time.monotonic()))
            if self._news.is_set():
                self._ended.wait(_SECONDS_OF_TASKS)
                self._news.clear()
            if self._ended.is_set():
                return
            self._tell_tasks()
            if time.monotonic() - last >= SECONDS_BETWEEN_SIGNS:
                last = time.monotonic()
                with self._telling("that it lives") as state:
                    state.sign_of_life(self._run_id)

    def _tell_tasks(self) -> None:
        """Write the tasks that ended since; those that cannot be written are tried again."""
        with self._telling_tasks:
            told, self._untold = self._untold, {}
        if not told:
            return
        rows = list(told.values())
        with self._telling("what its tasks did") as state:
            state.write_tasks(self._run_id, rows)
            told = {}
        with self._telling_tasks:
            self._untold = {**told, **self._untold}

    @contextlib.contextmanager
    def _telling(self, what: str) -> Iterator[State]:
        try:
            with self._place.open() as state:
                yield state
        except Exception as error:  # noqa: BLE001 - whatever the state says, the load stands
            _log.warning("the state could not be told of %s %s: %s", self._run_id, what, error)


@contextlib.contextmanager
def recorded(
    run_id: str, plan: ExecutionPlan, intent: ExtractionIntent, origin: Origin
) -> Iterator[Recording]:
    """Record the run of the block; the block tells the recording its result.

    Raises:
        StateUnavailable, UnsupportedState, OutputNotWritable: before the block is entered.

    """
    place = StatePlace.of(intent.output_dir, origin.state_url)
    recording = Recording(place, run_id, intent, plan, origin)
    with place.open() as state:
        recording.begins(state)
        state.begin_run(_first_values(run_id, plan, intent, origin))
    with recording.alive(), listen(recording.hear):
        try:
            yield recording
        except BaseException as error:
            recording.failed(error)
            raise


def _first_values(
    run_id: str, plan: ExecutionPlan, intent: ExtractionIntent, origin: Origin
) -> dict[str, Any]:
    process, started = this_process(), now()
    context = origin.runtime_context
    return {
        "run_id": run_id,
        "identity": intent.identity(),
        "object_name": intent.object_name,
        "source_type": intent.dialect.name,
        "source_json": json.dumps(intent.source(), ensure_ascii=False),
        "output_dir": redact(_absolute(intent.output_dir), *intent.secrets),
        "plan_json": json.dumps(plan.to_dict(), ensure_ascii=False),
        "plan_fingerprint": plan.fingerprint,
        "plan_version": plan.plan_version,
        "runtime_context_json": context and json.dumps(dataclasses.asdict(context)),
        "replay_of": origin.replay_of,
        "status": "running",
        "started_at": started,
        "seen_at": started,
        "machine": process.machine,
        "pid": process.pid,
        "process_started": process.started,
        "workers": plan.worker_count,
    }


def _absolute(output_dir: str | Path) -> str:
    """Keep the place's name true for readers that run elsewhere."""
    if "://" in str(output_dir):
        return str(output_dir)
    return str(Path(output_dir).expanduser().absolute())
