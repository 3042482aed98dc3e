"""What one run may use: memory, divided among its workers, and time at the source."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ixflow.dialects.guest import BATCH_BYTES, Guest
from ixflow.errors import ValidationError
from ixflow.extraction.bucket import LEAST_UPLOAD, MOST_UPLOAD, is_bucket_url

if TYPE_CHECKING:
    from ixflow.extraction.intent import ExtractionIntent
    from ixflow.extraction.plan import ExecutionPlan

__all__ = [
    "DEFAULT_LOCK_TIMEOUT",
    "DEFAULT_MEMORY",
    "DEFAULT_SILENCE",
    "DEFAULT_SNAPSHOT_AGE",
    "LEAST_MEMORY",
    "LEAST_MEMORY_TO_BUCKET",
    "RunLimits",
    "budget_of",
    "bytes_of",
    "seconds_of",
    "workers_within",
]

DEFAULT_MEMORY, LEAST_MEMORY, LEAST_MEMORY_TO_BUCKET = "256MB", 64 << 20, 96 << 20
DEFAULT_LOCK_TIMEOUT, DEFAULT_SILENCE, DEFAULT_SNAPSHOT_AGE = "60s", "60s", "4h"

_RUN_BYTES = 32 << 20
"""What a run takes beside its rows: drivers, threads, and what allocators and compression keep."""

_LEAST_SHARE = 56 << 20
"""What another worker needs at least: a batch, a row group, and their copies."""

_GROUP_BYTES, _LEAST_BATCH = 32 << 20, 1 << 18
_BYTES = {"": 1.0, "b": 1.0, "kb": 2.0**10, "mb": 2.0**20, "gb": 2.0**30}
_SECONDS = {"": 1.0, "ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0}
_AMOUNT = re.compile(r"(?P<number>\d+(\.\d+)?)\s*(?P<unit>[A-Za-z]*)")


def bytes_of(what: str, given: object) -> int:
    """Read an amount of memory: a number of bytes, or a text with B, KB, MB or GB (of 1024).

    Raises:
        ValidationError: it is not an amount, or less than a run can do with.

    >>> bytes_of("memory_budget", "256MB")
    268435456
    """
    found = _amount(given, _BYTES)
    if found is None or found < LEAST_MEMORY:
        msg = f"{what} is {given!r}; it is an amount like '256MB', and at least 64MB"
        raise ValidationError(msg, argument=what, value=given)
    return int(found)


def seconds_of(what: str, given: object) -> float | None:
    """Read a span of time: seconds, or a text with ms, s, min or h; None stays None.

    Raises:
        ValidationError: it is not a span, or not above zero.

    >>> seconds_of("statement_timeout", "90min")
    5400.0
    """
    if given is None:
        return None
    found = _amount(given, _SECONDS)
    if not found:
        msg = (
            f"{what} is {given!r}; it is a time above zero like 30, '30s', '90min' or '4h', or None"
        )
        raise ValidationError(msg, argument=what, value=given)
    return found


def _amount(given: object, units: dict[str, float]) -> float | None:
    if isinstance(given, (int, float)) and not isinstance(given, bool):
        return float(given) if 0 < given < float("inf") else None
    matched = _AMOUNT.fullmatch(given.strip()) if isinstance(given, str) else None
    factor = units.get(matched["unit"].lower()) if matched else None
    return float(matched["number"]) * factor if matched and factor else None


def budget_of(memory_budget: object, output_dir: object) -> int:
    """Read the bytes of an intent's budget; uploads to a bucket need more than files do.

    Raises:
        ValidationError: no run can keep to it; the message names the least that works.

    >>> budget_of("96MB", "s3://lake/raw")
    100663296
    """
    budget = bytes_of("memory_budget", memory_budget)
    if is_bucket_url(output_dir) and budget < LEAST_MEMORY_TO_BUCKET:
        msg = (
            f"memory_budget is {memory_budget!r}, and the output is in a bucket, which takes parts "
            f"of 5 MB at least; give it {LEAST_MEMORY_TO_BUCKET >> 20}MB or more"
        )
        raise ValidationError(msg, argument="memory_budget", value=memory_budget)
    return budget


def workers_within(memory_budget: int) -> int:
    """Say how many workers have enough of a budget to work with, at least one.

    >>> workers_within(256 << 20)
    4
    """
    return max(1, (memory_budget - _RUN_BYTES) // _LEAST_SHARE)


@dataclass(frozen=True, slots=True)
class RunLimits:
    """The limits of one run. ``memory_bytes`` is for all of it, other bytes are for each worker.

    ``batch_bytes`` is what a reader hands over at a time, ``group_bytes`` what a writer gathers,
    ``upload_bytes`` what a file in a bucket holds while it is sent. A source's batch exists up to
    three times (as sent, as Arrow, as cast), a row group up to three times (its batches, its pages,
    their compressed bytes).
    """

    batch_bytes: int = BATCH_BYTES
    group_bytes: int = _GROUP_BYTES
    upload_bytes: int = MOST_UPLOAD
    statement_seconds: float | None = None
    lock_seconds: float = 60.0
    silence_seconds: float | None = None
    snapshot_seconds: float | None = None
    latency_ms: float = 0.0
    memory_bytes: int | None = None
    row_bytes: int | None = None
    row_copies: int = 6

    @classmethod
    def of(
        cls, intent: ExtractionIntent, plan: ExecutionPlan, *, workers: int | None = None
    ) -> RunLimits:
        """Divide the intent's budget among the workers, if not given those of the plan."""
        budget = budget_of(intent.memory_budget, intent.output_dir)
        share = (budget - _RUN_BYTES) // (workers or plan.worker_count)
        upload = max(LEAST_UPLOAD, min(MOST_UPLOAD, share // 3))
        rest = share - upload if is_bucket_url(intent.output_dir) else share
        age = seconds_of("max_snapshot_age", intent.max_snapshot_age)
        return cls(
            batch_bytes=max(_LEAST_BATCH, min(BATCH_BYTES, rest // 32)),
            group_bytes=max(_LEAST_BATCH, min(_GROUP_BYTES, rest // 4)),
            upload_bytes=upload,
            # No query can be of use for longer than the snapshot that it reads.
            statement_seconds=seconds_of("statement_timeout", intent.statement_timeout) or age,
            lock_seconds=seconds_of("lock_timeout", intent.lock_timeout) or 60.0,
            silence_seconds=seconds_of("silence_timeout", intent.silence_timeout),
            snapshot_seconds=age,
            latency_ms=plan.latency_ms,
            memory_bytes=budget,
            row_bytes=(budget - _RUN_BYTES - (share - rest)) // intent.dialect.row_copies,
            row_copies=intent.dialect.row_copies,
        )

    def guest(self, run_id: str) -> Guest:
        """Say how the run's sessions behave at the source."""
        return Guest(
            name=f"ixflow {run_id}",
            batch_bytes=self.batch_bytes,
            statement_seconds=self.statement_seconds,
            lock_seconds=self.lock_seconds,
            silence_seconds=self.silence_seconds,
            memory_bytes=self.memory_bytes,
            row_bytes=self.row_bytes,
            row_copies=self.row_copies,
        )
