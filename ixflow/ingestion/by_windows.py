"""Batches by windows of a cursor column: from the mark, or below it, to the greatest there is."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from ixflow.errors import ValidationError
from ixflow.ingestion.marks import KeyMark, Mark, TransactionMark
from ixflow.ingestion.semantics import Semantics, Settled, cursor_of
from ixflow.ingestion.source_rows import Described, Opened, Source
from ixflow.tables.cursor import Cursor, CursorPlan, Window
from ixflow.tables.declared import name_of
from ixflow.tables.window import Looking, condition_of

__all__ = ["planned", "refuse_without_key", "settled_moment", "window_batches"]

_REPEATS = ("overlap", "inclusive")


def planned(
    source: Source, found: Described, semantics: Semantics | None, nulls: str
) -> CursorPlan:
    """Plan the cursor; what could lose rows is never chosen unasked.

    Raises:
        ValidationError: the cursor cannot have these semantics, or not with this target.

    """
    if found.cursor is None:
        msg = (
            f"{source.name} needs a cursor: only of a PostgreSQL table, which this is not, does "
            f"the database itself tell which rows are new"
        )
        raise ValidationError(msg, argument="cursor", table=source.name)
    column = found.cursor
    cursor = cursor_of(column.name, semantics, nulls)
    plan = CursorPlan.of(cursor, column, None, settles=source.dialect.settles)
    if semantics is None and plan.semantics == "exclusive":
        msg = (
            f"say what {column.name} ({column.sql_type}) promises: semantics=Exclusive() if no row "
            f"is committed after one with a greater value, Overlap(by) if some are, by so much"
        )
        raise ValidationError(msg, argument="semantics", column=column.name)
    if plan.semantics in _REPEATS:
        refuse_without_key(source, plan.semantics.capitalize())
    return plan


def refuse_without_key(source: Source, what: str) -> None:
    """Refuse to read rows again for a target that would keep them twice.

    Raises:
        ValidationError: the target has no primary key.

    """
    if not source.keyed:
        name = name_of(source.target)
        msg = (
            f"{what} reads rows again, and {name} has no primary key to merge them by; give it "
            f"one, or read each row once, with Exclusive or Settled"
        )
        raise ValidationError(msg, argument="semantics", table=str(name))


def settled_moment(
    source: Source, found: Described, plan: CursorPlan, semantics: Semantics | None
) -> str | None:
    """Ask what is settled, which must be asked before a moment is held; None: it does not matter.

    Raises:
        ValidationError: the role may not see when transactions began.
        LockNotAvailable: a prepared transaction is open.

    """
    if plan.semantics != "settled" or found.cursor is None:
        return None
    table = None if source.query is not None else found.relation.part.table
    with source.connected() as conn:
        moment = source.dialect.settled_before(conn, table)
    if not isinstance(semantics, Settled) or semantics.lookback is None:
        return moment
    back = Cursor(plan.column, "overlap", semantics.lookback)
    return CursorPlan.of(back, found.cursor, None, settles=True).below(moment)


def window_batches(
    source: Source,
    found: Described,
    plan: CursorPlan,
    mark: Mark | None,
    *,
    settled: str | None,
    rows: int | None,
) -> Iterator[tuple[Any, Any, Sequence[Any]]]:
    """Read the window behind a mark in batches of about so many rows, or in one.

    Raises:
        ValidationError: the mark is not of windows, or rows without a cursor are refused.

    """
    if isinstance(mark, TransactionMark):
        msg = (
            f"{source.name} was read by transactions, as Settled reads a table; to read windows of "
            f"{plan.column} from now on give a value of it as high_watermark once"
        )
        raise ValidationError(msg, argument="semantics", table=source.name)
    with source.open(found) as opened:
        looking = Looking(found.relation, plan, source.dialect, opened.reader)
        after = None if mark is None else mark.after
        window = looking.window(after, first=mark is None, settled=settled)
        if window.is_empty:
            return
        for part in _parts(opened, looking, window, rows):
            batch = opened.rows([condition_of(source.dialect, part)])
            if batch is not None:
                told = {"source": source.name, "semantics": plan.semantics, "read": str(part)}
                stored = KeyMark(plan.column, part.high).as_json()
                yield stored, told, [(source.target, batch)]


def _parts(opened: Opened, looking: Looking, window: Window, rows: int | None) -> Iterator[Window]:
    """Cut a window behind the mark, so that what is stored never goes back."""
    if window.high is None:
        yield window
        return
    dialect, cursor = opened.source.dialect, window.cursor
    end = f"{dialect.quote(cursor.column)} <= {dialect.literal(window.high, cursor.sql_type)}"
    for border in looking.borders([end], window.mark, rows):
        if border is None:
            yield window
            return
        yield dataclasses.replace(window, high=border)
        window = dataclasses.replace(window, low=border, low_included=False, nulls=False)
