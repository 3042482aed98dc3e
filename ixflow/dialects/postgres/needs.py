"""What tables need besides themselves: dropping it would take columns and defaults with it."""

from __future__ import annotations

import sqlalchemy as sa

__all__ = ["needs_in"]

# Rows of pg_depend point from columns, defaults, constraints, triggers and indexes at what they
# need. A sequence of a serial or identity column, and the type of a table's rows, go with the
# table.
_NEEDS = sa.text("""
    WITH here AS (SELECT oid FROM pg_namespace WHERE nspname = :schema),
    others AS (
        SELECT CAST('pg_proc' AS regclass) AS class, oid FROM pg_proc
        WHERE pronamespace = (SELECT oid FROM here)
        UNION ALL
        SELECT CAST('pg_type' AS regclass), t.oid FROM pg_type t
        LEFT JOIN pg_type item ON item.oid = t.typelem AND t.typcategory = 'A'
        LEFT JOIN pg_class rows ON rows.oid = coalesce(item.typrelid, t.typrelid)
        WHERE t.typnamespace = (SELECT oid FROM here)
          AND coalesce(rows.relkind, 'c') = 'c'
        UNION ALL
        SELECT CAST('pg_class' AS regclass), s.oid FROM pg_class s
        WHERE s.relnamespace = (SELECT oid FROM here) AND s.relkind = 'S'
          AND NOT EXISTS (SELECT FROM pg_depend o
                          WHERE o.classid = CAST('pg_class' AS regclass) AND o.objid = s.oid
                            AND o.deptype IN ('a', 'i'))
    )
    SELECT DISTINCT pg_describe_object(d.refclassid, d.refobjid, 0)
    FROM pg_depend d JOIN others ON others.class = d.refclassid AND others.oid = d.refobjid
    LEFT JOIN pg_class c ON d.classid = CAST('pg_class' AS regclass) AND c.oid = d.objid
    WHERE d.classid NOT IN (CAST('pg_proc' AS regclass), CAST('pg_type' AS regclass))
      AND d.deptype = 'n' AND coalesce(c.relkind, 'r') <> 'c'
    ORDER BY 1
""")


def needs_in(conn: sa.Connection, schema: str) -> tuple[str, ...]:
    """Describe the types, functions and sequences of a schema that its tables need."""
    return tuple(conn.execute(_NEEDS, {"schema": schema}).scalars())
