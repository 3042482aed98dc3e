"""Asking PostgreSQL whether a table, a view or an attached partition is there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ixflow.dialects import dialect_of
from ixflow.dialects.postgres import partitions
from ixflow.errors import UnsupportedDatabase
from ixflow.values import TableName

if TYPE_CHECKING:
    import sqlalchemy as sa

__all__ = ["partition_attached", "table_exists", "view_exists"]


def table_exists(conn: sa.Connection, schema_name: str, table_name: str) -> bool:
    """Say whether there is a table, ordinary or partitioned, of exactly this name.

    Raises:
        UnsupportedDatabase: the connection is not to PostgreSQL.

    """
    return partitions.kind_of(conn, _qualified(conn, schema_name, table_name)) in ("r", "p")


def view_exists(conn: sa.Connection, schema_name: str, view_name: str) -> bool:
    """Say whether there is a view, not a materialized one, of exactly this name.

    Raises:
        UnsupportedDatabase: the connection is not to PostgreSQL.

    """
    return partitions.kind_of(conn, _qualified(conn, schema_name, view_name)) == "v"


def partition_attached(conn: sa.Connection, schema_name: str, partition_name: str) -> bool:
    """Say whether a table of exactly this name is a partition of another.

    Raises:
        UnsupportedDatabase: the connection is not to PostgreSQL.

    """
    return partitions.is_attached(conn, _qualified(conn, schema_name, partition_name))


def _qualified(conn: sa.Connection, schema: str, name: str) -> str:
    if conn.dialect.name != "postgresql":
        msg = f"this asks PostgreSQL, and the connection is to {conn.dialect.name}"
        raise UnsupportedDatabase(msg, database=conn.dialect.name)
    return dialect_of(conn).qualified(TableName(name, schema))
