"""Publishing on DuckDB, which can neither rename a schema nor move a table to another.

The tables stay in the transaction schema they were written to; the published schema holds one
view a table, and publishing points the views at the new tables. All of it is one transaction, and
no row is copied. A table that no view shows any more is dropped with the swap.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import sqlalchemy as sa

from ixflow.dialects.base import run
from ixflow.errors import ReplacementRefused
from ixflow.values import TableName

if TYPE_CHECKING:
    from ixflow.dialects.duckdb import DuckDBDialect

__all__ = ["drop_schema", "publish"]

_VIEWS = sa.text("""
    SELECT schema_name, view_name, sql, comment FROM duckdb_views()
    WHERE database_name = current_database() AND NOT internal
""")
_SCHEMAS = sa.text("""
    SELECT schema_name FROM duckdb_schemas()
    WHERE database_name = current_database() AND NOT internal
""")
_TABLES = sa.text("""
    SELECT table_name FROM duckdb_tables()
    WHERE database_name = current_database() AND schema_name = :schema
""")


def publish(
    dialect: DuckDBDialect,
    conn: sa.Connection,
    transaction: str,
    schema: str,
    tables: Sequence[str],
    drops: Sequence[str],
) -> None:
    """Point the views at the new tables, and drop the tables that were behind them."""
    dialect.create_schema(conn, schema)
    in_the_way = sorted(set(conn.execute(_TABLES, {"schema": schema}).scalars()) & {*tables})
    if in_the_way:
        msg = f"{schema} holds tables that ixflow did not publish: {in_the_way}; rename them first"
        raise ReplacementRefused(msg, objects=in_the_way)
    views = {name: (sql, comment) for place, name, sql, comment in conn.execute(_VIEWS)
             if place == schema}
    for name in tables:
        view = dialect.qualified(TableName(name, schema))
        table = dialect.qualified(TableName(name, transaction))
        run(conn, f"CREATE OR REPLACE VIEW {view} AS SELECT * FROM {table}")
        comment = views.get(name, (None, None))[1]
        if comment is not None:
            literal = comment.replace("'", "''")
            run(conn, f"COMMENT ON VIEW {view} IS '{literal}'")
    for name in drops:
        run(conn, f"DROP VIEW IF EXISTS {dialect.qualified(TableName(name, schema))}")
    replaced = {name: views[name][0] for name in [*tables, *drops] if name in views}
    for old in _schemas_behind(conn, replaced, schema) - {transaction}:
        drop_published_from(dialect, conn, old, list(replaced))


def _schemas_behind(conn: sa.Connection, views: dict[str, str], schema: str) -> set[str]:
    """Name the transaction schemas that the old definitions of the views read from."""
    known = [name for name in conn.execute(_SCHEMAS).scalars() if name != schema]
    return {name for name in known for sql in views.values() if name in sql}


def drop_published_from(
    dialect: DuckDBDialect, conn: sa.Connection, schema: str, names: Sequence[str]
) -> None:
    """Drop these tables of a transaction schema unless a view still shows them."""
    shown = _shown(conn, schema)
    present = set(conn.execute(_TABLES, {"schema": schema}).scalars())
    for name in sorted((present & set(names)) - shown):
        dialect.drop_table(conn, TableName(name, schema))
    if not set(conn.execute(_TABLES, {"schema": schema}).scalars()):
        run(conn, f"DROP SCHEMA {dialect.quote(schema)}")


def drop_schema(dialect: DuckDBDialect, conn: sa.Connection, schema: str) -> None:
    """Drop a transaction schema with the tables in it that no view shows."""
    if schema in set(conn.execute(_SCHEMAS).scalars()):
        drop_published_from(dialect, conn, schema, dialect.tables_in(conn, schema))


def _shown(conn: sa.Connection, schema: str) -> set[str]:
    return {name for _, name, sql, _ in conn.execute(_VIEWS) if schema in sql}
