"""What commands print: lines for people, one document for programs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import click

from ixflow.extraction.api import ExecutionResult
from ixflow.extraction.plan import PlanResult
from ixflow.extraction.profile import SourceProfile

__all__ = [
    "execution_lines",
    "number",
    "plan_document",
    "print_json",
    "print_lines",
    "profile_document",
    "table",
]


def print_json(document: Any) -> None:
    """Print one JSON document."""
    click.echo(json.dumps(document, indent=2, ensure_ascii=False, default=str))


def print_lines(lines: Iterable[str]) -> None:
    """Print lines."""
    for line in lines:
        click.echo(line)


def profile_document(seen: SourceProfile) -> dict[str, Any]:
    """Give a profile as JSON values."""
    columns = [
        {"name": column.name, "sql_type": column.sql_type, "arrow_type": str(column.type)}
        for column in seen.columns
    ]
    return {
        "object_name": seen.object_name,
        "table": str(seen.table),
        "row_count_estimate": seen.row_count_estimate,
        "size_bytes": seen.size_bytes,
        "avg_row_bytes": seen.avg_row_bytes,
        "primary_key": list(seen.primary_key),
        "cv": seen.cv,
        "recommended_strategy": seen.recommended_strategy,
        "recommended_start_workers": seen.recommended_start_workers,
        "available_connections_safe": seen.available_connections_safe,
        "latency_p50_ms": seen.latency_p50_ms,
        "latency_p95_ms": seen.latency_p95_ms,
        "columns": columns,
    }


def plan_document(result: PlanResult) -> dict[str, Any]:
    """Give a plan's result as JSON values."""
    cost, basis = result.cost_estimate, result.throughput_basis
    return {
        "verdict": result.verdict,
        "advisories": result.advisories,
        "cost_estimate": None if cost is None else dataclasses.asdict(cost),
        "cost_comparison": [dataclasses.asdict(option) for option in result.cost_comparison],
        "worker_source": result.worker_source,
        "worker_resolution": [list(step) for step in result.worker_resolution.steps],
        "throughput_estimate": result.throughput_estimate,
        "throughput_method": result.throughput_method,
        "throughput_confidence": result.throughput_confidence,
        "throughput_basis": basis and dataclasses.asdict(basis),
        "fingerprint": result.plan.fingerprint,
        "plan": result.plan.to_dict(),
    }


def execution_lines(result: ExecutionResult) -> Iterator[str]:
    """Say what was extracted, and where it is."""
    yield (
        f"{result.rows_extracted:,} rows in {result.duration_seconds:.2f} s "
        f"({result.throughput_rows_sec:,.0f} rows/s), {result.bytes_written:,} bytes in "
        f"{len(result.output_files)} files"
    )
    yield f"Run: {result.run_id}"
    yield from (f"Note: {note}" for note in result.notes)
    yield from result.output_files


def number(value: float | None, form: str = ",") -> str:
    """Show a number, or nothing where there is none.

    >>> number(1234), number(None)
    ('1,234', '')
    """
    return "" if value is None else format(value, form)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Align columns; numbers to the right.

    >>> list(table(["name", "rows"], [["orders", "1,000"]]))
    ['name     rows', 'orders  1,000']
    """
    widths = [max(len(row[place]) for row in (heads, *rows)) for place in range(len(heads))]
    right = [bool(rows) and all(row[n][:1].isdigit() for row in rows) for n in range(len(heads))]
    for row in (heads, *rows):
        cells = [
            text.rjust(width) if to_right else text.ljust(width)
            for text, width, to_right in zip(row, widths, right, strict=True)
        ]
        yield "  ".join(cells).rstrip()
