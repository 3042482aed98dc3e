"""What a cache of tables on this machine does, and what tells writings of a table apart."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, Protocol

from ixflow.dialects import dialect_of
from ixflow.store.frames.base import Frames
from ixflow.tables.arrow import as_reader
from ixflow.tables.load import conform

if TYPE_CHECKING:
    from typing import Any, Self

    import pyarrow as pa
    import sqlalchemy as sa

    from ixflow.store.metadata import StoredTable
    from ixflow.values import TableName

__all__ = ["LocalTableCache", "Writing", "arrived", "read_through"]


class Writing(NamedTuple):
    """One writing of a stage's table: no other one of any run has the same moment and key."""

    schema: str
    table: str
    task_key: str
    data_version: str
    transaction_id: str
    written_at: str

    @classmethod
    def of(cls, schema: str, table: StoredTable) -> Self:
        """Name the writing of a table that is recorded."""
        return cls(
            schema,
            table.name,
            table.task_key,
            table.data_version,
            table.transaction_id,
            table.written_at,
        )

    def text(self) -> str:
        """Write it down."""
        return json.dumps(self)


class LocalTableCache(Protocol):
    """Keeps the rows of tables near the tasks; `store_input` and `store_output` say when."""

    store_input: bool
    store_output: bool

    def get(self, writing: Writing) -> pa.Table | None:
        """Give the rows of one writing of a table, None if they are not here."""
        ...

    def put(self, writing: Writing, rows: pa.Table) -> None:
        """Keep the rows of one writing of a table; what goes wrong is a warning."""
        ...


def read_through(
    cache: LocalTableCache, writing: Callable[[], Writing | None], read: Callable[[], pa.Table]
) -> pa.Table:
    """Give a table from the cache, or read it and keep it.

    ``writing`` looks up which writing is there now: another one may take its place while it is
    read, and is then not kept under the name of the first.
    """
    before = writing()
    if before is None:
        return read()
    found = cache.get(before)
    if found is not None:
        return found
    rows = read()
    if cache.store_input and writing() == before:
        cache.put(before, rows)
    return rows


def arrived(conn: sa.Connection, table: TableName, frames: Frames, obj: Any) -> pa.Table | None:
    """Give what reading a table back will give, from the frame that was written to it.

    None if that cannot be told: the frame can be read only once or is still to be computed, or the
    database gives some type back as text.
    """
    if not frames.in_memory(obj):
        return None
    columns = dialect_of(conn).columns(conn, table)
    if any(column.as_text for column in columns):
        return None
    chosen, reader = conform(as_reader(frames.arrow(obj)), columns, table=str(table))
    return reader.read_all() if len(chosen) == len(columns) else None
