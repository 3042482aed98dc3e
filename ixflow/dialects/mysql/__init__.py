"""MySQL and MariaDB as a source: facts, type map, and a reader in one snapshot."""

from __future__ import annotations

from ixflow.dialects.mysql.dialect import MySQLDialect

__all__ = ["MySQLDialect"]
