"""Upserting one PostgreSQL table into another, without rewriting rows that would not change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import sqlalchemy as sa

from ixflow.dialects.base import MergeCounts, run
from ixflow.dialects.postgres.refusals import state_of
from ixflow.values import Column, TableName

if TYPE_CHECKING:
    from ixflow.dialects.postgres.dialect import PostgresDialect

__all__ = ["merge"]

_TWICE = "21000"
"""SQLSTATE cardinality_violation: ON CONFLICT met one key twice."""


def merge(  # noqa: PLR0917 - the arguments of Dialect.merge
    dialect: PostgresDialect,
    conn: sa.Connection,
    source: TableName,
    target: TableName,
    columns: Sequence[Column],
    key: Sequence[str],
) -> MergeCounts:
    """Upsert; duplicates within the source are looked for only after they were met."""
    total = run(conn, f"SELECT count(*) FROM {dialect.qualified(source)}").scalar_one()
    statement = _statement(dialect, source, target, columns, key)
    try:
        with conn.begin_nested():
            inserted, updated = run(conn, statement).one()
    except sa.exc.DBAPIError as error:
        if state_of(error) != _TWICE:
            raise
        distinct = _statement(dialect, source, target, columns, key, distinct=True)
        inserted, updated = run(conn, distinct).one()
    return MergeCounts(inserted, updated, total - inserted - updated)


def _statement(
    dialect: PostgresDialect,
    source: TableName,
    target: TableName,
    columns: Sequence[Column],
    key: Sequence[str],
    *,
    distinct: bool = False,
) -> str:
    quote = dialect.quote
    names = dialect.column_list(c.name for c in columns)
    keys = dialect.column_list(key)
    rows = f"SELECT {names} FROM {dialect.qualified(source)}"
    if distinct:
        # The last loaded row of a key wins; ctid is the order of loading.
        rows = (
            f"SELECT DISTINCT ON ({keys}) {names} FROM {dialect.qualified(source)} "
            f"ORDER BY {keys}, ctid DESC"
        )
    others = [c for c in columns if c.name not in key]
    if others:
        sets = ", ".join(f"{quote(c.name)} = excluded.{quote(c.name)}" for c in others)
        old = ", ".join(f"t.{_comparable(quote(c.name), c)}" for c in others)
        new = ", ".join(f"excluded.{_comparable(quote(c.name), c)}" for c in others)
        action = f"DO UPDATE SET {sets} WHERE ROW({old}) IS DISTINCT FROM ROW({new})"
    else:
        action = "DO NOTHING"
    # xmax is 0 for a row version that was inserted, not updated.
    return (
        f"WITH written AS (INSERT INTO {dialect.qualified(target)} AS t ({names}) "
        f"{dialect.overriding}{rows} "
        f"ON CONFLICT ({keys}) {action} RETURNING xmax = 0 AS inserted) "
        f"SELECT count(*) FILTER (WHERE inserted), count(*) FILTER (WHERE NOT inserted) "
        f"FROM written"
    )


# Types without an equality operator are compared by what they look like.
_NO_EQUALITY = ("json", "xml", "point", "polygon", "path", "box", "line", "circle")


def _comparable(quoted: str, column: Column) -> str:
    return f"{quoted}::text" if column.sql_type in _NO_EQUALITY else quoted
