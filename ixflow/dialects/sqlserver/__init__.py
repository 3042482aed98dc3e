"""SQL Server as a source: facts, type map, and a reader in one snapshot."""

from __future__ import annotations

from ixflow.dialects.sqlserver.dialect import SQLServerDialect

__all__ = ["SQLServerDialect"]
