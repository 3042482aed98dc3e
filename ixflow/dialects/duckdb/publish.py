"""Publishing on DuckDB, which can neither rename a schema nor move a table to another.

The tables stay in the transaction schema they were written to; the published schema holds one
view a table, and publishing points the views at the new tables. All of it is one transaction, and
no row is copied. A table that no view shows any more is dropped with the swap.

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
    WHERE database_name = current_database() AND schema_name = :schema
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
    comments = {name: text for place, name, _, text in conn.execute(_VIEWS) if place == schema}
    _refuse_what_is_not_ours(conn, schema, {*tables, *drops}, set(behind))
    for name in tables:
        view = dialect.qualified(TableName(name, schema))
        table = dialect.qualified(TableName(name, transaction))
        run(conn, f"CREATE OR REPLACE VIEW {view} AS SELECT * FROM {table} AS ixflow_published")
        if comments.get(name) is not None:
            literal = comments[name].replace("'", "''")
            run(conn, f"COMMENT ON VIEW {view} IS '{literal}'")
    for name in drops:
        run(conn, f"DROP VIEW IF EXISTS {dialect.qualified(TableName(name, schema))}")
    old = {behind[schema, name] for name in [*tables, *drops] if (schema, name) in behind}
    _drop_unshown(dialect, conn, old)


def _refuse_what_is_not_ours(
    conn: sa.Connection, schema: str, names: set[str], ours: set[tuple[str, str]]
) -> None:
    present = set(conn.execute(_TABLES, {"schema": schema}).scalars())
    present |= {name for place, name, _, _ in conn.execute(_VIEWS) if place == schema}
    in_the_way = sorted(name for name in present & names if (schema, name) not in ours)
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
            found[schema, name] = TableName(_plain(match["table"]), _plain(match["schema"]))
    return found


def _plain(part: str) -> str:
    return part[1:-1].replace('""', '"') if part.startswith('"') else part


def _drop_unshown(dialect: DuckDBDialect, conn: sa.Connection, tables: set[TableName]) -> None:
    """Drop the tables that no published view shows, and the schemas that are empty then."""
    for table in sorted(tables - set(_shown(conn).values())):
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
