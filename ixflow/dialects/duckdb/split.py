"""How DuckDB cuts a table: by rowid, which counts the rows, and by which a scan skips row groups.

Nothing is asked but the catalogue: rowids are consecutive but for rows that were deleted.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from ixflow.dialects.ranges import KeyCuts, SplitKey
from ixflow.values import Column

__all__ = ["cut_rowids"]

_ROWID = "rowid"
# Two tasks that share a row group would both decompress it.
_ROW_GROUP = 122_880


def cut_rowids(columns: Sequence[Column], rows: int, wanted: int) -> KeyCuts | None:
    """Cut so many rows between row groups; None: the rowid is hidden, or there is one group.

    >>> cuts = cut_rowids((), 500_000, 2)
    >>> cuts.bounds, cuts.weights
    ((('245760',),), (0.49152, 0.50848))
    """
    if any(column.name.lower() == _ROWID for column in columns):
        return None
    groups = -(-rows // _ROW_GROUP)
    count = min(wanted, groups)
    if count < 2:  # noqa: PLR2004 - one range is the table itself
        return None
    places = [groups * number // count * _ROW_GROUP for number in range(1, count)]
    ends = [0, *places, rows]
    weights = tuple((high - low) / rows for low, high in pairwise(ends))
    key = SplitKey((_ROWID,), ("bigint",), ("integer",), places=True)
    return KeyCuts(key, tuple((str(place),) for place in places), weights)
