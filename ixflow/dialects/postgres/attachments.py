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


_OWNER = sa.text("""
    SELECT c.relkind::text, quote_ident(r.rolname)
    FROM pg_class c JOIN pg_roles r ON r.oid = c.relowner WHERE c.oid = :oid
""")
_GRANTS = sa.text("""
    SELECT x.privilege_type, x.attname, CASE WHEN x.grantee = 0 THEN 'PUBLIC'
           ELSE quote_ident(r.rolname) END, x.is_grantable
    FROM (
        SELECT (aclexplode(c.relacl)).*, NULL::text AS attname FROM pg_class c WHERE c.oid = :oid
        UNION ALL
        SELECT (aclexplode(a.attacl)).*, quote_ident(a.attname)
        FROM pg_attribute a WHERE a.attrelid = :oid AND a.attnum > 0 AND NOT a.attisdropped
    ) x LEFT JOIN pg_roles r ON r.oid = x.grantee
""")
_COMMENTS = sa.text("""
    SELECT quote_ident(a.attname), d.description
    FROM pg_description d
    LEFT JOIN pg_attribute a ON a.attrelid = d.objoid AND a.attnum = d.objsubid AND d.objsubid > 0
    WHERE d.objoid = :oid AND d.classoid = 'pg_class'::regclass
""")


def attachments(conn: sa.Connection, oid: int) -> Attachments:
    """Note owner, grants and comments of a table or view."""
    kind, owner = conn.execute(_OWNER, {"oid": oid}).one()
    grants = [
        (privilege, column, grantee, bool(grantable))
        for privilege, column, grantee, grantable in conn.execute(_GRANTS, {"oid": oid})
        if grantee != owner
    ]
    comments = [(column or None, text) for column, text in conn.execute(_COMMENTS, {"oid": oid})]
    return Attachments(
        kind=_KINDS[kind],
        owner=owner,
        grants=tuple(grants),
        comments=tuple(comments),
    )


def restore(conn: sa.Connection, qualified: str, kept: Attachments) -> None:
    """Give a new table or view the owner, grants and comments that were noted.

    A comment that the new object already has stays; grants and comments of columns that are no
    longer there go.
    """
    query = sa.text("SELECT to_regclass(:name)::oid::bigint")
    present = attachments(conn, conn.execute(query, {"name": qualified}).scalar_one())
    columns = _column_names(conn, qualified)
    # The owner first: the grants are then the owner's, and one to the current role stays one.
    if present.owner != kept.owner:
        run(conn, f"ALTER {kept.kind} {qualified} OWNER TO {kept.owner}")
    _replace_grants(conn, qualified, kept, columns)
    has_comment = any(column is None for column, _ in present.comments)
    for column, text in kept.comments:
        if column is None and not has_comment:
            run(conn, f"COMMENT ON {kept.kind} {qualified} IS {literal(text)}")
        elif column in columns:
            run(conn, f"COMMENT ON COLUMN {qualified}.{column} IS {literal(text)}")


def _replace_grants(
    conn: sa.Connection, qualified: str, kept: Attachments, columns: set[str]
) -> None:
    # Default privileges may have given the new table grants that the old one did not have.
    query = sa.text("SELECT to_regclass(:name)::oid::bigint")
    present = attachments(conn, conn.execute(query, {"name": qualified}).scalar_one())
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
