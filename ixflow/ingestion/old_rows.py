"""The rows that a replacement keeps: copied with their values, or not replaced.

A cast that rounds or cuts off would change rows that nobody gave. So where a column changes its
type, each value is cast there and back first, and must come back as it was. Not so for texts, whose
spelling may change (007 becomes 7), but which are never cut off, and not from a number to the
nearest float.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import sqlalchemy as sa

from ixflow.dialects import Dialect, dialect_of, run
from ixflow.dialects.types import split_sql_type
from ixflow.errors import DataError
from ixflow.values import Column, TableName

__all__ = ["copy_rows"]

_WHAT_TO_DO = "nothing was changed; mend the rows, or ingest with delete=BEFORE_FIRST_BATCH"
_TEXTS = {
    *("text", "character varying", "character", "varchar", "name", "citext"),
    *("json", "jsonb", "xml"),
}


def copy_rows(
    conn: sa.Connection, old: TableName, new: TableName, columns: Sequence[Column]
) -> None:
    """Copy what the columns of both tables hold.

    Raises:
        DataError: a value does not fit its new type without loss.

    """
    dialect = dialect_of(conn)
    present = {column.name: column for column in dialect.columns(conn, old)}
    common = [column for column in columns if column.name in present]
    names = dialect.column_list(c.name for c in common)
    values = ", ".join(
        dialect.quote(c.name)
        if present[c.name].sql_type == c.sql_type
        else f"CAST({dialect.quote(c.name)} AS {dialect.assigned_type(c.sql_type)})"
        for c in common
    )
    statement = (
        f"INSERT INTO {dialect.qualified(new)} ({names}) "
        f"{dialect.overriding}SELECT {values or 'NULL'} FROM {dialect.qualified(old)}"
    )
    try:
        for column in common:
            if _may_lose(present[column.name], column):
                _refuse_loss(conn, dialect, old, present[column.name], column)
        run(conn, statement)
    except sa.exc.DBAPIError as error:
        said = " ".join(str(error.orig).split())
        msg = f"the rows of {old} do not fit its new definition: {said}; {_WHAT_TO_DO}"
        raise DataError(msg, table=str(old)) from error


def _may_lose(old: Column, new: Column) -> bool:
    bases = [split_sql_type(column.sql_type.removesuffix("[]"))[0] for column in (old, new)]
    inexact = bases[0] == "numeric" or pa.types.is_floating(old.type) or _is_decimal(old)
    if old.sql_type == new.sql_type or _TEXTS & set(bases):
        return False
    return not (inexact and pa.types.is_floating(new.type))


def _is_decimal(column: Column) -> bool:
    return bool(pa.types.is_decimal(column.type))


def _refuse_loss(
    conn: sa.Connection, dialect: Dialect, table: TableName, old: Column, new: Column
) -> None:
    """Refuse a column of which a value does not come back from its new type."""
    name = dialect.quote(old.name)
    back = f"CAST(CAST({name} AS {new.sql_type}) AS {old.sql_type})"
    lost = run(
        conn,
        f"SELECT count(*), min(CAST({name} AS text)) FROM {dialect.qualified(table)} "
        f"WHERE {back} IS DISTINCT FROM {name}",
    ).one()
    if lost[0]:
        msg = (
            f"the rows of {table} do not fit its new definition: {lost[0]} values of {old.name}, "
            f"such as {lost[1]!r:.60}, are changed by becoming {new.sql_type}; {_WHAT_TO_DO}"
        )
        raise DataError(msg, table=str(table), column=old.name, value=str(lost[1])[:60])
