"""Reading a part of a table for an input: some columns, and the rows of some partitions."""

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from ixflow.dialects import dialect_of
from ixflow.errors import ColumnMismatch, UnsupportedType, ValidationError
from ixflow.store import SQLTableStore
from ixflow.store.writing import Slices
from ixflow.tables.read import reading_part
from ixflow.tables.slices import Slice
from ixflow.values import TableName

__all__ = ["asked_columns", "read_part"]

_COLUMNS = "columns"


def asked_columns(metadata: Mapping[str, Any] | None, asset: str) -> list[str] | None:
    """Read which columns ``AssetIn(metadata={"columns": [...]})`` asks for; None: all.

    Raises:
        ValidationError: it is no list of names.

    """
    found = (metadata or {}).get(_COLUMNS)
    for name in ("value", "data"):
        found = getattr(found, name, found)
    if found is None:
        return None
    if isinstance(found, str) or not isinstance(found, Sequence) or not found:
        msg = f"the metadata 'columns' of the input {asset} is {found!r}; give a list of names"
        raise ValidationError(msg, asset=asset)
    return [str(name) for name in found]


def read_part(
    store: SQLTableStore,
    table: TableName,
    type_: Any,
    columns: Sequence[str] | None,
    slices: Sequence[Slice] | None,
    *,
    whole: bool = True,
    hidden: str | None = None,
) -> Any:
    """Read columns of a table (None: all but the ``hidden`` one) and the rows of partitions.

    ``whole`` says that these partitions are all there are.

    Raises:
        TableNotFound, ColumnMismatch: there is no such table or column.
        UnsupportedType: the table cannot be read as this type, or only all of it.

    """
    if columns is None and slices is None and hidden is None and type_ is not sa.Select:
        return store.read(table, type_)
    if _is_lazy(type_):
        if columns is None and whole:
            return store.read(table, type_)
        msg = (
            f"{table} as {type_.__module__.partition('.')[0]}.{type_.__qualname__} is all of its "
            f"columns and rows; for a part of them take sqlalchemy.Select, or a frame"
        )
        raise UnsupportedType(msg, table=str(table), type=repr(type_))
    with store.begin() as conn:
        dialect = dialect_of(conn)
        present = dialect.columns(conn, table)
    where = None if slices is None else Slices(dialect, present, table).condition(slices)
    names = columns or [column.name for column in present if column.name != hidden]
    if type_ is sa.Select:
        return _select(store.read(table, sa.Table), names, where)
    with reading_part(names, where):
        return store.read(table, type_)


def _is_lazy(type_: Any) -> bool:
    """Say whether a type is a name for a table in the database, without rows."""
    return (
        isinstance(type_, type)
        and type_.__module__.partition(".")[0] in ("sqlalchemy", "ibis")
        and type_ is not sa.Select
    )


def _select(table: sa.Table, names: Sequence[str], where: str | None) -> sa.Select[Any]:
    unknown = [name for name in names if name not in table.c]
    if unknown:
        msg = f"{table.fullname} has no columns {unknown}; it has {sorted(table.c.keys())}"
        raise ColumnMismatch(msg, table=table.fullname, missing=unknown)
    query = sa.select(*(table.c[name] for name in names))
    return query if where is None else query.where(sa.literal_column(where, sa.Boolean()))
