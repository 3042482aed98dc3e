"""How a plan is decided: a tuple of small rules, each ``(draft, facts) -> draft``, run in order.

Nothing here reads anything; what is known comes in as `Facts`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import zip_longest

from ixflow.extraction.context import RuntimeContext, WorkerResolution, resolve_workers
from ixflow.extraction.cost import GB, CostConfig, CostEstimate, estimate_cost
from ixflow.extraction.plan import Consistency, ExtractionTask
from ixflow.extraction.profile import SourceProfile
from ixflow.values import TablePart

__all__ = ["RULES", "Draft", "Facts", "decide"]

SAFE, WARNINGS, NOT_RECOMMENDED = "SAFE TO RUN", "SAFE WITH WARNINGS", "NOT RECOMMENDED"

_TASK_BYTES, _MOST_TASKS, _TASKS_OF_A_WORKER = 64 << 20, 1_000, 4
_LEAST_TASK_PAGES = 64
_BYTES_PER_SECOND, _ROWS_PER_SECOND, _UNKNOWN_ROWS_PER_SECOND = 25_000_000, 500_000, 10_000
_LONG_SNAPSHOT_SECONDS = 30 * 60
_NEARLY_FULL = 0.8


_ONE_WORKER = WorkerResolution(1, (("base", 1),))


@dataclass(frozen=True, slots=True)
class Facts:
    """What the rules may look at. ``free_bytes`` is the room on the output's disk."""

    profile: SourceProfile
    context: RuntimeContext | None = None
    rates: CostConfig | None = None
    max_workers: int | None = None
    cpus: int = 1
    free_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Draft:
    """A plan in the making; ``blocks`` are the advisories that make it NOT RECOMMENDED."""

    strategy: str = "single_pass"
    consistency: Consistency = "one snapshot"
    workers: int = 1
    worker_source: str = "profiler recommended"
    resolution: WorkerResolution = _ONE_WORKER
    tasks: tuple[ExtractionTask, ...] = ()
    rows_per_second: float = 0.0
    seconds: float = 0.0
    cost: CostEstimate | None = None
    blocks: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    verdict: str = SAFE


Rule = Callable[[Draft, Facts], Draft]


def decide(facts: Facts) -> Draft:
    """Run the rules."""
    draft = Draft()
    for rule in RULES:
        draft = rule(draft, facts)
    return draft


def choose_split(draft: Draft, facts: Facts) -> Draft:
    """Read ranges of pages where there are pages and enough of them, else each part in one pass."""
    profile = facts.profile
    strategy = profile.recommended_strategy
    forced = facts.context is not None and (facts.context.min_workers or 1) > 1
    if forced and profile.shares_snapshot and any(part.pages for part in profile.parts):
        strategy = "page_ranges"
    if strategy == "single_pass" and len(profile.parts) > 1:
        strategy = "partitions"
    return replace(draft, strategy=strategy)


def promise_consistency(draft: Draft, facts: Facts) -> Draft:
    """Promise one snapshot unless some rows are outside of every snapshot."""
    held = all(part.in_snapshot for part in facts.profile.parts)
    return replace(draft, consistency="one snapshot" if held else "per connection")


def set_workers(draft: Draft, facts: Facts) -> Draft:
    """Start from the profile, cap by connections, processors and intent, then ask the context."""
    profile = facts.profile
    limit = profile.available_connections_safe if profile.shares_snapshot else 1
    caps = {"connections": limit, "processors": facts.cpus}
    if facts.max_workers is not None:
        caps["the intent"] = facts.max_workers
    base = profile.recommended_start_workers
    by, least = min(caps.items(), key=lambda cap: cap[1])
    source = draft.worker_source if least >= base else f"{draft.worker_source}, capped by {by}"
    allowed = limit if facts.max_workers is None else min(limit, facts.max_workers)
    resolution = resolve_workers(min(base, least), facts.context, limit=allowed)
    if len(resolution.steps) > 1:
        source += ", runtime context applied"
    blocks = (resolution.infeasible,) if resolution.infeasible else ()
    return replace(
        draft,
        workers=resolution.workers,
        worker_source=source,
        resolution=resolution,
        blocks=draft.blocks + blocks,
    )


def size_tasks(draft: Draft, facts: Facts) -> Draft:
    """Cut the parts into tasks of like size, several for each worker; the largest come first."""
    pieces = [piece for part in facts.profile.parts for piece in _pieces(part, draft, facts)]
    pieces.sort(key=lambda task: -task.estimated_bytes)
    width = max(3, len(str(len(pieces))))
    tasks = tuple(replace(task, chunk_id=f"{n:0{width}d}") for n, task in enumerate(pieces, 1))
    return replace(draft, tasks=tasks)


def _pieces(part: TablePart, draft: Draft, facts: Facts) -> Iterator[ExtractionTask]:
    ranges = draft.strategy == "page_ranges" and part.pages is not None
    return _ranges(part, draft, facts) if ranges else _whole(part)


def _whole(part: TablePart) -> Iterator[ExtractionTask]:
    yield ExtractionTask("", part, estimated_rows=part.rows, estimated_bytes=part.size_bytes)


def _ranges(part: TablePart, draft: Draft, facts: Facts) -> Iterator[ExtractionTask]:
    total, pages = max(1, facts.profile.size_bytes), part.pages or 0
    wanted = max(draft.workers * _TASKS_OF_A_WORKER, total / _TASK_BYTES)
    share = math.ceil(min(wanted, _MOST_TASKS) * part.size_bytes / total)
    count = max(1, min(share, pages // _LEAST_TASK_PAGES))
    rows = -1 if part.rows < 0 else part.rows // count
    bounds = [pages * number // count for number in range(count)]
    # The last range has no end: pages that are added after the plan belong to it.
    size = part.size_bytes // count
    for first, end in zip_longest(bounds, bounds[1:]):
        whole = first == 0 and end is None
        piece = None if whole else (first, end)
        yield ExtractionTask("", part, piece, estimated_rows=rows, estimated_bytes=size)


def drop_idle_workers(draft: Draft, facts: Facts) -> Draft:
    """Have no more workers than tasks."""
    del facts
    return replace(draft, workers=min(draft.workers, len(draft.tasks)))


def estimate(draft: Draft, facts: Facts) -> Draft:
    """Estimate the seconds: a first run at 25 MB/s, growing with the root of the workers."""
    profile = facts.profile
    growth = math.sqrt(draft.workers)
    speed = float(_UNKNOWN_ROWS_PER_SECOND)
    if profile.avg_row_bytes > 0:
        speed = min(_BYTES_PER_SECOND * growth / profile.avg_row_bytes, _ROWS_PER_SECOND)
    seconds = round(max(0, profile.row_count_estimate) / max(speed, 1.0), 1)
    return replace(draft, rows_per_second=round(speed, 1), seconds=seconds)


def price(draft: Draft, facts: Facts) -> Draft:
    """Price the estimate at the caller's rates, if there are any."""
    if facts.rates is None or facts.rates.is_zero:
        return draft
    cost = estimate_cost(
        facts.rates,
        workers=draft.workers,
        seconds=draft.seconds,
        size_bytes=facts.profile.size_bytes,
    )
    return replace(draft, cost=cost)


def advise(draft: Draft, facts: Facts) -> Draft:
    """Compare the estimates with the limits that were given, and say what is exceeded."""
    blocks = draft.blocks + tuple(_blocks(draft, facts))
    return replace(draft, blocks=blocks, warnings=draft.warnings + tuple(_warnings(draft, facts)))


def _blocks(draft: Draft, facts: Facts) -> Iterator[str]:
    ctx = facts.context or RuntimeContext()
    window, size = ctx.maintenance_window_minutes, facts.profile.size_bytes
    if window is not None and draft.seconds > window * 60:
        minutes = draft.seconds / 60
        yield f"maintenance window: estimated {minutes:.1f} min, the window has {window:g} min"
    if ctx.disk_budget_gb is not None and size > ctx.disk_budget_gb * GB:
        yield f"disk budget: up to {size / GB:.2f} GB, the budget is {ctx.disk_budget_gb:g} GB"
    if facts.free_bytes is not None and size > facts.free_bytes:
        free = facts.free_bytes / GB
        yield f"disk space: up to {size / GB:.2f} GB, the output's disk has {free:.2f} GB free"


def _warnings(draft: Draft, facts: Facts) -> Iterator[str]:
    ctx = facts.context or RuntimeContext()
    target, size = ctx.target_duration_seconds, facts.profile.size_bytes
    if target is not None and draft.seconds > target:
        yield f"target duration: estimated {draft.seconds:g} s, the target is {target:g} s"
    if ctx.disk_budget_gb is not None and _NEARLY_FULL < _share(size, ctx.disk_budget_gb) <= 1:
        yield f"disk budget: up to {size / GB:.2f} of {ctx.disk_budget_gb:g} GB"
    if ctx.egress_budget_gb is not None and size > ctx.egress_budget_gb * GB:
        budget = ctx.egress_budget_gb
        yield f"egress budget: up to {size / GB:.2f} GB, the budget is {budget:g} GB"
    if facts.profile.shares_snapshot and draft.seconds > _LONG_SNAPSHOT_SECONDS:
        minutes = draft.seconds / 60
        yield f"the snapshot stays open for about {minutes:.0f} min and holds back VACUUM so long"
    if draft.consistency == "per connection":
        yield "one snapshot of all rows cannot be had: some rows live outside of this database"


def _share(size: int, budget_gb: float) -> float:
    return size / (budget_gb * GB) if budget_gb else math.inf


def judge(draft: Draft, facts: Facts) -> Draft:
    """Give the verdict."""
    del facts
    if draft.blocks:
        return replace(draft, verdict=NOT_RECOMMENDED)
    return replace(draft, verdict=WARNINGS if draft.warnings else SAFE)


RULES: tuple[Rule, ...] = (
    choose_split,
    promise_consistency,
    set_workers,
    size_tasks,
    drop_idle_workers,
    estimate,
    price,
    advise,
    judge,
)
