"""What is told of a table of the warehouse as it is now, once its rows are committed."""

from collections.abc import Sequence
from typing import Any

from ixflow.dagster.guard import guarded, tried
from ixflow.dagster.metadata import table_metadata
from ixflow.dagster.table_store import SQLTableStoreResource
from ixflow.dialects import connected, dialect_of
from ixflow.values import Column, TableName

__all__ = ["described_table"]


def described_table(
    warehouse: SQLTableStoreResource, name: TableName, *, count: bool = True
) -> dict[str, Any]:
    """Look at place, columns and, with ``count``, rows of a table; what cannot be had is left out.

    >>> described_table(warehouse, TableName("orders", "raw"))  # doctest: +SKIP
    {'dagster/table_name': ..., 'dagster/row_count': ...}
    """
    engine = warehouse.engine
    password = str(engine.url.password or "") or None

    def looked() -> tuple[Sequence[Column], int | None]:
        with connected(engine) as conn:
            dialect = dialect_of(conn)
            rows = dialect.count(conn, name) if count else None
            return dialect.columns(conn, name), rows

    nothing: tuple[Sequence[Column], int | None] = ((), None)
    columns, rows = tried(f"columns and rows of {name}", looked, nothing, password)
    return guarded(
        f"the place of {name}",
        lambda: table_metadata(engine.url, name, rows=rows, columns=columns),
        password,
    )
