"""How a table of SQL Server is cut by a key, for several readers of a database that nobody changes.

Only where everything stands still: elsewhere one connection reads, which needs no ranges. Keys that
compare as numbers or moments are used; how text and identifiers sort depends on too much.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from ixflow.dialects.ranges import SplitKey
from ixflow.dialects.types import split_sql_type

if TYPE_CHECKING:
    from ixflow.dialects.keyspace import Kind
    from ixflow.values import Column

__all__ = ["key_item", "split_keys"]

_KINDS: dict[str, Kind] = {
    **dict.fromkeys(("tinyint", "smallint", "int", "bigint"), "integer"),
    **dict.fromkeys(("decimal", "numeric"), "decimal"),
    "date": "date",
    **dict.fromkeys(("smalldatetime", "datetime", "datetime2"), "datetime"),
}
# Rows lie in the order of an index of type 1; by one of type 2 each row is looked up.
_INDEXES = sa.text("""
    SELECT i.index_id, i.type, c.name
    FROM sys.indexes AS i
    JOIN sys.index_columns AS k ON k.object_id = i.object_id AND k.index_id = i.index_id
    JOIN sys.columns AS c ON c.object_id = k.object_id AND c.column_id = k.column_id
    WHERE i.object_id = OBJECT_ID(:name) AND i.type IN (1, 2) AND k.key_ordinal > 0
        AND i.is_disabled = 0 AND i.has_filter = 0
    ORDER BY i.type, i.is_unique DESC, i.index_id, k.key_ordinal
""")
_CLUSTERED = 1


def split_keys(conn: sa.Connection, quoted: str, columns: Sequence[Column]) -> tuple[SplitKey, ...]:
    """List the indexes that can cut a table, the best first."""
    known = {column.name: column for column in columns}
    rows = conn.execute(_INDEXES, {"name": quoted}).all()
    found = []
    for _, parts in itertools.groupby(rows, key=lambda row: row[0]):
        key = _split_key(list(parts), known)
        if key is not None:
            found.append(key)
    return tuple(found)


def _split_key(parts: list[Any], known: dict[str, Column]) -> SplitKey | None:
    """Take the leading columns of an index that compare exactly; only the first may be NULL."""
    taken: list[tuple[Column, Kind]] = []
    for _, _, name in parts:
        column = known.get(name)
        kind = None if column is None else _KINDS.get(split_sql_type(column.sql_type)[0])
        if column is None or kind is None or (taken and column.nullable):
            break
        taken.append((column, kind))
    if not taken:
        return None
    return SplitKey(
        columns=tuple(column.name for column, _ in taken),
        types=tuple(column.sql_type for column, _ in taken),
        kinds=tuple(kind for _, kind in taken),
        nulls=taken[0][0].nullable,
        clustered=parts[0][1] == _CLUSTERED,
    )


def key_item(quoted: str, kind: Kind) -> str:
    """Write the expression that gives a key's column as the text of a bound."""
    style = ", 121" if kind in ("date", "datetime") else ""
    return f"CONVERT(nvarchar(41), {quoted}{style})"
