"""Names for what belongs to a table, chosen as PostgreSQL chooses them itself.

A replacement is made under a temporary name, and its constraints and sequences are named after
that. Once it is in its place, they get the names they would have had.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import sqlalchemy as sa

from ixflow.dialects.base import run
from ixflow.dialects.postgres.catalog import regclass
from ixflow.values import TableName

if TYPE_CHECKING:
    from ixflow.dialects.base import Dialect

__all__ = ["fitted", "name_key", "name_parts"]

_LONGEST = 63

# Constraints and sequences whose names tell of a temporary table, with the columns they are about.
_PARTS = sa.text("""
    SELECT k.conname, NULL::text AS sequence, n.nspname,
           CASE k.contype WHEN 'p' THEN 'pkey' WHEN 'u' THEN 'key' WHEN 'x' THEN 'excl'
                          ELSE 'check' END AS label,
           CASE WHEN k.contype = 'p' THEN ARRAY[]::text[] ELSE ARRAY(
               SELECT a.attname::text FROM unnest(k.conkey) WITH ORDINALITY c (attnum, place)
               JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = c.attnum
               ORDER BY c.place) END AS columns
    FROM pg_constraint k JOIN pg_class t ON t.oid = k.conrelid
    JOIN pg_namespace n ON n.oid = t.relnamespace
    WHERE k.conrelid = to_regclass(:name) AND k.contype IN ('p', 'u', 'x', 'c')
      AND strpos(k.conname, :prefix) > 0
    UNION ALL
    SELECT s.relname, s.oid::regclass::text, n.nspname, 'seq', ARRAY[a.attname::text]
    FROM pg_depend d JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'
    JOIN pg_namespace n ON n.oid = s.relnamespace
    JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
    WHERE d.refobjid = to_regclass(:name) AND d.deptype IN ('a', 'i')
      AND strpos(s.relname, :prefix) > 0
    ORDER BY 1
""")


def name_parts(dialect: Dialect, conn: sa.Connection, table: TableName, prefix: str) -> None:
    """Rename what begins like the temporary table's name, which PostgreSQL may have shortened."""
    quote, qualified = dialect.quote, dialect.qualified(table)
    found = conn.execute(_PARTS, {"name": qualified, "prefix": prefix}).all()
    for name, sequence, schema, label, columns in found:
        parts = [table.name, "_".join(columns), label]
        new = _free_name(conn, f"{quote(schema)}.", qualified, parts, quote)
        if sequence is not None:
            run(conn, f"ALTER SEQUENCE {sequence} RENAME TO {quote(new)}")
        else:
            run(conn, f"ALTER TABLE {qualified} RENAME CONSTRAINT {quote(name)} TO {quote(new)}")


_KEY = sa.text("""
    SELECT k.conname, n.nspname FROM pg_constraint k JOIN pg_class t ON t.oid = k.conrelid
    JOIN pg_namespace n ON n.oid = t.relnamespace
    WHERE k.conrelid = to_regclass(:name) AND k.contype = 'p'
""")


def name_key(dialect: Dialect, conn: sa.Connection, table: TableName, wanted: str) -> None:
    """Give the primary key its declared name, where no other relation has it."""
    found = conn.execute(_KEY, {"name": dialect.qualified(table)}).first()
    if found is None or found[0] == wanted:
        return
    if regclass(conn, f"{dialect.quote(found[1])}.{dialect.quote(wanted)}") is None:
        dialect.rename_constraint(conn, table, found[0], wanted)


def _free_name(
    conn: sa.Connection,
    schema: str,
    qualified: str,
    parts: Sequence[str],
    quote: Callable[[str], str],
) -> str:
    table, columns, label = parts
    taken = sa.text("""
        SELECT 1 FROM pg_constraint WHERE conrelid = to_regclass(:name) AND conname = :new
    """)
    for number in itertools.count():
        new = fitted(table, columns, f"{label}{number or ''}")
        used = regclass(conn, schema + quote(new)) is not None
        if not used and conn.execute(taken, {"name": qualified, "new": new}).first() is None:
            return new
    raise AssertionError  # pragma: no cover - the loop does not end


def fitted(table: str, columns: str, label: str) -> str:
    """Join the parts as PostgreSQL does, cutting the longer of the first two until they fit.

    >>> fitted("orders", "customer_id", "key")
    'orders_customer_id_key'
    """
    first, second = table.encode(), columns.encode()
    room = _LONGEST - len(label.encode()) - 1 - (1 if second else 0)
    while len(first) + len(second) > room:
        if len(first) > len(second):
            first = first[:-1]
        else:
            second = second[:-1]
    parts = [first.decode(errors="ignore"), second.decode(errors="ignore"), label]
    return "_".join(part for part in parts if part)
