"""Which row it was: rows that wait as text are cast by the server all at once, which names none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import sqlalchemy as sa

from ixflow.dialects.base import run
from ixflow.dialects.postgres.refusals import is_refused_value, refusal
from ixflow.dialects.postgres.types import assigned_type
from ixflow.errors import ValueDoesNotFit
from ixflow.values import Column, TableName

if TYPE_CHECKING:
    from ixflow.dialects.postgres.dialect import PostgresDialect

__all__ = ["blamed"]

_SHOWN = 60


def blamed(  # noqa: PLR0917 - the table, and what was done with it
    dialect: PostgresDialect,
    conn: sa.Connection,
    source: TableName,
    waiting: Sequence[Column],
    table: TableName,
    error: sa.exc.DBAPIError,
) -> Exception:
    """Say which of the rows in ``source`` the server refused to cast; or give the error back.

    ``waiting`` are the columns whose values are texts there, with the types that they shall have.
    """
    if not is_refused_value(error):
        return error
    said = " ".join(str(error.orig).split())
    for column in waiting:
        rows = int(run(conn, f"SELECT count(*) FROM {dialect.qualified(source)}").scalar_one())
        if not _fails(dialect, conn, source, column, 0, rows):
            continue
        low, high = 0, rows
        while high - low > 1:
            middle = (low + high) // 2
            if _fails(dialect, conn, source, column, low, middle - low):
                high = middle
            else:
                low = middle
        found = run(conn, _slice(dialect, source, column, low, 1)).scalar()
        value = repr(str(found))[:_SHOWN]
        msg = (
            f"{table}.{column.name} in row {low} (value {value}) does not fit "
            f"{column.sql_type}: {said}"
        )
        return ValueDoesNotFit(msg, table=str(table), column=column.name, row=low, value=value)
    return refusal(error)


def _slice(
    dialect: PostgresDialect, source: TableName, column: Column, first: int, rows: int
) -> str:
    """Select a text of the rows in the order of loading."""
    return (
        f"SELECT {dialect.quote(column.name)} AS v FROM {dialect.qualified(source)} "
        f"ORDER BY ctid OFFSET {first} LIMIT {rows}"
    )


def _fails(  # noqa: PLR0917 - a slice of a column
    dialect: PostgresDialect,
    conn: sa.Connection,
    source: TableName,
    column: Column,
    first: int,
    rows: int,
) -> bool:
    """Say whether a value of the slice cannot be cast, or only by cutting it off."""
    loose, strict = assigned_type(column.sql_type), column.sql_type
    changed = f"v::{loose}::text IS DISTINCT FROM v::{strict}::text"
    query = f"SELECT count(*) FILTER (WHERE {changed})"
    try:
        with conn.begin_nested():
            found = run(conn, f"{query} FROM ({_slice(dialect, source, column, first, rows)}) s")
            return bool(found.scalar_one())
    except sa.exc.DBAPIError as error:
        if not is_refused_value(error):
            raise
        return True
