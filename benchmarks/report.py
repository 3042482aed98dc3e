"""What is printed: a table of a case's measurements, and which of its targets they reach."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.harness import Measurement

__all__ = ["Target", "judged", "machine_facts", "table"]

_UNITS = {
    "wall": "wall",
    "client_cpu": "client CPU",
    "server_cpu": "server CPU",
    "peak_mb": "peak MB",
    "over_mb": "MB over import",
}


@dataclass(frozen=True, slots=True)
class Target:
    """A promise: ``field`` of a contender is at most this share of another's (None: this much).

    What the contenders ``over`` take is subtracted first.
    """

    contender: str
    field: str
    at_most: float
    of: str | None = None
    over: tuple[str, ...] = ()


def machine_facts() -> str:
    """Name what the numbers depend on; the load tells how much to believe them."""
    python = sys.version.split(maxsplit=1)[0]
    return f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Python {python}"


def table(title: str, facts: str, measurements: Sequence[Measurement]) -> str:
    """Lay out the measurements, with the ratio to the first behind each median."""
    head = ("contender", "wall s", "min..max", "x", "client CPU s", "x", "server CPU s", "x")
    lines: list[tuple[str, ...]] = [(*head, "peak MB", "over import", "rows/s")]
    lines += [_line(found, measurements[0]) for found in measurements]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    body = [
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])])
        for line in lines
    ]
    first, repeat = measurements[0], len(measurements[0].runs)
    counts = sorted({found.rows for found in measurements})
    rows = f"{counts[0]:,} rows" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,} rows"
    return "\n".join(
        [
            title,
            f"{facts}, {rows}; medians of {repeat} after a warm-up, in turn",
            f"ratios, not clocks: x is the median divided by that of {first.name}",
            "",
            *body,
        ]
    )


def _line(found: Measurement, measure: Measurement) -> tuple[str, ...]:
    walls = [run.wall for run in found.runs]
    cells = [found.name]
    for field in ("wall", "client_cpu", "server_cpu"):
        ratio = found.ratio(field, measure)
        cells.append(f"{found.median(field):.2f}")
        if field == "wall":
            cells.append(f"{min(walls):.2f}..{max(walls):.2f}")
        cells.append("-" if ratio is None else f"{ratio:.2f}")
    memory = (f"{found.median('peak_mb'):.0f}", f"{found.median('over_mb'):.0f}")
    return (*cells, *memory, f"{found.rows_per_second:,.0f}")


def judged(targets: Sequence[Target], measurements: Sequence[Measurement]) -> Iterator[str]:
    """Say of each target whether the medians reach it, or that its contender was not measured."""
    known = {found.name: found for found in measurements}
    for target in targets:
        unit, other = _UNITS[target.field], target.of
        what = f"{target.contender}: {unit}" + (f" of {other}" if other else "")
        what += f" over {' and '.join(target.over)}" if target.over else ""
        if not {target.contender, *target.over, *([other] if other else [])} <= known.keys():
            yield f"not measured  {what}: at most {target.at_most:g}"
            continue
        found = known[target.contender]
        value = (
            found.median(target.field) - sum(known[one].median(target.field) for one in target.over)
            if other is None
            else found.ratio(target.field, known[other])
        )
        reached = value is not None and value <= target.at_most
        shown = "nothing to divide by" if value is None else f"{value:.3g}"
        yield f"{'reached' if reached else 'MISSED':14}{what}: {shown}, at most {target.at_most:g}"
