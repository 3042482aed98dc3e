"""The views that depend on tables, to any depth: what they are, and how to make them again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from ixflow.dialects.base import run
from ixflow.dialects.postgres.attachments import Attachments, attachments, restore
from ixflow.errors import ReplacementRefused

__all__ = ["DependentView", "dependent_views", "recreate"]


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
           ) s ORDER BY turn, place),
           format('%I.%I', n.nspname, c.relname)
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
    return tuple(_view(conn, oid) for oid in _in_order(below_of))


def _in_order(below_of: dict[int, set[int]]) -> list[int]:
    order: list[int] = []
    waiting = dict(below_of)
    while waiting:
        ready = [oid for oid, below in waiting.items() if not below & waiting.keys()]
        if not ready:
            msg = "views that depend on the table refer to each other in a circle"
            raise ReplacementRefused(msg, views=sorted(waiting))
        order += sorted(ready)
        for oid in ready:
            del waiting[oid]
    return order


def _view(conn: sa.Connection, oid: int) -> DependentView:
    row = conn.execute(_VIEW, {"oid": oid}).one()
    materialized, definition, options, populated, afterwards, qualified = row
    return DependentView(
        oid=oid,
        qualified=qualified,
        materialized=materialized,
        definition=definition.rstrip().rstrip(";"),
        options=f" WITH ({options})" if options else "",
        populated=populated,
        afterwards=tuple(afterwards),
        attachments=attachments(conn, oid),
    )


def recreate(conn: sa.Connection, views: Sequence[DependentView]) -> None:
    """Make the views again, each with its owner, grants, comments, options and indexes.

    Raises:
        ReplacementRefused: a view cannot be made over the new tables.

    """
    for view in views:
        data = "" if not view.materialized or view.populated else " WITH NO DATA"
        create = f"CREATE {view.kind} {view.qualified}{view.options} AS {view.definition}{data}"
        try:
            run(conn, create)
        except sa.exc.ProgrammingError as error:
            msg = f"the view {view.qualified} cannot be kept over the new table: {error.orig}"
            raise ReplacementRefused(msg, view=view.qualified) from error
        for statement in view.afterwards:
            run(conn, statement)
        restore(conn, view.qualified, view.attachments)
