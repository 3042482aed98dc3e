"""What the state knows about runs, and what became of those whose process died."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ixflow.errors import ValidationError
from ixflow.extraction.intent import ExtractionIntent
from ixflow.extraction.manifest import Manifest
from ixflow.extraction.output import place_of
from ixflow.extraction.processes import Process
from ixflow.extraction.recording import SECONDS_BETWEEN_SIGNS
from ixflow.extraction.state import State, StatePlace, now
from ixflow.extraction.storage import OutputPlace

if TYPE_CHECKING:
    import sqlalchemy as sa

__all__ = [
    "Run",
    "Task",
    "find_row",
    "history",
    "last_estimate",
    "last_planned_at",
    "run_named",
    "tasks_of",
]

_MISSING_SIGNS = 20
"""A run on another machine is given up after so many signs of life that did not come."""


@dataclass(frozen=True)
class Run:
    """One run: what it read, when, by how many workers, and how it ended.

    ``status`` is ``running``, ``success``, ``failed`` or ``abandoned``: its process ended without
    a word. ``source`` names type, host, port and database. Times are ISO 8601 in UTC. ``rows``,
    ``bytes`` and ``seconds`` are None where nothing was reported.
    """

    run_id: str
    identity: str
    object_name: str
    source: Mapping[str, Any]
    output_dir: str
    status: str
    started_at: str
    finished_at: str | None
    rows: int | None
    bytes: int | None
    seconds: float | None
    workers: int
    effective_workers: float | None
    plan_fingerprint: str
    plan_version: str
    runtime_context: Mapping[str, Any] | None
    replay_of: str | None
    error: str | None
    resumed_from: str | None = None

    @property
    def rows_per_second(self) -> float | None:
        """Give the throughput of a complete run."""
        if self.status != "success" or not self.seconds or self.rows is None:
            return None
        return self.rows / self.seconds

    @property
    def comparable(self) -> bool:
        """Say that it ran complete, unconstrained and not as a replay, from its start."""
        free = self.runtime_context is None and self.replay_of is None
        return self.status == "success" and free and self.resumed_from is None

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Self:
        """Read a row of the state."""
        context = row["runtime_context_json"]
        return cls(
            **{name: row[name] for name in _SAME},
            source=json.loads(row["source_json"]),
            rows=row["rows_extracted"],
            bytes=row["bytes_written"],
            runtime_context=None if context is None else json.loads(context),
        )


_SAME = (
    *("run_id", "identity", "object_name", "output_dir", "status", "started_at", "finished_at"),
    *("seconds", "workers", "effective_workers", "plan_fingerprint", "plan_version"),
    *("replay_of", "error", "resumed_from"),
)


@dataclass(frozen=True, slots=True)
class Task:
    """One task of a run; a task that had not ended when its run did is not listed.

    ``status`` is ``success``, ``failed``, or ``resumed``: an earlier run had read it.
    """

    chunk_id: str
    status: str
    rows: int | None
    bytes: int | None
    seconds: float | None
    error: str | None


def history(
    intent_or_dir: ExtractionIntent | str | Path,
    *,
    object_name: str | None = None,
    limit: int = 10,
    state_url: str | sa.URL | None = None,
) -> list[Run]:
    """List the runs of an intent's table, or of an output directory; the newest first.

    Raises:
        StateUnavailable, UnsupportedState: the state database cannot be read.

    >>> history("no/such/place")
    []
    """
    identity, output_dir = None, intent_or_dir
    if isinstance(intent_or_dir, ExtractionIntent):
        identity, output_dir = intent_or_dir.identity(), intent_or_dir.output_dir
    with StatePlace.of(str(output_dir), state_url).look() as state:
        if state is None:
            return []
        rows = state.run_rows(identity=identity, object_name=object_name, limit=limit)
        intent = intent_or_dir if isinstance(intent_or_dir, ExtractionIntent) else None
        return [Run.of(_settled(state, row, intent)) for row in rows]


def find_row(run_id: str, place: StatePlace) -> Mapping[str, Any]:
    """Read a run by its id, or by the beginning of it if no other run begins so.

    Raises:
        ValidationError: there is none, or there are several.
        StateUnavailable, UnsupportedState: the state database cannot be read.

    """
    _expect_id(run_id)
    with place.look() as state:
        rows = [] if state is None else state.runs_like(run_id)
        exact = [row for row in rows if row["run_id"] == run_id]
        if len(found := exact or rows) == 1 and state is not None:
            return _settled(state, found[0])
    if not rows:
        raise ValidationError(f"no run {run_id} is known in {place}", run_id=run_id)
    names = ", ".join(row["run_id"] for row in rows[:5])
    msg = f"{len(rows)} runs begin with {run_id}: {names}{', ...' * (len(rows) > 5)}"  # noqa: PLR2004
    raise ValidationError(msg, run_id=run_id)


def _expect_id(run_id: object) -> None:
    if not isinstance(run_id, str) or not run_id:
        raise ValidationError(f"run_id must be the id of a run, not {run_id!r}", argument="run_id")


def run_named(run_id: str, place: StatePlace) -> Run:
    """Give a run by its id or the beginning of it; raises as `find_row`."""
    return Run.of(find_row(run_id, place))


def tasks_of(run: Run, place: StatePlace) -> list[Task]:
    """List the tasks of a run."""
    with place.look() as state:
        rows = [] if state is None else state.task_rows(run.run_id)
    return [
        Task(
            row["chunk_id"],
            row["status"],
            row["rows_extracted"],
            row["bytes_written"],
            row["seconds"],
            row["error"],
        )
        for row in rows
    ]


def last_planned_at(identity: str, place: StatePlace) -> str | None:
    """Give the time of a table's last plan, which is also that of its last profile."""
    with place.look() as state:
        found = None if state is None else state.last_plan(identity)
    return None if found is None else found[1]


def last_estimate(identity: str, place: StatePlace) -> dict[str, Any] | None:
    """Give what the last plan of a table estimated, by the names that `PlanResult` has."""
    with place.look() as state:
        found = None if state is None else state.last_plan(identity)
    if found is None:
        return None
    record = found[0]
    names = [name for name in record if name.startswith("throughput_")]
    seconds = record["plan"]["estimated_seconds"]
    return {"estimated_seconds": seconds, **{name: record[name] for name in names}}


def _settled(
    state: State, row: Mapping[str, Any], intent: ExtractionIntent | None = None
) -> Mapping[str, Any]:
    """Find out what became of a run that seems to run; the state is told if it can be."""
    if row["status"] != "running" or not _is_dead(row):
        return row
    asked, manifest = _published(row, intent)
    if manifest is not None and manifest.run_id == row["run_id"]:
        became = {
            "status": "success",
            "finished_at": manifest.finished_at,
            "rows_extracted": manifest.total_rows,
            "bytes_written": manifest.total_bytes,
        }
    else:
        became = {"status": "abandoned", "error": "the process ended without a word"}
    if not asked:  # somebody with the intent may find out more
        return {**row, **became}
    with contextlib.suppress(Exception):
        state.settle(row["run_id"], {**became, "seen_at": now()})
    return {**row, **became}


def _is_dead(row: Mapping[str, Any]) -> bool:
    alive = Process(row["machine"], row["pid"], row["process_started"]).alive()
    if alive is not None:
        return not alive
    silence = datetime.now(UTC) - datetime.fromisoformat(row["seen_at"])
    return silence.total_seconds() > SECONDS_BETWEEN_SIGNS * _MISSING_SIGNS


def _published(
    row: Mapping[str, Any], intent: ExtractionIntent | None
) -> tuple[bool, Manifest | None]:
    """Read the newest publication, since the run may have died behind it; say if one could ask.

    A bucket can only be asked with the credentials of an intent.
    """
    with contextlib.suppress(Exception):
        if "://" not in row["output_dir"]:
            place = OutputPlace(row["output_dir"], row["object_name"])
            return True, place.published_run(row["run_id"])
        if intent is not None and str(intent.output_dir) == row["output_dir"]:
            return True, place_of(intent).published()
    return False, None
