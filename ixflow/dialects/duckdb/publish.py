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
from collections.abc import Sequence
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


def publish(
    dialect: DuckDBDialect,
    conn: sa.Connection,
    *,
    transaction: str,
    schema: str,
    tables: Sequence[str],
    drops: Sequence[str],
) -> None:
    """Point the views at the new tables, and drop the tables that were behind them."""
    dialect.create_schema(conn, schema)
    behind = _shown(conn)
    comments = {
        _folded(place, name): text
        for place, name, _, text in conn.execute(_VIEWS)
        if text is not None
    }
    _refuse_what_is_not_ours(conn, schema, {*tables, *drops}, set(behind))
    for name in tables:
        view = dialect.qualified(TableName(name, schema))
        table = dialect.qualified(TableName(name, transaction))
        run(conn, f"CREATE OR REPLACE VIEW {view} AS SELECT * FROM {table} AS ixflow_published")
        if comment := comments.get(_folded(schema, name)):
            literal = comment.replace("'", "''")
            run(conn, f"COMMENT ON VIEW {view} IS '{literal}'")
    for name in drops:
        run(conn, f"DROP VIEW IF EXISTS {dialect.qualified(TableName(name, schema))}")
    places = [_folded(schema, name) for name in [*tables, *drops]]
    _drop_unshown(dialect, conn, {behind[place] for place in places if place in behind})


def _refuse_what_is_not_ours(
    conn: sa.Connection, schema: str, names: set[str], ours: set[tuple[str, str]]
) -> None:
    present = set(conn.execute(_TABLES, {"schema": schema}).scalars())
    views = [(place, name) for place, name, _, _ in conn.execute(_VIEWS)]
    present |= {name for place, name in views if place.lower() == schema.lower()}
    wanted = {name.lower() for name in names}
    in_the_way = sorted(
        name for name in present if name.lower() in wanted and _folded(schema, name) not in ours
    )
    if in_the_way:
        msg = (
            f"{schema} holds tables or views that ixflow did not publish: {in_the_way}; "
            f"rename them first"
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


def _plain(part: str) -> str:
    return part[1:-1].replace('""', '"') if part.startswith('"') else part


def _drop_unshown(dialect: DuckDBDialect, conn: sa.Connection, tables: set[TableName]) -> None:
    """Drop the tables that no published view shows, and the schemas that are empty then."""
    shown = {_folded(str(table.schema), table.name) for table in _shown(conn).values()}
    for table in sorted(tables):
        if _folded(str(table.schema), table.name) not in shown:
            dialect.drop_table(conn, table)
    for schema in sorted({str(table.schema) for table in tables}):
        if not dialect.tables_in(conn, schema):
            run(conn, f"DROP SCHEMA {dialect.quote(schema)}")


def drop_schema(dialect: DuckDBDialect, conn: sa.Connection, schema: str) -> None:
    """Drop a transaction schema with the tables in it that no view shows."""
    names = list(conn.execute(_TABLES, {"schema": schema}).scalars())
    _drop_unshown(dialect, conn, {TableName(name, schema) for name in names})
    if not names and not dialect.tables_in(conn, schema):
        run(conn, f"DROP SCHEMA IF EXISTS {dialect.quote(schema)}")
