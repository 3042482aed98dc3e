"""PostgreSQL: facts and statements, its type map, binary COPY both ways, the reader, the swap."""

from __future__ import annotations

from ixflow.dialects.postgres.dialect import PostgresDialect

__all__ = ["PostgresDialect"]
