"""The steps of writing one table, inside the transaction that holds its locks."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import sqlalchemy as sa

from ixflow.dialects import dialect_of, run
from ixflow.errors import DataError
from ixflow.store.writing.checks import check_key, check_values, count_slices
from ixflow.store.writing.options import WrittenTable
from ixflow.store.writing.rows import Rows, refuse_changed
from ixflow.store.writing.shapes import Shape, decide
from ixflow.store.writing.slices import Slices
from ixflow.tables.load import create_index
from ixflow.values import Column, TableName

__all__ = ["NeedsAlone", "Writer"]

_MOST_LOCKS = 32
"""Partitions that are locked one by one; a server has room for a limited number of locks."""


class NeedsAlone(Exception):
    """The table is not there, or its definition has to change, which needs its lock alone."""


class Writer:
    """Writes the rows of one call; every method is one step of `write`."""

    def __init__(self, conn: sa.Connection, rows: Rows, *, alone: bool) -> None:
        """Take the connection, whose transaction holds the lock of the table's definition."""
        self.conn, self.rows, self.alone = conn, rows, alone
        self.dialect = dialect_of(conn)
        self.table, self.how = rows.table, rows.how
        self.done = WrittenTable()

    def write(self) -> WrittenTable:
        """Do all of it; the caller's commit makes it seen.

        Raises:
            NeedsAlone: the definition has to change, and others may be writing rows.

        """
        live = self.dialect.read_columns(self.conn, self.table)
        given = self.rows.given(self.conn)
        shape = decide(self.table, live, given, self.how, self._run_column())
        if shape.action != "keep" and not self.alone:
            raise NeedsAlone
        own = [c for c in shape.columns if c.name != self._run_name()]
        stage, chosen = self.rows.staged(self.conn, own)
        self.done.rows = self.dialect.count(self.conn, stage)
        self._check(stage, chosen)
        if not self.alone:
            self._lock_rows()
        # As late as can be: from here on nobody may read a table that gets columns.
        target = self._target(live, shape)
        if target != self.table and live:
            self._keep_others(live, target)
        self._put(stage, chosen, target, is_new=target != self.table)
        self.rows.finish(self.conn, stage)
        if target != self.table:
            self._swap(target)
        self.done.columns = self.dialect.columns(self.conn, self.table)
        self.done.added = tuple(c.name for c in shape.added) if live else ()
        self.done.rebuilt = shape.action == "rebuild"
        return self.done

    def _run_name(self) -> str | None:
        return self.how.run_column if self.how.marks_runs else None

    def _run_column(self) -> Column:
        return Column(self.how.run_column, self.dialect.text_type(), pa.string())

    # -- the definition -------------------------------------------------------------------------

    def _target(self, live: Sequence[Column], shape: Shape) -> TableName:
        """Make the table what it is to be; give where the rows go."""
        if shape.action == "create":
            self.dialect.create_table(self.conn, self.table, shape.columns)
            for index in self._indexes():
                create_index(self.conn, self.dialect, self.table, index)
        elif shape.action == "add":
            self.dialect.add_columns(self.conn, self.table, shape.added)
        if live and (shape.action == "rebuild" or self.how.mode == "replace"):
            new = self.table.renamed(f"_tmp_{uuid.uuid4().hex}")
            self.dialect.create_table(self.conn, new, shape.columns)
            self.dialect.lock_writers(self.conn, self.table)
            return new
        return self.table

    def _indexes(self) -> list[tuple[str, ...]]:
        name = self._run_name()
        return [*self.how.indexes, *([(name,)] if name else [])]

    def _keep_others(self, live: Sequence[Column], new: TableName) -> None:
        """Copy to a new table what the rows do not replace."""
        if self.how.mode == "replace":
            return
        come = {column.name: column for column in self.dialect.columns(self.conn, new)}
        both = [column for column in live if column.name in come]
        for old in both:
            self._refuse_changed(old, come[old.name])
        names = self.dialect.column_list(column.name for column in both)
        values = ", ".join(
            f"CAST({self.dialect.quote(c.name)} AS "
            f"{self.dialect.assigned_type(come[c.name].sql_type)})"
            for c in both
        )
        query = f"SELECT {values} FROM {self.dialect.qualified(self.table)}"
        if self.how.mode == "partition":
            query += f" WHERE ({self._replaced(live)}) IS NOT TRUE"
        run(self.conn, f"INSERT INTO {self.dialect.qualified(new)} ({names}) {query}")

    def _swap(self, new: TableName) -> None:
        """Put the new table in the place of the old one, with everything that hangs on that."""
        self.dialect.swap(self.conn, [(new, self.table)])
        self.dialect.rename_parts(self.conn, self.table, new.name)
        if not self.dialect.indexes(self.conn, self.table):
            for index in self._indexes():
                create_index(self.conn, self.dialect, self.table, index)

    def _refuse_changed(self, old: Column, new: Column) -> None:
        refuse_changed(self.conn, self.dialect.qualified(self.table), old, new, self.table)

    # -- the rows -------------------------------------------------------------------------------

    def _check(self, stage: TableName, chosen: Sequence[Column]) -> None:
        """Look at the rows that wait."""
        check_key(self.conn, stage, self.how.primary_key, self.table)
        slices = self.how.slices
        if slices is not None:
            writes = Slices(self.dialect, chosen, self.table)
            check_values(self.conn, writes, slices)
            self.done.slices = count_slices(self.conn, stage, writes, slices, self.table)

    def _lock_rows(self) -> None:
        """Keep other writers of the same rows away."""
        how, keys = self.how, sorted(one.name for one in self.how.slices or ())
        if how.mode == "append":
            keys = [how.run]
        alone = how.mode == "upsert" or len(keys) > _MOST_LOCKS
        names = [(f"rows of {self.table}", not alone)]
        if not alone:
            names += [(f"rows of {self.table} {how.mode} {key}", False) for key in keys]
        for name, shared in names:
            # Each of them lasts until the transaction ends.
            with self.dialect.advisory_lock(self.conn, name, shared=shared):
                pass

    def _put(
        self, stage: TableName, chosen: Sequence[Column], target: TableName, *, is_new: bool
    ) -> None:
        """Put the rows that wait into the table, in the place of those that give way."""
        how, done = self.how, self.done
        if how.mode == "upsert":
            merged = self.dialect.merge(self.conn, stage, target, chosen, how.primary_key)
            done.inserted, done.updated = merged.inserted, merged.updated
            done.unchanged, done.deleted = merged.unchanged, 0
            return
        if how.mode == "append" or (how.mode == "partition" and not is_new):
            which = self._replaced(chosen)
            place = self.dialect.qualified(target)
            done.deleted = _changed(run(self.conn, f"DELETE FROM {place} WHERE {which}"))
        done.inserted = self._insert(stage, chosen, target)

    def _replaced(self, columns: Sequence[Column]) -> str:
        """Say which rows of the table give way."""
        if self.how.mode == "append":
            run_ = self.dialect.text_literal(self.how.run)
            return f"{self.dialect.quote(self.how.run_column)} = {run_}"
        return Slices(self.dialect, columns, self.table).condition(self.how.slices or ())

    def _insert(self, stage: TableName, chosen: Sequence[Column], target: TableName) -> int:
        names = [self.dialect.quote(column.name) for column in chosen]
        values = list(names)
        if self.how.marks_runs:
            names.append(self.dialect.quote(self.how.run_column))
            values.append(self.dialect.text_literal(self.how.run))
        statement = (
            f"INSERT INTO {self.dialect.qualified(target)} ({', '.join(names)}) "
            f"{self.dialect.overriding}SELECT {', '.join(values)} "
            f"FROM {self.dialect.qualified(stage)}"
        )
        try:
            return _changed(run(self.conn, statement))
        except sa.exc.IntegrityError as error:
            msg = (
                f"rows for {self.table} break a constraint of the table, such as a key that other "
                f"rows have already; nothing was written"
            )
            raise DataError(msg, table=str(self.table)) from error


def _changed(result: sa.CursorResult[Any]) -> int:
    """Say how many rows a statement has changed, which some drivers give as a result."""
    return int(result.scalar_one() if result.returns_rows else result.rowcount)
