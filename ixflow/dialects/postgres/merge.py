"""Upserting one PostgreSQL table into another, without rewriting rows that would not change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import sqlalchemy as sa

from ixflow.dialects.base import MergeCounts, run
from ixflow.dialects.postgres.blame import blamed
from ixflow.dialects.postgres.load import is_copied
from ixflow.dialects.postgres.partitions import kind_of
from ixflow.dialects.postgres.refusals import state_of
from ixflow.dialects.postgres.types import assigned_type, base_type
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
    added = _add_to_empty(dialect, conn, source, target, columns)
    if added is not None:
        return MergeCounts(added, 0, total - added)
    # What a partitioned table returns has no system columns.
    keyed = kind_of(conn, dialect.qualified(target)) == "p"
    statement = _statement(dialect, source, target, columns, key, by_key=keyed)
    try:
        with conn.begin_nested():
            inserted, updated = run(conn, statement).one()
    except sa.exc.DBAPIError as error:
        if state_of(error) != _TWICE:
            waiting = [c for c in columns if not is_copied(c)]
            raise blamed(dialect, conn, source, waiting, target, error) from error
        distinct = _statement(dialect, source, target, columns, key, by_key=keyed, distinct=True)
        inserted, updated = run(conn, distinct).one()
    return MergeCounts(inserted, updated, total - inserted - updated)


def _add_to_empty(
    dialect: PostgresDialect,
    conn: sa.Connection,
    source: TableName,
    target: TableName,
    columns: Sequence[Column],
) -> int | None:
    """Add all rows to a table that has none, which costs half of looking for conflicts.

    None: it has rows, or a row was refused, such as the second of a key; nothing was added.
    """
    place = dialect.qualified(target)
    if run(conn, f"SELECT EXISTS (SELECT FROM {place})").scalar_one():
        return None
    names = dialect.column_list(c.name for c in columns)
    values = ", ".join(_values(dialect, columns).values())
    statement = (
        f"INSERT INTO {place} ({names}) "
        f"{dialect.overriding}SELECT {values} FROM {dialect.qualified(source)}"
    )
    try:
        with conn.begin_nested():
            return run(conn, statement).rowcount
    except sa.exc.DBAPIError as error:
        if error.connection_invalidated:
            raise
        # The statement for rows that may conflict meets it again, and says which row it is.
        return None


def _values(dialect: PostgresDialect, columns: Sequence[Column]) -> dict[str, str]:
    """Read the columns of the source, in which types that COPY cannot write wait as text."""
    quote = dialect.quote
    return {
        c.name: quote(c.name) if is_copied(c) else f"{quote(c.name)}::{assigned_type(c.sql_type)}"
        for c in columns
    }


def _statement(
    dialect: PostgresDialect,
    source: TableName,
    target: TableName,
    columns: Sequence[Column],
    key: Sequence[str],
    *,
    by_key: bool,
    distinct: bool = False,
) -> str:
    quote = dialect.quote
    names = dialect.column_list(c.name for c in columns)
    keys = dialect.column_list(key)
    value = _values(dialect, columns)
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
    if by_key:
        # The statement sees the target as it was before.
        same = " AND ".join(f"w.{quote(k)} = o.{quote(k)}" for k in key)
        returned = keys
        inserted = f"NOT EXISTS (SELECT 1 FROM {dialect.qualified(target)} o WHERE {same})"
    else:
        # xmax is 0 for a row version that was inserted, not updated.
        returned, inserted = "xmax = 0 AS inserted", "inserted"
    return (
        f"WITH written AS (INSERT INTO {dialect.qualified(target)} AS t ({names}) "
        f"{dialect.overriding}{rows} "
        f"ON CONFLICT ({keys}) {action} RETURNING {returned}) "
        f"SELECT count(*) FILTER (WHERE {inserted}), count(*) FILTER (WHERE NOT {inserted}) "
        f"FROM written w"
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
