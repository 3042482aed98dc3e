"""Which row it was: rows that wait as text are cast by the server all at once, which names none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import sqlalchemy as sa

from ixflow.dialects.base import run
from ixflow.dialects.postgres.refusals import is_refused_value, refusal
from ixflow.dialects.postgres.types import assigned_type
from ixflow.errors import ValueDoesNotFit
from ixflow.values import Column, TableName

if TYPE_CHECKING:
    from ixflow.dialects.base import Dialect

__all__ = ["blamed", "refuse_rounded"]

_SHOWN = 60


# The server rounds these without a word when they are assigned; others it refuses to cut.
_ROUNDED = ("numeric", "interval", "timestamp", "time")


def refuse_rounded(
    dialect: Dialect,
    conn: sa.Connection,
    source: TableName,
    waiting: Sequence[Column],
    table: TableName,
) -> None:
    """Refuse texts that wait in ``source`` for a type that would round them.

    What cannot be cast at all is left to the statement that casts it.

    Raises:
        ValueDoesNotFit: naming table, column, row and value.

    """
    for column in waiting:
        rounds = column.sql_type.startswith(_ROUNDED)
        if not rounds or assigned_type(column.sql_type) == column.sql_type:
            continue
        rows = int(run(conn, f"SELECT count(*) FROM {dialect.qualified(source)}").scalar_one())
        if _rounds(dialect, conn, source, column, 0, rows):
            row = _first(dialect, conn, source, column, rows, _rounds)
            reason = "it would be rounded; round it, or give the column more digits"
            raise _misfit(dialect, conn, source, column, table, row, reason)


def blamed(  # noqa: PLR0917 - the table, and what was done with it
    dialect: Dialect,
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
        row = _first(dialect, conn, source, column, rows, _fails)
        return _misfit(dialect, conn, source, column, table, row, said)
    return refusal(error)


def _first(  # noqa: PLR0917 - a column, and how to tell
    dialect: Dialect,
    conn: sa.Connection,
    source: TableName,
    column: Column,
    rows: int,
    bad: Callable[[Dialect, sa.Connection, TableName, Column, int, int], bool],
) -> int:
    """Find the first bad row by halving."""
    low, high = 0, rows
    while high - low > 1:
        middle = (low + high) // 2
        if bad(dialect, conn, source, column, low, middle - low):
            high = middle
        else:
            low = middle
    return low


def _misfit(  # noqa: PLR0917 - a value, where it waits and where it should go
    dialect: Dialect,
    conn: sa.Connection,
    source: TableName,
    column: Column,
    table: TableName,
    row: int,
    reason: str,
) -> ValueDoesNotFit:
    found = run(conn, _slice(dialect, source, column, row, 1)).scalar()
    value = repr(str(found))[:_SHOWN]
    msg = (
        f"{table}.{column.name} in row {row} (value {value}) does not fit {column.sql_type}: "
        f"{reason}"
    )
    return ValueDoesNotFit(msg, table=str(table), column=column.name, row=row, value=value)


def _slice(dialect: Dialect, source: TableName, column: Column, first: int, rows: int) -> str:
    """Select a text of the rows in the order of loading."""
    return (
        f"SELECT {dialect.quote(column.name)} AS v FROM {dialect.qualified(source)} "
        f"ORDER BY ctid OFFSET {first} LIMIT {rows}"
    )


def _fails(  # noqa: PLR0917 - a slice of a column
    dialect: Dialect,
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


def _rounds(  # noqa: PLR0917 - a slice of a column
    dialect: Dialect,
    conn: sa.Connection,
    source: TableName,
    column: Column,
    first: int,
    rows: int,
) -> bool:
    """Say whether a value of the slice is another one in the column's type."""
    loose, strict = f"v::{assigned_type(column.sql_type)}", f"v::{column.sql_type}"
    # 1.5 and 1.50 are one number; a month and 30 days are equal, but two intervals.
    text = "" if column.sql_type.startswith("numeric") else "::text"
    query = f"SELECT EXISTS (SELECT FROM ({_slice(dialect, source, column, first, rows)}) s "
    try:
        with conn.begin_nested():
            found = run(conn, f"{query}WHERE {loose}{text} IS DISTINCT FROM {strict}{text})")
            return bool(found.scalar_one())
    except sa.exc.DBAPIError as error:
        if not is_refused_value(error):
            raise
        return False
