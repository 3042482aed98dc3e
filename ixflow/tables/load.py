"""Loading Arrow into a table, matched by column name and cast exactly, or refused by name."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import pyarrow as pa
import sqlalchemy as sa

from ixflow.dialects import Dialect, dialect_of, run
from ixflow.dialects.moments import checked_moments, is_moment_text
from ixflow.dialects.precision import is_limited, refuse_changed
from ixflow.dialects.types import arrow_schema, cast_column
from ixflow.errors import ColumnMismatch, ValidationError
from ixflow.tables.arrow import as_reader
from ixflow.values import Column, TableName

__all__ = [
    "Loaded",
    "add_primary_key",
    "append",
    "columns_for",
    "conform",
    "create_and_load",
    "create_index",
    "object_name",
]


_CAST_ROWS = 64_000
_FORMS = {
    pa.string(): (pa.large_string(), pa.string_view()),
    pa.binary(): (pa.large_binary(), pa.binary_view()),
}


def conform(
    reader: pa.RecordBatchReader,
    columns: Sequence[Column],
    *,
    table: str,
    infinite_moments: bool = False,
    any_text: bool = False,
    rows_at_once: int = _CAST_ROWS,
) -> tuple[tuple[Column, ...], pa.RecordBatchReader]:
    """Order and cast the reader's columns as the table has them.

    Returns the columns that the data give (nullable ones may be left out) and a reader with
    exactly their types. With ``infinite_moments`` dates and timestamps that came as text stay
    text, since some may be infinite; all others are what Arrow can read.

    Raises:
        ColumnMismatch: the data have columns that the table lacks, or lack one that may not be
            NULL.
        ValueDoesNotFit: while reading, where a cast would lose something.

    """
    given = reader.schema.names
    _check_names(given, columns, table)
    chosen = tuple(column for column in columns if column.name in given)
    places = [given.index(column.name) for column in chosen]
    types = [reader.schema.field(place).type for place in places]
    if any_text:
        chosen = tuple(
            replace(column, type=type_) if type_ in _FORMS.get(column.type, ()) else column
            for type_, column in zip(types, chosen, strict=True)
        )
    as_text = [
        infinite_moments and is_moment_text(type_, column)
        for type_, column in zip(types, chosen, strict=True)
    ]
    casts = [checked_moments if text else cast_column for text in as_text]
    limited = [is_limited(column) for column in chosen]
    schema = pa.schema(
        field.with_type(pa.string()) if text else field
        for field, text in zip(arrow_schema(chosen), as_text, strict=True)
    )

    def batches() -> Iterator[pa.RecordBatch]:
        first_row = 0
        for batch in _sliced(reader, rows_at_once):
            arrays = [
                cast(batch.column(place), column, table=table, first_row=first_row)
                for place, column, cast in zip(places, chosen, casts, strict=True)
            ]
            for array, column in itertools.compress(zip(arrays, chosen, strict=True), limited):
                refuse_changed(array, column, table=table, first_row=first_row)
            yield pa.RecordBatch.from_arrays(arrays, schema=schema)
            first_row += batch.num_rows

    return chosen, pa.RecordBatchReader.from_batches(schema, batches())


def _sliced(reader: pa.RecordBatchReader, rows: int) -> Iterator[pa.RecordBatch]:
    """Cut batches that are a whole frame: what a cast makes of one is in memory beside it."""
    for batch in reader:
        for start in range(0, batch.num_rows, rows):
            yield batch.slice(start, rows)


def _check_names(given: Sequence[str], columns: Sequence[Column], table: str) -> None:
    if not given:
        msg = f"the data for {table} have no columns"
        raise ColumnMismatch(msg, table=table, surplus=[], missing=[c.name for c in columns])
    names = [column.name for column in columns]
    surplus = sorted(set(given) - set(names))
    missing = [c.name for c in columns if not c.nullable and c.name not in given]
    twice = sorted({name for name in given if list(given).count(name) > 1})
    if not (surplus or missing or twice):
        return
    parts = [
        f"{what} {found}"
        for what, found in (
            ("columns the table lacks:", surplus),
            ("no value for columns that may not be NULL:", missing),
            ("columns given twice:", twice),
        )
        if found
    ]
    msg = f"the data do not have the columns of {table} ({', '.join(names)}): {'; '.join(parts)}"
    raise ColumnMismatch(msg, table=table, surplus=surplus, missing=missing)


def append(conn: sa.Connection, table: TableName, data: Any) -> int:
    """Append rows to an existing table, in the caller's transaction; count them.

    Raises:
        TableNotFound, ColumnMismatch, ValueDoesNotFit: nothing stays once the caller rolls back.

    """
    return _append(conn, table, as_reader(data), dialect_of(conn).columns(conn, table))


def _append(
    conn: sa.Connection,
    table: TableName,
    reader: pa.RecordBatchReader,
    columns: Sequence[Column],
) -> int:
    dialect = dialect_of(conn)
    chosen, rows = conform(
        reader,
        columns,
        table=str(table),
        infinite_moments=dialect.infinite_moments,
        any_text=dialect.any_text,
        rows_at_once=dialect.rows_at_once,
    )
    return dialect.load(conn, table, chosen, rows)


def columns_for(
    conn: sa.Connection,
    schema: pa.Schema,
    *,
    primary_key: Sequence[str] = (),
    type_map: Mapping[str, Any] | None = None,
) -> tuple[Column, ...]:
    """Choose the columns of a new table for an Arrow schema; ``type_map`` overrides by name.

    Raises:
        ValidationError: the key or the map names a column that is not there.
        UnsupportedType: a type has no exact column type.

    """
    dialect = dialect_of(conn)
    if not schema.names:
        msg = "the data have no columns, so there is no table to make of them"
        raise ValidationError(msg)
    unknown = sorted({*primary_key, *(type_map or {})} - set(schema.names))
    if unknown:
        msg = f"no columns {unknown} in the data, which have {schema.names}"
        raise ValidationError(msg, columns=unknown)
    made = []
    for field in schema:
        wanted = (type_map or {}).get(field.name)
        sql_type = dialect.sql_type(field.type) if wanted is None else _sql_text(wanted, conn)
        position = primary_key.index(field.name) + 1 if field.name in primary_key else None
        nullable = position is None
        made.append(Column(field.name, sql_type, field.type, nullable, key_position=position))
    return tuple(made)


def _sql_text(wanted: Any, conn: sa.Connection) -> str:
    if isinstance(wanted, str):
        return wanted
    return str(sa.types.to_instance(wanted).compile(dialect=conn.dialect))


class Loaded(NamedTuple):
    """The number of rows that a new table has, and its columns as the catalogue has them."""

    rows: int
    columns: tuple[Column, ...]


def create_and_load(
    conn: sa.Connection,
    table: TableName,
    data: Any,
    *,
    primary_key: Sequence[str] = (),
    indexes: Sequence[Sequence[str]] = (),
    type_map: Mapping[str, Any] | None = None,
) -> Loaded:
    """Create a table for the data, load it, then add key and indexes.

    All in the caller's transaction. The key is built after the rows are in: a third of the work
    of keeping it up row by row.
    """
    dialect = dialect_of(conn)
    source = as_reader(data)
    columns = columns_for(conn, source.schema, primary_key=primary_key, type_map=type_map)
    bare = [Column(c.name, c.sql_type, c.type, c.nullable) for c in columns]
    late_key = bool(primary_key) and dialect.adds_keys
    dialect.create_table(conn, table, bare if late_key else columns)
    made = dialect.columns(conn, table)
    rows = _append(conn, table, source, made)
    if late_key:
        add_primary_key(conn, dialect, table, primary_key)
        positions = {name: place for place, name in enumerate(primary_key, start=1)}
        made = tuple(
            replace(c, nullable=False, key_position=positions[c.name]) if c.name in positions else c
            for c in made
        )
    for index in indexes:
        create_index(conn, dialect, table, index)
    return Loaded(rows, made)


def add_primary_key(
    conn: sa.Connection, dialect: Dialect, table: TableName, key: Sequence[str]
) -> None:
    """Add a primary key to a loaded table."""
    name = dialect.quote(object_name("pk", table.name, key, dialect.max_identifier))
    run(
        conn,
        f"ALTER TABLE {dialect.qualified(table)} "
        f"ADD CONSTRAINT {name} PRIMARY KEY ({dialect.column_list(key)})",
    )


def create_index(
    conn: sa.Connection, dialect: Dialect, table: TableName, columns: Sequence[str]
) -> None:
    """Add an index on some columns."""
    name = dialect.quote(object_name("idx", table.name, columns, dialect.max_identifier))
    run(
        conn,
        f"CREATE INDEX {name} ON {dialect.qualified(table)} ({dialect.column_list(columns)})",
    )


def object_name(kind: str, table: str, columns: Sequence[str], longest: int) -> str:
    """Name a key or index after its table and columns; a hash where that is too long.

    >>> object_name("pk", "orders", ["id"], 63)
    'pk_orders__id'
    """
    # Two underscores, so that orders_item(id) and orders(item_id) have different names.
    name = f"{kind}_" + "__".join([table, *columns])
    if len(name.encode()) <= longest:
        return name
    digest = uuid.uuid5(uuid.NAMESPACE_OID, name).hex[:12]
    head = name.encode()[: longest - 13].decode(errors="ignore")
    return f"{head}_{digest}"
