"""Reading a table to Arrow, on a connection of its own, in one snapshot."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from ixflow.dialects import connected, dialect_of
from ixflow.dialects.facts import WholeReader
from ixflow.errors import ColumnMismatch
from ixflow.values import Column, TableName

if TYPE_CHECKING:
    import pyarrow as pa
    import sqlalchemy as sa

    from ixflow.dialects.facts import Reader

__all__ = ["Through", "read", "read_table", "reading_part", "reading_through"]


#: Is given what reads a table, and gives its rows.
Through = Callable[[Callable[[], "pa.Table"]], "pa.Table"]

_through: contextvars.ContextVar[Through | None] = contextvars.ContextVar(
    "ixflow_reading_through", default=None
)


@contextlib.contextmanager
def reading_through(through: Through) -> Iterator[None]:
    """Let `read_table` in the block ask a cache, which may read the table or not."""
    token = _through.set(through)
    try:
        yield
    finally:
        _through.reset(token)


_part: contextvars.ContextVar[tuple[Sequence[str] | None, str | None]] = contextvars.ContextVar(
    "ixflow_reading_part", default=(None, None)
)


@contextlib.contextmanager
def reading_part(columns: Sequence[str] | None, where: str | None) -> Iterator[None]:
    """Let `read_table` in the block read these columns and rows where it is not told which."""
    token = _part.set((columns, where))
    try:
        yield
    finally:
        _part.reset(token)


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
    with _opened(engine, table, columns, where) as (reader, sql, chosen):
        yield reader.read(sql, chosen)


@contextlib.contextmanager
def _opened(
    engine: sa.Engine, table: TableName, columns: Sequence[str] | None, where: str | None
) -> Iterator[tuple[Reader, str, tuple[Column, ...]]]:
    dialect = dialect_of(engine)
    with connected(engine) as conn:
        present = dialect.columns(conn, table)
    chosen = present if columns is None else _chosen(present, columns, table)
    with dialect.reader(engine.url) as reader:
        yield reader, dialect.select(table, chosen, where), chosen


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
    """Read a committed table to memory; see `read`, `reading_part` and `reading_through`."""
    if columns is None and where is None:
        columns, where = _part.get()
    through = _through.get()
    if through is not None and columns is None and where is None:
        return through(lambda: _whole(engine, table, None, None))
    return _whole(engine, table, columns, where)


def _whole(
    engine: sa.Engine, table: TableName, columns: Sequence[str] | None, where: str | None
) -> pa.Table:
    with _opened(engine, table, columns, where) as (reader, sql, chosen):
        if isinstance(reader, WholeReader):
            return reader.read_whole(sql, chosen)
        return reader.read(sql, chosen).read_all()
