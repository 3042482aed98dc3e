"""Ranges of rowid that are read at once, so that long values do not fill the memory.

DuckDB works on 2,048 rows at a time, however long their values are: a batch of few rows saves
nothing, since all 2,048 were read for it. The catalogue knows the longest text of each segment and
the blocks it fills. Where 2,048 rows might be too much, only so many rows are asked for that
they fit.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["RowsQuery", "Window", "windows"]

_VECTOR = 2048
_UNKNOWN_BYTES = 1 << 20
_LONGEST = re.compile(r"Max String Length: (\d+)")

# Segments of one row group; `additional_block_ids` are those of values longer than a block.
_SEGMENTS = """
    SELECT row_group_id, column_id, column_path, segment_type, count, stats, has_updates,
           CASE WHEN persistent AND compression = 'Uncompressed'
                THEN (1 + len(additional_block_ids)) * 262144 END
    FROM pragma_storage_info(?) WHERE segment_type <> 'VALIDITY' ORDER BY row_group_id
"""


class RowsQuery(str):
    """The query of a table, which can also be asked for a range of the table's rows."""

    __slots__ = ("of_rows", "table")

    of_rows: Callable[[str], str]
    """Give the query with one more condition."""
    table: str
    """The quoted name of the table."""

    @classmethod
    def made(cls, query: Callable[[str | None], str], table: str) -> RowsQuery:
        """Make it from what writes the query with a further condition."""
        made = cls(query(None))
        made.of_rows, made.table = query, table
        return made


@dataclass(frozen=True, slots=True)
class Window:
    """Rows from ``first`` to before ``end`` (None: to the end), ``rows`` of them at a time.

    ``rows`` None: as they come, since whatever 2,048 of them hold fits.
    """

    first: int
    end: int | None
    rows: int | None

    @property
    def condition(self) -> str:
        """Write the condition for its rows."""
        end = "" if self.end is None else f" AND rowid < {self.end}"
        return f"rowid >= {self.first}{end}"


@dataclass(frozen=True, slots=True)
class _Group:
    """A row group: its rows, and how many bytes they have at most, together and each."""

    rows: int
    total: int
    longest: int


def windows(raw: Any, table: str, allowance: int, *, guarded: bool) -> list[Window]:
    """Cut a table in windows whose rows fit in the allowance, in bytes; none: it has no rowid.

    ``guarded``: the database refuses what is too much, so the mean length may be relied on.
    """
    try:
        segments = raw.execute(_SEGMENTS, [table]).fetchall()
    except Exception:  # noqa: BLE001 - a view, a function: it has no storage
        return []
    found: list[Window] = []
    first = 0
    for group in _groups(segments):
        rows = _rows_at_once(group, allowance, guarded=guarded)
        last = found[-1] if found else None
        if last is not None and last.rows == rows:
            found[-1] = Window(last.first, first + group.rows, rows)
        else:
            found.append(Window(first, first + group.rows, rows))
        first += group.rows
    if not found:
        return []
    # Whatever came since then belongs to the last one.
    return [*found[:-1], Window(found[-1].first, None, found[-1].rows)]


def _groups(segments: Sequence[tuple[Any, ...]]) -> Iterator[_Group]:
    for number in sorted({segment[0] for segment in segments}):
        ours = [segment for segment in segments if segment[0] == number]
        rows: dict[int, int] = {}
        longest: dict[str, int] = {}
        total = 0
        for _, column, path, kind, count, stats, updated, stored in ours:
            if path == f"[{column}]":
                rows[column] = rows.get(column, 0) + int(count)
            width = _width(kind, stats, updated=updated)
            bytes_ = int(count) * width
            total += bytes_ if stored is None or updated else min(bytes_, int(stored))
            longest[path] = max(longest.get(path, 0), width)
        yield _Group(max(rows.values(), default=0), total, sum(longest.values()))


def _width(kind: str, stats: str, *, updated: bool) -> int:
    if kind not in ("VARCHAR", "BLOB", "BIT", "VARINT"):
        return 16
    found = _LONGEST.search(stats)
    return _UNKNOWN_BYTES if updated or found is None else int(found[1]) + 16


def _rows_at_once(group: _Group, allowance: int, *, guarded: bool) -> int | None:
    if min(group.total, _VECTOR * group.longest) <= allowance or not group.rows:
        return None
    if guarded:
        return max(1, min(_VECTOR, allowance * group.rows // group.total))
    return max(1, min(_VECTOR, allowance // group.longest))
