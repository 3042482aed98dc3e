"""A plan as data: what will be read, in which tasks, by how many workers. Stored, shown, executed.

The fingerprint is over the decisions only, so two plans made from the same facts share it.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

import pyarrow as pa

from ixflow.dialects.types import arrow_schema
from ixflow.errors import UnsupportedPlanVersion, ValidationError
from ixflow.tables.cursor import CursorPlan
from ixflow.values import Column, KeyRange, PageRange, TableName, TablePart

if TYPE_CHECKING:
    from ixflow.extraction.context import RuntimeContext, WorkerResolution
    from ixflow.extraction.cost import CostEstimate, CostOption
    from ixflow.extraction.estimator import ThroughputEstimate
    from ixflow.extraction.experience import Lesson
    from ixflow.extraction.intent import ExtractionIntent
    from ixflow.extraction.profile import SourceProfile

__all__ = ["PLAN_VERSION", "Consistency", "ExecutionPlan", "ExtractionTask", "PlanResult"]

PLAN_VERSION = "2.0"

# Fields that plans of version 2.0 did not have at first. Where they say nothing they are left out
# of the fingerprint, so that a stored plan keeps the one it was stored with.
_ADDED = {"keys", "where", "query", "cursor", "salt_digest", "dropped", "mask"}

_NOT_DECIDED = (
    "estimated_rows",
    "estimated_bytes",
    "estimated_seconds",
    "latency_ms",
    "window_from",
    "arrow_schema",
)

Consistency = Literal["one snapshot", "per connection"]


@dataclass(frozen=True, slots=True)
class ExtractionTask:
    """One query whose rows become the files of one chunk; rows and bytes are estimates."""

    chunk_id: str
    part: TablePart
    pages: PageRange | None = None
    keys: KeyRange | None = None
    estimated_rows: int = -1
    estimated_bytes: int = 0

    def __str__(self) -> str:
        """Say what the task reads."""
        if self.keys is not None:
            return f"{self.chunk_id}: {self.part.table}, {self.keys}"
        if self.pages is None:
            return f"{self.chunk_id}: {self.part.table}"
        first, end = self.pages
        last = "the end" if end is None else f"{end - 1}"
        return f"{self.chunk_id}: {self.part.table}, pages {first} to {last}"


@dataclass(frozen=True)
class ExecutionPlan:
    """Everything `execute` needs to know besides the connection.

    ``columns`` are pinned: an execution that finds others stops. ``estimated_rows`` is -1 where
    nothing is known. ``latency_ms`` is the median time of an answer that the plan was made with.
    ``cursor`` is there in an incremental plan; ``window_from`` is the high watermark that was seen
    when it was planned, an execution looks again. ``salt_digest`` tells one salt from another.
    """

    identity: str
    source_type: str
    object_name: str
    table: TableName
    columns: tuple[Column, ...]
    strategy: str
    tasks: tuple[ExtractionTask, ...]
    worker_count: int
    consistency: Consistency
    require_snapshot: bool
    all_columns: bool
    output_format: str
    compression: str
    estimated_rows: int
    estimated_bytes: int
    estimated_seconds: float
    latency_ms: float = 0.0
    where: str | None = None
    query: str | None = None
    dropped: tuple[str, ...] = ()
    salt_digest: str | None = None
    cursor: CursorPlan | None = None
    window_from: str | None = None
    plan_version: str = PLAN_VERSION

    def __post_init__(self) -> None:
        """Refuse a plan that reads nothing or has a task twice."""
        ids = [task.chunk_id for task in self.tasks]
        if not ids or len(set(ids)) != len(ids) or self.worker_count < 1:
            msg = f"the plan for {self.object_name} needs a worker and tasks of different names"
            raise ValidationError(msg, tasks=ids)

    @property
    def hides(self) -> bool:
        """Say whether some column is masked or dropped, so that its values must not appear."""
        return bool(self.dropped) or any(column.mask for column in self.columns)

    @property
    def mode(self) -> str:
        """Say whether all rows are read, ``full``, or only new ones, ``incremental``."""
        return "full" if self.cursor is None else "incremental"

    @property
    def fingerprint(self) -> str:
        """Hash the decisions, not the estimates and not the moment."""
        decided = self.to_dict()
        for name in _NOT_DECIDED:
            del decided[name]
        for task in decided["tasks"]:
            del task["estimated_rows"], task["estimated_bytes"]
            del task["part"]["rows"], task["part"]["size_bytes"]
        for made in (decided, *decided["tasks"], *decided["columns"]):
            for name in _ADDED & set(made):
                if not made[name]:
                    del made[name]
        canonical = json.dumps(decided, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(canonical.encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Give the plan as JSON values; it holds no credential."""
        made: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self), default=str))
        schema = arrow_schema(self.columns).serialize().to_pybytes()
        return {**made, "arrow_schema": base64.b64encode(schema).decode()}

    @classmethod
    def from_dict(cls, given: Mapping[str, Any], *, any_version: bool = False) -> Self:
        """Read what `to_dict` gave; ``any_version`` tries it with other releases' plans too.

        Raises:
            UnsupportedPlanVersion: it was made by a release with other plans.
            ValidationError: it is not a plan.

        """
        version = given.get("plan_version")
        if version != PLAN_VERSION and not any_version:
            msg = f"the stored plan has version {version!r}, this release runs {PLAN_VERSION!r}"
            raise UnsupportedPlanVersion(msg, version=version)
        try:
            return cls(**_parsed(given))
        except (KeyError, TypeError, ValueError, pa.ArrowInvalid) as error:
            raise ValidationError(f"this is not a plan: {error!r}") from None


def _parsed(given: Mapping[str, Any]) -> dict[str, Any]:
    values = dict(given)
    schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(values.pop("arrow_schema"))))
    values["table"] = TableName(**values["table"])
    values["columns"] = tuple(
        Column(**{**column, "type": type_})
        for column, type_ in zip(values["columns"], schema.types, strict=True)
    )
    values["tasks"] = tuple(_task(task) for task in values["tasks"])
    values["dropped"] = tuple(values.get("dropped", ()))
    if values.get("cursor"):
        values["cursor"] = CursorPlan(**values["cursor"])
    return values


def _task(given: Mapping[str, Any]) -> ExtractionTask:
    part = TablePart(**{**given["part"], "table": TableName(**given["part"]["table"])})
    pages = None if given["pages"] is None else (given["pages"][0], given["pages"][1])
    keys = _key_range(given["keys"]) if given.get("keys") else None
    return ExtractionTask(**{**given, "part": part, "pages": pages, "keys": keys})


def _key_range(given: Mapping[str, Any]) -> KeyRange:
    lists = {name: value for name, value in given.items() if isinstance(value, list)}
    return KeyRange(**{**given, **{name: tuple(value) for name, value in lists.items()}})


@dataclass(frozen=True)
class PlanResult:
    """A plan, and what speaks for and against running it.

    ``verdict`` is ``SAFE TO RUN``, ``SAFE WITH WARNINGS`` or ``NOT RECOMMENDED``; ``advisories``
    say why it is not the first. ``is_safe`` means exactly the first: to run with warnings too, ask
    for ``not is_not_recommended``. ``cost_estimate`` is None without rates.
    ``throughput_estimate`` is in rows a second; ``throughput_method`` is ``blended``, ``history``
    or ``cold start``, ``throughput_confidence`` ``low``, ``medium`` or ``high``;
    ``throughput_basis`` is what they rest on. ``cost_comparison`` is what fewer and more workers
    would cost, empty without rates. ``lesson`` is what the run may teach.
    """

    plan: ExecutionPlan
    intent: ExtractionIntent
    profile: SourceProfile
    verdict: str
    advisories: list[str]
    cost_estimate: CostEstimate | None
    worker_source: str
    worker_resolution: WorkerResolution
    throughput_estimate: float
    runtime_context: RuntimeContext | None = None
    throughput_method: str = "cold start"
    throughput_confidence: str = "low"
    throughput_basis: ThroughputEstimate | None = None
    cost_comparison: tuple[CostOption, ...] = ()
    lesson: Lesson | None = None

    @property
    def is_safe(self) -> bool:
        """Say that nothing speaks against running it."""
        return self.verdict == "SAFE TO RUN"

    @property
    def is_not_recommended(self) -> bool:
        """Say that `execute` will refuse it without ``force``."""
        return self.verdict == "NOT RECOMMENDED"
