"""Table stores."""

from __future__ import annotations

from ixflow.store.sql_store import SQLTableStore

__all__ = ["SQLTableStore"]
