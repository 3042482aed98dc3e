"""Questions to DuckDB's catalogue."""

from __future__ import annotations

import sqlalchemy as sa

from ixflow.dialects.base import run

__all__ = ["COMMENT", "INDEXES", "KEY", "ROW_ESTIMATE", "TABLES", "table_info"]

# Temporary tables live in a database of their own. DuckDB compares names without regard to case.
_HERE = """
    database_name = CASE WHEN lower(:schema) = 'temp' THEN 'temp' ELSE current_database() END
    AND lower(schema_name) = CASE WHEN lower(:schema) = 'temp' THEN 'main'
                                  ELSE lower(coalesce(:schema, current_schema())) END
"""
KEY = sa.text(f"""
    SELECT constraint_column_names FROM duckdb_constraints()
    WHERE {_HERE} AND lower(table_name) = lower(:name) AND constraint_type = 'PRIMARY KEY'
""")
INDEXES = sa.text(f"""
    SELECT CASE WHEN is_unique THEN 'UNIQUE ' ELSE '' END || expressions FROM duckdb_indexes()
    WHERE {_HERE} AND lower(table_name) = lower(:name) AND NOT is_primary
    UNION ALL
    SELECT 'UNIQUE [' || array_to_string(constraint_column_names, ', ') || ']'
    FROM duckdb_constraints()
    WHERE {_HERE} AND lower(table_name) = lower(:name) AND constraint_type = 'UNIQUE'
""")
ROW_ESTIMATE = sa.text(f"""
    SELECT estimated_size FROM duckdb_tables() WHERE {_HERE} AND lower(table_name) = lower(:name)
""")
COMMENT = sa.text(f"""
    SELECT comment FROM duckdb_tables() WHERE {_HERE} AND lower(table_name) = lower(:name)
    UNION ALL
    SELECT comment FROM duckdb_views() WHERE {_HERE} AND lower(view_name) = lower(:name)
""")
TABLES = sa.text(f"""
    SELECT table_name FROM duckdb_tables() WHERE {_HERE}
    UNION ALL SELECT view_name FROM duckdb_views() WHERE {_HERE} ORDER BY 1
""")


def table_info(conn: sa.Connection, qualified: str) -> list[tuple[str, str, bool, bool]]:
    """Give name, type, whether it may be NULL, and whether it is in the key, of each column.

    None if there is no such table. The catalogue's own function for columns looks at those of all
    tables, which takes ten times as long in a database of a hundred.
    """
    import duckdb

    try:
        # pragma_table_info would lose quotes that are within a name.
        found = run(conn, f"DESCRIBE {qualified}").all()
        return [(name, type_, null == "YES", key == "PRI") for name, type_, null, key, *_ in found]
    except sa.exc.ProgrammingError as error:
        if isinstance(error.orig, duckdb.CatalogException):
            return []
        raise
