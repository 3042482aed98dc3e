"""How a PostgreSQL table can be read in parts: its partitions, and ranges of their heap pages.

A range of pages is a condition on ``ctid``, the physical place of a row, which PostgreSQL 14 and
newer read with a TID range scan. It needs no key and no statistics, and any skew of values is
without effect. It is sound only while rows stay where they are for the reader: all tasks must read
one snapshot, and nothing may rewrite the table meanwhile (`hold.hold_tables` sees to that).
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from ixflow.dialects.postgres.queries import query_part
from ixflow.values import PageRange, TableName, TablePart

__all__ = ["key_bounds", "pages_condition", "parts"]

_TID_RANGE_SCAN = 140_000

# `detach pending` is known since 14; going through jsonb asks older servers nothing they lack.
_TREE = sa.text("""
    WITH RECURSIVE tree AS (
        SELECT to_regclass(:name)::oid AS oid
        UNION
        SELECT i.inhrelid FROM tree t JOIN pg_inherits i ON i.inhparent = t.oid
        WHERE (to_jsonb(i) ->> 'inhdetachpending')::boolean IS NOT TRUE
    )
    SELECT n.nspname AS schema, c.relname AS name, c.relkind::text AS kind,
           coalesce(a.amname = 'heap', false) AS heap,
           has_table_privilege(c.oid, 'SELECT') AND NOT row_security_active(c.oid) AS open,
           c.oid = to_regclass(:name)::oid AS root,
           c.reltuples::float8 AS tuples, c.relpages AS analysed_pages,
           (coalesce(pg_relation_size(c.oid), 0) / current_setting('block_size')::int)::bigint
               AS pages,
           CASE WHEN c.relkind IN ('r', 'm') THEN coalesce(pg_table_size(c.oid), 0) ELSE 0 END
               AS bytes
    FROM tree t JOIN pg_class c ON c.oid = t.oid
    JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_am a ON a.oid = c.relam
    ORDER BY NOT (c.oid = to_regclass(:name)::oid), n.nspname, c.relname
""")

_BOUNDS = sa.text("""
    SELECT s.histogram_bounds::text::float8[]
    FROM pg_stats s JOIN pg_class c ON c.relname = s.tablename
    JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = s.schemaname
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = s.attname
    JOIN pg_type t ON t.oid = a.atttypid AND t.typcategory = 'N' AND t.typname <> 'money'
    WHERE c.oid = to_regclass(:name) AND s.attname = :column AND s.histogram_bounds IS NOT NULL
    ORDER BY s.inherited DESC LIMIT 1
""")

# Rows of a page in a table that was never analysed.
_ROWS_OF_A_PAGE = 80
_READABLE = ("r", "m", "f")


def parts(conn: sa.Connection, qualified: str) -> tuple[TablePart, ...]:
    """List the leaves of a table's tree, or only the table where it must be read through its top.

    That is so for views, and where row security or a missing privilege makes a leaf give other
    rows than the same leaf read through the table that was asked for.
    """
    tree = conn.execute(_TREE, {"name": qualified}).all()
    if not tree:
        return ()
    leaves = [node for node in tree if node.kind in _READABLE]
    if not leaves or not all(node.open for node in tree):
        top = tree[0]
        still = not any(node.kind == "f" for node in tree)
        if top.kind == "v":
            # The optimizer knows whether a view, or a view of it, reads foreign tables.
            read = query_part(conn, TableName(top.name, top.schema), f"SELECT 1 FROM {qualified}")
            still = read.in_snapshot
        rows = sum(_rows(node) for node in leaves) if leaves else -1
        size = sum(int(node.bytes) for node in leaves)
        name = TableName(top.name, top.schema)
        return (TablePart(name, rows=rows, size_bytes=size, in_snapshot=still),)
    ranges = conn.execute(sa.text("SHOW server_version_num")).scalar_one()
    return tuple(_part(leaf, ranges=int(ranges) >= _TID_RANGE_SCAN) for leaf in leaves)


def _part(leaf: sa.Row[Any], *, ranges: bool) -> TablePart:
    return TablePart(
        TableName(leaf.name, leaf.schema),
        only=leaf.kind == "r",
        pages=int(leaf.pages) if leaf.heap and ranges else None,
        rows=_rows(leaf),
        size_bytes=int(leaf.bytes),
        in_snapshot=leaf.kind != "f",
    )


def _rows(leaf: sa.Row[Any]) -> int:
    """Scale the last count of ANALYZE by the growth in pages since, as the planner does."""
    if leaf.tuples < 0:
        return int(leaf.pages) * _ROWS_OF_A_PAGE
    if leaf.analysed_pages <= 0:
        return int(leaf.tuples)
    return int(leaf.tuples / leaf.analysed_pages * leaf.pages)


def key_bounds(conn: sa.Connection, qualified: str, column: str) -> tuple[float, ...]:
    """Give the histogram bounds of a numeric column from the statistics; none if there are none."""
    found = conn.execute(_BOUNDS, {"name": qualified, "column": column}).scalar()
    return tuple(float(bound) for bound in found or ())


def pages_condition(pages: PageRange) -> str:
    """Write the condition for the rows of a range of pages.

    >>> pages_condition((0, 8))
    "ctid < '(8,0)'::tid"
    >>> pages_condition((8, None))
    "ctid >= '(8,0)'::tid"
    """
    first, end = pages
    conditions = [f"ctid >= '({first},0)'::tid"] if first else []
    conditions += [f"ctid < '({end},0)'::tid"] if end is not None else []
    return " AND ".join(conditions) or "true"
