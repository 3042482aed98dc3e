"""SQLAlchemy tables as the database understands them.

Whether a declared table equals the live one is decided by the database itself: a temporary table
is made from the declaration, its catalogue entry is read in the same words as the live table's,
and it is dropped again. So ``FLOAT``, ``DECIMAL``, generic types and expression indexes compare
as what they become, never as how they are spelled.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.schema import CreateIndex

from ixflow.dialects import dialect_of, run
from ixflow.tables.definition import TableDefinition
from ixflow.values import TableName

__all__ = ["create", "create_indexes", "definition", "name_of", "would_be"]


def name_of(table: sa.Table) -> TableName:
    """Give the name of a SQLAlchemy table."""
    return TableName(str(table.name), table.schema)


def definition(conn: sa.Connection, table: TableName) -> TableDefinition:
    """Read the definition of a live table.

    Raises:
        TableNotFound: it does not exist.

    """
    dialect = dialect_of(conn)
    return TableDefinition(dialect.columns(conn, table), dialect.indexes(conn, table))


def would_be(conn: sa.Connection, table: sa.Table) -> TableDefinition:
    """Find out what the database would make of a declared table, and leave no trace."""
    dialect = dialect_of(conn)
    probe = f"_ixflow_probe_{uuid.uuid4().hex[:16]}"
    made = _copy(table, TableName(probe), prefixes=["TEMPORARY"])
    made.create(conn, checkfirst=False)
    create_indexes(conn, made, table)
    place = TableName(probe, dialect.temporary_schema)
    found = definition(conn, place)
    run(conn, f"DROP TABLE {dialect.qualified(place)}")
    return found


def create(conn: sa.Connection, table: sa.Table, name: TableName, *, key: bool = True) -> sa.Table:
    """Create a declared table under some name, without its indexes; return it under that name.

    ``key=False`` leaves the primary key out, for adding it after the rows.
    """
    dialect_of(conn).create_schema(conn, name.schema) if name.schema is not None else None
    made = _copy(table, name, key=key)
    made.create(conn, checkfirst=False)
    return _copy(table, name)


def create_indexes(
    conn: sa.Connection, made: sa.Table, declared: sa.Table, *, final: bool = False
) -> list[tuple[str, str]]:
    """Create the declared indexes on a table made from the declaration.

    Returns pairs (name now, declared name); the same where ``final``.
    """
    names = []
    copies = _indexes(made, declared)
    for index, original in copies:
        wanted = str(original.name)
        index.name = wanted if final else f"_tmp_{uuid.uuid4().hex}"
        conn.execute(CreateIndex(index))
        names.append((str(index.name), wanted))
    return names


def _copy(
    table: sa.Table,
    name: TableName,
    *,
    key: bool = True,
    prefixes: Sequence[str] = (),
) -> sa.Table:
    copy = table.to_metadata(sa.MetaData(), schema=name.schema, name=name.name)
    copy._prefixes = list(prefixes)  # noqa: SLF001 - to_metadata has no argument for prefixes
    copy.indexes.clear()
    for constraint in list(copy.constraints):
        if isinstance(constraint, sa.ForeignKeyConstraint):
            copy.constraints.remove(constraint)
        elif isinstance(constraint, sa.PrimaryKeyConstraint):
            constraint.name = None
    if not key:
        copy.primary_key.ddl_if(callable_=lambda *_, **__: False)
    return copy


def _indexes(made: sa.Table, declared: sa.Table) -> list[tuple[sa.Index, sa.Index]]:
    copy = declared.to_metadata(sa.MetaData(), schema=made.schema, name=made.name)
    by_name = {str(index.name): index for index in copy.indexes}
    originals = sorted(declared.indexes, key=lambda index: str(index.name))
    # to_metadata renames indexes made by index=True after the new table's name.
    rest = sorted(set(by_name) - {str(i.name) for i in originals})
    pairs = []
    for original in originals:
        found = by_name.get(str(original.name)) or by_name[rest.pop(0)]
        pairs.append((found, original))
    return pairs
