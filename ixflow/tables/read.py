"""Reading a table to Arrow, on a connection of its own, in one snapshot."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ixflow.dialects import connected, dialect_of
from ixflow.errors import ColumnMismatch
from ixflow.values import Column, TableName

if TYPE_CHECKING:
    import pyarrow as pa
    import sqlalchemy as sa

__all__ = ["read", "read_table"]


@contextlib.contextmanager
def read(
    engine: sa.Engine,
    table: TableName,
    *,
    columns: Sequence[str] | None = None,
    where: str | None = None,
) -> Iterator[pa.RecordBatchReader]:
    """Stream a committed table: all columns or some, all rows or those of an SQL condition.

    Raises:
        TableNotFound, ColumnMismatch: there is no such table or column.
        ValueDoesNotFit: while reading, a value that Arrow cannot hold exactly.

    """
    dialect = dialect_of(engine)
    with connected(engine) as conn:
        present = dialect.columns(conn, table)
    chosen = present if columns is None else _chosen(present, columns, table)
    with dialect.reader(engine.url) as reader:
        yield reader.read(dialect.select(table, chosen, where), chosen)


def _chosen(
    present: Sequence[Column], names: Sequence[str], table: TableName
) -> tuple[Column, ...]:
    by_name = {column.name: column for column in present}
    unknown = [name for name in names if name not in by_name]
    if unknown:
        msg = f"{table} has no columns {unknown}; it has {sorted(by_name)}"
        raise ColumnMismatch(msg, table=str(table), missing=unknown)
    return tuple(by_name[name] for name in names)


def read_table(
    engine: sa.Engine,
    table: TableName,
    *,
    columns: Sequence[str] | None = None,
    where: str | None = None,
) -> pa.Table:
    """Read a committed table whole; see `read`."""
    with read(engine, table, columns=columns, where=where) as reader:
        return reader.read_all()
