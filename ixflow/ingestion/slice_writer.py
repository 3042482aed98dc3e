"""Putting rows in the place of a slice of a live table, in the transaction that others have opened.

Rows wait in temporary tables of the session. With a primary key they are merged, and the rows of
the slice whose key did not come are deleted; without one all rows of the slice are deleted and
those that wait are added. Rows outside of the slice are never touched.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from ixflow.dialects import dialect_of, run
from ixflow.errors import DataError, IngestError, ValidationError
from ixflow.ingestion import replacement
from ixflow.ingestion.batch import BatchWriter
from ixflow.ingestion.checks import sift
from ixflow.ingestion.target import Target, add_waiting, make_stage
from ixflow.tables import declared
from ixflow.tables.slices import Slice, inside, outside
from ixflow.values import TableName

__all__ = ["SliceWriter"]


class SliceWriter(BatchWriter):
    """Lets rows wait (`write`), then puts them in the place of a slice (`replace`)."""

    def __init__(
        self, conn: sa.Connection, slices: Mapping[sa.Table, Slice], **options: Any
    ) -> None:
        """Take the connection, the slice of each table, and the options of a `BatchWriter`."""
        super().__init__(conn, list(slices), upsert=True, delete=False, **options)
        self._slices = slices
        self._rows: dict[str, int] = {}

    def replace(self) -> None:
        """Replace the slice of each table by the rows that wait.

        Raises:
            DataError: rows are outside of the slice, or have keys of rows that are.
            IngestError: a table has become another one meanwhile.

        """
        with self._phase("merge"):
            ready = [self._ready(target) for target in self._targets.values()]
            # Rows that others refer to go last, and come first.
            for waiting in reversed(ready):
                self._counts(waiting.target).deleted = waiting.delete_others()
            for waiting in ready:
                self._add(waiting)

    def forget(self) -> None:
        """Drop the temporary tables, as far as they are there."""
        for target in self._targets.values():
            with contextlib.suppress(sa.exc.DBAPIError), self.conn.begin():
                if target.stage is not None:
                    place = dialect_of(self.conn).qualified(target.stage)
                    run(self.conn, f"DROP TABLE IF EXISTS {place}")

    def committed(self) -> None:
        """Take the counts over, now that they are true."""
        super().committed()
        for name, rows in self._rows.items():
            self.counts[name].slice_rows = rows

    def _target(self, table: sa.Table) -> Target:
        dialect, name = dialect_of(self.conn), declared.name_of(table)
        columns = declared.stored(table, dialect.columns(self.conn, name))
        inside(dialect, self._slices[table], columns)
        keyed = len(table.primary_key.columns) > 0
        stage = make_stage(self.conn, columns)
        return Target(table, columns, name, stage=stage, merges=keyed)

    def _insert(self, target: Target, statement: Any) -> int:
        del statement
        name = declared.name_of(target.table)
        msg = f"SQL that gives rows cannot fill a partition of {name}; give rows or frames"
        raise ValidationError(msg, table=str(name))

    def _finish(self, target: Target) -> None:
        """Let the rows wait on."""

    def _ready(self, target: Target) -> _Waiting:
        """Look at the rows that wait for a table, as it is now."""
        table, stage = target.table, target.stage
        name = declared.name_of(table)
        if stage is None or replacement.reasons(self.conn, table, delete=False):
            msg = f"{name} was changed while rows were loaded; nothing was written; run it again"
            raise IngestError(msg, table=str(name))
        dialect = dialect_of(self.conn)
        if self._checks[table]:
            place, checks = dialect.resolved(self.conn, name), self._checks[table]
            taken = sift(self.conn, place, stage, target.columns, checks, run_id=self.run_id)
            self._counts(target).count_broken(taken)
        dialect.refuse_rounding(self.conn, stage, target.columns, name)
        waiting = _Waiting(self.conn, target, stage, self._slices[table])
        waiting.refuse_outside()
        return waiting

    def _add(self, waiting: _Waiting) -> None:
        target, dialect = waiting.target, dialect_of(self.conn)
        counts, key = self._counts(target), [c.name for c in target.table.primary_key.columns]
        if target.merges:
            place, columns = target.load_into, target.columns
            done = dialect.merge(self.conn, waiting.stage, place, columns, key)
            counts.inserted, counts.updated = done.inserted, done.updated
            counts.unchanged = done.unchanged
        else:
            counts.inserted = add_waiting(self.conn, target, waiting.stage, None)
        self._rows[str(declared.name_of(target.table))] = waiting.count()


class _Waiting:
    """Rows that wait for their slice of a live table, and what is asked and done about it."""

    def __init__(
        self, conn: sa.Connection, target: Target, stage: TableName, slice_: Slice
    ) -> None:
        self.target, self.stage = target, stage
        self._conn, self._table, self._slice = conn, target.table, slice_
        self._dialect = dialect_of(conn)
        self._live = self._dialect.qualified(target.load_into)
        self._staged = self._dialect.qualified(stage)
        self._types = {column.name: column.sql_type for column in target.columns}
        self._inside = inside(self._dialect, slice_, target.columns)
        self._outside = outside(self._dialect, slice_, target.columns)
        self._key = [column.name for column in target.table.primary_key.columns]

    def refuse_outside(self) -> None:
        """Refuse rows that are of another partition, by their own values or by their key.

        Raises:
            DataError: naming table, partition and column.

        """
        quote = self._dialect.quote
        names = list(dict.fromkeys(self._slice.columns))
        values = ", ".join(f"{self._value(name)} AS {quote(name)}" for name in names)
        rows = f"FROM (SELECT {values} FROM {self._staged}) s WHERE {self._outside}"
        count = self._number(f"SELECT count(*) {rows}")
        name = declared.name_of(self._table)
        if count:
            items = ", ".join(quote(name) for name in names)
            first = run(self._conn, self._dialect.first_row(items, f"{rows} ORDER BY 1")).one()
            shown = ", ".join(f"{n} = {v!s:.80}" for n, v in zip(names, first, strict=True))
            msg = (
                f"{count} rows for {name} are not of its partition {self._slice.name}, which is "
                f"{self._slice}: such as one with {shown}; nothing was written"
            )
            raise DataError(msg, table=str(name), partition=self._slice.name, rows=count)
        if self._key and not {*names} <= {*self._key}:
            self._refuse_foreign_keys(name)

    def _refuse_foreign_keys(self, name: TableName) -> None:
        same = self._same()
        rows = f"FROM ({self._keys()}) k JOIN {self._live} t ON {same} WHERE {self._outside}"
        count = self._number(f"SELECT count(*) {rows}")
        if count:
            msg = (
                f"{count} rows for partition {self._slice.name} of {name} have the primary key of "
                f"a row in another partition, or in none; nothing was written. Materialize the "
                f"partition that they have left first, or partition by a column that never changes"
            )
            raise DataError(msg, table=str(name), partition=self._slice.name, rows=count)

    def delete_others(self) -> int:
        """Delete the rows of the slice that are not to stay; count them."""
        stays = f" AND NOT EXISTS (SELECT 1 FROM ({self._keys()}) k WHERE {self._same()})"
        others = f"{self._inside}{stays if self._key else ''}"
        return run(self._conn, f"DELETE FROM {self._live} AS t WHERE {others}").rowcount

    def count(self) -> int:
        """Count the rows of the slice as it is now."""
        return self._number(f"SELECT count(*) FROM {self._live} WHERE {self._inside}")

    def _value(self, name: str) -> str:
        return f"CAST({self._dialect.quote(name)} AS {self._types[name]})"

    def _keys(self) -> str:
        """Give the keys that wait, under names that no column of the table has."""
        keys = ", ".join(f"{self._value(k)} AS ixflow_key_{n}" for n, k in enumerate(self._key))
        return f"SELECT DISTINCT {keys} FROM {self._staged}"

    def _same(self) -> str:
        quote = self._dialect.quote
        pairs = enumerate(self._key)
        return " AND ".join(f"k.ixflow_key_{n} = t.{quote(name)}" for n, name in pairs)

    def _number(self, sql: str) -> int:
        return int(run(self._conn, sql).scalar_one())
