"""Where the rows of one table go in a batch: into the live table, a new one, or one that waits."""

from __future__ import annotations

import contextlib
import functools
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ixflow.dialects import dialect_of, run
from ixflow.dialects.later import Later
from ixflow.errors import ValueDoesNotFit
from ixflow.ingestion.nested import flat
from ixflow.ingestion.pieces import PART_ROWS, Slices
from ixflow.ingestion.proof import Prover
from ixflow.ingestion.refused_values import with_value
from ixflow.ingestion.replacement import Replacement
from ixflow.ingestion.troubles import in_table
from ixflow.tables import declared
from ixflow.tables.arrow import as_reader
from ixflow.tables.load import conform
from ixflow.values import Column, TableName

if TYPE_CHECKING:
    import sqlalchemy as sa

__all__ = ["Target", "add_waiting", "append_rows", "copy_rows", "make_stage"]


@dataclass(slots=True)
class Target:
    """Where the rows of one table go in this batch."""

    table: sa.Table
    columns: tuple[Column, ...]
    load_into: TableName
    stage: TableName | None = None
    """A temporary table that is merged into the live one by key; None: rows go straight in."""
    new: Replacement | None = None
    merges: bool = False
    """Rows are upserted; else they are only added."""
    rows: int = 0
    straight: int = 0
    """Those of the rows that did not wait for a merge."""
    tries: int = 0
    """How many more pieces may go straight into a table that had no rows."""


def make_stage(conn: sa.Connection, columns: Sequence[Column]) -> TableName:
    """Make a temporary table in which rows with these columns wait."""
    dialect = dialect_of(conn)
    name = f"_ixflow_stage_{uuid.uuid4().hex[:16]}"
    staged = dialect.staged(columns)
    bare = [replace(column, nullable=True, key_position=None) for column in staged]
    dialect.create_table(conn, TableName(name), bare, temporary=True)
    return TableName(name, dialect.temporary_schema)


def copy_rows(conn: sa.Connection, target: Target) -> TableName:
    """Copy what a new table has got straight, to tell later what gave way to other rows."""
    dialect, kept = dialect_of(conn), make_stage(conn, target.columns)
    names = dialect.column_list(column.name for column in target.columns)
    rows = f"SELECT {names} FROM {dialect.qualified(target.load_into)}"
    run(conn, f"INSERT INTO {dialect.qualified(kept)} {rows}")
    return kept


def append_rows(
    conn: sa.Connection,
    target: Target,
    data: Any,
    prover: Prover | None,
    later: Later | None = None,
) -> int:
    """Load rows to where the target's rows go; count them.

    With ``later`` the database may still be at work on them then.

    Raises:
        ColumnMismatch, ValueDoesNotFit: naming the table.

    """
    table, name = target.table, str(declared.name_of(target.table))
    if isinstance(data, Slices):
        reader = data.reader(PART_ROWS if later is None else None)
    else:
        reader = as_reader(data)
    chosen, reader = conform(
        flat(reader, target.columns, table=name),
        target.columns,
        table=name,
        infinite_moments=dialect_of(conn).infinite_moments,
    )
    if prover is not None:
        reader = prover.watch(table, chosen, reader)
    dialect, place = dialect_of(conn), target.load_into
    if target.stage is not None:
        place, chosen = target.stage, dialect.staged(chosen)
    telling = functools.partial(_telling, name, data)
    with telling():
        if later is None:
            return dialect.load(conn, place, chosen, reader)
        return dialect.load_ahead(conn, place, chosen, reader, later.within(telling))


@contextlib.contextmanager
def _telling(name: str, data: Any) -> Iterator[None]:
    """Name the table of a value that does not fit, and show the value where it can be had again."""
    try:
        yield
    except ValueDoesNotFit as error:
        told = in_table(error, name)
        if not isinstance(data, Slices):
            told = with_value(told, data)
        if told is error:
            raise
        raise told from error


def add_waiting(
    conn: sa.Connection, target: Target, stage: TableName, prover: Prover | None
) -> int:
    """Add what waited to a table without upserting; count it."""
    dialect = dialect_of(conn)
    names = dialect.column_list(column.name for column in target.columns)
    values = ", ".join(
        f"CAST({dialect.quote(c.name)} AS {dialect.assigned_type(c.sql_type)})"
        for c in target.columns
    )
    into, source = dialect.qualified(target.load_into), dialect.qualified(stage)
    statement = f"INSERT INTO {into} ({names}) {dialect.overriding}SELECT {values} FROM {source}"
    keyed = bool(target.table.primary_key.columns)
    if prover is None or keyed:
        return run(conn, statement).rowcount
    return prover.add(target.table, target.load_into, statement)
