"""Incremental extraction: the high watermark, which is kept in the manifest of what is published.

A run publishes its rows together with those of the runs before it, and the new watermark beside
them, in one step: a run that dies changes neither. The window's upper end is the greatest key of
the moment that is read, so rows that come later belong to the next run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import sqlalchemy as sa

from ixflow.dialects import Dialect, Held, connected, run
from ixflow.errors import ExecutionError, IxflowError, ValidationError
from ixflow.extraction.manifest import ColumnRecord, Manifest, WindowRecord
from ixflow.extraction.output import Run, place_of
from ixflow.extraction.plan import ExecutionPlan
from ixflow.extraction.selection import salt_digest, shown_error
from ixflow.tables.cursor import CursorPlan, Window
from ixflow.tables.window import Looking, Relation, condition_of
from ixflow.values import Column, TablePart

if TYPE_CHECKING:
    from ixflow.extraction.intent import ExtractionIntent

__all__ = [
    "Increment",
    "base_of",
    "check_start",
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
    return _fitting(place_of(intent).published(), intent, cursor, columns)


def _fitting(
    base: Manifest | None, intent: ExtractionIntent, cursor: CursorPlan, columns: Sequence[Column]
) -> Manifest | None:
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
    relation = Relation(TablePart(plan.table), plan.query, plan.where, plan.object_name)
    with held.open_reader() as reader:
        looking = Looking(relation, cursor, dialect, reader)
        return looking.window(mark, first=base is None, settled=settled)


def check_start(dialect: Dialect, conn: sa.Connection, part: TablePart, cursor: CursorPlan) -> None:
    """Let the server read the value where the first run begins.

    Raises:
        ValidationError: it is no value of the column.

    """
    if cursor.start is None:
        return
    said = ""
    try:
        start = dialect.literal(cursor.start, cursor.sql_type)
        # Some servers never look at a value in a condition that nothing can meet.
        run(conn, f"SELECT {start}").all()
        where = f"{dialect.quote(cursor.column)} > {start}"
        dialect.check_filter(conn, part, where, part.table.name)
    except sa.exc.DBAPIError as error:
        if error.connection_invalidated or dialect.is_transient(error):
            raise
        said = " ".join(str(error.orig or error).split())
    except ValidationError as error:
        said = str(error)
    if said:
        msg = f"incremental_value {cursor.start!r} is no {cursor.sql_type}: {said}"
        raise ValidationError(msg, argument="incremental_value")


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
        self._replaced: str | None = None
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
        published = place_of(self.intent).published()
        self.base = _fitting(published, self.intent, cursor, self.plan.columns)
        self._replaced = None if published is None else published.run_id
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

    @property
    def notes(self) -> tuple[str, ...]:
        """Say what the run has left for later ones, though it is there."""
        held_back = self.window.held_back if self.plan.cursor is not None else None
        if held_back is None:
            return ()
        name, column = self.plan.object_name, self.window.cursor.column
        note = (
            f"rows of {name} whose {column} is {held_back} or later are held back: transactions "
            f"that were open then, or of the last second, may still add rows there; a later run "
            f"reads them"
        )
        return (note,)

    def complete(self, manifest: Manifest, directory: Run) -> Manifest:
        """Put the files of the runs before into the manifest, and the window.

        Raises:
            OutputNotWritable: a file of the runs before is gone, or the disk is full.

        """
        if self.plan.cursor is None:
            return manifest
        made = dataclasses.replace(manifest, window=record_of(self.window), replaces=self._replaced)
        if self.base is None:
            return made
        # A file without rows tells the columns, which the files before do already.
        new = (file for file in manifest.files if file.rows)
        files = sorted([*directory.carry(self.base), *new], key=lambda file: file.name)
        return dataclasses.replace(made, files=tuple(files), base_run_id=self.base.run_id)
