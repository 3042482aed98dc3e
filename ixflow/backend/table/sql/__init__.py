"""What the SQL table store takes besides frames and queries."""

from __future__ import annotations

from ixflow.pipeline.containers import ExternalTableReference
from ixflow.store.sql_store import SQLTableStore

__all__ = ["ExternalTableReference", "SQLTableStore"]
