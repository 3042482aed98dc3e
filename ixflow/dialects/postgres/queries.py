"""What PostgreSQL says about a query without running it, and about transactions that are open."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from ixflow.dialects.facts import run
from ixflow.dialects.postgres.types import arrow_type
from ixflow.dialects.queries import named_once
from ixflow.errors import LockNotAvailable, ValidationError
from ixflow.values import Column, TableName, TablePart

__all__ = ["MARGIN", "describe", "has_index", "query_part", "settled_before"]

# A domain is read as the type it is made from.
_TYPES = sa.text("""
    WITH RECURSIVE base AS (
        SELECT place, type, typmod
        FROM unnest(CAST(:types AS oid[]), CAST(:typmods AS int[]))
             WITH ORDINALITY AS given (type, typmod, place)
        UNION ALL
        SELECT b.place, t.typbasetype, t.typtypmod
        FROM base b JOIN pg_type t ON t.oid = b.type AND t.typtype = 'd'
    )
    SELECT CASE WHEN b.typmod < 0 AND t.typname = 'bpchar' THEN 'character'
                ELSE format_type(b.type, b.typmod) END
    FROM base b JOIN pg_type t ON t.oid = b.type AND t.typtype <> 'd' ORDER BY b.place
""")


def describe(conn: sa.Connection, query: str) -> tuple[Column, ...]:
    """Let the server read a query, and give its columns with their exact types."""
    found = run(conn, f"SELECT * FROM ({query}\n) AS q LIMIT 0")
    cursor: Any = found.cursor
    names = [str(column[0]) for column in cursor.description]
    named_once(names)
    types = [int(column[1]) for column in cursor.description]
    given = {"types": types, "typmods": list(_typmods(cursor))}
    found.close()
    columns = []
    for name, sql_type in zip(names, conn.execute(_TYPES, given).scalars(), strict=True):
        type_, as_text = arrow_type(sql_type)
        columns.append(Column(name, sql_type, type_, as_text=as_text))
    return tuple(columns)


def _typmods(cursor: Any) -> Iterator[int]:
    """Give the type modifiers; psycopg2 tells only those of numeric, in other words."""
    result = getattr(cursor, "pgresult", None)
    for place, column in enumerate(cursor.description):
        if result is not None:
            yield int(result.fmod(place))
        elif column.precision is not None and column.scale is not None:
            yield (column.precision << 16 | column.scale) + 4
        else:
            yield -1


def query_part(conn: sa.Connection, table: TableName, query: str) -> TablePart:
    """Take the planner's estimates; rows of foreign tables are in no snapshot of ours."""
    found = run(conn, f"EXPLAIN (FORMAT JSON) {query}").scalar_one()
    plan = found[0]["Plan"]
    rows = int(plan["Plan Rows"])
    foreign = any(node["Node Type"] == "Foreign Scan" for node in _nodes(plan))
    size = rows * int(plan["Plan Width"])
    return TablePart(table, rows=rows, size_bytes=size, in_snapshot=not foreign)


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from _nodes(child)


_INDEXED = sa.text("""
    SELECT EXISTS (
        SELECT 1 FROM pg_index i JOIN pg_attribute a
            ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0] AND a.attname = :column
        JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_am m ON m.oid = x.relam
        WHERE i.indrelid = to_regclass(:name) AND i.indisvalid AND i.indpred IS NULL
            AND m.amname = 'btree'
    )
""")


def has_index(conn: sa.Connection, qualified: str, column: str) -> bool:
    """Say whether a whole B-tree index of the table begins with the column."""
    return bool(conn.execute(_INDEXED, {"name": qualified, "column": column}).scalar_one())


_MAY_SEE = sa.text("""
    SELECT pg_has_role(current_user, 'pg_read_all_stats', 'USAGE'), quote_ident(current_user),
           pg_is_in_recovery(), current_setting('track_activities')::boolean
""")

# A prepared transaction writes no more: only those matter that have written to the table already.
_PREPARED = sa.text("""
    WITH RECURSIVE tree AS (
        SELECT to_regclass(:name)::oid AS oid
        UNION SELECT i.inhrelid FROM tree t JOIN pg_inherits i ON i.inhparent = t.oid
    )
    SELECT DISTINCT p.gid FROM pg_prepared_xacts p
    LEFT JOIN pg_locks own ON own.pid IS NULL AND own.transactionid = p.transaction
    LEFT JOIN pg_locks l ON l.pid IS NULL AND l.virtualtransaction = own.virtualtransaction
    WHERE p.database = current_database() AND (
        CAST(:name AS text) IS NULL OR own.transactionid IS NULL
        OR (l.relation IN (SELECT oid FROM tree) AND l.mode <> 'AccessShareLock'))
""")

MARGIN = "1 second"
"""A backend notes when its statement came before it shows that its transaction is open: this long
at most, which is a thousand times what it takes."""

_SETTLED = sa.text("""
    SELECT (to_jsonb(timezone('UTC', least(
        clock_timestamp() - CAST(:margin AS interval),
        (SELECT min(least(xact_start, CASE WHEN state = 'active' THEN query_start END))
         FROM pg_stat_activity
         WHERE datname = current_database() AND pid <> pg_backend_pid()
             AND backend_type <> 'autovacuum worker')
    ))) #>> '{}') || '+00'
""")


def settled_before(conn: sa.Connection, qualified: str | None) -> str:
    """Give the beginning of the oldest transaction that is open in this database, as a text.

    A snapshot must be taken after this, on a connection that began nothing before. Raises as
    `Dialect.settled_before`.
    """
    may_see, role, standby, tracked = conn.execute(_MAY_SEE).one()
    if standby:
        msg = (
            "a standby does not know which transactions are open on its primary, so the cursor "
            "cannot be 'settled'; read the primary, or use semantics='overlap'"
        )
        raise ValidationError(msg)
    if not tracked:
        msg = (
            "track_activities is off, so nobody knows when transactions began, and the cursor "
            "cannot be 'settled': turn it on, or use semantics='overlap'"
        )
        raise ValidationError(msg, setting="track_activities")
    if not may_see:
        msg = (
            f"the role {role} may not see when the transactions of others began, so the cursor "
            f"cannot be 'settled': GRANT pg_read_all_stats TO {role}, or use semantics='overlap'"
        )
        raise ValidationError(msg, role=role)
    waiting = list(conn.execute(_PREPARED, {"name": qualified}).scalars())
    if waiting:
        msg = (
            f"the prepared transactions {waiting} may still commit rows, and nobody knows when "
            f"they began; COMMIT PREPARED or ROLLBACK PREPARED them, or use semantics='overlap'"
        )
        raise LockNotAvailable(msg, transactions=waiting)
    return str(conn.execute(_SETTLED, {"margin": MARGIN}).scalar_one())
