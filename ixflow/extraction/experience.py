"""What earlier runs tell a plan, and what the run of a plan may tell later ones. Nothing is read.

Runs are compared only with runs of the same shape: the same columns, read and written the same way.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ixflow.extraction.bucket import is_bucket_url
from ixflow.extraction.circumstances import Circumstances
from ixflow.extraction.controller import ControllerState, Sample
from ixflow.values import Column

if TYPE_CHECKING:
    from ixflow.extraction.intent import ExtractionIntent

__all__ = ["NOTHING", "BenchmarkFacts", "Experience", "Lesson", "shape_of", "start_workers"]

BENCHMARK_DAYS = 7.0
"""A benchmark is used for so many days."""

_ROW_CHANGE, _TRUSTED, _FLAT, _FLAT_WORKERS = 0.20, 0.50, 0.30, 2


@dataclass(frozen=True, slots=True)
class BenchmarkFacts:
    """What a benchmark has found: the fewest workers that are nearly as fast as the fastest.

    ``confidence`` and ``signal_strength`` go from 0 to 1: how well the probes agreed, and by how
    much the slowest number of workers was slower than the fastest.
    """

    optimal_workers: int
    confidence: float
    signal_strength: float
    row_estimate: int
    age_days: float = 0.0

    def fresh(self, rows: int) -> bool:
        """Say whether it still holds for a table that has so many rows now."""
        change = abs(rows - self.row_estimate) / max(1, self.row_estimate)
        return self.age_days <= BENCHMARK_DAYS and change <= _ROW_CHANGE

    @property
    def trusted(self) -> bool:
        """Say whether the probes agreed well enough."""
        return self.confidence >= _TRUSTED


@dataclass(frozen=True, slots=True)
class Experience:
    """What is known when a plan is made: comparable runs in order, the search, a benchmark.

    ``concurrent`` is how many other runs read from the same database now.
    """

    samples: tuple[Sample, ...] = ()
    controller: ControllerState | None = None
    benchmark: BenchmarkFacts | None = None
    concurrent: int = 0


NOTHING = Experience()


def start_workers(recommended: int, known: Experience, *, rows: int) -> tuple[int, str]:
    """Choose the number of workers to begin with, and say who has: benchmark, controller, profile.

    >>> start_workers(2, NOTHING, rows=10)
    (2, 'profiler recommended')
    >>> start_workers(2, Experience(controller=ControllerState(3, 2)), rows=10)
    (3, 'controller exploring')
    """
    measured = known.benchmark
    if measured is not None and measured.fresh(rows) and measured.trusted:
        if measured.signal_strength <= _FLAT:
            workers = min(measured.optimal_workers, _FLAT_WORKERS)
            return workers, "benchmarked (conservative)"
        return measured.optimal_workers, "benchmarked"
    state = known.controller
    # A search that had nothing to try has found nothing.
    if state is not None and not (state.cap == 1 and recommended > 1):
        return state.workers, f"controller {'converged' if state.converged else 'exploring'}"
    return recommended, "profiler recommended"


@dataclass(frozen=True, slots=True)
class Lesson:
    """What a run may teach if it succeeds.

    ``cap`` is the most workers that it could have had. ``steers`` is False where a benchmark has
    chosen the workers: the run counts for comparisons, not for the search. ``not_learned`` says why
    it counts for neither. ``circumstances`` are those of the plan, then of the run.
    """

    shape: str
    cap: int = 1
    steers: bool = True
    not_learned: str | None = None
    circumstances: Circumstances | None = None


def shape_of(intent: ExtractionIntent, columns: Sequence[Column]) -> str:
    """Hash what is read and how it is written: runs of one shape can be compared."""
    shape = {
        "columns": [(column.name, column.sql_type, column.as_text) for column in columns],
        "masks": sorted(intent.mask.items()),
        "rows": [intent.where, intent.query, intent.mode],
        "files": [intent.file_format, intent.file_compression, is_bucket_url(intent.output_dir)],
    }
    canonical = json.dumps(shape, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
