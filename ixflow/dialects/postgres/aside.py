"""Setting an old table aside: out of reach of others, and bare of what hangs on its place."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from ixflow.dialects.base import run

__all__ = ["rename_parts_apart", "set_free"]

_OF_TABLES = """
    WITH t AS (SELECT c.*, format('%I.%I', n.nspname, c.relname) AS qualified
               FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
               WHERE c.oid = ANY(:oids))
"""

# Extended statistics stay in the old schema, publications and foreign keys would tie others to it.
_TIES = """
    SELECT format('DROP STATISTICS %I.%I', m.nspname, s.stxname)
    FROM t JOIN pg_statistic_ext s ON s.stxrelid = t.oid
    JOIN pg_namespace m ON m.oid = s.stxnamespace
    UNION ALL
    SELECT format('ALTER PUBLICATION %I DROP TABLE %s', p.pubname, t.qualified)
    FROM t JOIN pg_publication_rel r ON r.prrelid = t.oid JOIN pg_publication p ON p.oid = r.prpubid
    UNION ALL
    SELECT format('ALTER TABLE %s DROP CONSTRAINT %I', t.qualified, k.conname)
    FROM t JOIN pg_constraint k ON k.conrelid = t.oid
    WHERE k.contype = 'f' AND k.conparentid = 0
"""

# What the table in the old place gets, or an older table would bring back in its place.
_BELONGINGS = """
    SELECT format('DROP POLICY %I ON %s', p.polname, t.qualified)
    FROM t JOIN pg_policy p ON p.polrelid = t.oid
    UNION ALL
    SELECT format('DROP TRIGGER %I ON %s', g.tgname, t.qualified)
    FROM t JOIN pg_trigger g ON g.tgrelid = t.oid AND NOT g.tgisinternal
    UNION ALL
    SELECT format('DROP RULE %I ON %s', r.rulename, t.qualified)
    FROM t JOIN pg_rewrite r ON r.ev_class = t.oid AND r.rulename <> '_RETURN'
    UNION ALL
    SELECT format('ALTER TABLE %s DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY',
                  qualified) FROM t WHERE relrowsecurity OR relforcerowsecurity
    UNION ALL
    SELECT DISTINCT format('REVOKE ALL ON TABLE %s FROM %s', x.qualified,
                           CASE WHEN x.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(r.rolname) END)
    FROM (
        SELECT qualified, relowner, (aclexplode(relacl)).* FROM t
        UNION ALL
        SELECT qualified, relowner, (aclexplode(attacl)).*
        FROM t JOIN pg_attribute a ON a.attrelid = t.oid
    ) x LEFT JOIN pg_roles r ON r.oid = x.grantee WHERE x.grantee <> x.relowner
    UNION ALL
    SELECT CASE WHEN d.objsubid = 0 THEN format('COMMENT ON TABLE %s IS NULL', t.qualified)
                ELSE format('COMMENT ON COLUMN %s.%I IS NULL', t.qualified, a.attname) END
    FROM t JOIN pg_description d ON d.objoid = t.oid AND d.classoid = 'pg_class'::regclass
    LEFT JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = d.objsubid AND d.objsubid > 0
"""


def set_free(conn: sa.Connection, replaced: Sequence[int], gone: Sequence[int]) -> None:
    """Cut what ties tables that are set aside to others, or has a name that is needed again.

    Those that are ``replaced`` also lose what their place keeps: policies, triggers, rules, grants
    and comments. Those that are ``gone`` from their place keep them until they come back.
    """
    if oids := [*replaced, *gone]:
        _run_all(conn, _TIES, oids)
    if replaced:
        _run_all(conn, _BELONGINGS, replaced)


_PART_NAMES = sa.text("""
    SELECT format('ALTER %s %I.%I RENAME TO %I', p.kind, n.nspname, x.relname,
                  left(CAST(:name AS text), 24) || '_' || x.oid)
    FROM (
        SELECT 'INDEX' AS kind, indexrelid AS oid FROM pg_index
        WHERE indrelid = to_regclass(:table)
        UNION ALL
        SELECT 'SEQUENCE', d.objid FROM pg_depend d JOIN pg_class s ON s.oid = d.objid
        WHERE d.refobjid = to_regclass(:table) AND d.classid = 'pg_class'::regclass
          AND d.deptype IN ('a', 'i') AND s.relkind = 'S'
    ) p JOIN pg_class x ON x.oid = p.oid JOIN pg_namespace n ON n.oid = x.relnamespace
""")


def rename_parts_apart(conn: sa.Connection, table: str, name: str) -> None:
    """Name indexes and sequences of a table after the name that it gets beside others like it."""
    found = conn.execute(_PART_NAMES, {"table": table, "name": name})
    for statement in found.scalars().all():
        run(conn, statement)


def _run_all(conn: sa.Connection, query: str, oids: Sequence[int]) -> None:
    found = conn.execute(sa.text(f"{_OF_TABLES} {query}"), {"oids": list(oids)})
    for statement in found.scalars().all():
        run(conn, statement)
