"""PostgreSQL's transaction numbers: of a snapshot with 64 bits, on a row (``xmin``) with 32.

A row keeps its number when it is frozen. A transaction that is prepared counts as open, and so do
its subtransactions: their numbers are above its own.
"""

from __future__ import annotations

import sqlalchemy as sa

from ixflow.dialects.transactions import Ended

__all__ = ["ended", "made_by", "marks_rows"]

# Only heaps are known to keep xmin; a partitioned table itself has no rows.
_MARKS = sa.text("""
    WITH RECURSIVE tree AS (
        SELECT to_regclass(:name)::oid AS oid
        UNION SELECT i.inhrelid FROM tree t JOIN pg_inherits i ON i.inhparent = t.oid
    )
    SELECT bool_and(c.relkind = 'p' OR (c.relkind = 'r' AND a.amname = 'heap'))
    FROM tree t JOIN pg_class c ON c.oid = t.oid LEFT JOIN pg_am a ON a.oid = c.relam
""")

# A server that takes over says so at once in the recovery's timeline, later in the checkpoint's.
_ENDED = sa.text("""
    SELECT pg_snapshot_xmin(s)::text, pg_snapshot_xmax(s)::text,
           concat_ws('.', m.system_identifier, greatest(c.timeline_id, r.min_recovery_end_timeline))
    FROM pg_current_snapshot() s, pg_control_system() m, pg_control_checkpoint() c,
         pg_control_recovery() r
""")


def marks_rows(conn: sa.Connection, qualified: str) -> bool:
    """Say whether all of a table's rows are in heaps."""
    return bool(conn.execute(_MARKS, {"name": qualified}).scalar())


def ended(conn: sa.Connection) -> Ended:
    """Ask the snapshot of a connection's transaction."""
    below, following, server = conn.execute(_ENDED).one()
    return Ended(int(below), int(following), str(server))


def made_by(first: int, end: int) -> str:
    """Write the condition on xmin, counted from the first: so it holds where 32 bits run over."""
    return f"((xmin::text::bigint - {first}) & 4294967295) < {max(0, end - first)}"
