"""SQLite: declared types and dynamic values."""

from __future__ import annotations

from ixflow.dialects.sqlite.dialect import SQLiteDialect

__all__ = ["SQLiteDialect"]
