"""What the tables of versions are called: readable, of a length that fits, never two alike."""

from __future__ import annotations

import hashlib
import re
from typing import Any

import sqlalchemy as sa

from ixflow.dialects.postgres import PostgresDialect
from ixflow.values import TableName

__all__ = ["fitting", "partition_names", "partition_table"]

_PLAIN = re.compile(r"[A-Za-z0-9_-]{1,40}")


def partition_names(base: str, version: str) -> tuple[str, str]:
    """Name a version's partition, readably and so that different versions never share a name.

    >>> partition_names("orders", "2024-11-01")
    ('orders__20241101', 'orders__20241101_4e9480a2')
    """
    readable = re.sub(r"[^A-Za-z0-9_]+", "_", version.replace("-", ""))[:40]
    digest = hashlib.sha256(version.encode()).hexdigest()[:8]
    certain = fitting(f"{base}__{readable}_{digest}")
    plain = fitting(f"{base}__{readable}")
    return (plain if _PLAIN.fullmatch(version) else certain), certain


def fitting(name: str) -> str:
    """Shorten a name that PostgreSQL would cut, with a hash so that two stay two."""
    longest = PostgresDialect.max_identifier
    if len(name.encode()) <= longest:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:12]
    return f"{name.encode()[: longest - 13].decode(errors='ignore')}_{digest}"


def partition_table(base: sa.Table, name: TableName, column: str) -> sa.Table:
    """Declare the table of a version: the dataset's columns and key, and the version's column."""
    schema: Any = name.schema  # None: the default schema, which the stubs do not know
    table = base.to_metadata(sa.MetaData(), schema=schema, name=name.name)
    table.comment = None
    for made, declared in zip(table.columns, base.columns, strict=True):
        # to_metadata moves types to the table's schema; an enum stays where it was declared.
        if isinstance(made.type, sa.Enum) and isinstance(declared.type, sa.Enum):
            made.type.schema = declared.type.schema
    for index in table.indexes:
        index.name = sa.sql.quoted_name(fitting(f"{name.name}_{index.name}"), quote=None)
    for constraint in table.constraints:
        constraint.name = None
    table.append_column(sa.Column(column, sa.VARCHAR, nullable=False))
    return table
