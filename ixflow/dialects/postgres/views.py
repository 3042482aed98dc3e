"""The views that depend on tables, to any depth: what they are, and how to make them again.

Views can refer to each other in a circle (`CREATE OR REPLACE VIEW` allows it, selecting from them
does not work). Such views are replaced by empty ones of the same columns before they are dropped,
and made from empty ones, so that each finds the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from ixflow.dialects.base import run
from ixflow.dialects.postgres.attachments import Attachments, attachments, restore
from ixflow.errors import ReplacementRefused

__all__ = ["DependentView", "break_circles", "dependent_views", "recreate"]


@dataclass(frozen=True, slots=True)
class DependentView:
    """A view or materialized view, with all that is needed to make it again."""

    oid: int
    qualified: str
    materialized: bool
    definition: str
    options: str
    populated: bool
    afterwards: tuple[str, ...]
    """Statements that make its indexes, their comments, and the defaults of its columns."""
    attachments: Attachments
    empty: str
    """A query of the same columns without rows."""
    circular: bool

    @property
    def kind(self) -> str:
        """The words after CREATE and DROP."""
        return "MATERIALIZED VIEW" if self.materialized else "VIEW"


_EDGES = sa.text("""
    WITH RECURSIVE edges AS (
        SELECT DISTINCT d.refobjid AS below, r.ev_class AS above
        FROM pg_depend d JOIN pg_rewrite r ON r.oid = d.objid
        WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass
          AND r.ev_class <> d.refobjid
    ), reached AS (
        SELECT below, above FROM edges WHERE below = ANY(:oids)
        UNION
        SELECT e.below, e.above FROM edges e JOIN reached r ON e.below = r.above
    )
    SELECT below, above FROM reached
""")

_VIEW = sa.text("""
    SELECT c.relkind = 'm', pg_get_viewdef(c.oid),
           coalesce(array_to_string(c.reloptions, ', '), ''), c.relispopulated,
           ARRAY(SELECT statement FROM (
               SELECT 1 AS turn, i.indexrelid AS place, pg_get_indexdef(i.indexrelid) AS statement
               FROM pg_index i WHERE i.indrelid = c.oid
               UNION ALL
               SELECT 2, i.indexrelid, format('COMMENT ON INDEX %s IS %L',
                                              i.indexrelid::regclass, d.description)
               FROM pg_index i JOIN pg_description d
                 ON d.objoid = i.indexrelid AND d.classoid = 'pg_class'::regclass
               WHERE i.indrelid = c.oid
               UNION ALL
               SELECT 3, i.indexrelid, format('ALTER MATERIALIZED VIEW %s CLUSTER ON %I',
                                              c.oid::regclass, x.relname)
               FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid
               WHERE i.indrelid = c.oid AND i.indisclustered
               UNION ALL
               SELECT 4, a.adnum, format('ALTER VIEW %s ALTER COLUMN %I SET DEFAULT %s',
                                         c.oid::regclass, n.attname,
                                         pg_get_expr(a.adbin, a.adrelid))
               FROM pg_attrdef a
               JOIN pg_attribute n ON n.attrelid = a.adrelid AND n.attnum = a.adnum
               WHERE a.adrelid = c.oid
               UNION ALL
               SELECT 5, i.indexrelid, format('ALTER INDEX %s ALTER COLUMN %s SET STATISTICS %s',
                                              i.indexrelid::regclass, x.attnum, x.attstattarget)
               FROM pg_index i JOIN pg_attribute x ON x.attrelid = i.indexrelid
               WHERE i.indrelid = c.oid AND coalesce(x.attstattarget, -1) >= 0
               UNION ALL
               SELECT 6, i.indexrelid, format('ALTER INDEX %s SET TABLESPACE %I',
                                              i.indexrelid::regclass, p.spcname)
               FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid
               JOIN pg_tablespace p ON p.oid = x.reltablespace
               WHERE i.indrelid = c.oid
           ) s ORDER BY turn, place),
           format('%I.%I', n.nspname, c.relname),
           (SELECT string_agg(format('NULL::%s%s AS %I', format_type(a.atttypid, a.atttypmod),
                coalesce((SELECT format(' COLLATE %I.%I', m.nspname, l.collname)
                          FROM pg_collation l JOIN pg_namespace m ON m.oid = l.collnamespace
                          JOIN pg_type y ON y.oid = a.atttypid
                          WHERE l.oid = a.attcollation AND a.attcollation <> y.typcollation), ''),
                a.attname), ', ' ORDER BY a.attnum)
            FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped)
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = :oid
""")


def dependent_views(conn: sa.Connection, oids: Sequence[int]) -> tuple[DependentView, ...]:
    """Find every view over these tables, each after the views it is made from."""
    if not oids:
        return ()
    edges = [(below, above) for below, above in conn.execute(_EDGES, {"oids": list(oids)})]
    below_of: dict[int, set[int]] = {}
    for below, above in edges:
        below_of.setdefault(above, set()).add(below)
    order, circular = _in_order(below_of)
    return tuple(_view(conn, oid, circular=oid in circular) for oid in order)


def _in_order(below_of: dict[int, set[int]]) -> tuple[list[int], set[int]]:
    """Put each view after those it is made from; give those apart that are in a circle.

    >>> _in_order({3: {2, 9}, 2: {1}})
    ([2, 3], set())
    >>> _in_order({1: {2, 9}, 2: {1}, 3: {1}})
    ([1, 2, 3], {1, 2})
    """
    order: list[int] = []
    circular: set[int] = set()
    waiting = dict(below_of)
    while waiting:
        ready = sorted(oid for oid, below in waiting.items() if not below & waiting.keys())
        if not ready:
            ready = _circle(waiting)
            circular.update(ready)
        order += ready
        for oid in ready:
            del waiting[oid]
    return order, circular


def _circle(waiting: dict[int, set[int]]) -> list[int]:
    """Find views in a circle among views that all wait for another one."""
    path = [min(waiting)]
    while path[-1] not in path[:-1]:
        path.append(min(waiting[path[-1]] & waiting.keys()))
    return sorted(set(path[path.index(path[-1]) :]))


def _view(conn: sa.Connection, oid: int, *, circular: bool) -> DependentView:
    row = conn.execute(_VIEW, {"oid": oid}).one()
    materialized, definition, options, populated, afterwards, qualified, columns = row
    if circular and materialized:
        msg = f"the materialized view {qualified} is in a circle of views, which cannot be kept"
        raise ReplacementRefused(msg, objects=[qualified])
    return DependentView(
        oid=oid,
        qualified=qualified,
        materialized=materialized,
        definition=definition.rstrip().rstrip(";"),
        options=f" WITH ({options})" if options else "",
        populated=populated,
        afterwards=tuple(afterwards),
        attachments=attachments(conn, oid),
        empty=f"SELECT {columns or ''} WHERE false",
        circular=circular,
    )


def recreate(conn: sa.Connection, views: Sequence[DependentView]) -> None:
    """Make the views again, each with its owner, grants, comments, options and indexes.

    Raises:
        ReplacementRefused: a view cannot be made over the new tables.

    """
    circular = [view for view in views if view.circular]
    for view in circular:
        run(conn, f"CREATE VIEW {view.qualified} AS {view.empty}")
    for view in views:
        if not view.circular:
            _create(conn, view, "CREATE")
    for view in circular:
        _create(conn, view, "CREATE OR REPLACE")
    for view in views:
        for statement in view.afterwards:
            run(conn, statement)
        restore(conn, view.qualified, view.attachments)


def _create(conn: sa.Connection, view: DependentView, create: str) -> None:
    data = "" if not view.materialized or view.populated else " WITH NO DATA"
    what = f"{view.kind} {view.qualified}{view.options} AS {view.definition}{data}"
    try:
        run(conn, f"{create} {what}")
    except sa.exc.ProgrammingError as error:
        msg = f"the view {view.qualified} cannot be kept over the new table: {error.orig}"
        raise ReplacementRefused(msg, view=view.qualified) from error


def break_circles(conn: sa.Connection, views: Sequence[DependentView]) -> None:
    """Let views in a circle refer to nothing, so that they can be locked and dropped."""
    for view in views:
        if view.circular:
            run(conn, f"CREATE OR REPLACE VIEW {view.qualified} AS {view.empty}")
