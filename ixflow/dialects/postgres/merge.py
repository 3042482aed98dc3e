"""Upserting one PostgreSQL table into another, without rewriting rows that would not change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import sqlalchemy as sa

from ixflow.dialects.base import MergeCounts, run
from ixflow.dialects.postgres.load import is_copied
from ixflow.dialects.postgres.refusals import state_of
from ixflow.dialects.postgres.types import base_type
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
    # Values of types that COPY cannot write wait as text.
    value = {
        c.name: quote(c.name) if is_copied(c) else f"{quote(c.name)}::{c.sql_type}" for c in columns
    }
    values = ", ".join(value.values())
    rows = f"SELECT {values} FROM {dialect.qualified(source)}"
    if distinct:
        # The last loaded row of a key wins. The source was made in this transaction and filled by
        # COPY alone, which appends: so ctid is the order of loading.
        same = ", ".join(value[name] for name in key)
        rows = (
            f"SELECT DISTINCT ON ({same}) {values} FROM {dialect.qualified(source)} "
            f"ORDER BY {same}, ctid DESC"
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


# Equal is not the same for these: 1.0 and 1.00, '30 days' and '1 month', and texts under a
# collation that ignores case. Others, such as json, have no equality at all.
_BY_TEXT = ("json", "jsonb")


def _comparable(quoted: str, column: Column) -> str:
    if column.as_text or column.sql_type in _BY_TEXT:
        return f'{quoted}::text COLLATE "C"'
    return f'{quoted} COLLATE "C"' if _is_text(column) else quoted


def _is_text(column: Column) -> bool:
    return base_type(column.sql_type) in ("text", "character varying", "character")
