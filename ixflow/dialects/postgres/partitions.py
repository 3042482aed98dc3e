"""Tables that are partitions of another by a list of values: looking, attaching, comparing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import sqlalchemy as sa

from ixflow.dialects.base import run
from ixflow.dialects.postgres import catalog
from ixflow.dialects.postgres.attachments import attachments, restore
from ixflow.dialects.postgres.views import dependent_views, recreate
from ixflow.values import TableName

if TYPE_CHECKING:
    from ixflow.dialects.base import Dialect

__all__ = [
    "attach",
    "content_hash",
    "copy_grants",
    "is_attached",
    "kind_of",
    "parent_of",
    "partition_of_value",
    "point_view",
    "view_source",
]

_KIND = sa.text("SELECT relkind::text FROM pg_class WHERE oid = to_regclass(:name)")
_PARENT = sa.text("""
    SELECT n.nspname, c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhparent
    JOIN pg_namespace n ON n.oid = c.relnamespace WHERE i.inhrelid = to_regclass(:name)
""")
_OF_VALUE = sa.text("""
    SELECT c.relname, n.nspname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE i.inhparent = to_regclass(:root)
      AND pg_get_expr(c.relpartbound, c.oid) = format('FOR VALUES IN (%L)', CAST(:value AS text))
""")
_VIEW_SOURCE = sa.text("""
    SELECT DISTINCT n.nspname, c.relname
    FROM pg_rewrite r JOIN pg_depend d ON d.objid = r.oid AND d.classid = 'pg_rewrite'::regclass
    JOIN pg_class c ON c.oid = d.refobjid AND d.refclassid = 'pg_class'::regclass
    JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE r.ev_class = to_regclass(:name) AND c.oid <> r.ev_class
""")


def kind_of(conn: sa.Connection, qualified: str) -> str | None:
    """Give what a quoted name is, as ``pg_class.relkind`` says it; None: nothing."""
    found = conn.execute(_KIND, {"name": qualified}).scalar()
    return None if found is None else str(found)


def parent_of(conn: sa.Connection, qualified: str) -> TableName | None:
    """Give the table of which a quoted name is a partition."""
    found = conn.execute(_PARENT, {"name": qualified}).first()
    return None if found is None else TableName(found[1], found[0])


def is_attached(conn: sa.Connection, qualified: str) -> bool:
    """Say whether a quoted name is a partition of another table."""
    return parent_of(conn, qualified) is not None


def partition_of_value(conn: sa.Connection, root: str, value: str) -> TableName | None:
    """Find the partition of a quoted root that holds exactly this value."""
    found = conn.execute(_OF_VALUE, {"root": root, "value": value}).first()
    return None if found is None else TableName(found[0], found[1])


def view_source(conn: sa.Connection, qualified: str) -> TableName | None:
    """Give the table that a view of one table shows; None if it is not such a view."""
    found = conn.execute(_VIEW_SOURCE, {"name": qualified}).all()
    return TableName(found[0][1], found[0][0]) if len(found) == 1 else None


def content_hash(
    conn: sa.Connection, dialect: Dialect, table: TableName, columns: Sequence[str]
) -> tuple[str, int]:
    """Hash the rows of a table on the server, whatever their order; give the hash and their number.

    Each row's text is hashed with MD5, and both halves of the hashes are added up: the same rows
    in another order give the same sum, and a row that is there twice counts twice.
    """
    for setting in ("TimeZone = 'UTC'", "DateStyle = 'ISO, YMD'", "IntervalStyle = 'iso_8601'"):
        run(conn, f"SET LOCAL {setting}")
    run(conn, "SET LOCAL extra_float_digits = 1; SET LOCAL bytea_output = 'hex'")
    row = ", ".join(dialect.quote(name) for name in columns)
    half = "sum((('x' || substr(h, {start}, 16))::bit(64)::bigint)::numeric)"
    first, second = (half.format(start=start) for start in (1, 17))
    count, *sums = run(
        conn,
        f"SELECT count(*), {first}, {second} FROM (SELECT md5(ROW({row})::text) AS h "
        f"FROM {dialect.qualified(table)}) hashed",
    ).one()
    words = [str(value) for value in sums] + list(columns)
    digest = conn.execute(sa.text("SELECT md5(:text)"), {"text": repr(words)}).scalar_one()
    return str(digest), int(count)


def copy_grants(
    conn: sa.Connection, dialect: Dialect, source: TableName, target: TableName
) -> None:
    """Give a table the SELECT grants of another relation, besides those it has."""
    oid = catalog.regclass(conn, dialect.qualified(source))
    found = None if oid is None else attachments(conn, oid)
    for grant in () if found is None else found.grants:
        theirs = found is not None and grant.grantee != found.owner
        if theirs and grant.privilege == "SELECT" and grant.column is None:
            option = " WITH GRANT OPTION" if grant.grantable else ""
            name = dialect.qualified(target)
            run(conn, f"GRANT SELECT ON TABLE {name} TO {grant.grantee}{option}")


def attach(
    conn: sa.Connection,
    dialect: Dialect,
    root: TableName,
    partition: TableName,
    *,
    column: str,
    value: str,
) -> None:
    """Make a table a partition of the root, which is made or given columns if need be.

    A column that only the root has is added to the partition, empty. Types must agree.
    """
    mine = {c.name: c for c in dialect.read_columns(conn, partition)}
    theirs = {c.name: c for c in dialect.read_columns(conn, root)}
    if not theirs:
        described = ", ".join(f"{dialect.quote(c.name)} {c.sql_type}" for c in mine.values())
        key = dialect.quote(column)
        run(conn, f"CREATE TABLE {dialect.qualified(root)} ({described}) PARTITION BY LIST ({key})")
        theirs = mine
    for place, have, want in ((root, theirs, mine), (partition, mine, theirs)):
        for new in (c for name, c in want.items() if name not in have):
            item = f"{dialect.quote(new.name)} {new.sql_type}"
            run(conn, f"ALTER TABLE {dialect.qualified(place)} ADD COLUMN {item}")
    run(
        conn,
        f"ALTER TABLE {dialect.qualified(root)} ATTACH PARTITION {dialect.qualified(partition)} "
        f"FOR VALUES IN ({catalog.literal(value)})",
    )


def point_view(
    conn: sa.Connection,
    dialect: Dialect,
    view: TableName,
    table: TableName,
    columns: Sequence[str],
) -> None:
    """Let a view show these columns of a table; what it had besides, and views over it, stay."""
    qualified = dialect.qualified(view)
    oid = catalog.regclass(conn, qualified)
    names = dialect.column_list(columns)
    query = f"SELECT {names} FROM {dialect.qualified(table)}"
    if oid is None:
        run(conn, f"CREATE VIEW {qualified} AS {query}")
        return
    kept, above = attachments(conn, oid), dependent_views(conn, [oid])
    for other in reversed(above):
        run(conn, f"DROP {other.kind} {other.qualified}")
    run(conn, f"DROP VIEW {qualified}")
    run(conn, f"CREATE VIEW {qualified} AS {query}")
    restore(conn, qualified, kept)
    recreate(conn, above)
