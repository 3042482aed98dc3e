"""Upserting one PostgreSQL table into another, without rewriting rows that would not change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    from ixflow.dialects.base import Dialect

__all__ = ["comparable", "merge", "takes_first_rows"]

_TWICE = "21000"
"""SQLSTATE cardinality_violation: ON CONFLICT met one key twice."""
_NOT_ABOUT_ROWS = ("40", "53", "55", "57")
"""Classes of SQLSTATE: rolled back, out of resources, a lock not had, ended by somebody."""
_LOOKED_AT = 500
"""Rows of the source that tell whether most are there already, unchanged."""

# Not where something else happens to a row, nor where a key is looked at later.
_PLAIN = sa.text("""
    SELECT c.relkind = 'r' AND NOT c.relrowsecurity AND NOT c.relhasrules
       AND NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = c.oid AND NOT tgisinternal)
       AND NOT EXISTS (SELECT FROM pg_index WHERE indrelid = c.oid AND NOT indimmediate)
    FROM pg_class c WHERE c.oid = to_regclass(:name)
""")

_KEY_COLLATIONS = sa.text("""
    SELECT a.attname, format('%I.%I', n.nspname, c.collname), c.collisdeterministic
    FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
    JOIN pg_collation c ON c.oid = a.attcollation JOIN pg_namespace n ON n.oid = c.collnamespace
    WHERE i.indrelid = to_regclass(:name) AND i.indisprimary
""")


def merge(  # noqa: PLR0917 - the arguments of Dialect.merge
    dialect: Dialect,
    conn: sa.Connection,
    source: TableName,
    target: TableName,
    columns: Sequence[Column],
    key: Sequence[str],
) -> MergeCounts:
    """Upsert; duplicates within the source are looked for only after they were met."""
    keyless = " OR ".join(f"{dialect.quote(name)} IS NULL" for name in key)
    counted = f"SELECT count(*), count(*) FILTER (WHERE {keyless}) FROM {dialect.qualified(source)}"
    total, without_key = run(conn, counted).one()
    if not total:
        return MergeCounts(0, 0, 0)
    added = _add_to_empty(dialect, conn, source, target, columns)
    if added is not None:
        return MergeCounts(added, 0, total - added)
    # What a partitioned table returns has no system columns.
    keyed = kind_of(conn, dialect.qualified(target)) == "p"
    differing = "" if without_key else _differing(dialect, conn, source, target, columns, key)
    statement = _statement(dialect, source, target, columns, key, by_key=keyed, where=differing)
    try:
        with conn.begin_nested():
            inserted, updated = run(conn, statement).one()
    except sa.exc.DBAPIError as error:
        if state_of(error) != _TWICE:
            waiting = [c for c in columns if not is_copied(c)]
            raise blamed(dialect, conn, source, waiting, target, error) from error
        of_key = _collations(conn, dialect.qualified(target))
        distinct = _statement(dialect, source, target, columns, key, by_key=keyed, distinct=of_key)
        inserted, updated = run(conn, distinct).one()
    return MergeCounts(inserted, updated, total - inserted - updated)


def _add_to_empty(
    dialect: Dialect,
    conn: sa.Connection,
    source: TableName,
    target: TableName,
    columns: Sequence[Column],
) -> int | None:
    """Add all rows to a table that has none, which costs half of looking for conflicts.

    None: it has rows, or a row was refused, such as the second of a key; nothing was added.
    """
    place = dialect.qualified(target)
    if _has_rows(conn, place):
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
        if error.connection_invalidated or state_of(error).startswith(_NOT_ABOUT_ROWS):
            raise
        # The statement for rows that may conflict meets it again, and says which row it is.
        return None


def _collations(conn: sa.Connection, place: str) -> dict[str, tuple[str, bool]]:
    """Give the collation of each text of a key, and whether it tells all that differ apart."""
    found = conn.execute(_KEY_COLLATIONS, {"name": place})
    return {str(name): (str(collation), bool(strict)) for name, collation, strict in found}


def _has_rows(conn: sa.Connection, place: str) -> bool:
    return bool(run(conn, f"SELECT EXISTS (SELECT FROM {place})").scalar_one())


def takes_first_rows(conn: sa.Connection, place: str) -> bool:
    """Say whether a table, by its quoted name, has no rows and does nothing to those that come."""
    plain = conn.execute(_PLAIN, {"name": place}).scalar()
    return bool(plain) and not _has_rows(conn, place)


def _differing(  # noqa: PLR0917 - the arguments of Dialect.merge
    dialect: Dialect,
    conn: sa.Connection,
    source: TableName,
    target: TableName,
    columns: Sequence[Column],
    key: Sequence[str],
) -> str:
    """Write a condition for the rows that are new or differ; empty where it would not pay.

    ``ON CONFLICT`` locks each row that it finds, also one that it leaves alone, which takes three
    times as long as comparing it in a join. But where most rows differ, the join comes on top. So
    the first rows of the source are looked at.

    All rows of a key that has one that differs are kept, since the last of them wins.
    """
    keys = [column for column in columns if column.name in key]
    # Blanks behind a character(n) count for nothing, which its index alone knows.
    if not all(is_copied(c) and base_type(c.sql_type) != "character" for c in keys):
        return ""
    collations = _collations(conn, dialect.qualified(target))
    if not all(strict for _, strict in collations.values()):
        return ""
    quote = dialect.quote
    value = _values(dialect, columns, "s.")
    # In the collation of the key, so that its index can be used.
    mine = {
        name: f"s.{quote(name)} COLLATE {collations[name][0]}"
        if name in collations
        else f"s.{quote(name)}"
        for name in key
    }
    same = " AND ".join(f"t.{quote(name)} = {mine[name]}" for name in key)
    others = [c for c in columns if c.name not in key]
    old = ", ".join(comparable(f"t.{quote(c.name)}", c) for c in others)
    new = ", ".join(comparable(value[c.name], c) for c in others)
    differs = f"t.{quote(key[0])} IS NULL"
    if others:
        differs += f" OR ROW({old}) IS DISTINCT FROM ROW({new})"
    joined = f"s LEFT JOIN {dialect.qualified(target)} t ON {same}"
    first = f"(SELECT * FROM {dialect.qualified(source)} LIMIT {_LOOKED_AT})"
    looked = f"SELECT count(*) FILTER (WHERE NOT ({differs})) * 2 > count(*) FROM {first} {joined}"
    if not run(conn, looked).scalar_one():
        return ""
    names = ", ".join(f"s.{quote(k)}" for k in key)
    found = f"SELECT {names} FROM {dialect.qualified(source)} {joined} WHERE {differs}"
    return f" WHERE ({dialect.column_list(key)}) IN ({found})"


def _values(dialect: Dialect, columns: Sequence[Column], prefix: str = "") -> dict[str, str]:
    """Read the columns of the source, in which types that COPY cannot write wait as text."""
    return {
        c.name: f"{prefix}{dialect.quote(c.name)}"
        + ("" if is_copied(c) else f"::{assigned_type(c.sql_type)}")
        for c in columns
    }


def _statement(
    dialect: Dialect,
    source: TableName,
    target: TableName,
    columns: Sequence[Column],
    key: Sequence[str],
    *,
    by_key: bool,
    distinct: Mapping[str, tuple[str, bool]] | None = None,
    where: str = "",
) -> str:
    quote = dialect.quote
    names = dialect.column_list(c.name for c in columns)
    keys = dialect.column_list(key)
    value = _values(dialect, columns)
    values = ", ".join(value.values())
    rows = f"SELECT {values} FROM {dialect.qualified(source)}{where}"
    if distinct is not None:
        # The last loaded row of a key wins. The source was made in this transaction and filled by
        # COPY alone, which appends: so ctid is the order of loading.
        same = ", ".join(
            f"{value[name]} COLLATE {distinct[name][0]}" if name in distinct else value[name]
            for name in key
        )
        rows = (
            f"SELECT DISTINCT ON ({same}) {values} FROM {dialect.qualified(source)} "
            f"ORDER BY {same}, ctid DESC"
        )
    others = [c for c in columns if c.name not in key]
    if others:
        sets = ", ".join(f"{quote(c.name)} = excluded.{quote(c.name)}" for c in others)
        old = ", ".join(comparable(f"t.{quote(c.name)}", c) for c in others)
        new = ", ".join(comparable(f"excluded.{quote(c.name)}", c) for c in others)
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


def comparable(quoted: str, column: Column) -> str:
    """Write a value so that it equals another exactly where both are the same."""
    if column.as_text or column.sql_type in _BY_TEXT:
        return f'{quoted}::text COLLATE "C"'
    return f'{quoted} COLLATE "C"' if _is_text(column) else quoted


def _is_text(column: Column) -> bool:
    return base_type(column.sql_type) in ("text", "character varying", "character")
