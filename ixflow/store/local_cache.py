"""What a cache of tables on this machine does, and what tells writings of a table apart."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, Protocol

import pyarrow as pa
import sqlalchemy as sa

from ixflow.dialects import dialect_of
from ixflow.errors import IxflowError
from ixflow.store.frames import frames_for
from ixflow.store.frames.base import Frames
from ixflow.tables.arrow import as_reader
from ixflow.tables.load import conform
from ixflow.values import TableName

if TYPE_CHECKING:
    from typing import Any, Self

    from ixflow.store.metadata import StoredTable
    from ixflow.store.sql_store import SQLTableStore

__all__ = ["LocalTableCache", "Writing", "arrived", "keep_output", "read_through"]

_log = logging.getLogger("ixflow.store")


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


def keep_output(store: SQLTableStore, writing: Writing, scope: str, obj: Any) -> None:
    """Keep a frame that was written in the store's local cache, as it would be read back."""
    frames, cache = frames_for(obj), store.local_cache
    if frames is None or cache is None:
        return
    try:
        with store.begin() as conn:
            place = store.physical(TableName(writing.table, scope))
            rows = arrived(conn, place, frames, obj)
    except (IxflowError, sa.exc.DBAPIError, pa.ArrowException) as error:
        _log.warning("table %s is not cached: %s", writing.table, error)
        return
    if rows is not None:
        cache.put(writing, rows)


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
