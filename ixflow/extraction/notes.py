"""Reading what was noted about runs when they ended, and where the search for workers stands."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from ixflow.extraction.circumstances import Circumstances
from ixflow.extraction.migrations import controller, deviations
from ixflow.extraction.state import StatePlace

__all__ = ["Learned", "Note", "learned", "note_of", "notes_of"]


@dataclass(frozen=True)
class Note:
    """What was noted about a run when it ended; see `ixflow.extraction.diagnosis`."""

    run_id: str
    shape: str
    workers: int
    rows_per_second: float
    predicted_seconds: float | None
    deviation_ratio: float | None
    baseline_mean: float | None
    baseline_sigma: float | None
    baseline_runs: int
    skew: float | None
    latency_ms: float | None
    categories: tuple[str, ...]
    reasons: tuple[str, ...]
    not_learned: str | None
    circumstances: Circumstances | None = None


_SAME = (
    *("run_id", "shape", "workers", "rows_per_second", "predicted_seconds", "deviation_ratio"),
    *("baseline_mean", "baseline_sigma", "baseline_runs", "skew", "latency_ms", "not_learned"),
)


def notes_of(identity: str, place: StatePlace, *, limit: int = 10) -> dict[str, Note]:
    """Give the newest notes about a table's runs, by run id."""
    query = sa.select(deviations).where(deviations.c.identity == identity)
    return _notes(place, query.order_by(deviations.c.noted_at.desc()).limit(limit))


def note_of(run_id: str, place: StatePlace) -> Note | None:
    """Give the note about a run, if it has one: it succeeded, since version 2 of the state."""
    return _notes(place, sa.select(deviations).where(deviations.c.run_id == run_id)).get(run_id)


def _notes(place: StatePlace, query: sa.Select[Any]) -> dict[str, Note]:
    with place.look() as state:
        if state is None:
            return {}
        with state.reading() as conn:
            rows = conn.execute(query).mappings().all()
    return {
        row["run_id"]: Note(
            **{name: row[name] for name in _SAME},
            categories=tuple(json.loads(row["categories_json"])),
            reasons=tuple(json.loads(row["reasons_json"])),
            circumstances=Circumstances.from_json(row["circumstances_json"]),
        )
        for row in rows
    }


@dataclass(frozen=True)
class Learned:
    """Where the search of one shape stands: see `ixflow.extraction.controller`."""

    shape: str
    runs: int
    workers: int
    converged: bool
    reason: str
    baseline: float
    updated_at: str


def learned(identity: str, place: StatePlace) -> list[Learned]:
    """Give what is learned about a table, one entry for each shape; the newest first."""
    query = sa.select(controller).where(
        controller.c.identity == identity, controller.c.workers.is_not(None)
    )
    with place.look() as state:
        if state is None:
            return []
        with state.reading() as conn:
            rows = conn.execute(query.order_by(controller.c.updated_at.desc())).mappings().all()
    return [
        Learned(
            **{name: row[name] for name in ("shape", "runs", "workers", "baseline", "updated_at")},
            converged=bool(row["converged"]),
            reason=row["reason"] or "",
        )
        for row in rows
    ]
