"""The table stores that are each for one database."""

from __future__ import annotations

from ixflow.store.dialect_stores import (
    DuckDBTableStore,
    IBMDB2TableStore,
    MSSqlTableStore,
    PostgresTableStore,
)

__all__ = ["DuckDBTableStore", "IBMDB2TableStore", "MSSqlTableStore", "PostgresTableStore"]
