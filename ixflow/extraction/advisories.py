"""What speaks against a plan: limits its estimates exceed, and what its run does to others."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ixflow.extraction.context import RuntimeContext
from ixflow.extraction.cost import GB

if TYPE_CHECKING:
    from ixflow.extraction.planner import Draft, Facts

__all__ = ["blocks", "most_workers", "warnings"]

_LONG_SNAPSHOT_SECONDS = 30 * 60
_NEARLY_FULL = 0.8
_DISK_MARGIN = 1.2
"""An output can be larger than the table: a disk needs so many times the table's size."""


def blocks(draft: Draft, facts: Facts) -> Iterator[str]:
    """Say what makes a plan NOT RECOMMENDED."""
    ctx = facts.context or RuntimeContext()
    window, size = ctx.maintenance_window_minutes, facts.profile.size_bytes
    if window is not None and draft.seconds > window * 60:
        minutes = draft.seconds / 60
        yield f"maintenance window: estimated {minutes:.1f} min, the window has {window:g} min"
    if ctx.disk_budget_gb is not None and size > ctx.disk_budget_gb * GB:
        yield f"disk budget: up to {size / GB:.2f} GB, the budget is {ctx.disk_budget_gb:g} GB"
    if facts.free_bytes is not None and size * _DISK_MARGIN > facts.free_bytes:
        wanted, free = size * _DISK_MARGIN / GB, facts.free_bytes / GB
        yield f"disk space: up to {wanted:.2f} GB, the output's disk has {free:.2f} GB free"


def warnings(draft: Draft, facts: Facts) -> Iterator[str]:
    """Say what makes a plan SAFE WITH WARNINGS."""
    ctx = facts.context or RuntimeContext()
    target, size = ctx.target_duration_seconds, facts.profile.size_bytes
    if target is not None and draft.seconds > target:
        said = f"target duration: estimated {draft.seconds:g} s, the target is {target:g} s"
        yield f"{said}; {_wanted(draft, facts, target)}"
    if ctx.disk_budget_gb is not None and _NEARLY_FULL < _share(size, ctx.disk_budget_gb) <= 1:
        yield f"disk budget: up to {size / GB:.2f} of {ctx.disk_budget_gb:g} GB"
    if ctx.egress_budget_gb is not None and size > ctx.egress_budget_gb * GB:
        budget, over = ctx.egress_budget_gb, _share(size, ctx.egress_budget_gb) - 1
        more = f" ({over:.0%} over)" if math.isfinite(over) else ""
        yield f"egress budget: up to {size / GB:.2f} GB, the budget is {budget:g} GB{more}"
    server = facts.profile.max_connections > 1
    if server and draft.consistency == "one snapshot" and draft.seconds > _LONG_SNAPSHOT_SECONDS:
        minutes = draft.seconds / 60
        cleaning = "keeps the server from cleaning up (VACUUM, purge) so long"
        yield f"the snapshot stays open for about {minutes:.0f} min and {cleaning}"
    yield from facts.profile.cursor_advice
    if draft.consistency == "per connection":
        yield f"one snapshot of all rows cannot be had: {facts.profile.snapshot_advice}"


def _share(size: int, budget_gb: float) -> float:
    return size / (budget_gb * GB) if budget_gb else math.inf


def most_workers(draft: Draft, facts: Facts) -> int:
    """Give how many workers this run could have at most, with its context."""
    if draft.strategy == "single_pass":
        return 1
    limit = facts.context and facts.context.max_workers
    return max(draft.workers, min(draft.worker_cap, limit or draft.worker_cap))


def _wanted(draft: Draft, facts: Facts, target: float) -> str:
    """Say how many workers would do, by the root that estimates go by."""
    wanted = math.ceil(draft.workers * (draft.seconds / target) ** 2)
    most = most_workers(draft, facts)
    if wanted > most:
        return f"about {wanted} workers would be needed, at most {most} can be had"
    return f"about {wanted} workers would be needed"
