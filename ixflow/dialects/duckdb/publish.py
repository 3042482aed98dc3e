"""Publishing on DuckDB, which can neither rename a schema nor move a table to another.

The tables stay in the transaction schema they were written to; the published schema holds one
view a table, and publishing points the views at the new tables. All of it is one transaction, and
no row is copied. A table that no view shows any more is dropped with the swap.

DuckDB compares names without regard to case, and so does everything here: names are folded.

The views of the published schema carry a mark (an alias of the table), so that what somebody else
put there is never taken for ours: neither overwritten, nor the table behind it dropped.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import sqlalchemy as sa

from ixflow.dialects.base import run
from ixflow.errors import ReplacementRefused
from ixflow.values import TableName

if TYPE_CHECKING:
    from ixflow.dialects.duckdb.dialect import DuckDBDialect

__all__ = ["drop_schema", "publish"]

_VIEWS = sa.text("""
    SELECT schema_name, view_name, sql, comment FROM duckdb_views()
    WHERE database_name = current_database() AND NOT internal
""")
_PART = r'"(?:[^"]|"")+"|[^".\s]+'
_OURS = re.compile(
    rf"AS SELECT \* FROM (?P<schema>{_PART})\.(?P<table>{_PART}) AS ixflow_published;?\s*$"
)
_TABLES = sa.text("""
    SELECT table_name FROM duckdb_tables()
    WHERE database_name = current_database() AND lower(schema_name) = lower(:schema)
""")
_NAMING = sa.text("""
    SELECT 1 FROM duckdb_tables()
    WHERE database_name = current_database() AND contains(lower(sql), :schema) LIMIT 1
""")


def publish(
    dialect: DuckDBDialect,
    conn: sa.Connection,
    moves: Sequence[tuple[TableName, TableName]],
    drops: Sequence[TableName],
    aside: Mapping[TableName, TableName],
    *,
    keeps_schemas: bool,
) -> None:
    """Point the views at the new tables, and drop the tables that no view shows any more.

    A table that is set aside gets a view there, so that it stays. What is new may be such a view:
    then the table that it shows is published, and the view goes.
    """
    behind = _shown(conn)
    comments = {
        _folded(place, name): text
        for place, name, _, text in conn.execute(_VIEWS)
        if text is not None
    }
    places = [*(place for _, place in moves), *drops]
    _refuse_what_is_not_ours(conn, places, set(behind))
    statements = []
    for old, place in aside.items():
        if _key(old) in behind:
            statements.append(_show(dialect, place, behind[_key(old)]))
    for new, place in moves:
        statements.append(_show(dialect, place, behind.get(_key(new), new)))
        if comment := comments.get(_key(place)):
            literal = comment.replace("'", "''")
            statements.append(f"COMMENT ON VIEW {dialect.qualified(place)} IS '{literal}'")
    gone = [*drops, *(new for new, _ in moves if _key(new) in behind)]
    statements += [f"DROP VIEW IF EXISTS {dialect.qualified(view)}" for view in gone]
    _run_all(conn, statements)
    before = {behind[_key(place)] for place in places if _key(place) in behind}
    _drop_unshown(dialect, conn, before, keeps_schemas=keeps_schemas)


def _show(dialect: DuckDBDialect, view: TableName, table: TableName) -> str:
    what = f"SELECT * FROM {dialect.qualified(table)} AS ixflow_published"
    return f"CREATE OR REPLACE VIEW {dialect.qualified(view)} AS {what}"


def _run_all(conn: sa.Connection, statements: Sequence[str]) -> None:
    """Run statements at once, which takes a fifth of the time of one after the other."""
    if statements:
        run(conn, ";\n".join(statements))


def _refuse_what_is_not_ours(
    conn: sa.Connection, places: Sequence[TableName], ours: set[tuple[str, str]]
) -> None:
    schemas = sorted({str(place.schema) for place in places})
    present = [(s, n) for s in schemas for n in conn.execute(_TABLES, {"schema": s}).scalars()]
    present += [(schema, name) for schema, name, _, _ in conn.execute(_VIEWS)]
    wanted = {_key(place) for place in places} - ours
    in_the_way = sorted(name for schema, name in present if _folded(schema, name) in wanted)
    if in_the_way:
        msg = (
            f"{', '.join(schemas)} holds tables or views that ixflow did not publish: "
            f"{in_the_way}; rename them first"
        )
        raise ReplacementRefused(msg, objects=in_the_way)


def _shown(conn: sa.Connection) -> dict[tuple[str, str], TableName]:
    """Map each view that ixflow published to the table it shows."""
    found = {}
    for schema, name, sql, _ in conn.execute(_VIEWS):
        match = _OURS.search(sql)
        if match is not None:
            found[_folded(schema, name)] = TableName(
                _plain(match["table"]), _plain(match["schema"])
            )
    return found


def _folded(schema: str, name: str) -> tuple[str, str]:
    return schema.lower(), name.lower()


def _key(table: TableName) -> tuple[str, str]:
    return _folded(str(table.schema), table.name)


def _plain(part: str) -> str:
    return part[1:-1].replace('""', '"') if part.startswith('"') else part


def _drop_unshown(
    dialect: DuckDBDialect, conn: sa.Connection, tables: set[TableName], *, keeps_schemas: bool
) -> None:
    """Drop the tables that no view of ours shows, and the schemas that are empty then."""
    shown = {_key(table) for table in _shown(conn).values()}
    gone = (table for table in sorted(tables) if _key(table) not in shown)
    _run_all(conn, [f"DROP TABLE {dialect.qualified(table)}" for table in gone])
    for schema in sorted({str(table.schema) for table in tables}):
        if not keeps_schemas and not dialect.tables_in(conn, schema):
            _drop_emptied(dialect, conn, schema)


def _drop_emptied(dialect: DuckDBDialect, conn: sa.Connection, schema: str) -> None:
    """Drop a schema without tables, with the types, sequences and macros that a script left there.

    It stays if a table elsewhere names it in a default: that table would be dropped along.
    """
    if conn.execute(_NAMING, {"schema": schema.lower()}).first() is None:
        run(conn, f"DROP SCHEMA IF EXISTS {dialect.quote(schema)} CASCADE")


def drop_schema(
    dialect: DuckDBDialect, conn: sa.Connection, schema: str, prefix: str | None
) -> None:
    """Drop a transaction schema with its views and the tables in it that no view shows."""
    begins = (prefix or "").lower()
    tables = set()
    for (place, name), table in _shown(conn).items():
        if place == schema.lower() and name.startswith(begins):
            run(conn, f"DROP VIEW {dialect.qualified(TableName(name, schema))}")
            tables.add(table)
    names = conn.execute(_TABLES, {"schema": schema}).scalars().all()
    tables |= {TableName(name, schema) for name in names if name.lower().startswith(begins)}
    _drop_unshown(dialect, conn, tables, keeps_schemas=prefix is not None)
    if prefix is None and not dialect.tables_in(conn, schema):
        _drop_emptied(dialect, conn, schema)
