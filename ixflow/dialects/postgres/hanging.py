"""What hangs on tables as objects of its own: how each is taken off, and how it is put back.

Row-level security and policies, triggers, rules, foreign keys of other tables, publications,
extended statistics, and settings of the table and its columns are read as the statements that make
them again. They name the table, and are run when the new one has the name.

Rows that a replacement loads are in the new table before its triggers are: triggers fire for rows
that go straight into the table, not for those. Foreign keys of other tables are checked again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import sqlalchemy as sa

from ixflow.dialects.base import run
from ixflow.errors import ReplacementRefused

__all__ = ["KEPT_BACK", "Hanging", "hanging", "logged_as_made", "put_back", "take_off"]


KEPT_BACK = (
    sa.exc.ProgrammingError,
    sa.exc.IntegrityError,
    sa.exc.NotSupportedError,
    sa.exc.DataError,
)
"""What the server raises when it will not make something again; not when a lock is not free."""


@dataclass(frozen=True, slots=True)
class Hanging:
    """One object: what it is called, and the statements around the replacement of its table."""

    what: str
    before: str | None
    after: tuple[str, ...]


_UNLOGGED = " SET UNLOGGED"
_TABLE = "format('%I.%I', n.nspname, c.relname)"
_OF_TABLES = f"""
    WITH t AS (SELECT c.*, n.nspname, {_TABLE} AS qualified
               FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
               WHERE c.oid = ANY(:oids))
"""

# Each part gives: turn, what, before, after (statements in an array, NULLs among them).
_SETTINGS = """
    SELECT 1 AS turn, format('settings of %s', qualified) AS what, NULL AS before, ARRAY[
        CASE WHEN relpersistence = 'u' AND relkind = 'r' THEN
            format('ALTER TABLE %s SET UNLOGGED', qualified) END,
        CASE WHEN reltablespace <> 0 AND relkind = 'r' THEN
            (SELECT format('ALTER TABLE %s SET TABLESPACE %I', qualified, spcname)
             FROM pg_tablespace s WHERE s.oid = reltablespace) END,
        CASE WHEN reltablespace <> 0 AND relkind = 'm' THEN
            (SELECT format('ALTER MATERIALIZED VIEW %s SET TABLESPACE %I', qualified, spcname)
             FROM pg_tablespace s WHERE s.oid = reltablespace) END,
        CASE WHEN relkind IN ('r', 'm') AND relam <> (SELECT oid FROM pg_am
                WHERE amname = current_setting('default_table_access_method')) THEN
            (SELECT format('ALTER TABLE %s SET ACCESS METHOD %I', qualified, amname)
             FROM pg_am m WHERE m.oid = relam) END,
        CASE WHEN relkind <> 'v' AND relkind <> 'm' AND reloptions IS NOT NULL THEN
            format('ALTER TABLE %s SET (%s)', qualified, array_to_string(reloptions, ', ')) END,
        (SELECT format('ALTER TABLE %s SET (toast.%s)', qualified,
                       array_to_string(x.reloptions, ', toast.'))
         FROM pg_class x WHERE x.oid = t.reltoastrelid AND x.reloptions IS NOT NULL),
        CASE WHEN reloftype <> 0 THEN
            format('ALTER TABLE %s OF %s', qualified, format_type(reloftype, NULL)) END,
        (SELECT format('COMMENT ON TYPE %s IS %L', qualified, d.description) FROM pg_description d
         WHERE d.objoid = t.reltype AND d.classoid = 'pg_type'::regclass),
        CASE relreplident WHEN 'f' THEN format('ALTER TABLE %s REPLICA IDENTITY FULL', qualified)
             WHEN 'n' THEN CASE WHEN relkind = 'r' THEN
                 format('ALTER TABLE %s REPLICA IDENTITY NOTHING', qualified) END END] AS after
    FROM t
"""
_COLUMNS = """
    SELECT 2, format('settings of column %s.%I', t.qualified, a.attname), NULL, ARRAY[
        CASE WHEN coalesce(a.attstattarget, -1) >= 0 THEN
            format('ALTER TABLE %s ALTER COLUMN %I SET STATISTICS %s', t.qualified, a.attname,
                   a.attstattarget) END,
        CASE WHEN a.attoptions IS NOT NULL THEN
            format('ALTER TABLE %s ALTER COLUMN %I SET (%s)', t.qualified, a.attname,
                   array_to_string(a.attoptions, ', ')) END,
        CASE WHEN a.attstorage <> y.typstorage THEN
            format('ALTER TABLE %s ALTER COLUMN %I SET STORAGE %s', t.qualified, a.attname,
                   CASE a.attstorage WHEN 'p' THEN 'PLAIN' WHEN 'm' THEN 'MAIN'
                                     WHEN 'e' THEN 'EXTERNAL' ELSE 'EXTENDED' END) END,
        CASE a.attcompression WHEN 'l' THEN format('ALTER TABLE %s ALTER COLUMN %I SET COMPRESSION '
                                                   'lz4', t.qualified, a.attname)
             WHEN 'p' THEN format('ALTER TABLE %s ALTER COLUMN %I SET COMPRESSION pglz',
                                  t.qualified, a.attname) END]
    FROM t JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped
    JOIN pg_type y ON y.oid = a.atttypid WHERE t.relkind IN ('r', 'p', 'm')
"""
_SECURITY = """
    SELECT 3, format('row-level security of %s', qualified), NULL, ARRAY[
        CASE WHEN relrowsecurity THEN
            format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', qualified) END,
        CASE WHEN relforcerowsecurity THEN
            format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', qualified) END]
    FROM t
"""
_POLICIES = """
    SELECT 4, format('policy %I of %s', p.polname, t.qualified), NULL, ARRAY[
        format('CREATE POLICY %I ON %s AS %s FOR %s TO %s%s%s', p.polname, t.qualified,
            CASE WHEN p.polpermissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END,
            CASE p.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE'
                          WHEN 'd' THEN 'DELETE' ELSE 'ALL' END,
            (SELECT string_agg(CASE WHEN o = 0 THEN 'PUBLIC' ELSE o::regrole::text END, ', ')
             FROM unnest(p.polroles) o),
            coalesce(' USING (' || pg_get_expr(p.polqual, p.polrelid) || ')', ''),
            coalesce(' WITH CHECK (' || pg_get_expr(p.polwithcheck, p.polrelid) || ')', '')),
        'COMMENT ON POLICY ' || format('%I ON %s IS %L', p.polname, t.qualified, d.description)]
    FROM t JOIN pg_policy p ON p.polrelid = t.oid
    LEFT JOIN pg_description d ON d.objoid = p.oid AND d.classoid = 'pg_policy'::regclass
"""
_STATISTICS = """
    SELECT 5, format('statistics object %I of %s', s.stxname, t.qualified), NULL, ARRAY[
        pg_get_statisticsobjdef(s.oid),
        CASE WHEN coalesce((to_jsonb(s) ->> 'stxstattarget')::int, -1) >= 0 THEN
            format('ALTER STATISTICS %I.%I SET STATISTICS %s', m.nspname, s.stxname,
                   to_jsonb(s) ->> 'stxstattarget') END,
        format('ALTER STATISTICS %I.%I OWNER TO %s', m.nspname, s.stxname, s.stxowner::regrole),
        format('COMMENT ON STATISTICS %I.%I IS %L', m.nspname, s.stxname, d.description)]
    FROM t JOIN pg_statistic_ext s ON s.stxrelid = t.oid
    JOIN pg_namespace m ON m.oid = s.stxnamespace
    LEFT JOIN pg_description d ON d.objoid = s.oid AND d.classoid = 'pg_statistic_ext'::regclass
"""
_TRIGGERS = """
    SELECT 6, format('trigger %I of %s', g.tgname, t.qualified), NULL, ARRAY[
        pg_get_triggerdef(g.oid),
        CASE WHEN g.tgenabled <> 'O' THEN format('ALTER TABLE %s %s TRIGGER %I', t.qualified,
            CASE g.tgenabled WHEN 'D' THEN 'DISABLE' WHEN 'R' THEN 'ENABLE REPLICA'
                             ELSE 'ENABLE ALWAYS' END, g.tgname) END,
        format('COMMENT ON TRIGGER %I ON %s IS %L', g.tgname, t.qualified, d.description)]
    FROM t JOIN pg_trigger g ON g.tgrelid = t.oid AND NOT g.tgisinternal
    LEFT JOIN pg_description d ON d.objoid = g.oid AND d.classoid = 'pg_trigger'::regclass
"""
_RULES = """
    SELECT 7, format('rule %I on %s', r.rulename, t.qualified), NULL, ARRAY[
        pg_get_ruledef(r.oid),
        CASE WHEN r.ev_enabled <> 'O' THEN format('ALTER TABLE %s %s RULE %I', t.qualified,
            CASE r.ev_enabled WHEN 'D' THEN 'DISABLE' WHEN 'R' THEN 'ENABLE REPLICA'
                              ELSE 'ENABLE ALWAYS' END, r.rulename) END,
        format('COMMENT ON RULE %I ON %s IS %L', r.rulename, t.qualified, d.description)]
    FROM t JOIN pg_rewrite r ON r.ev_class = t.oid AND r.rulename <> '_RETURN'
    LEFT JOIN pg_description d ON d.objoid = r.oid AND d.classoid = 'pg_rewrite'::regclass
"""
_FOREIGN_KEYS = """
    SELECT 8, format('foreign key %I of %I.%I to %s', k.conname, m.nspname, o.relname,
                     t.qualified),
        format('ALTER TABLE %I.%I DROP CONSTRAINT %I', m.nspname, o.relname, k.conname), ARRAY[
        format('ALTER TABLE %I.%I ADD CONSTRAINT %I %s', m.nspname, o.relname, k.conname,
               pg_get_constraintdef(k.oid)),
        format('COMMENT ON CONSTRAINT %I ON %I.%I IS %L', k.conname, m.nspname, o.relname,
               d.description)]
    FROM t JOIN pg_constraint k ON k.confrelid = t.oid AND k.contype = 'f' AND k.conparentid = 0
    JOIN pg_class o ON o.oid = k.conrelid JOIN pg_namespace m ON m.oid = o.relnamespace
    LEFT JOIN pg_description d ON d.objoid = k.oid AND d.classoid = 'pg_constraint'::regclass
    WHERE k.conrelid <> ALL(:oids)
"""
_LABELS = """
    SELECT 10, format('security label of %s', t.qualified), NULL, ARRAY[
        format('SECURITY LABEL FOR %I ON %s%s IS %L', l.provider,
               CASE WHEN l.objsubid <> 0 THEN 'COLUMN ' WHEN t.relkind = 'v' THEN 'VIEW '
                    WHEN t.relkind = 'm' THEN 'MATERIALIZED VIEW ' ELSE 'TABLE ' END,
               t.qualified || coalesce('.' || quote_ident(a.attname), ''), l.label)]
    FROM t JOIN pg_seclabel l ON l.objoid = t.oid AND l.classoid = 'pg_class'::regclass
    LEFT JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = l.objsubid AND l.objsubid <> 0
"""
# A row filter and a list of columns are known since PostgreSQL 15.
_PUBLICATIONS = """
    SELECT 9, format('membership of %s in publication %I', t.qualified, p.pubname), NULL, ARRAY[
        format('ALTER PUBLICATION %I ADD TABLE ONLY %s{detail}', p.pubname, t.qualified)]
    FROM t JOIN pg_publication_rel r ON r.prrelid = t.oid
    JOIN pg_publication p ON p.oid = r.prpubid
"""
_PUBLICATION_DETAIL = """%s%s', p.pubname, t.qualified,
        (SELECT ' (' || string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) || ')'
         FROM pg_attribute a WHERE a.attrelid = t.oid AND a.attnum = ANY(r.prattrs)),
        ' WHERE (' || pg_get_expr(r.prqual, r.prrelid) || ')')]"""
_PUBLICATION_FILTERS = 150_000

_PARTS = (
    *(_SETTINGS, _COLUMNS, _SECURITY, _POLICIES, _STATISTICS, _TRIGGERS, _RULES, _FOREIGN_KEYS),
    _LABELS,
)


def hanging(conn: sa.Connection, oids: Sequence[int]) -> tuple[Hanging, ...]:
    """Read what hangs on tables and views, in the order in which it can be put back."""
    if not oids:
        return ()
    version = int(conn.execute(sa.text("SHOW server_version_num")).scalar_one())
    parts = " UNION ALL ".join((*_PARTS, _publications(version)))
    found = conn.execute(sa.text(f"{_OF_TABLES} {parts} ORDER BY 1, 2"), {"oids": list(oids)})
    made = [Hanging(what, before, tuple(filter(None, after))) for _, what, before, after in found]
    return tuple(one for one in made if one.before or one.after)


def _publications(version: int) -> str:
    if version < _PUBLICATION_FILTERS:
        return _PUBLICATIONS.replace("{detail}", "")
    head, _, tail = _PUBLICATIONS.partition("{detail}', p.pubname, t.qualified)]")
    return head + _PUBLICATION_DETAIL + tail


def logged_as_made(things: Sequence[Hanging]) -> tuple[Hanging, ...]:
    """Leave out that an old table was unlogged."""
    return tuple(
        replace(one, after=tuple(text for text in one.after if not text.endswith(_UNLOGGED)))
        for one in things
    )


def take_off(conn: sa.Connection, things: Sequence[Hanging]) -> None:
    """Remove from other tables what would keep these from being dropped."""
    for thing in things:
        if thing.before:
            run(conn, thing.before)


def put_back(conn: sa.Connection, things: Sequence[Hanging]) -> None:
    """Make everything again over the new tables.

    Raises:
        ReplacementRefused: one of them cannot be; it is named.

    """
    for thing in things:
        for statement in thing.after:
            try:
                run(conn, statement)
            except KEPT_BACK as no:
                said = " ".join(str(no.orig).split())
                msg = f"the {thing.what} cannot be kept over the new table: {said}"
                raise ReplacementRefused(msg, objects=[thing.what]) from no
