"""A plan in words, from the same data that is executed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass

from ixflow.errors import ValidationError
from ixflow.extraction.intent import ExtractionIntent
from ixflow.extraction.plan import PlanResult

__all__ = ["Explanation", "explain", "remember"]

_last: dict[str, PlanResult] = {}
_lock = threading.Lock()


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
            f"at {result.throughput_estimate:,.0f} rows/s"
        )
        yield f"Workers: {plan.worker_count} ({result.worker_source})"
        yield f"  {result.worker_resolution}"
        yield f"Consistency: {plan.consistency}"
        as_text = [column.name for column in plan.columns if column.as_text]
        yield f"Columns: {len(plan.columns)}" + (f", as text: {', '.join(as_text)}" * bool(as_text))
        yield "Tasks:"
        for task in plan.tasks:
            yield f"  {task}"
        for advisory in result.advisories:
            yield f"Advisory: {advisory}"
        if result.cost_estimate is not None:
            parts = ", ".join(f"{k} {v:g}" for k, v in result.cost_estimate.breakdown.items())
            yield f"Cost: {result.cost_estimate.total:.4f} ({parts})"
        yield f"Verdict: {result.verdict}"


def remember(result: PlanResult) -> None:
    """Keep a result as the last of its intent."""
    with _lock:
        _last[result.intent.identity()] = result


def explain(intent: ExtractionIntent) -> Explanation:
    """Explain the last plan of this process for the same table of the same database.

    Raises:
        ValidationError: nothing was planned for it yet.

    """
    with _lock:
        result = _last.get(intent.identity())
    if result is None:
        msg = f"nothing was planned for {intent.object_name} in this process; call plan() first"
        raise ValidationError(msg, object_name=intent.object_name)
    return Explanation(result)
