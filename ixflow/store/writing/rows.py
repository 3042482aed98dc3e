"""The rows of a write, on their way: a frame's stream or a query, and where they wait."""

from __future__ import annotations

import uuid
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from ixflow.dialects import dialect_of, run
from ixflow.errors import UnsupportedType, ValidationError, ValueDoesNotFit
from ixflow.store.frames import Frames, TableSpec, Written, frames_for
from ixflow.store.frames.base import write_arrow
from ixflow.store.writing.options import Write
from ixflow.tables.arrow import as_reader
from ixflow.tables.load import columns_for, conform
from ixflow.values import Column, TableName

__all__ = ["Rows", "refuse_changed", "rows_of"]


class Rows(ABC):
    """What is to be written into a table, and how."""

    def __init__(self, table: TableName, how: Write, frames: Frames, obj: Any) -> None:
        """Take it; nothing is computed yet."""
        self.table, self.how = table, how
        self._frames, self._obj = frames, obj

    @abstractmethod
    def create(self, conn: sa.Connection, table: TableName, spec: TableSpec) -> Written:
        """Make a table of the rows."""

    @abstractmethod
    def given(self, conn: sa.Connection) -> tuple[Column, ...]:
        """Say which columns the rows have."""

    @abstractmethod
    def staged(
        self, conn: sa.Connection, columns: Sequence[Column]
    ) -> tuple[TableName, tuple[Column, ...]]:
        """Let the rows wait in a temporary table with the types of these columns of the table.

        Gives also those of the columns that the rows have.

        Raises:
            ValueDoesNotFit, ColumnMismatch: naming the table.

        """

    def finish(self, conn: sa.Connection, stage: TableName) -> None:
        """Drop what nobody needs when all rows are where they belong; the session lives on."""
        dialect_of(conn).drop_table(conn, stage)


class _Stream(Rows):
    """A frame, which is read once."""

    def __init__(self, table: TableName, how: Write, frames: Frames, obj: Any) -> None:
        super().__init__(table, how, frames, obj)
        self._reader = as_reader(frames.arrow(obj))
        names = self._reader.schema.names
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            msg = f"the frame for {table} has several columns called {twice[0]!r}; rename them"
            raise ValidationError(msg, table=str(table), columns=twice)

    def create(self, conn: sa.Connection, table: TableName, spec: TableSpec) -> Written:
        return write_arrow(conn, table, self._reader, spec)

    def given(self, conn: sa.Connection) -> tuple[Column, ...]:
        return columns_for(conn, self._reader.schema, type_map=self.how.type_map)

    def staged(
        self, conn: sa.Connection, columns: Sequence[Column]
    ) -> tuple[TableName, tuple[Column, ...]]:
        dialect = dialect_of(conn)
        chosen, rows = conform(
            self._reader,
            columns,
            table=str(self.table),
            infinite_moments=dialect.infinite_moments,
        )
        stage = _create_stage(conn, chosen)
        dialect.load(conn, stage, chosen, rows)
        return stage, chosen


class _Query(Rows):
    """What the server computes; its columns are known when it has."""

    def create(self, conn: sa.Connection, table: TableName, spec: TableSpec) -> Written:
        return self._frames.write(conn, table, self._obj, spec)

    def given(self, conn: sa.Connection) -> tuple[Column, ...]:
        self._waiting = self.table.renamed(f"_tmp_{uuid.uuid4().hex}")
        spec = TableSpec(self.table.name, type_map=self.how.type_map)
        self._frames.write(conn, self._waiting, self._obj, spec)
        return dialect_of(conn).columns(conn, self._waiting)

    def staged(
        self, conn: sa.Connection, columns: Sequence[Column]
    ) -> tuple[TableName, tuple[Column, ...]]:
        dialect, source = dialect_of(conn), dialect_of(conn).qualified(self._waiting)
        come = {column.name: column for column in dialect.columns(conn, self._waiting)}
        chosen = tuple(column for column in columns if column.name in come)
        pairs = [(come[column.name], column) for column in chosen]
        if all(one.sql_type == other.sql_type for one, other in pairs):
            return self._waiting, chosen
        for one, other in pairs:
            refuse_changed(conn, source, one, other, self.table)
        stage = _create_stage(conn, chosen)
        values = ", ".join(
            f"CAST({dialect.quote(c.name)} AS {dialect.assigned_type(c.sql_type)})" for c in chosen
        )
        names = dialect.column_list(c.name for c in chosen)
        into = dialect.qualified(stage)
        run(conn, f"INSERT INTO {into} ({names}) SELECT {values} FROM {source}")
        return stage, chosen

    def finish(self, conn: sa.Connection, stage: TableName) -> None:
        for made in {stage, self._waiting}:
            super().finish(conn, made)


def rows_of(table: TableName, obj: Any, how: Write) -> Rows:
    """Look at what is to be written; nothing is computed yet.

    Raises:
        UnsupportedType: it is no frame and no query.
        ValidationError: two of its columns have the same name.

    """
    frames = frames_for(obj)
    if frames is None:
        kind = type(obj).__name__
        msg = f"{table}: a {kind} cannot be stored as a table; return a frame or a query"
        raise UnsupportedType(msg, table=str(table), type=kind)
    # Frames that do more than stream may let the server compute the rows.
    kind_of_rows = _Stream if type(frames).write is Frames.write else _Query
    return kind_of_rows(table, how, frames, obj)


def refuse_changed(
    conn: sa.Connection, source: str, one: Column, other: Column, table: TableName
) -> None:
    """Refuse values that another type would change; casting there and back shows it."""
    if one.sql_type == other.sql_type:
        return
    dialect = dialect_of(conn)
    name = dialect.quote(one.name)
    back = f"CAST(CAST({name} AS {other.sql_type}) AS {one.sql_type})"
    if not one.as_text:
        name, back = dialect.comparable(one, name), dialect.comparable(one, back)
    try:
        query = f"SELECT count(*) FROM {source} WHERE {back} <> {name}"
        changed = int(run(conn, query).scalar_one())
    except (sa.exc.DataError, sa.exc.ProgrammingError) as error:
        raise _would_change("some", one, other, table) from error
    if changed:
        raise _would_change(str(changed), one, other, table)


def _would_change(rows: str, one: Column, other: Column, table: TableName) -> ValueDoesNotFit:
    msg = (
        f"{rows} values of {table}.{one.name} are {one.sql_type} and would change or fail as "
        f"{other.sql_type}; convert them first, or give the column a type that holds them"
    )
    return ValueDoesNotFit(msg, table=str(table), column=one.name, rows=rows)


def _create_stage(conn: sa.Connection, columns: Sequence[Column]) -> TableName:
    dialect, name = dialect_of(conn), f"_ixflow_stage_{uuid.uuid4().hex[:16]}"
    bare = [replace(column, nullable=True, key_position=None) for column in columns]
    dialect.create_table(conn, TableName(name), bare, temporary=True)
    return TableName(name, dialect.temporary_schema)
