"""Questions to DuckDB's catalogue."""

from __future__ import annotations

import sqlalchemy as sa

__all__ = ["COLUMNS", "COMMENT", "INDEXES", "KEY", "ROW_ESTIMATE", "TABLES"]

# Temporary tables live in a database of their own. DuckDB compares names without regard to case.
_HERE = """
    database_name = CASE WHEN lower(:schema) = 'temp' THEN 'temp' ELSE current_database() END
    AND lower(schema_name) = CASE WHEN lower(:schema) = 'temp' THEN 'main'
                                  ELSE lower(coalesce(:schema, current_schema())) END
"""
COLUMNS = sa.text(f"""
    SELECT column_name, data_type, is_nullable FROM duckdb_columns()
    WHERE {_HERE} AND lower(table_name) = lower(:name) ORDER BY column_index
""")
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
