"""What a stage's run changes: tables, numbers of rows and columns, told before anybody looks.

Only what is recorded of the tables is compared: no row is read for it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from ixflow.dagster.svg import Picture, shortened
from ixflow.pipeline.result import StageResult
from ixflow.store.diff import TableDiff, form_changes

__all__ = ["diff_metadata", "stage_changes", "stage_diff"]

_MOST_ROWS = 30
_LEFT, _ROW, _WIDTH = 240, 18, 440
_COLOURS = {"added": "#284", "removed": "#c33", "changed": "#c81", "same": "#bbc"}


def stage_changes(result: StageResult) -> tuple[TableDiff, ...]:
    """Compare the tables of a run with those that were published before it."""
    made = {table.name: table for table in result.tables}
    names = sorted({*made, *result.dropped})
    return tuple(form_changes(name, result.before.get(name), made.get(name)) for name in names)


def diff_metadata(change: TableDiff) -> dict[str, Any]:
    """Tell how one table changed: in words, and as numbers that are plotted."""
    before, after = change.rows_before or 0, change.rows_after or 0
    found: dict[str, Any] = {
        "ixflow/rows_before": before,
        "ixflow/rows_more": after - before,
        "ixflow/columns_added": len(change.columns_added),
        "ixflow/columns_removed": len(change.columns_removed),
        "ixflow/columns_retyped": len(change.types_changed),
    }
    if change.change != "same":
        found["ixflow/diff"] = dg.MetadataValue.md(_markdown(change))
    return found


def stage_diff(changes: Sequence[TableDiff]) -> dg.MetadataValue:
    """Draw a stage's tables with their rows before and after, those that changed first."""
    return _picture(changes).markdown("diff")


def _picture(changes: Sequence[TableDiff]) -> Picture:
    order = sorted(changes, key=lambda one: (one.change == "same", one.table))
    shown = order[:_MOST_ROWS]
    most = max((max(one.rows_before or 0, one.rows_after or 0) for one in shown), default=0)
    scale = (_WIDTH - _LEFT) / max(most, 1)
    picture = Picture(_WIDTH, (len(shown) + 1) * _ROW + 4)
    counts = _counted(changes)
    said = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    left = "" if len(shown) == len(order) else f"; {len(shown)} of {len(order)} shown"
    picture.text(4, 13, f"{said or 'no tables'}{left}. Grey: before")
    for number, one in enumerate(shown, start=1):
        y = number * _ROW
        picture.text(4, y + 13, shortened(f"{shortened(one.table, 22)} {_words(one)}", 42))
        for rows, top, colour in (
            (one.rows_before, y + 3, _COLOURS["same"]),
            (one.rows_after, y + 9, _COLOURS[one.change]),
        ):
            if rows:
                picture.bar((_LEFT, top, rows * scale, 6), colour)
    return picture


def _counted(changes: Sequence[TableDiff]) -> Mapping[str, int]:
    return {what: sum(one.change == what for one in changes) for what in _COLOURS}


def _words(one: TableDiff) -> str:
    """Say in a line what changed; equal numbers of rows may still be other rows."""
    before, after = one.rows_before, one.rows_after
    if before is None or after is None:
        return f"{one.change}, {before if after is None else after:,} rows"
    rows = f"{before:,} rows" if before == after else f"{before:,} to {after:,} rows"
    columns = [f"+{name}" for name in one.columns_added]
    columns += [f"-{name}" for name in one.columns_removed]
    columns += [f"{name}: {old} to {new}" for name, old, new in one.types_changed]
    other = one.change == "changed" and before == after and not columns
    return ", ".join([rows, *(["other content"] if other else []), *columns])


def _markdown(one: TableDiff) -> str:
    lines = [("change", one.change), ("rows before", f"{one.rows_before or 0:,}")]
    lines.append(("rows now", f"{one.rows_after or 0:,}"))
    if one.columns_added:
        lines.append(("columns added", ", ".join(one.columns_added)))
    if one.columns_removed:
        lines.append(("columns removed", ", ".join(one.columns_removed)))
    lines += [(f"type of {name}", f"{old} to {new}") for name, old, new in one.types_changed]
    body = "\n".join(f"| {_cell(what)} | {_cell(said)} |" for what, said in lines)
    return f"| {_cell(one.table)} | |\n|---|---|\n{body}"


def _cell(text: str) -> str:
    """Keep a text within its cell, and what it holds from being read as Markdown."""
    return "".join(f"\\{c}" if c in r"\`*_{}[]<>()#+!|~" else c for c in " ".join(text.split()))
