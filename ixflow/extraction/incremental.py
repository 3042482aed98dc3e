"""Incremental extraction: the high watermark, which is kept in the manifest of what is published.

A run publishes its rows together with those of the runs before it, and the new watermark beside
them, in one step: a run that dies changes neither. The window's upper end is the greatest key of
the moment that is read, so rows that come later belong to the next run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import pyarrow as pa
import sqlalchemy as sa

from ixflow.dialects import Dialect, Held, Reader, connected
from ixflow.errors import ExecutionError, IxflowError, ValidationError
from ixflow.extraction.cursor import CursorPlan, Window
from ixflow.extraction.manifest import ColumnRecord, Manifest, WindowRecord
from ixflow.extraction.output import Run, place_of
from ixflow.extraction.plan import ExecutionPlan
from ixflow.extraction.selection import salt_digest, shown_error
from ixflow.values import Column, TablePart

if TYPE_CHECKING:
    from ixflow.extraction.intent import ExtractionIntent

__all__ = [
    "Increment",
    "base_of",
    "check_start",
    "condition_of",
    "cursor_advice",
    "open_window",
    "planned_cursor",
    "record_of",
    "settled_before",
]


def planned_cursor(intent: ExtractionIntent, columns: Sequence[Column]) -> CursorPlan | None:
    """Plan the intent's cursor, for a table or query of these columns; None: all rows are read.

    Raises:
        ValidationError: there is no such column, or it cannot be a cursor with these semantics.

    """
    cursor, known = intent.cursor, {column.name: column for column in columns}
    if cursor is None:
        return None
    if cursor.column not in known:
        msg = f"{intent.object_name} has no column {cursor.column}; it has {sorted(known)}"
        raise ValidationError(msg, columns=[cursor.column], table=intent.object_name)
    settles = intent.dialect.settles
    return CursorPlan.of(cursor, known[cursor.column], intent.incremental_value, settles=settles)


def cursor_advice(
    intent: ExtractionIntent, cursor: CursorPlan, *, indexed: bool
) -> tuple[str, ...]:
    """Say what a cursor costs or may lose, where nobody has said that he knows."""
    return tuple(_advice(intent, cursor, indexed=indexed))


def _advice(intent: ExtractionIntent, cursor: CursorPlan, *, indexed: bool) -> Iterator[str]:
    name, given = cursor.column, intent.cursor
    if not indexed:
        yield f"{name} has no index, so every run scans the table for its greatest value and more"
    if cursor.semantics == "exclusive" and cursor.kind == "date":
        yield f"{name} is a date: rows of the same day that come after a run are never read"
    elif cursor.semantics == "exclusive" and (given is None or given.semantics is None):
        yield f"{name} is read as 'exclusive': {cursor.declares}"
    if cursor.nullable and cursor.nulls == "first run":
        yield f"rows whose {name} is NULL are read by the first run only"


def base_of(
    intent: ExtractionIntent, cursor: CursorPlan, columns: Sequence[Column]
) -> Manifest | None:
    """Read what an incremental run goes on from; None: nothing was read incrementally yet.

    Raises:
        ValidationError: it was read another way, so that new rows do not fit to its rows.

    """
    base = place_of(intent).published()
    if base is None or base.window is None:
        return None
    changes = list(_changes(base, intent, columns))
    if (base.window.column, base.window.sql_type) != (cursor.column, cursor.sql_type):
        changes.append("incremental key")
    if changes:
        msg = (
            f"{intent.object_name} was published with another {', '.join(changes)} by run "
            f"{base.run_id}; new rows would not fit to those. Run it once with mode='full', and "
            f"the next incremental run starts anew"
        )
        raise ValidationError(msg, table=intent.object_name, changes=changes)
    return base


def _changes(base: Manifest, intent: ExtractionIntent, columns: Sequence[Column]) -> Iterator[str]:
    if base.identity != intent.identity():
        yield "source or filter"
    if base.columns != tuple(ColumnRecord.of(column) for column in columns):
        yield "choice of columns, or their types or masks"
    if base.salt_digest != salt_digest(intent.mask_salt):
        yield "mask salt"
    if base.output_format != intent.file_format:
        yield "output format"


def settled_before(plan: ExecutionPlan, intent: ExtractionIntent) -> str | None:
    """Ask which moment no open transaction has begun before; to be asked before the snapshot.

    Raises:
        ValidationError: the role may not see when transactions began.
        LockNotAvailable: a prepared transaction is open.

    """
    if plan.cursor is None or plan.cursor.semantics != "settled":
        return None
    engine = intent.dialect.read_engine(intent.url())
    try:
        with connected(engine) as conn:
            table = None if plan.query is not None else plan.table
            return intent.dialect.settled_before(conn, table)
    finally:
        engine.dispose()


def open_window(
    plan: ExecutionPlan, dialect: Dialect, held: Held, base: Manifest | None, settled: str | None
) -> Window:
    """Choose the rows of a run, in the moment that is held.

    Raises:
        ValidationError: rows have no key and are refused, or a key is infinite.

    """
    cursor = plan.cursor
    if cursor is None:
        msg = f"the plan of {plan.object_name} is not incremental"
        raise ValidationError(msg, table=plan.object_name)
    mark = None if base is None or base.window is None else base.window.high_watermark
    first = base is None
    with held.open_reader() as reader:
        looking = _Looking(plan, cursor, dialect, reader)
        looking.refuse_nulls()
        greatest = looking.greatest(mark or cursor.start, None)
        # Infinity is refused also where it is not settled, since it never will be.
        window = cursor.window(mark, greatest, first=first)
        if settled is not None:
            greatest = looking.greatest(mark or cursor.start, settled)
            window = cursor.window(mark, greatest, first=first)
    return window


class _Looking:
    """Questions about the cursor column, in the moment that is read."""

    def __init__(
        self, plan: ExecutionPlan, cursor: CursorPlan, dialect: Dialect, reader: Reader
    ) -> None:
        self._plan, self._cursor, self._dialect, self._reader = plan, cursor, dialect, reader
        self._column = Column(cursor.column, cursor.sql_type, pa.string(), as_text=True)
        self._part = TablePart(plan.table)
        self._name = dialect.quote(cursor.column)

    def greatest(self, mark: str | None, below: str | None) -> str | None:
        """Give the greatest key from a mark on and below a bound, as text; None: there is none."""
        limits = {">=": mark, "<": below}
        conditions = [
            f"{self._name} {sign} {self._literal(text)}"
            for sign, text in limits.items()
            if text is not None
        ]
        query = self._plan.query
        return self._one(
            self._dialect.greatest(self._part, self._column, query=query, where=conditions)
        )

    def refuse_nulls(self) -> None:
        """Refuse rows without a key, if that is what shall happen to them."""
        if not self._cursor.nullable or self._cursor.nulls != "refuse":
            return
        relation = (
            f"({self._plan.query}\n) AS {self._dialect.quote('q')}"
            if self._plan.query
            else self._dialect.qualified(self._plan.table)
        )
        kept = "" if self._plan.where is None else f" AND ({self._plan.where}\n)"
        alias = "" if self._plan.query else f" AS {self._dialect.quote(self._plan.table.name)}"
        rest = f"FROM {relation}{alias} WHERE {self._name} IS NULL{kept} ORDER BY 1"
        found = self._one(self._dialect.first_row(f"'1' AS {self._name}", rest))
        if found is not None:
            msg = (
                f"{self._plan.object_name} has rows whose {self._cursor.column} is NULL, which no "
                f"window of it holds; give Cursor({self._cursor.column!r}, nulls='first run') or "
                f"nulls='each run'"
            )
            raise ValidationError(msg, column=self._cursor.column, table=self._plan.object_name)

    def _literal(self, text: str) -> str:
        return self._dialect.literal(text, self._cursor.sql_type)

    def _one(self, sql: str) -> str | None:
        with self._reader.read(sql, [self._column]) as batches:
            values = [value for batch in batches for value in batch.column(0).to_pylist()]
        return None if not values else str(values[0])


def condition_of(dialect: Dialect, window: Window) -> str:
    """Write the condition for the rows of a window."""
    if window.is_empty:
        return "1 = 0"
    name, sql_type = dialect.quote(window.cursor.column), window.cursor.sql_type
    limits = []
    if window.high is not None:
        limits.append(f"{name} <= {dialect.literal(window.high, sql_type)}")
        if window.low is not None:
            sign = ">=" if window.low_included else ">"
            limits.append(f"{name} {sign} {dialect.literal(window.low, sql_type)}")
    keyed = " AND ".join(limits)
    if not window.nulls:
        return keyed
    return f"({keyed}) OR {name} IS NULL" if keyed else f"{name} IS NULL"


def check_start(dialect: Dialect, conn: sa.Connection, part: TablePart, cursor: CursorPlan) -> None:
    """Let the server read the value where the first run begins.

    Raises:
        ValidationError: it is no value of the column.

    """
    if cursor.start is None:
        return
    try:
        where = f"{dialect.quote(cursor.column)} > {dialect.literal(cursor.start, cursor.sql_type)}"
        dialect.check_filter(conn, part, where, part.table.name)
    except sa.exc.DBAPIError as error:
        if error.connection_invalidated or dialect.is_transient(error):
            raise
        said = " ".join(str(error.orig or error).split())
        msg = f"incremental_value {cursor.start!r} is no {cursor.sql_type}: {said}"
        raise ValidationError(msg, argument="incremental_value") from None


def record_of(window: Window) -> WindowRecord:
    """Describe a window for the manifest."""
    cursor = window.cursor
    return WindowRecord(
        column=cursor.column,
        sql_type=cursor.sql_type,
        semantics=cursor.semantics,
        declares=cursor.declares,
        nulls=cursor.nulls,
        overlap=cursor.shown_overlap if cursor.overlap else None,
        low=window.low,
        low_included=window.low_included,
        high_watermark=window.high,
        with_nulls=window.nulls,
    )


class Increment:
    """One incremental run: what it goes on from, and the rows that it adds."""

    window: Window

    def __init__(self, plan: ExecutionPlan, intent: ExtractionIntent) -> None:
        """Take what is planned; nothing is read yet."""
        self.plan, self.intent = plan, intent
        self.base: Manifest | None = None
        self._settled: str | None = None

    def begin(self, *, own_moment: bool) -> None:
        """Look what was published, and what is settled: to be done before the moment is taken.

        Raises:
            ValidationError: new rows do not fit to those, or nobody can tell what is settled.
            LockNotAvailable: a prepared transaction is open.

        """
        cursor = self.plan.cursor
        if cursor is None:
            return
        self.base = base_of(self.intent, cursor, self.plan.columns)
        if cursor.semantics == "settled" and not own_moment:
            msg = (
                f"{self.plan.object_name} is incremental and 'settled': what is settled must be "
                f"asked before the moment is taken, so it cannot be read in a moment that is given"
            )
            raise ValidationError(msg, argument="moment")
        self._settled = settled_before(self.plan, self.intent)

    def open(self, dialect: Dialect, held: Held) -> str | None:
        """Choose the window in the moment that is held, and give its condition; None: all rows.

        Raises:
            ValidationError: rows have no key and are refused, or a key is infinite.
            ExecutionError: the source could not be asked.

        """
        if self.plan.cursor is None:
            return None
        try:
            self.window = open_window(self.plan, dialect, held, self.base, self._settled)
        except IxflowError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever the driver raises
            said = shown_error(error, self.intent)
            msg = f"new rows of {self.plan.object_name} could not be looked for: {said}"
            raise ExecutionError(msg, table=str(self.plan.table), errors={}) from None
        return condition_of(dialect, self.window)

    def complete(self, manifest: Manifest, directory: Run) -> Manifest:
        """Put the files of the runs before into the manifest, and the window.

        Raises:
            OutputNotWritable: a file of the runs before is gone, or the disk is full.

        """
        if self.plan.cursor is None:
            return manifest
        made = dataclasses.replace(manifest, window=record_of(self.window))
        if self.base is None:
            return made
        # A file without rows tells the columns, which the files before do already.
        new = (file for file in manifest.files if file.rows)
        files = sorted([*directory.carry(self.base), *new], key=lambda file: file.name)
        return dataclasses.replace(made, files=tuple(files), base_run_id=self.base.run_id)
