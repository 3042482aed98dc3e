"""SQLAlchemy tables as the database understands them.

Whether a declared table equals the live one is decided by the database itself: a temporary table
is made from the declaration, its catalogue entry is read in the same words as the live table's,
and it is dropped again. So ``FLOAT``, ``DECIMAL``, generic types and expression indexes compare
as what they become, never as how they are spelled.
"""

from __future__ import annotations

import dataclasses
import functools
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.schema import CreateIndex

from ixflow.dialects import dialect_named, dialect_of, run
from ixflow.tables.definition import TableDefinition
from ixflow.values import Column, TableName

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "add_unique",
    "binders",
    "constraint_names",
    "create",
    "create_indexes",
    "definition",
    "identity_options",
    "name_of",
    "prefixes_of",
    "sqlalchemy_type",
    "stored",
    "would_be",
]


# Enumerations and sequences may be there already; the table has a name of its own. SQLAlchemy 2.0
# asks for all of them.
_CHECK: Any = getattr(sa.schema, "CheckFirst", None)
_CHECK = True if _CHECK is None else _CHECK.TYPES | _CHECK.SEQUENCES


def name_of(table: sa.Table) -> TableName:
    """Give the name of a SQLAlchemy table."""
    return TableName(str(table.name), table.schema)


def prefixes_of(table: sa.Table) -> tuple[str, ...]:
    """Give the words between CREATE and TABLE, in capitals.

    >>> prefixes_of(sa.Table("t", sa.MetaData(), prefixes=["unlogged"]))
    ('UNLOGGED',)
    """
    return tuple(str(word).strip().upper() for word in table._prefixes)  # noqa: SLF001 - no other


def sqlalchemy_type(type_: pa.DataType) -> sa.types.TypeEngine[Any]:
    """Give the column type, of whatever database, that holds every value of an Arrow type.

    It is written in the words of the dialect that compiles it.

    >>> import pyarrow as pa
    >>> from sqlalchemy.dialects import postgresql
    >>> sqlalchemy_type(pa.decimal128(12, 2)).compile(dialect=postgresql.dialect())
    'numeric(12,2)'
    """
    return _ArrowType(type_)


def binders(table: sa.Table, dialect: sa.Dialect) -> dict[str, Callable[[Any], Any]]:
    """Give what the types of some columns do with a value before it is written.

    These are the types of users (TypeDecorator) and enumerations; what SQLAlchemy does for the
    driver's sake is not wanted, since values do not go through the driver.
    """
    found: dict[str, Callable[[Any], Any]] = {}
    for column in table.columns:
        type_ = column.type
        if isinstance(type_, sa.TypeDecorator) and _decorates(type_):
            found[column.name] = functools.partial(_decorated, type_, dialect)
        elif isinstance(type_, sa.Enum):
            bind: Any = type_.bind_processor
            found[column.name] = bind(dialect) or _same
    return found


def _same(value: Any) -> Any:
    return value


def _decorates(type_: sa.TypeDecorator[Any]) -> bool:
    """Say whether it changes values itself; SQLAlchemy's own decorators do it for the driver."""
    return type(type_).process_bind_param is not sa.TypeDecorator.process_bind_param


def _decorated(type_: sa.TypeDecorator[Any], dialect: sa.Dialect, value: Any) -> Any:
    return type_.process_bind_param(value, dialect)


class _ArrowType(sa.types.UserDefinedType[Any]):
    """A column type named by an Arrow type."""

    cache_ok = True

    def __init__(self, arrow: pa.DataType) -> None:
        self.arrow = arrow


@compiles(_ArrowType)
def _compiled(type_: _ArrowType, compiler: Any, **_: Any) -> str:
    return dialect_named(compiler.dialect.name).sql_type(type_.arrow)


def stored(table: sa.Table, columns: Sequence[Column]) -> tuple[Column, ...]:
    """Leave out the columns that the database computes: rows have no values for them."""
    computed = {column.name for column in table.columns if column.computed is not None}
    return tuple(column for column in columns if column.name not in computed)


def definition(conn: sa.Connection, table: TableName) -> TableDefinition:
    """Read the definition of a live table.

    Raises:
        TableNotFound: it does not exist.

    """
    dialect = dialect_of(conn)
    details = dialect.column_details(conn, table)
    return TableDefinition(dialect.columns(conn, table), dialect.indexes(conn, table), details)


def would_be(conn: sa.Connection, table: sa.Table) -> TableDefinition:
    """Find out what the database would make of a declared table, and leave no trace."""
    dialect = dialect_of(conn)
    probe = f"_ixflow_probe_{uuid.uuid4().hex[:16]}"
    made = _copy(table, TableName(probe), prefixes=["TEMPORARY"])
    made.create(conn, checkfirst=_CHECK)
    create_indexes(conn, made, table)
    place = TableName(probe, dialect.temporary_schema)
    found = definition(conn, place)
    run(conn, f"DROP TABLE {dialect.qualified(place)}")
    return dataclasses.replace(found, details=_declared_details(table, found.details))


def _declared_details(
    table: sa.Table, details: Mapping[str, Mapping[str, str]]
) -> dict[str, dict[str, str]]:
    """Keep what the declaration is about: options of an identity that it does not name are not."""
    options = identity_options(table)
    return {
        column: {
            what: text
            for what, text in texts.items()
            if what in ("collation", "computed value", *(options.get(column) or ()))
            or (what == "identity" and table.columns[column].identity is not None)
        }
        for column, texts in details.items()
    }


def identity_options(table: sa.Table) -> dict[str, dict[str, int | bool]]:
    """Give the options that the identities of a table's columns name, by column.

    >>> key = sa.Column("id", sa.Integer, sa.Identity(start=7, cycle=False))
    >>> identity_options(sa.Table("t", sa.MetaData(), key))
    {'id': {'start': 7, 'cycle': False}}
    """
    names = ("start", "increment", "minvalue", "maxvalue", "cache", "cycle")
    found: dict[str, dict[str, int | bool]] = {}
    for column in table.columns:
        if column.identity is not None:
            given = {name: getattr(column.identity, name, None) for name in names}
            found[column.name] = {k: v for k, v in given.items() if v is not None}
    return found


def create(
    conn: sa.Connection,
    table: sa.Table,
    name: TableName,
    *,
    key: bool = True,
    unique: bool = True,
    bare: bool = False,
) -> sa.Table:
    """Create a declared table under some name, without its indexes; return it under that name.

    ``key=False`` and ``unique=False`` leave these constraints out, for adding them after the rows;
    ``bare`` leaves out the sequence of the key too, so that nothing but the table is made.
    """
    dialect_of(conn).create_schema(conn, name.schema) if name.schema is not None else None
    made = _copy(table, name, key=key, bare=bare, prefixes=prefixes_of(table))
    for constraint in () if unique else _unique_constraints(made):
        constraint.ddl_if(callable_=_never)
    made.create(conn, checkfirst=_CHECK)
    return _copy(table, name)


def add_unique(conn: sa.Connection, table: sa.Table, name: TableName) -> None:
    """Add the declared unique constraints that `create` left out of a table."""
    for constraint in _unique_constraints(_copy(table, name)):
        conn.execute(sa.schema.AddConstraint(constraint))


def _unique_constraints(table: sa.Table) -> list[sa.Constraint]:
    others = (sa.PrimaryKeyConstraint, sa.ForeignKeyConstraint, sa.CheckConstraint)
    needless = _needless(table)
    return sorted(
        (c for c in table.constraints if not isinstance(c, others) and c not in needless),
        key=lambda c: str(c.name),
    )


def _needless(table: sa.Table) -> list[sa.Constraint]:
    """List the unique constraints over the key's columns: made after it they are a second index."""
    key = [column.name for column in table.primary_key.columns]
    return [
        constraint
        for constraint in table.constraints
        if isinstance(constraint, sa.UniqueConstraint)
        and [column.name for column in constraint.columns] == key
        and not constraint.deferrable
        and not constraint.dialect_kwargs.get("postgresql_include")
    ]


def _never(*_: Any, **__: Any) -> bool:
    return False


def constraint_names(table: sa.Table, name: TableName) -> list[tuple[str, str]]:
    """Give pairs (name now, declared name) of the named constraints of a table made by `create`.

    They are not the same where the table has another name, since the declared one may be in use.
    """
    return [
        (_name_beside(str(constraint.name), name), str(constraint.name))
        for constraint in _named_constraints(table)
    ]


def _named_constraints(table: sa.Table) -> list[sa.Constraint]:
    return [constraint for constraint in _unique_constraints(table) if constraint.name]


def _name_beside(declared: str, table: TableName) -> str:
    return f"_tmp_{uuid.uuid5(uuid.NAMESPACE_OID, f'{table.name} {declared}').hex}"


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
        wanted = _fitting(wanted, conn.dialect.max_identifier_length)
        # Nothing in a transaction can be made concurrently.
        if index.dialect_kwargs.get("postgresql_concurrently"):
            index.dialect_kwargs["postgresql_concurrently"] = False
        index.name = sa.sql.quoted_name(wanted if final else f"_tmp_{uuid.uuid4().hex}", quote=None)
        conn.execute(CreateIndex(index))
        names.append((str(index.name), wanted))
    return names


def _fitting(name: str, longest: int) -> str:
    """Shorten a name that no database would take, with a hash so that two stay two."""
    if len(name.encode()) <= longest:
        return name
    digest = uuid.uuid5(uuid.NAMESPACE_OID, name).hex[:12]
    return f"{name.encode()[: longest - 13].decode(errors='ignore')}_{digest}"


def _copy(
    table: sa.Table,
    name: TableName,
    *,
    key: bool = True,
    bare: bool = False,
    prefixes: Sequence[str] = (),
) -> sa.Table:
    schema: Any = name.schema  # None: the default schema, which the stubs do not know
    copy = table.to_metadata(sa.MetaData(), schema=schema, name=name.name)
    copy._prefixes = list(prefixes)  # noqa: SLF001 - to_metadata has no argument for prefixes
    copy.indexes.clear()
    for made, declared in zip(copy.columns, table.columns, strict=True):
        # to_metadata moves types to the table's schema; an enum stays where it was declared.
        if isinstance(made.type, sa.Enum) and isinstance(declared.type, sa.Enum):
            made.type.schema = declared.type.schema
    for constraint in list(copy.constraints):
        if isinstance(constraint, sa.ForeignKeyConstraint) or constraint in _needless(copy):
            copy.constraints.remove(constraint)
        elif isinstance(constraint, sa.PrimaryKeyConstraint):
            constraint.name = None
    if name != name_of(table):
        copy.comment = None
        for named in _named_constraints(copy):
            named.name = _name_beside(str(named.name), name)
    if not key:
        copy.primary_key.ddl_if(callable_=_never)
        for column in copy.primary_key.columns if bare else ():
            # Without it, SQLAlchemy would make a sequence for an integer key.
            column.autoincrement = False
    return copy


def _indexes(made: sa.Table, declared: sa.Table) -> list[tuple[sa.Index, sa.Index]]:
    schema: Any = made.schema  # None: the default schema, which the stubs do not know
    copy = declared.to_metadata(sa.MetaData(), schema=schema, name=made.name)
    by_name = {str(index.name): index for index in copy.indexes}
    originals = sorted(declared.indexes, key=lambda index: str(index.name))
    # to_metadata renames indexes made by index=True after the new table's name.
    rest = sorted(set(by_name) - {str(i.name) for i in originals})
    pairs = []
    for original in originals:
        found = by_name.get(str(original.name)) or by_name[rest.pop(0)]
        pairs.append((found, original))
    return pairs
