"""What SQL Server's catalogue says: which table a name means, its columns, its statistics.

A name is resolved by the server itself (``OBJECT_ID``), so one without a schema means the table
that the user's queries would read; that it is spelled exactly so is compared here, because most
servers do not care about capitals. Only views that every user may read are asked.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import sqlalchemy as sa

from ixflow.dialects.facts import SourceFacts
from ixflow.dialects.queries import named_once
from ixflow.dialects.sqlserver.types import ENCRYPTED, arrow_type
from ixflow.errors import ValidationError
from ixflow.values import Column, TableName

__all__ = [
    "Found",
    "Isolation",
    "describe",
    "find",
    "read_columns",
    "read_comment",
    "read_facts",
    "read_isolation",
    "tables_in",
]

_TABLE = sa.text("""
    SELECT SCHEMA_NAME(o.schema_id), o.name, t.is_external, t.is_memory_optimized
    FROM sys.objects AS o LEFT JOIN sys.tables AS t ON t.object_id = o.object_id
    WHERE o.object_id = OBJECT_ID(:name) AND o.type IN ('U', 'V')
""")
_COLUMNS = sa.text("""
    SELECT c.name,
        CASE WHEN t.is_assembly_type = 1 AND t.is_user_defined = 1 THEN 'clr'
            ELSE COALESCE(b.name, t.name) END,
        c.max_length, c.[precision], c.scale, c.is_nullable, c.encryption_type
    FROM sys.columns AS c
    JOIN sys.types AS t ON t.user_type_id = c.user_type_id
    LEFT JOIN sys.types AS b ON b.user_type_id = c.system_type_id AND t.is_assembly_type = 0
    WHERE c.object_id = OBJECT_ID(:name) AND c.is_hidden = 0
    ORDER BY c.column_id
""")
_KEY = sa.text("""
    SELECT c.name, k.key_ordinal
    FROM sys.indexes AS i
    JOIN sys.index_columns AS k ON k.object_id = i.object_id AND k.index_id = i.index_id
    JOIN sys.columns AS c ON c.object_id = k.object_id AND c.column_id = k.column_id
    WHERE i.object_id = OBJECT_ID(:name) AND i.is_primary_key = 1 AND k.key_ordinal > 0
""")
_ROWS = sa.text("""
    SELECT SUM(p.rows) FROM sys.partitions AS p
    WHERE p.object_id = OBJECT_ID(:name) AND p.index_id IN (0, 1)
""")
_PAGES = sa.text("""
    SELECT SUM(a.used_pages)
    FROM sys.partitions AS p
    JOIN sys.allocation_units AS a ON (a.type IN (1, 3) AND a.container_id = p.hobt_id)
        OR (a.type = 2 AND a.container_id = p.partition_id)
    WHERE p.object_id = OBJECT_ID(:name) AND p.index_id IN (0, 1)
""")
_PAGE_BYTES = 8192
# Who may not look at others' sessions sees one: his own.
_CONNECTIONS = sa.text("""
    SELECT @@MAX_CONNECTIONS, CASE WHEN HAS_PERMS_BY_NAME(NULL, NULL, 'VIEW SERVER STATE') = 1
        OR HAS_PERMS_BY_NAME(NULL, NULL, 'VIEW SERVER PERFORMANCE STATE') = 1
        THEN (SELECT COUNT(*) FROM sys.dm_exec_sessions WHERE is_user_process = 1) ELSE -1 END
""")
_COMMENT = sa.text("""
    SELECT CONVERT(nvarchar(max), e.value) FROM sys.extended_properties AS e
    WHERE e.class = 1 AND e.major_id = OBJECT_ID(:name) AND e.minor_id = 0
        AND e.name = 'MS_Description'
""")
_QUERY = sa.text("""
    SELECT d.name, d.system_type_name, d.is_nullable, d.error_message
    FROM sys.dm_exec_describe_first_result_set(:query, NULL, 0) AS d
    WHERE d.is_hidden = 0 OR d.error_message IS NOT NULL
    ORDER BY d.column_ordinal
""")
_TABLES = sa.text("""
    SELECT o.name FROM sys.objects AS o
    WHERE o.schema_id = SCHEMA_ID(:schema) AND o.type IN ('U', 'V') ORDER BY o.name
""")
# By its name: in Azure the numbers that DB_ID() gives are not those of sys.databases.
_ISOLATION = sa.text("""
    SELECT d.snapshot_isolation_state, d.is_read_only, d.source_database_id,
        CONVERT(nvarchar(20), DATABASEPROPERTYEX(d.name, 'Updateability'))
    FROM sys.databases AS d WHERE d.name = DB_NAME()
""")
_ON = 1

_IN_CHARACTERS = ("char", "varchar", "binary", "varbinary")
_IN_PAIRS = ("nchar", "nvarchar")
_SCALED = ("time", "datetime2", "datetimeoffset")


@dataclass(frozen=True, slots=True)
class Found:
    """A table or view that is there; ``held`` is False where no snapshot holds its rows still."""

    held: bool


@dataclass(frozen=True, slots=True)
class Isolation:
    """How still the database can be held.

    ``allowed``: ALLOW_SNAPSHOT_ISOLATION is on. ``replica``: a secondary, which reads every
    transaction in a snapshot. ``frozen``: a read-only database or a database snapshot, which
    nobody changes.
    """

    allowed: bool = False
    replica: bool = False
    frozen: bool = False

    @property
    def holds(self) -> bool:
        """Say whether one transaction reads one moment."""
        return self.allowed or self.replica or self.frozen


def find(conn: sa.Connection, table: TableName, quoted: str) -> Found | None:
    """Look for the table that the server takes the name for, spelled exactly like it."""
    row = conn.execute(_TABLE, {"name": quoted}).first()
    if row is None:
        return None
    schema, name, external, in_memory = row
    if name != table.name or table.schema not in (None, schema):
        return None
    return Found(held=not external and not in_memory)


def read_columns(conn: sa.Connection, quoted: str) -> tuple[Column, ...]:
    """Read the columns that ``SELECT *`` has, in order, with the types that they are stored as."""
    key = {str(name): int(place) for name, place in conn.execute(_KEY, {"name": quoted})}
    found = []
    for name, base, size, precision, scale, nullable, encrypted in conn.execute(
        _COLUMNS, {"name": quoted}
    ):
        sql_type = _declared(str(base), int(size), int(precision), int(scale))
        if encrypted is not None:
            sql_type += ENCRYPTED
        type_, as_text = arrow_type(sql_type)
        found.append(Column(name, sql_type, type_, bool(nullable), as_text, key.get(name)))
    return tuple(found)


def _declared(base: str, size: int, precision: int, scale: int) -> str:
    if base in _IN_CHARACTERS or base in _IN_PAIRS:
        length = size // 2 if base in _IN_PAIRS else size
        return f"{base}({'max' if size < 0 else length})"
    if base in ("decimal", "numeric"):
        return f"{base}({precision},{scale})"
    return f"{base}({scale})" if base in _SCALED else base


def read_facts(conn: sa.Connection, quoted: str) -> SourceFacts:
    """Read the statistics; what is not known, or not for this user, is -1."""
    place = {"name": quoted}
    rows = conn.execute(_ROWS, place).scalar()
    pages = conn.execute(_PAGES, place).scalar()
    most, active = -1, -1
    # Nobody is refused an extraction because he may not count the others.
    with contextlib.suppress(sa.exc.DBAPIError):
        most, active = conn.execute(_CONNECTIONS).one()
    return SourceFacts(
        rows=-1 if rows is None else int(rows),
        size_bytes=int(pages or 0) * _PAGE_BYTES,
        max_connections=int(most),
        active_connections=int(active),
    )


def describe(conn: sa.Connection, query: str) -> tuple[Column, ...]:
    """Read the columns of a query that is not run.

    Raises:
        ValidationError: the server refuses it, or its columns cannot be told apart.

    """
    found = []
    for name, sql_type, nullable, error in conn.execute(_QUERY, {"query": query}):
        if error is not None:
            msg = f"the query cannot be used: {error}"
            raise ValidationError(msg, argument="query")
        # A type of the user's own in .NET has no other name.
        declared = "clr" if sql_type is None else str(sql_type)
        type_, as_text = arrow_type(declared)
        found.append(Column(name or "", declared, type_, nullable is not False, as_text))
    named_once([column.name for column in found])
    return tuple(found)


def read_comment(conn: sa.Connection, quoted: str) -> str | None:
    """Read the description that Microsoft's tools show."""
    found = conn.execute(_COMMENT, {"name": quoted}).scalar()
    return None if found is None else str(found)


def tables_in(conn: sa.Connection, schema: str) -> tuple[str, ...]:
    """List the names of tables and views of a schema."""
    return tuple(conn.execute(_TABLES, {"schema": schema}).scalars())


def read_isolation(conn: sa.Connection) -> Isolation:
    """Ask how still the current database can be held."""
    row = conn.execute(_ISOLATION).first()
    if row is None:
        return Isolation()
    state, read_only, snapshot_of, updates = row
    frozen = bool(read_only) or snapshot_of is not None
    return Isolation(int(state) == _ON, not frozen and updates == "READ_ONLY", frozen)
