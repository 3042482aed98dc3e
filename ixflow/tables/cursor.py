"""Which rows an incremental run reads: the semantics of a cursor column, and windows of it. No I/O.

    settled      key > mark, and before the beginning of every transaction still open: rows stamped
                 with the start of their transaction arrive exactly once
    exclusive    key > mark: for keys that only grow and are never committed late
    inclusive    key >= mark: rows at the boundary come again
    overlap      key >= mark - overlap: rows of that stretch come again, late ones come too

The mark is the greatest key that the runs before have read. A window ends at the greatest key of
the moment that is read, so that what comes later belongs to the next run.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

import pyarrow as pa

from ixflow.dialects.types import split_sql_type
from ixflow.errors import ValidationError
from ixflow.values import Column

__all__ = ["NULLS", "SEMANTICS", "Cursor", "CursorPlan", "Window", "text_of"]

SEMANTICS = ("settled", "exclusive", "inclusive", "overlap")
NULLS = ("refuse", "first run", "each run")

_DEFAULT_OVERLAP = {"timestamp": dt.timedelta(hours=1), "date": dt.timedelta(days=1)}
_NUMBERS = ("numeric", "decimal", "hugeint", "uhugeint")
_NO_ORDER = ("json", "jsonb", "xml")
_BOUNDLESS = ("infinity", "-infinity", "nan", "inf", "-inf")

Overlap = dt.timedelta | int | Decimal


@dataclass(frozen=True, slots=True)
class Cursor:
    """The column that says which rows are new, and what its values promise.

    Args:
        column: its name.
        semantics: ``settled``, ``exclusive``, ``inclusive`` or ``overlap``; None: ``settled`` for
            ``timestamptz`` on PostgreSQL, ``overlap`` for other timestamps and dates,
            ``exclusive`` for everything else.
        overlap: how far an ``overlap`` goes back: a `timedelta` for timestamps and dates, a number
            for numbers; None: one hour, or one day of dates.
        nulls: what happens to rows without a key: ``refuse`` them, read them in the ``first run``
            only, or again in ``each run``.

    >>> Cursor("updated_at", overlap=dt.timedelta(minutes=10)).semantics
    'overlap'
    """

    column: str
    semantics: str | None = None
    overlap: Overlap | None = None
    nulls: str = "refuse"

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        _check_name(self.column)
        if self.semantics is None and self.overlap is not None:
            object.__setattr__(self, "semantics", "overlap")
        if self.semantics not in (None, *SEMANTICS):
            msg = f"semantics is {self.semantics!r}; it can be {', '.join(SEMANTICS)}"
            raise ValidationError(msg, semantics=self.semantics)
        if self.nulls not in NULLS:
            msg = f"nulls is {self.nulls!r}; it can be {', '.join(NULLS)}"
            raise ValidationError(msg, nulls=self.nulls)
        if self.overlap is not None:
            _check_overlap(self.overlap, self.semantics)


def _check_name(column: object) -> None:
    if not isinstance(column, str) or not column:
        msg = f"incremental_key is {column!r}; it must be the name of a column"
        raise ValidationError(msg, argument="incremental_key")


def _check_overlap(overlap: object, semantics: str | None) -> None:
    if semantics != "overlap":
        msg = f"an overlap of {overlap} does not go with semantics {semantics!r}"
        raise ValidationError(msg, semantics=semantics)
    number = isinstance(overlap, (int, Decimal)) and not isinstance(overlap, bool) and overlap > 0
    if not number and not (isinstance(overlap, dt.timedelta) and overlap > dt.timedelta(0)):
        msg = f"overlap is {overlap!r}; it must be a timedelta or a whole or decimal number over 0"
        raise ValidationError(msg, argument="overlap")


@dataclass(frozen=True, slots=True)
class CursorPlan:
    """A cursor as it is planned: its column's type, its semantics, and where the first run begins.

    ``overlap`` is in microseconds for timestamps, in days for dates, else a number. ``kind`` is
    ``number``, ``date``, ``timestamp`` or ``text``.
    """

    column: str
    sql_type: str
    kind: str
    semantics: str
    overlap: str | None = None
    nulls: str = "refuse"
    nullable: bool = True
    start: str | None = None

    @classmethod
    def of(cls, cursor: Cursor, column: Column, start: object, *, settles: bool) -> CursorPlan:
        """Plan a cursor for a column; ``settles`` says that the database can tell what is settled.

        Raises:
            ValidationError: the column, the semantics and the overlap do not go together.

        """
        kind = _kind(column)
        zoned = pa.types.is_timestamp(column.type) and column.type.tz is not None
        can_settle = settles and zoned
        semantics = cursor.semantics or _default(kind, can_settle=can_settle)
        if semantics == "settled" and not can_settle:
            msg = (
                f"{column.name} is {column.sql_type}; 'settled' is for timestamps with time zone "
                f"on PostgreSQL, which are stamped with now(); use 'overlap'"
            )
            raise ValidationError(msg, column=column.name, semantics=semantics)
        return cls(
            column.name,
            column.sql_type,
            kind,
            semantics,
            _overlap_text(cursor, kind, column) if semantics == "overlap" else None,
            cursor.nulls,
            column.nullable,
            None if start is None else text_of(start, zoned=zoned, kind=kind),
        )

    @property
    def declares(self) -> str:
        """Say what the semantics mean for the rows, in a few words."""
        return {
            "settled": "rows stamped with the start of their transaction arrive exactly once",
            "exclusive": "rows that commit later with a smaller or equal key are never read",
            "inclusive": "rows at the boundary repeat",
            "overlap": f"rows within {self.shown_overlap} below the mark repeat",
        }[self.semantics]

    @property
    def shown_overlap(self) -> str:
        """Write the overlap for people."""
        if self.kind == "timestamp":
            return str(dt.timedelta(microseconds=int(self.overlap or 0)))
        return f"{self.overlap} days" if self.kind == "date" else f"{self.overlap}"

    def __str__(self) -> str:
        """Say how rows are chosen."""
        nulls = f"; NULL: {self.nulls}" if self.nullable else ""
        return f"{self.column} ({self.sql_type}), {self.semantics}: {self.declares}{nulls}"

    def below(self, mark: str) -> str:
        """Go back from a mark by the overlap.

        Raises:
            ValidationError: the mark is not a value that can be counted back from.

        """
        try:
            return self._below(mark)
        except (ValueError, OverflowError, InvalidOperation) as error:
            msg = f"no overlap can be subtracted from {self.column} {mark!r}: {error}"
            raise ValidationError(msg, column=self.column, mark=mark) from None

    def _below(self, mark: str) -> str:
        if self.kind == "number":
            return format(Decimal(mark) - Decimal(self.overlap or "0"), "f")
        if self.kind == "date":
            day = dt.date.fromisoformat(mark[:10]) - dt.timedelta(days=int(self.overlap or 0))
            return day.isoformat()
        back = dt.timedelta(microseconds=int(self.overlap or 0))
        return (dt.datetime.fromisoformat(mark) - back).isoformat(sep=" ")

    def window(self, mark: str | None, greatest: str | None, *, first: bool) -> Window:
        """Choose the rows between a mark and the greatest key, ``first`` if none were read yet."""
        mark = self.start if mark is None else mark
        for text in (mark, greatest):
            if text is not None and text.strip().lower() in _BOUNDLESS:
                msg = f"{self.column} has the value {text}, behind which nothing can be new"
                raise ValidationError(msg, column=self.column, value=text)
        low = self.below(mark) if mark is not None and self.semantics == "overlap" else mark
        included = self.semantics in ("inclusive", "overlap")
        wanted = ("each run", "first run") if first else ("each run",)
        nulls = self.nullable and self.nulls in wanted
        high = greatest if greatest is not None else mark
        return Window(self, low, included, high, nulls, mark)


@dataclass(frozen=True, slots=True)
class Window:
    """The rows of one run: from ``low`` to ``high`` (always included), and those without a key.

    ``low`` None: from the beginning; ``high`` None: no row has a key. ``mark`` is where the runs
    before have ended. ``held_back`` is the moment from which on nothing is settled yet, if there
    are rows of it.
    """

    cursor: CursorPlan
    low: str | None
    low_included: bool
    high: str | None
    nulls: bool
    mark: str | None
    held_back: str | None = None

    @property
    def is_empty(self) -> bool:
        """Say that nothing can be in it."""
        nothing = self.high is None or (self.low == self.high and not self.low_included)
        return nothing and not self.nulls

    def __str__(self) -> str:
        """Show it the way people write it."""
        name = self.cursor.column
        if self.high is None:
            return f"no {name}"
        low = "" if self.low is None else f"{self.low} {'<=' if self.low_included else '<'} "
        return f"{low}{name} <= {self.high}"


def _kind(column: Column) -> str:
    """Say how a column's values are ordered; refuse those that no window can end at."""
    base = split_sql_type(column.sql_type)[0]
    kinds = (
        (pa.types.is_integer(column.type) or pa.types.is_decimal(column.type), "number"),
        (column.as_text and base in _NUMBERS, "number"),
        (pa.types.is_date(column.type), "date"),
        (pa.types.is_timestamp(column.type), "timestamp"),
        (pa.types.is_string(column.type) and not column.as_text and base not in _NO_ORDER, "text"),
    )
    found = next((kind for matches, kind in kinds if matches), None)
    if found is None:
        msg = (
            f"{column.name} is {column.sql_type}, which is no cursor; whole and decimal numbers, "
            f"dates, timestamps, text and uuid are"
        )
        raise ValidationError(msg, column=column.name, sql_type=column.sql_type)
    return found


def _default(kind: str, *, can_settle: bool) -> str:
    if can_settle:
        return "settled"
    return "overlap" if kind in _DEFAULT_OVERLAP else "exclusive"


def _overlap_text(cursor: Cursor, kind: str, column: Column) -> str:
    overlap = _DEFAULT_OVERLAP.get(kind) if cursor.overlap is None else cursor.overlap
    timed = isinstance(overlap, dt.timedelta)
    if overlap is None or kind == "text" or timed != (kind in _DEFAULT_OVERLAP):
        wanted = {"number": "a number", "text": "no overlap"}.get(kind, "a timedelta")
        msg = f"overlap is {overlap!r}; {column.name} is {column.sql_type} and takes {wanted}"
        raise ValidationError(msg, column=column.name, argument="overlap")
    if isinstance(overlap, dt.timedelta):
        if kind == "date":
            return str(-(-overlap // dt.timedelta(days=1)))
        return str(overlap // dt.timedelta(microseconds=1))
    return str(overlap)


def text_of(value: Any, *, zoned: bool, kind: str) -> str:
    """Write a start as the database reads it.

    Raises:
        ValidationError: it is not exact, or not of the column's kind.

    >>> text_of(dt.date(2024, 2, 29), zoned=False, kind="date")
    '2024-02-29'
    """
    if isinstance(value, str) and value:
        return value
    if isinstance(value, dt.datetime) and kind == "timestamp":
        if (value.tzinfo is not None) == zoned:
            return value.isoformat(sep=" ")
        needs = "needs a time zone" if zoned else "must have no time zone"
        raise ValidationError(f"incremental_value is {value!r}; it {needs}")
    if isinstance(value, dt.date) and not isinstance(value, dt.datetime) and kind != "number":
        return value.isoformat()
    if isinstance(value, (int, Decimal)) and not isinstance(value, bool) and kind == "number":
        return format(Decimal(value), "f")
    msg = f"incremental_value is {value!r}, which is no exact value of a {kind}; give it as a text"
    raise ValidationError(msg, argument="incremental_value")
