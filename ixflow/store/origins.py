"""Telling the columns of a stored table by which columns of published tables they are fed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ixflow.store.lineage import ColumnSource, ordered, sources_of
from ixflow.store.places import logical
from ixflow.values import TableName

if TYPE_CHECKING:
    import sqlalchemy as sa

    from ixflow.store.metadata import TableColumn
    from ixflow.store.sql_store import SQLTableStore

__all__ = ["with_sources"]


def with_sources(
    store: SQLTableStore, conn: sa.Connection, columns: Sequence[TableColumn], obj: Any
) -> tuple[TableColumn, ...]:
    """Add to the columns of a table which columns feed them, if a query makes it.

    Tables of a transaction are named as they will be when they are published.
    """
    found = sources_of(obj)
    if found is None or len(found) != len(columns):
        return tuple(columns)
    stages: dict[str, str | None] = {}

    def named(source: ColumnSource) -> ColumnSource:
        if source.schema is None:
            return source
        table = TableName(source.table, source.schema)
        table = logical(source.table, source.schema) if store.avoids_schemas else table
        scope = str(table.schema)
        if scope not in stages:
            stages[scope] = store.metadata.stage_of(conn, scope)
        return ColumnSource(stages[scope] or scope, table.name, source.column)

    return tuple(
        column._replace(sources=None if one is None else ordered(map(named, one)))
        for column, one in zip(columns, found, strict=True)
    )
