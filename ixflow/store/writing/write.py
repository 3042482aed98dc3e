"""Writing rows into a table of the warehouse: one transaction, which readers see whole or not.

Two locks keep writers apart, until their transactions end. Whoever only writes rows shares the lock
of the table's definition; who creates or changes it has that lock alone, and so decides anew under
it. Rows are kept apart by partition, or by run where they are appended; an upsert, or a write of
many partitions, has all rows alone. Locks are always taken in this order, the partitions' in that
of their keys, so writers wait for each other but never in a circle.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ixflow.dialects import dialect_of
from ixflow.store.frames import TableSpec
from ixflow.store.sql_store import SQLTableStore, process_lock
from ixflow.store.writing.options import Write, WrittenTable
from ixflow.store.writing.rows import Rows, rows_of
from ixflow.store.writing.steps import NeedsAlone, Writer
from ixflow.values import TableName

if TYPE_CHECKING:
    import sqlalchemy as sa

__all__ = ["write_table"]


def write_table(store: SQLTableStore, table: TableName, obj: Any, how: Write) -> WrittenTable:
    """Write a frame or a query into a table, as ``how`` says.

    Raises:
        UnsupportedType: it is no frame and no query.
        ColumnMismatch, ValueDoesNotFit, DataError, ValidationError: nothing was written.

    """
    rows = rows_of(table, obj, how)
    with store.held_open():
        _ensure_schema(store, table)
        if how.mode == "replace" and how.evolution == "recreate":
            return _replaced(store, rows)
        if how.mode != "replace":
            with contextlib.suppress(NeedsAlone), _locked(store, table, alone=False) as conn:
                return Writer(conn, rows, alone=False).write()
        with _locked(store, table, alone=True) as conn:
            return Writer(conn, rows, alone=True).write()


@contextlib.contextmanager
def _locked(store: SQLTableStore, table: TableName, *, alone: bool) -> Iterator[sa.Connection]:
    name = f"table {table}"
    with contextlib.ExitStack() as stack:
        if store.dialect.one_process:
            # Such a database has no locks of its own, and would refuse what two threads change.
            stack.enter_context(process_lock(str(store.url), name))
        conn = stack.enter_context(store.begin())
        stack.enter_context(dialect_of(conn).advisory_lock(conn, name, shared=not alone))
        yield conn


def _replaced(store: SQLTableStore, rows: Rows) -> WrittenTable:
    """Write a new table and put it in the place of the old one, whatever columns that has."""
    how, new = rows.how, rows.table.renamed(f"_tmp_{uuid.uuid4().hex}")
    spec = TableSpec(new.name, how.primary_key, how.indexes, how.type_map)
    with _locked(store, rows.table, alone=True) as conn:
        dialect = dialect_of(conn)
        written = rows.create(conn, new, spec)
        dialect.swap(conn, [(new, rows.table)])
        dialect.rename_parts(conn, rows.table, new.name)
        columns = dialect.columns(conn, rows.table)
    return WrittenTable(columns, written.rows, inserted=written.rows)


def _ensure_schema(store: SQLTableStore, table: TableName) -> None:
    """Create the schema in a transaction of its own, so that tables of it can begin at once."""
    if table.schema is None:
        return
    with store.begin() as conn:
        if store.dialect.schema_exists(conn, store.schema_of(table.schema)):
            return
    with store.locked(f"schema {table.schema}") as conn:
        store.create_scope(conn, table.schema)
