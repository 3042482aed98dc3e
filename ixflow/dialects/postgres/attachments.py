"""What hangs on a table besides its rows: what can be kept, and what must be refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa

from ixflow.dialects.base import run
from ixflow.dialects.postgres.catalog import literal
from ixflow.errors import ReplacementRefused

if TYPE_CHECKING:
    from ixflow.dialects.postgres.views import DependentView

__all__ = ["Attachments", "attachments", "refuse_unkeepable", "restore"]

_KINDS = {"r": "TABLE", "p": "TABLE", "v": "VIEW", "m": "MATERIALIZED VIEW", "f": "FOREIGN TABLE"}


@dataclass(frozen=True, slots=True)
class Attachments:
    """Owner, grants and comments of one table or view.

    ``grants`` are (privilege, column or None, grantee, with grant option), all quoted, besides
    those of the owner.
    """

    kind: str
    owner: str
    grants: tuple[tuple[str, str | None, str, bool], ...]
    comments: tuple[tuple[str | None, str], ...]


# One question, since a chain of a thousand views asks it three thousand times.
_ATTACHMENTS = sa.text("""
    SELECT c.relkind::text, quote_ident(o.rolname),
        ARRAY(SELECT ARRAY[x.privilege_type, x.attname, CASE WHEN x.grantee = 0 THEN 'PUBLIC'
                           ELSE quote_ident(r.rolname) END, x.is_grantable::text]
              FROM (
                  SELECT (aclexplode(c.relacl)).*, NULL::text AS attname
                  UNION ALL
                  SELECT (aclexplode(a.attacl)).*, quote_ident(a.attname)
                  FROM pg_attribute a
                  WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
              ) x LEFT JOIN pg_roles r ON r.oid = x.grantee),
        ARRAY(SELECT ARRAY[quote_ident(a.attname), d.description]
              FROM pg_description d
              LEFT JOIN pg_attribute a
                ON a.attrelid = d.objoid AND a.attnum = d.objsubid AND d.objsubid > 0
              WHERE d.objoid = c.oid AND d.classoid = 'pg_class'::regclass)
    FROM pg_class c JOIN pg_roles o ON o.oid = c.relowner WHERE c.oid = :oid
""")


def attachments(conn: sa.Connection, oid: int) -> Attachments:
    """Note owner, grants and comments of a table or view."""
    kind, owner, granted, described = conn.execute(_ATTACHMENTS, {"oid": oid}).one()
    grants = [
        (privilege, column, grantee, grantable == "true")
        for privilege, column, grantee, grantable in granted
        if grantee != owner
    ]
    return Attachments(
        kind=_KINDS[kind],
        owner=owner,
        grants=tuple(grants),
        comments=tuple((column or None, text) for column, text in described),
    )


def restore(conn: sa.Connection, qualified: str, kept: Attachments) -> None:
    """Give a new table or view the owner, grants and comments that were noted.

    A comment that the new object already has stays; grants and comments of columns that are no
    longer there go.
    """
    query = sa.text("SELECT to_regclass(:name)::oid::bigint")
    oid = conn.execute(query, {"name": qualified}).scalar_one()
    present = attachments(conn, oid)
    named = bool(kept.grants or kept.comments)
    columns = _column_names(conn, qualified) if named else set()
    # The owner first: the grants are then the owner's, and one to the current role stays one.
    if present.owner != kept.owner:
        run(conn, f"ALTER {kept.kind} {qualified} OWNER TO {kept.owner}")
        present = attachments(conn, oid)
    _replace_grants(conn, qualified, present, kept, columns)
    has_comment = any(column is None for column, _ in present.comments)
    for column, text in kept.comments:
        if column is None and not has_comment:
            run(conn, f"COMMENT ON {kept.kind} {qualified} IS {literal(text)}")
        elif column in columns:
            run(conn, f"COMMENT ON COLUMN {qualified}.{column} IS {literal(text)}")


def _replace_grants(
    conn: sa.Connection,
    qualified: str,
    present: Attachments,
    kept: Attachments,
    columns: set[str],
) -> None:
    # Default privileges may have given the new table grants that the old one did not have.
    for grantee in sorted({grant[2] for grant in present.grants}):
        run(conn, f"REVOKE ALL ON TABLE {qualified} FROM {grantee}")
    for privilege, column, grantee, grantable in kept.grants:
        if column is not None and column not in columns:
            continue
        what = f"{privilege} ({column})" if column else privilege
        option = " WITH GRANT OPTION" if grantable else ""
        run(conn, f"GRANT {what} ON TABLE {qualified} TO {grantee}{option}")


def _column_names(conn: sa.Connection, qualified: str) -> set[str]:
    query = sa.text("""SELECT quote_ident(attname) FROM pg_attribute
                       WHERE attrelid = to_regclass(:name) AND attnum > 0 AND NOT attisdropped""")
    return set(conn.execute(query, {"name": qualified}).scalars())


# One line for everything that a new table would lose and that cannot be kept.
_UNKEEPABLE = sa.text("""
    SELECT format('partition %s of %s', i.inhrelid::regclass, i.inhparent::regclass)
    FROM pg_inherits i WHERE i.inhrelid = ANY(:tables) OR i.inhparent = ANY(:tables)
    UNION ALL
    SELECT format('replica identity of %s by an index', c.oid::regclass) FROM pg_class c
    WHERE c.oid = ANY(:tables) AND c.relreplident = 'i'
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
