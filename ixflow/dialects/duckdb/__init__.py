"""DuckDB: one file, one process at a time."""

from __future__ import annotations

from ixflow.dialects.duckdb.dialect import DuckDBDialect

__all__ = ["DuckDBDialect"]
