"""A plan's result as JSON values, so that another process can explain it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ixflow.errors import UnsupportedPlanVersion, ValidationError
from ixflow.extraction.circumstances import Circumstances
from ixflow.extraction.context import RuntimeContext, WorkerResolution
from ixflow.extraction.cost import CostEstimate, CostOption
from ixflow.extraction.estimator import ThroughputEstimate
from ixflow.extraction.experience import Lesson
from ixflow.extraction.intent import ExtractionIntent
from ixflow.extraction.plan import ExecutionPlan, PlanResult
from ixflow.extraction.profile import SourceProfile
from ixflow.values import TableName, TablePart

__all__ = ["read_basis", "read_result", "result_record"]

_PLAIN = ("verdict", "advisories", "worker_source", "throughput_estimate")
_LATER = ("throughput_method", "throughput_confidence")
"""What the first results did not have."""


def result_record(result: PlanResult) -> dict[str, Any]:
    """Give everything of a result but the intent, whose configuration holds credentials."""
    profile = dataclasses.asdict(result.profile)
    # The plan has them too, with their Arrow types.
    del profile["columns"], profile["cuts"]
    return {
        **{name: getattr(result, name) for name in (*_PLAIN, *_LATER)},
        "plan": result.plan.to_dict(),
        "profile": profile,
        "cost_estimate": _fields(result.cost_estimate),
        "cost_comparison": [_fields(option) for option in result.cost_comparison],
        "worker_resolution": _fields(result.worker_resolution),
        "runtime_context": _fields(result.runtime_context),
        "throughput_basis": _fields(result.throughput_basis),
        "lesson": _fields(result.lesson),
    }


def _fields(value: Any) -> dict[str, Any] | None:
    return None if value is None else dataclasses.asdict(value)


def read_result(record: Mapping[str, Any], intent: ExtractionIntent) -> PlanResult:
    """Read what `result_record` gave, for the intent it was made for.

    Raises:
        UnsupportedPlanVersion: another release has made it; plan again.

    """
    try:
        plan = ExecutionPlan.from_dict(record["plan"])
        cost, context = record["cost_estimate"], record["runtime_context"]
        return PlanResult(
            **{name: record[name] for name in _PLAIN},
            **{name: record[name] for name in _LATER if name in record},
            plan=plan,
            intent=intent,
            profile=_profile(record["profile"], plan),
            cost_estimate=None if cost is None else CostEstimate(**cost),
            cost_comparison=tuple(CostOption(**o) for o in record.get("cost_comparison", ())),
            worker_resolution=_resolution(record["worker_resolution"]),
            runtime_context=None if context is None else RuntimeContext(**context),
            throughput_basis=read_basis(record.get("throughput_basis")),
            lesson=_lesson(record.get("lesson")),
        )
    except UnsupportedPlanVersion:
        raise
    except (AttributeError, KeyError, TypeError, ValidationError) as error:
        msg = f"the last plan of {intent.object_name} is of another release; call plan() again"
        raise UnsupportedPlanVersion(msg, object_name=intent.object_name) from error


def read_basis(given: Mapping[str, Any] | None) -> ThroughputEstimate | None:
    """Read what a stored estimate rests on; None: results of before did not say."""
    if given is None:
        return None
    bounds = given["bounds"] and (given["bounds"][0], given["bounds"][1])
    return ThroughputEstimate(**{**given, "bounds": bounds, "factors": tuple(given["factors"])})


def _lesson(given: Mapping[str, Any] | None) -> Lesson | None:
    if given is None:
        return None
    return Lesson(**{**given, "circumstances": Circumstances.of(given.get("circumstances"))})


def _profile(given: Mapping[str, Any], plan: ExecutionPlan) -> SourceProfile:
    parts = tuple(
        TablePart(**{**part, "table": TableName(**part["table"])}) for part in given["parts"]
    )
    table = TableName(**given["table"])
    lists = {name: tuple(given.get(name, ())) for name in ("cursor_advice", "hidden_columns")}
    read = {"table": table, "parts": parts, "columns": plan.columns, "cursor": plan.cursor}
    return SourceProfile(**{**given, **lists, **read})


def _resolution(given: Mapping[str, Any]) -> WorkerResolution:
    steps = tuple((what, workers) for what, workers in given["steps"])
    warnings = tuple(given.get("warnings", ()))
    return WorkerResolution(**{**given, "steps": steps, "warnings": warnings})
