"""What hangs on a table besides its rows: what can be kept, and what must be refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa

from ixflow.dialects.base import run
from ixflow.dialects.postgres.catalog import literal
from ixflow.dialects.postgres.grants import Grant, check_regranted, regrant
from ixflow.errors import ReplacementRefused

if TYPE_CHECKING:
    from ixflow.dialects.postgres.views import DependentView

__all__ = ["Attachments", "attachments", "attachments_of", "refuse_unkeepable", "restore"]

_KINDS = {"r": "TABLE", "p": "TABLE", "v": "VIEW", "m": "MATERIALIZED VIEW", "f": "FOREIGN TABLE"}


@dataclass(frozen=True, slots=True)
class Attachments:
    """Owner, grants and comments of one table or view.

    ``grants`` are those of the owner too; the default ones where none were ever given.
    """

    kind: str
    owner: str
    grants: tuple[Grant, ...]
    comments: tuple[tuple[str | None, str], ...]


# One question, since a chain of a thousand views asks it three thousand times.
_ATTACHMENTS = sa.text("""
    SELECT c.oid::bigint, c.relkind::text, quote_ident(o.rolname),
        ARRAY(SELECT ARRAY[x.privilege_type, x.attname, CASE WHEN x.grantee = 0 THEN 'PUBLIC'
                           ELSE quote_ident(r.rolname) END, x.is_grantable::text,
                           quote_ident(g.rolname)]
              FROM (
                  SELECT (aclexplode(coalesce(c.relacl, acldefault('r', c.relowner)))).*,
                         NULL::text AS attname
                  UNION ALL
                  SELECT (aclexplode(a.attacl)).*, quote_ident(a.attname)
                  FROM pg_attribute a
                  WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
              ) x LEFT JOIN pg_roles r ON r.oid = x.grantee
              LEFT JOIN pg_roles g ON g.oid = x.grantor),
        ARRAY(SELECT ARRAY[quote_ident(a.attname), d.description]
              FROM pg_description d
              LEFT JOIN pg_attribute a
                ON a.attrelid = d.objoid AND a.attnum = d.objsubid AND d.objsubid > 0
              WHERE d.objoid = c.oid AND d.classoid = 'pg_class'::regclass)
    FROM pg_class c JOIN pg_roles o ON o.oid = c.relowner WHERE c.oid = ANY (CAST(:oids AS oid[]))
""")


def attachments(conn: sa.Connection, oid: int) -> Attachments:
    """Note owner, grants and comments of a table or view."""
    return attachments_of(conn, [oid])[oid]


def attachments_of(conn: sa.Connection, oids: Sequence[int]) -> dict[int, Attachments]:
    """Note owner, grants and comments of several tables or views, by oid."""
    if not oids:
        return {}
    return {
        oid: Attachments(
            kind=_KINDS[kind],
            owner=owner,
            grants=tuple(
                Grant(privilege, column, grantee, grantable == "true", grantor)
                for privilege, column, grantee, grantable, grantor in granted
            ),
            comments=tuple((column or None, text) for column, text in described),
        )
        for oid, kind, owner, granted, described in conn.execute(_ATTACHMENTS, {"oids": list(oids)})
    }


def restore(
    conn: sa.Connection, qualified: str, kept: Attachments, present: Attachments | None = None
) -> None:
    """Give a new table or view the owner, grants and comments that were noted.

    A comment that the new object already has stays; grants and comments of columns that are no
    longer there go. ``present`` is what it has, where that is known.
    """
    if kept == present:
        return
    query = sa.text("SELECT to_regclass(:name)::oid::bigint")
    oid = conn.execute(query, {"name": qualified}).scalar_one()
    present = attachments(conn, oid)
    # The owner first: the grants are then the owner's, and one to the current role stays one.
    if present.owner != kept.owner:
        run(conn, f"ALTER {kept.kind} {qualified} OWNER TO {kept.owner}")
        present = attachments(conn, oid)
    about_columns = any(grant.column for grant in kept.grants) or kept.comments
    columns = _column_names(conn, qualified) if about_columns else set()
    wanted = [g for g in kept.grants if g.column is None or g.column in columns]
    what = f"TABLE {qualified}"
    if regrant(conn, what, kept.owner, present.grants, wanted):
        check_regranted(what, attachments(conn, oid).grants, wanted)
    has_comment = any(column is None for column, _ in present.comments)
    for column, text in kept.comments:
        if column is None and not has_comment:
            run(conn, f"COMMENT ON {kept.kind} {qualified} IS {literal(text)}")
        elif column in columns:
            run(conn, f"COMMENT ON COLUMN {qualified}.{column} IS {literal(text)}")


def _column_names(conn: sa.Connection, qualified: str) -> set[str]:
    query = sa.text("""SELECT quote_ident(attname) FROM pg_attribute
                       WHERE attrelid = to_regclass(:name) AND attnum > 0 AND NOT attisdropped""")
    return set(conn.execute(query, {"name": qualified}).scalars())


# One line for everything that a new table would lose and that cannot be kept.
_UNKEEPABLE = sa.text("""
    SELECT format('partition %s of %s', i.inhrelid::regclass, i.inhparent::regclass)
    FROM pg_inherits i WHERE i.inhrelid = ANY(:tables) OR i.inhparent = ANY(:tables)
    UNION ALL
    SELECT format('subscription of %s to another server', s.srrelid::regclass)
    FROM pg_subscription_rel s WHERE s.srrelid = ANY(:tables)
    UNION ALL
    SELECT format('dependence of %s on extension %I', pg_describe_object(d.classid, d.objid, 0),
                  e.extname)
    FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
    LEFT JOIN pg_index i ON d.classid = 'pg_class'::regclass AND i.indexrelid = d.objid
    LEFT JOIN pg_trigger g ON d.classid = 'pg_trigger'::regclass AND g.oid = d.objid
    LEFT JOIN pg_class v ON d.classid = 'pg_class'::regclass AND v.oid = d.objid
    WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'x'
      AND coalesce(i.indrelid, g.tgrelid, v.oid) = ANY(:all)
    UNION ALL
    SELECT format('disabled triggers of foreign key %I of %s', k.conname, k.conrelid::regclass)
    FROM pg_constraint k WHERE k.contype = 'f' AND k.confrelid = ANY(:tables) AND EXISTS (
        SELECT FROM pg_trigger g WHERE g.tgconstraint = k.oid AND g.tgenabled <> 'O')
    UNION ALL
    SELECT format('function %s over %s', p.oid::regprocedure, coalesce(c.oid, t.typrelid)::regclass)
    FROM pg_depend d JOIN pg_proc p ON d.classid = 'pg_proc'::regclass AND p.oid = d.objid
    LEFT JOIN pg_class c ON d.refclassid = 'pg_class'::regclass AND c.oid = d.refobjid
    LEFT JOIN pg_type t ON d.refclassid = 'pg_type'::regclass
      AND (t.oid = d.refobjid OR t.typarray = d.refobjid)
    WHERE coalesce(c.oid, t.typrelid) = ANY(:all)
""")


def refuse_unkeepable(
    conn: sa.Connection, tables: Sequence[int], views: Sequence[DependentView]
) -> None:
    """Refuse, by name, to replace tables on which something hangs that would be lost.

    Raises:
        ReplacementRefused: with the list in ``objects``; nothing was touched.

    """
    everything = [*tables, *(view.oid for view in views)]
    found = conn.execute(_UNKEEPABLE, {"tables": list(tables), "all": everything}).scalars()
    objects = sorted(set(found))
    if objects:
        msg = (
            f"the table is not replaced, because this would be lost with it: {'; '.join(objects)}; "
            f"drop or move these first"
        )
        raise ReplacementRefused(msg, objects=objects)
