"""A plan in words, from the same data that is executed."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ixflow.errors import IxflowError, ValidationError
from ixflow.extraction.cost import cost_lines
from ixflow.extraction.estimator import FACTORS, ThroughputEstimate
from ixflow.extraction.intent import ExtractionIntent
from ixflow.extraction.plan import ExecutionPlan, PlanResult
from ixflow.extraction.plan_record import read_result, result_record
from ixflow.extraction.state import StatePlace

if TYPE_CHECKING:
    import sqlalchemy as sa

__all__ = ["Explanation", "basis_lines", "explain", "prepare", "remember"]

_log = logging.getLogger("ixflow")

# The plans that the state could not keep.
_unsaved: dict[str, PlanResult] = {}
_lock = threading.Lock()

_SHOWN_FACTORS = 2


@dataclass(frozen=True)
class Explanation:
    """Why a plan is as it is; ``str()`` shows it line by line."""

    result: PlanResult

    def __str__(self) -> str:
        """Show the plan, how the workers came about, the tasks and the verdict."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        result, plan = self.result, self.result.plan
        rows = "unknown" if plan.estimated_rows < 0 else f"{plan.estimated_rows:,}"
        yield (
            f"Plan: {plan.object_name} | {plan.strategy} | {plan.worker_count} workers | "
            f"{len(plan.tasks)} tasks"
        )
        yield (
            f"Estimate: {rows} rows, {plan.estimated_bytes:,} bytes, {plan.estimated_seconds:g} s "
            f"at {result.throughput_estimate:,.0f} rows/s "
            f"({result.throughput_method}, {result.throughput_confidence} confidence)"
        )
        yield from basis_lines(result.throughput_basis)
        yield f"Workers: {plan.worker_count} ({result.worker_source})"
        yield f"  {result.worker_resolution}"
        yield from (f"  but {warning}" for warning in result.worker_resolution.warnings)
        yield f"Consistency: {plan.consistency}"
        if plan.consistency == "one snapshot":
            yield f"Snapshot: {_sharing(result)}"
        as_text = [column.name for column in plan.columns if column.as_text]
        yield f"Columns: {len(plan.columns)}" + (f", as text: {', '.join(as_text)}" * bool(as_text))
        yield from _selection(plan)
        yield "Tasks:"
        for task in plan.tasks:
            yield f"  {task}"
        for advisory in result.advisories:
            yield f"Advisory: {advisory}"
        if result.cost_estimate is not None:
            parts = ", ".join(f"{k} {v:g}" for k, v in result.cost_estimate.breakdown.items())
            yield f"Cost: {result.cost_estimate.total:.4f} ({parts})"
            yield from cost_lines(result.cost_comparison)
        yield f"Verdict: {result.verdict}"


def basis_lines(basis: ThroughputEstimate | None) -> Iterator[str]:
    """Say which runs an estimate rests on, and what takes confidence from it."""
    if basis is None:
        return
    if basis.runs:
        runs = "run" if basis.runs == 1 else "runs"
        yield f"  of {basis.runs} comparable {runs}, between {_between(basis)} rows/s"
    if basis.similarity is not None:
        yield (
            f"  {basis.matched_runs} of them in circumstances like now, up to "
            f"{basis.similarity:.2f} alike, which count {basis.blend_weight:.0%}"
        )
    said = [FACTORS.get(name, name) for name in basis.factors]
    if said and basis.runs:
        more = len(said) - _SHOWN_FACTORS
        others = f", and {more} more" if more > 0 else ""
        yield f"  but {'; '.join(said[:_SHOWN_FACTORS])}{others}"


def _between(basis: ThroughputEstimate) -> str:
    low, high = basis.bounds or (0.0, 0.0)
    return f"{low:,.0f} and {high:,.0f}"


def _sharing(result: PlanResult) -> str:
    if result.profile.shares_snapshot:
        return "several connections can share it"
    needs = result.intent.dialect.sharing_needs
    return f"of one connection; {needs}" if needs else "of one connection"


def _selection(plan: ExecutionPlan) -> Iterator[str]:
    """Say which rows and columns of the object are read, and how they are hidden."""
    if plan.query is not None:
        yield f"Query: {' '.join(plan.query.split())}"
    if plan.where is not None:
        yield f"Filter: {' '.join(plan.where.split())}"
    if plan.dropped:
        yield f"Dropped: {', '.join(plan.dropped)}"
    masked = [f"{column.name} ({column.mask})" for column in plan.columns if column.mask]
    if masked:
        salted = f", salt {plan.salt_digest}" if plan.salt_digest else ""
        yield f"Masked: {', '.join(masked)}{salted}"
    if plan.cursor is not None:
        begins = "the beginning" if plan.cursor.start is None else plan.cursor.start
        yield f"Incremental: {plan.cursor}"
        yield f"  from {plan.window_from or begins} to the greatest key of the moment that is read"


def prepare(intent: ExtractionIntent, state_url: str | sa.URL | None = None) -> None:
    """See that a state which somebody named can be used; the default place is made only later.

    Raises:
        StateUnavailable, UnsupportedState: it cannot be.

    """
    place = StatePlace.of(intent.output_dir, state_url)
    if place.chosen:
        with place.open():
            pass


def remember(result: PlanResult, state_url: str | sa.URL | None = None) -> None:
    """Keep a result as the last of its table; in this process only if the state cannot."""
    intent = result.intent
    identity = intent.identity()
    with _lock:
        _unsaved[identity] = result
    try:
        with StatePlace.of(intent.output_dir, state_url).open() as state:
            state.save_plan(identity, intent.object_name, result_record(result))
    except IxflowError as error:
        _log.warning("the plan of %s is not remembered: %s", intent.object_name, error)
    else:
        with _lock:
            _unsaved.pop(identity, None)


def explain(intent: ExtractionIntent, *, state_url: str | sa.URL | None = None) -> Explanation:
    """Explain the last plan, of any process, for the same table of the same database.

    Raises:
        ValidationError: nothing was planned for it yet.
        UnsupportedPlanVersion: another release has planned it.
        PlanCorruptionError: what the state holds of it is no plan.
        StateUnavailable, UnsupportedState: the state cannot be read.

    """
    _expect_intent(intent)
    with _lock:
        result = _unsaved.get(intent.identity())
    if result is not None:
        return Explanation(result)
    place = StatePlace.of(intent.output_dir, state_url)
    with place.look() as state:
        found = None if state is None else state.last_plan(intent.identity())
    if found is None:
        msg = f"no plan of {intent.object_name} is remembered in {place}; call plan() first"
        raise ValidationError(msg, object_name=intent.object_name)
    return Explanation(read_result(found[0], intent))


def _expect_intent(intent: object) -> None:
    if not isinstance(intent, ExtractionIntent):
        msg = f"intent must be an ExtractionIntent, not {type(intent).__name__}"
        raise ValidationError(msg, argument="intent")
