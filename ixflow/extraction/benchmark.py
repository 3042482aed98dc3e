"""Measuring how many workers a table is read fastest with: probes of it, read and dropped.

For each number of workers that can be had, that many connections read the same rows at once, in
one snapshot: pieces from the plan's own tasks, in several areas of the table. Each area is read
once before the clock runs, so that the first number of workers does not pay for cold pages.
"""

from __future__ import annotations

import contextlib
import math
import os
import statistics
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import asdict, dataclass, replace

import sqlalchemy as sa

from ixflow.dialects import Reader
from ixflow.dialects.guest import visiting
from ixflow.errors import NoConnectionLeft, ValidationError
from ixflow.extraction.api import plan_of, source_cap
from ixflow.extraction.context import RuntimeContext
from ixflow.extraction.experience import BenchmarkFacts
from ixflow.extraction.explain import prepare
from ixflow.extraction.intent import ExtractionIntent
from ixflow.extraction.learning import save_benchmark
from ixflow.extraction.limits import RunLimits, bytes_of, workers_within
from ixflow.extraction.plan import ExecutionPlan, ExtractionTask
from ixflow.extraction.planner import Draft, Facts, decide
from ixflow.extraction.profile import SourceProfile, profile
from ixflow.extraction.run import refusals_named
from ixflow.extraction.selection import Statements
from ixflow.extraction.slots import connection_slots
from ixflow.extraction.state import StatePlace

__all__ = ["GRID", "Benchmark", "Probe", "benchmark", "judge", "probes_of"]

GRID = (1, 2, 4, 8)
"""The numbers of workers that are tried, as far as they can be had."""

_SHARE, _LEAST_ROWS, _MOST_ROWS = 0.02, 50_000, 100_000
_BYTES_PER_SECOND, _LEAST_SECONDS = 25 << 20, 12.0
_AREAS = 3
_TIE, _PLATEAU, _LEAST_SIGNAL = 0.05, 0.95, 0.15
_TRUST = {"plateau": 1.0, "increasing": 0.75, "non_monotonic": 0.70}


@dataclass(frozen=True)
class Benchmark:
    """What the probes of a table have shown; ``skipped`` says why there were none.

    ``throughput`` is in rows a second for each number of workers, one for each area of the table.
    ``curve`` is ``increasing``, ``plateau`` or ``non_monotonic``; for ``confidence`` and
    ``signal_strength`` see `BenchmarkFacts`.
    """

    object_name: str
    row_estimate: int
    throughput: Mapping[int, Sequence[float]]
    optimal_workers: int = 1
    confidence: float = 0.0
    signal_strength: float = 0.0
    curve: str = "plateau"
    probe_rows: int = 0
    seconds: float = 0.0
    skipped: str | None = None


@dataclass(frozen=True, slots=True)
class Probe:
    """A piece of a task to read, at most ``rows`` of it."""

    task: ExtractionTask
    rows: int


def benchmark(
    intent: ExtractionIntent,
    *,
    force: bool = False,
    grid: Sequence[int] = GRID,
    state_url: str | sa.URL | None = None,
) -> Benchmark:
    """Probe a table with several numbers of workers, and keep what is found for later plans.

    Args:
        intent: which table; nothing is written to its output.
        force: also a table so small that it is not worth it.
        grid: the numbers of workers to try.
        state_url: as for `plan`.

    Raises:
        ValidationError: the grid is empty or has numbers below 1.
        SourceUnavailable, TableNotFound, StateUnavailable, UnsupportedState: as `plan`.
        NoConnectionLeft: other runs on this machine have connections that it needs.

    """
    if not grid or min(grid) < 1:
        raise ValidationError(f"the grid {list(grid)} must be numbers of workers from 1")
    prepare(intent, state_url)
    with refusals_named(intent):
        seen = profile(intent, split_small=force)
    tried, draft = _tried(intent, seen, grid)
    reason = _why_not(seen, tried, draft, force=force)
    if reason is not None:
        return Benchmark(intent.object_name, seen.row_count_estimate, {}, skipped=reason)
    rows = max(_LEAST_ROWS, min(_MOST_ROWS, int(seen.row_count_estimate * _SHARE)))
    clock = time.perf_counter()
    with refusals_named(intent):
        measured = _measure(intent, plan_of(intent, seen, draft), rows, tried)
    made = judge(intent.object_name, seen.row_count_estimate, measured)
    made = replace(made, probe_rows=rows, seconds=round(time.perf_counter() - clock, 3))
    _keep(intent, made, state_url)
    return made


def _tried(
    intent: ExtractionIntent, seen: SourceProfile, grid: Sequence[int]
) -> tuple[list[int], Draft]:
    """Find the numbers of workers that can be had, and a plan that splits for the most of them."""
    facts = Facts(
        seen,
        max_workers=intent.max_workers,
        memory_workers=workers_within(bytes_of("memory_budget", intent.memory_budget)),
        connection_cap=source_cap(intent, None),
        cpus=os.cpu_count() or 4,
    )
    cap = decide(facts).worker_cap
    tried = sorted({workers for workers in grid if workers <= cap})
    most = RuntimeContext(min_workers=max(tried, default=1))
    return tried, decide(replace(facts, context=most))


def _why_not(seen: SourceProfile, tried: Sequence[int], draft: Draft, *, force: bool) -> str | None:
    seconds = seen.size_bytes / _BYTES_PER_SECOND
    if len(tried) < 2:  # noqa: PLR2004 - one number has nothing to be compared with
        return f"only {max(tried, default=1)} worker can be had, so there is nothing to compare"
    if len(draft.tasks) < max(tried):
        return f"the table is read in {len(draft.tasks)} tasks, too few to compare workers"
    if seconds < _LEAST_SECONDS and not force:
        return f"the table is read in about {seconds:.1f} s, a benchmark pays from 12 s on"
    return None


def probes_of(
    tasks: Sequence[ExtractionTask], rows: int, pieces: int, area: int
) -> tuple[Probe, ...]:
    """Cut an area of the table into pieces that are ``rows`` rows together.

    Areas lie at the beginning, in the middle and at the end; tasks of pages are cut to size.
    """
    ordered = sorted(tasks, key=_position)
    each = max(1, rows // pieces)
    places = [(area * pieces + piece) / (_AREAS * pieces) for piece in range(pieces)]
    return tuple(_cut(ordered, place, each) for place in places)


def _position(task: ExtractionTask) -> tuple[str, int, str]:
    return (str(task.part.table), task.pages[0] if task.pages else 0, task.chunk_id)


def _cut(tasks: Sequence[ExtractionTask], place: float, rows: int) -> Probe:
    """Take the task at a place from 0 to 1, and of its pages as many as have the rows."""
    whole, within = divmod(place * len(tasks), 1)
    task = tasks[int(whole)]
    pages = task.part.pages
    if task.pages is None or not pages:
        return Probe(task, rows)
    first, end = task.pages
    last = pages if end is None else end
    share = rows / task.part.rows if task.part.rows > 0 else 1.0
    count = max(1, min(last - first, math.ceil(pages * share)))
    begin = min(first + int((last - first) * within), max(first, last - count))
    return Probe(replace(task, pages=(begin, begin + count)), rows)


def _measure(
    intent: ExtractionIntent, plan: ExecutionPlan, rows: int, tried: Sequence[int]
) -> dict[int, list[float]]:
    """Give the rows a second of each number of workers, for each area."""
    dialect, most = intent.dialect, max(tried)
    statements = Statements(plan, dialect, intent.mask_salt)
    measured: dict[int, list[float]] = {workers: [] for workers in tried}
    with contextlib.ExitStack() as stack:
        # One session more holds the snapshot.
        slots = connection_slots(intent.source(), most + 1, source_cap(intent, None))
        if (most := stack.enter_context(slots) - 1) < max(tried):
            raise NoConnectionLeft(f"{max(tried)} workers need {max(tried) + 1} connections")
        stack.enter_context(visiting(RunLimits.of(intent, plan).guest("benchmark")))
        held = stack.enter_context(dialect.hold(intent.url(), [plan.table], workers=most))
        readers = [stack.enter_context(held.open_reader()) for _ in range(most)]
        for area in range(_AREAS):
            probes = probes_of(plan.tasks, rows, most, area)
            _timed(statements, probes, readers)
            for workers in tried:
                measured[workers].append(_timed(statements, probes, readers[:workers]))
    return measured


def _timed(statements: Statements, area: Sequence[Probe], readers: Sequence[Reader]) -> float:
    """Read an area with one thread for each reader, and drop its rows; give the rows a second."""
    queue, ready = deque(area), threading.Barrier(len(readers) + 1)

    def work(reader: Reader) -> int:
        ready.wait()
        return sum(_read(statements, probe, reader) for probe in _taken(queue))

    with ThreadPoolExecutor(len(readers), thread_name_prefix="ixflow-benchmark") as pool:
        futures = [pool.submit(copy_context().run, work, reader) for reader in readers]
        ready.wait()
        clock = time.perf_counter()
        rows = sum(future.result() for future in futures)
        return rows / max(1e-9, time.perf_counter() - clock)


def _taken(queue: deque[Probe]) -> Iterator[Probe]:
    with contextlib.suppress(IndexError):
        while True:
            yield queue.popleft()


def _read(statements: Statements, probe: Probe, reader: Reader) -> int:
    rows = 0
    with reader.read(statements.of(probe.task), statements.columns) as batches:
        for batch in batches:
            rows += batch.num_rows
            if probe.task.pages is None and rows >= probe.rows:
                break
    return rows


def judge(object_name: str, rows: int, measured: Mapping[int, Sequence[float]]) -> Benchmark:
    """Find the fewest workers that are nearly as fast as the fastest, and how sure that is.

    >>> judge("t", 1, {1: [100.0, 100.0], 2: [190.0, 190.0], 4: [195.0, 195.0]}).optimal_workers
    2
    """
    speeds = {workers: statistics.fmean(tried) for workers, tried in sorted(measured.items())}
    best, worst = max(speeds.values()), min(speeds.values())
    optimal = min(w for w, speed in speeds.items() if speed >= best * (1 - _TIE))
    curve = _curve(list(speeds.values()))
    spread = statistics.fmean(_variation(tried) for tried in measured.values())
    signal = (best - worst) / best if best > 0 else 0.0
    return Benchmark(
        object_name=object_name,
        row_estimate=rows,
        throughput={workers: [round(x, 1) for x in tried] for workers, tried in measured.items()},
        optimal_workers=optimal,
        confidence=round(max(0.0, 1 - spread) * _TRUST[curve], 4),
        signal_strength=round(max(_LEAST_SIGNAL, signal), 4),
        curve=curve,
    )


def _variation(tried: Sequence[float]) -> float:
    mean = statistics.fmean(tried)
    return statistics.pstdev(tried) / mean if mean > 0 else 0.0


def _curve(speeds: Sequence[float]) -> str:
    """Name the shape of throughput over workers."""
    peak = speeds.index(max(speeds))
    if peak == len(speeds) - 1:
        return "increasing"
    after = speeds[peak + 1 :]
    flat = all(speed >= _PLATEAU * speeds[peak] for speed in after)
    return "plateau" if flat or peak == 0 else "non_monotonic"


def _keep(intent: ExtractionIntent, made: Benchmark, state_url: str | sa.URL | None) -> None:
    facts = BenchmarkFacts(
        optimal_workers=made.optimal_workers,
        confidence=made.confidence,
        signal_strength=made.signal_strength,
        row_estimate=made.row_estimate,
    )
    place = StatePlace.of(intent.output_dir, state_url)
    whose = (intent.identity(), intent.object_name)
    with place.open() as state:
        for _ in range(2):
            # Another process may keep one at the same moment; the later one stays.
            with contextlib.suppress(sa.exc.IntegrityError), state.writing() as conn:
                save_benchmark(conn, *whose, facts, asdict(made))
                return
