"""What a cursor column promises about rows that are new: which of them a run reads, and when again.

Settled     rows of transactions that have surely ended: each version of a row exactly once
Overlap     from so much below the mark on: what repeats is merged by the target's primary key
Exclusive   behind the mark: for cursors that only grow and are never committed late
Inclusive   from the mark on: rows at the mark repeat and are merged
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from decimal import Decimal

from ixflow.tables.cursor import Cursor

__all__ = ["Exclusive", "Inclusive", "Overlap", "Semantics", "Settled", "cursor_of"]

Distance = dt.timedelta | int | Decimal


@dataclass(frozen=True, slots=True)
class Settled:
    """Rows of transactions that have surely ended, each version exactly once. PostgreSQL only.

    A row of a table carries the number of its transaction, which alone decides; the cursor only
    tells from where to look for rows. Of views and queries the cursor decides, a timestamp with
    time zone that is stamped with the start of its transaction.

    Args:
        lookback: how far below its time of commit a cursor may lie: a `timedelta`, or a number.
            None: for a timestamp with time zone, from one hour before the start of the oldest
            open transaction on; for others all of the table is searched in every run.

    >>> Settled(dt.timedelta(days=1)).lookback
    datetime.timedelta(days=1)
    """

    lookback: Distance | None = None

    def __post_init__(self) -> None:
        """Refuse a distance that cannot work."""
        if self.lookback is not None:
            Cursor("cursor", "overlap", self.lookback)


@dataclass(frozen=True, slots=True)
class Overlap:
    """Rows from so much below the mark on: late ones come too. The target needs a primary key.

    Args:
        by: a `timedelta` for timestamps and dates, a number for numbers; None: one hour, or one
            day of dates.

    >>> Overlap(dt.timedelta(minutes=10)).by
    datetime.timedelta(seconds=600)
    """

    by: Distance | None = None

    def __post_init__(self) -> None:
        """Refuse a distance that cannot work."""
        Cursor("cursor", "overlap", self.by)


@dataclass(frozen=True, slots=True)
class Exclusive:
    """Rows behind the mark, each once; one that commits late with a lower cursor never comes."""


@dataclass(frozen=True, slots=True)
class Inclusive:
    """Rows from the mark on: those at the mark repeat. The target needs a primary key."""


Semantics = Settled | Overlap | Exclusive | Inclusive


def cursor_of(column: str, semantics: Semantics | None, nulls: str) -> Cursor:
    """Name the semantics as a cursor knows them; None: as the column's type has it.

    >>> cursor_of("id", Exclusive(), "refuse").semantics
    'exclusive'
    """
    if semantics is None:
        return Cursor(column, nulls=nulls)
    overlap = semantics.by if isinstance(semantics, Overlap) else None
    return Cursor(column, type(semantics).__name__.lower(), overlap, nulls)
