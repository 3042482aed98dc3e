"""A stand-in for SQL Server: its wire protocol (TDS 7.4) in front of DuckDB.

It lets Microsoft's own driver run for real: login, statements, parameters, every type on the wire,
errors, lost connections. T-SQL is translated by sqlglot, and the catalogue views that ixflow asks
are there. It does not prove that SQL Server accepts a statement, nor locking, TLS or speed.
"""

from __future__ import annotations

from ixflow_tests.tds.process import PASSWORD, USER, TDSServer

__all__ = ["PASSWORD", "USER", "TDSServer"]
