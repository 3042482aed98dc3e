"""How PostgreSQL cuts a table by a key, where its pages cannot: before 14, or not kept in a heap.

The optimizer estimates a range from the histograms that ANALYZE left.
"""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from ixflow.dialects.facts import run
from ixflow.dialects.keyspace import Kind
from ixflow.dialects.ranges import SplitKey

__all__ = ["estimated_rows", "probing", "split_keys"]

_SETTINGS = (
    "statement_timeout = '5s'",
    "enable_seqscan = off",
    "TimeZone = 'UTC'",
    "DateStyle = 'ISO, YMD'",
    "bytea_output = 'hex'",
)

_KINDS: dict[str, Kind] = {
    **dict.fromkeys(("int2", "int4", "int8", "oid"), "integer"),
    "numeric": "decimal",
    "date": "date",
    "timestamp": "datetime",
    "timestamptz": "moment",
    "uuid": "uuid",
    "bytea": "binary",
    **dict.fromkeys(("text", "varchar", "bpchar"), "text"),
}

# Only indexes in the order of the type and of the column's collation, which ORDER BY can use.
_INDEXES = sa.text("""
    SELECT x.relname AS index, i.indisprimary AS main, i.indisunique AS single,
           a.attname AS name, t.typname AS base, a.attnotnull AS filled,
           format_type(a.atttypid, a.atttypmod) || coalesce(
               ' COLLATE ' || quote_ident(cn.nspname) || '.' || quote_ident(co.collname), ''
           ) AS type,
           o.opcdefault AND k.ordered = a.attcollation AND k.option IN (0, 3)
           AND i.indoption[0] = k.option AS plain
    FROM pg_index i
    JOIN pg_class x ON x.oid = i.indexrelid
    JOIN pg_am m ON m.oid = x.relam AND m.amname = 'btree'
    CROSS JOIN LATERAL unnest(i.indkey::int2[], i.indclass::oid[], i.indcollation::oid[],
                              i.indoption::int2[])
        WITH ORDINALITY k (attnum, opclass, ordered, option, place)
    JOIN pg_opclass o ON o.oid = k.opclass
    LEFT JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum AND k.attnum > 0
    LEFT JOIN pg_type t ON t.oid = a.atttypid
    LEFT JOIN pg_collation co ON co.oid = a.attcollation
    LEFT JOIN pg_namespace cn ON cn.oid = co.collnamespace
    WHERE i.indrelid = to_regclass(:name) AND i.indisvalid AND i.indpred IS NULL
      AND k.place <= i.indnkeyatts
    ORDER BY NOT i.indisprimary, NOT i.indisunique, x.relname, k.place
""")


def split_keys(conn: sa.Connection, qualified: str) -> tuple[SplitKey, ...]:
    """List the indexes that can cut a table; none holds the rows themselves."""
    rows = conn.execute(_INDEXES, {"name": qualified}).all()
    found = [
        (rank, key)
        for _, parts in itertools.groupby(rows, key=lambda row: row.index)
        for rank, key in _split_key(list(parts))
    ]
    found.sort(key=lambda pair: pair[0])
    return tuple(key for _, key in found)


def _split_key(parts: list[sa.Row[Any]]) -> Iterator[tuple[tuple[bool, bool, bool], SplitKey]]:
    """Take the leading columns of an index that can be compared exactly, with its rank."""
    taken: list[sa.Row[Any]] = []
    for part in parts:
        if not part.plain or part.base not in _KINDS or (taken and not part.filled):
            break
        taken.append(part)
    if taken:
        first = taken[0]
        key = SplitKey(
            columns=tuple(part.name for part in taken),
            types=tuple(part.type for part in taken),
            kinds=tuple(_KINDS[part.base] for part in taken),
            nulls=not first.filled,
            clustered=False,
        )
        yield (not first.main, not first.single, not first.filled), key


def estimated_rows(conn: sa.Connection, relation: str, condition: str) -> float | None:
    """Ask the optimizer for the rows of a range."""
    found = run(conn, f"EXPLAIN (FORMAT JSON) SELECT 1 FROM {relation} WHERE {condition}").scalar()
    plan = json.loads(found) if isinstance(found, str) else found
    return None if not plan else float(plan[0]["Plan"]["Plan Rows"])


@contextlib.contextmanager
def probing(conn: sa.Connection) -> Iterator[None]:
    """Bound the time of a probe, keep it to an index, and let texts read the same for everybody."""
    # Rolled back, a savepoint takes its settings along, and whatever a probe was refused for.
    nested = conn.begin_nested()
    try:
        for setting in _SETTINGS:
            run(conn, f"SET LOCAL {setting}")
        yield
    finally:
        with contextlib.suppress(sa.exc.DBAPIError):
            nested.rollback()
