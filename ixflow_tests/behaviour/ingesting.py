"""What the tests of `ingest` share: small tables, and looking at them from outside."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from ixflow.dialects import dialect_of, run
from ixflow.ingestion.ingest import ingest
from ixflow.ingestion.options import IngestResult
from ixflow.tables.declared import name_of
from ixflow.values import TableName

__all__ = ["batches", "comment", "ingested", "oid", "people", "relations", "rows"]


def people(*more: Any, key: bool = True, schema: str | None = "app", **options: Any) -> sa.Table:
    """Declare a table of its own metadata: id, name, and what else is given."""
    return sa.Table(
        "people",
        sa.MetaData(),
        sa.Column("id", sa.INTEGER, primary_key=key, autoincrement=False),
        sa.Column("name", sa.VARCHAR),
        *more,
        schema=schema,
        **options,
    )


def batches(table: sa.Table, *batch_rows: Any, first: int = 1):
    """Make a batches function that yields these lists of rows, with watermarks 1, 2, ..."""

    def found(high_watermark: Any):
        for number, some in enumerate(batch_rows, start=first):
            yield number, f"batch {number}", ((table, row) for row in some)

    return found


def ingested(engine: sa.Engine, table: sa.Table, *batch_rows: Any, **options: Any) -> IngestResult:
    """Ingest lists of rows, a batch each."""
    with engine.connect() as conn:
        return ingest(conn, table.metadata, batches(table, *batch_rows), **options)


def rows(engine: sa.Engine, table: sa.Table | TableName) -> list[tuple[Any, ...]]:
    """Read a table on a connection of its own, sorted."""
    name = name_of(table) if isinstance(table, sa.Table) else table
    with engine.connect() as conn:
        found = run(conn, f"SELECT * FROM {dialect_of(conn).qualified(name)}").all()
    return sorted((tuple(row) for row in found), key=repr)


def comment(engine: sa.Engine, table: sa.Table) -> str | None:
    """Read the comment of a table."""
    with engine.connect() as conn:
        return dialect_of(conn).comment(conn, name_of(table))


def oid(engine: sa.Engine, table: sa.Table) -> int | None:
    """Give the identity of a table: the same as long as it was not made anew."""
    name = name_of(table)
    query = {
        "postgresql": "SELECT to_regclass(:whole)::oid::bigint",
        "duckdb": "SELECT table_oid FROM duckdb_tables() "
        "WHERE schema_name = :schema AND table_name = :table",
    }[engine.dialect.name]
    with engine.connect() as conn:
        whole = dialect_of(conn).qualified(name)
        given = {"whole": whole, "schema": name.schema, "table": name.name}
        used = {k: v for k, v in given.items() if f":{k}" in query}
        return conn.execute(sa.text(query), used).scalar()


def relations(engine: sa.Engine) -> set[str]:
    """Name every table, view, index and sequence that is not the database's own."""
    query = {
        "postgresql": """
            SELECT n.nspname || '.' || c.relname FROM pg_class c
            JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')""",
        "duckdb": """
            SELECT schema_name || '.' || table_name FROM duckdb_tables() UNION ALL
            SELECT schema_name || '.' || view_name FROM duckdb_views() WHERE NOT internal UNION ALL
            SELECT schema_name || '.' || index_name FROM duckdb_indexes()""",
    }[engine.dialect.name]
    with engine.connect() as conn:
        return set(run(conn, query).scalars())
