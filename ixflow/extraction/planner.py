"""How a plan is decided: a tuple of small rules, each ``(draft, facts) -> draft``, run in order.

Nothing here reads anything; what is known comes in as `Facts`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from ixflow.extraction import advisories
from ixflow.extraction.circumstances import Circumstances
from ixflow.extraction.context import RuntimeContext, WorkerResolution, resolve_workers
from ixflow.extraction.controller import MOST_WORKERS
from ixflow.extraction.cost import (
    CostConfig,
    CostEstimate,
    CostOption,
    compare_costs,
    estimate_cost,
)
from ixflow.extraction.estimator import ThroughputEstimate, estimate_throughput
from ixflow.extraction.experience import NOTHING, Experience, start_workers
from ixflow.extraction.plan import Consistency, ExtractionTask
from ixflow.extraction.profile import SourceProfile
from ixflow.extraction.tasks import cut_tasks, strategy_of

__all__ = ["RULES", "Draft", "Facts", "decide", "wants_several"]

SAFE, WARNINGS, NOT_RECOMMENDED = "SAFE TO RUN", "SAFE WITH WARNINGS", "NOT RECOMMENDED"

_ONE_WORKER = WorkerResolution(1, (("base", 1),))
_NO_ESTIMATE = ThroughputEstimate(0.0, "cold start", "low")


@dataclass(frozen=True, slots=True)
class Facts:
    """What the rules may look at.

    ``memory_workers`` is how many workers have room in memory, ``connection_cap`` how many
    connections all runs on this machine may have, ``free_bytes`` what is left on the output's
    disk, ``known`` what earlier runs tell, ``now`` the circumstances it is planned in.
    """

    profile: SourceProfile
    context: RuntimeContext | None = None
    rates: CostConfig | None = None
    max_workers: int | None = None
    memory_workers: int | None = None
    connection_cap: int | None = None
    cpus: int = 1
    free_bytes: int | None = None
    known: Experience = NOTHING
    now: Circumstances | None = None


@dataclass(frozen=True, slots=True)
class Draft:
    """A plan in the making; ``blocks`` are the advisories that make it NOT RECOMMENDED.

    ``chosen_by`` says who has chosen the workers before anything took some away, ``worker_cap`` how
    many there could be at most, ``held_back`` that the intent's ``max_workers`` took some away.
    """

    strategy: str = "single_pass"
    consistency: Consistency = "one snapshot"
    workers: int = 1
    worker_source: str = "profiler recommended"
    chosen_by: str = "profiler recommended"
    worker_cap: int = 1
    held_back: bool = False
    resolution: WorkerResolution = _ONE_WORKER
    tasks: tuple[ExtractionTask, ...] = ()
    throughput: ThroughputEstimate = _NO_ESTIMATE
    seconds: float = 0.0
    cost: CostEstimate | None = None
    cost_options: tuple[CostOption, ...] = ()
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


def wants_several(context: RuntimeContext | None) -> bool:
    """Say that a context asks for several workers, however small the table is."""
    return context is not None and (context.min_workers or 1) > 1


def choose_split(draft: Draft, facts: Facts) -> Draft:
    """Read by pages or by a key where the table is large enough, else each part in one pass."""
    strategy = strategy_of(facts.profile, forced=wants_several(facts.context))
    return replace(draft, strategy=strategy)


def promise_consistency(draft: Draft, facts: Facts) -> Draft:
    """Promise one snapshot unless some rows are outside of every snapshot."""
    held = all(part.in_snapshot for part in facts.profile.parts)
    return replace(draft, consistency="one snapshot" if held else "per connection")


def set_workers(draft: Draft, facts: Facts) -> Draft:
    """Start from what earlier runs tell, else the profile; cap it; then ask the context."""
    profile = facts.profile
    hard = _hard_caps(facts)
    caps = {**hard, "processors": facts.cpus}
    recommended = profile.recommended_start_workers
    base, source = start_workers(recommended, facts.known, rows=profile.row_count_estimate)
    chosen_by = source
    by, least = min(caps.items(), key=lambda cap: cap[1])
    if least < base:
        source += f", capped by {by}"
    resolution = resolve_workers(min(base, least), facts.context, limit=min(hard.values()))
    if len(resolution.steps) > 1:
        source += ", runtime context applied"
    if chosen_by != draft.worker_source:
        chain = ((draft.worker_source, recommended), (chosen_by, base), *resolution.steps)
        resolution = replace(resolution, steps=chain)
    if facts.context and facts.context.concurrent_extractions and facts.connection_cap is None:
        idle = "concurrent_extractions changed nothing: there is no max_source_connections"
        resolution = replace(resolution, warnings=(*resolution.warnings, idle))
    blocks = (resolution.infeasible,) if resolution.infeasible else ()
    return replace(
        draft,
        workers=resolution.workers,
        worker_source=source,
        worker_cap=max(1, min(least, MOST_WORKERS)),
        chosen_by=chosen_by,
        held_back=least < base and by == "the intent",
        resolution=resolution,
        blocks=draft.blocks + blocks,
    )


def _hard_caps(facts: Facts) -> dict[str, int]:
    """Name what no number of workers may exceed, whoever asks for it."""
    profile = facts.profile
    caps = {
        "connections": profile.available_connections_safe if profile.shares_snapshot else 1,
        "the intent": facts.max_workers,
        "the memory budget": facts.memory_workers,
        "the cap on connections": _connections_left(facts),
    }
    return {name: most for name, most in caps.items() if most is not None}


def _connections_left(facts: Facts) -> int | None:
    """Take from the cap what other extractions have, and the one that holds the snapshot."""
    if facts.connection_cap is None:
        return None
    others = (facts.context and facts.context.concurrent_extractions) or 0
    left = facts.connection_cap - others
    return max(1, left - 1) if left > 0 else 0


def size_tasks(draft: Draft, facts: Facts) -> Draft:
    """Cut the parts into tasks of like size, several for each worker; the largest come first."""
    return replace(draft, tasks=cut_tasks(facts.profile, draft.strategy, draft.workers))


def drop_idle_workers(draft: Draft, facts: Facts) -> Draft:
    """Have no more workers than tasks."""
    del facts
    return replace(draft, workers=min(draft.workers, len(draft.tasks)))


def estimate(draft: Draft, facts: Facts) -> Draft:
    """Estimate the seconds, from comparable runs if there are any: of rows, too, after a filter."""
    profile = facts.profile
    found = estimate_throughput(
        facts.known.samples,
        rows=profile.row_count_estimate,
        workers=draft.workers,
        row_bytes=profile.avg_row_bytes,
        latency_ms=profile.latency_p50_ms,
        now=facts.now,
    )
    rows = max(0, profile.row_count_estimate) * found.rows_share
    seconds = round(rows / max(found.value, 1.0), 1)
    return replace(draft, throughput=found, seconds=seconds)


def price(draft: Draft, facts: Facts) -> Draft:
    """Price the estimate at the caller's rates, if there are any, beside fewer and more workers."""
    if facts.rates is None or facts.rates.is_zero:
        return draft
    size = facts.profile.size_bytes
    cost = estimate_cost(facts.rates, workers=draft.workers, seconds=draft.seconds, size_bytes=size)
    options = compare_costs(
        facts.rates,
        workers=draft.workers,
        most=advisories.most_workers(draft, facts),
        seconds=draft.seconds,
        size_bytes=size,
    )
    return replace(draft, cost=cost, cost_options=tuple(options))


def advise(draft: Draft, facts: Facts) -> Draft:
    """Compare the estimates with the limits that were given, and say what is exceeded."""
    blocks = (*draft.blocks, *advisories.blocks(draft, facts))
    return replace(
        draft, blocks=blocks, warnings=(*draft.warnings, *advisories.warnings(draft, facts))
    )


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
