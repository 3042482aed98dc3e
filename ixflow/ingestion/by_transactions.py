"""Batches by transactions: the rows of all that have ended since the mark, each version once.

A snapshot says below which number all transactions have ended. The rows of those numbers from the
mark's to the snapshot's are the new ones, whatever their cursor. The cursor only narrows where to
look: no transaction that was open writes a row below the ``since`` that was found out before.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from ixflow.dialects import Dialect
from ixflow.dialects.transactions import Ended
from ixflow.errors import LockNotAvailable, ValidationError
from ixflow.ingestion.marks import KeyMark, Mark, Reading, TransactionMark
from ixflow.ingestion.semantics import Settled
from ixflow.ingestion.source_rows import Described, Opened, Source
from ixflow.tables.cursor import Cursor, CursorPlan
from ixflow.tables.window import Looking

__all__ = ["Piece", "pieces", "transaction_batches"]

_log = logging.getLogger("ixflow")

_OLD = 2**30
"""A mark that is so many transactions old is stored anew, though no row is."""
_NUMBERS = 2**32


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows of transactions from ``first`` (None: of all) to before ``end``.

    They are looked for from the cursor ``low`` on (None: everywhere) and behind ``after``, and
    with ``nulls`` also where there is no cursor. ``since`` is for the mark behind it.
    """

    first: int | None
    end: int
    low: str | None = None
    since: str | None = None
    after: str | None = None
    nulls: bool = True


def pieces(mark: Mark | None, ended: Ended, since: str | None, *, keyed: bool) -> tuple[Piece, ...]:
    """Say what is to be read behind a mark: what was begun first, then what has ended since.

    Raises:
        ValidationError: the mark is of another server, and the target has no key to merge by.

    """
    if mark is None:
        return (Piece(None, ended.below, since=since),)
    if isinstance(mark, KeyMark):
        return (Piece(None, ended.below, since=since, after=mark.after, nulls=False),)
    reading = mark.reading
    if mark.server != ended.server:
        if not keyed:
            msg = (
                "the source is another server than the high watermark is of, or another has taken "
                "over for it, so its transactions are numbered anew; without a primary key of the "
                "target nobody can tell which rows are there. Give a value of the cursor as "
                "high_watermark, or empty the target and give HighWatermark.EARLIEST"
            )
            raise ValidationError(msg, server=ended.server, known=mark.server)
        return (Piece(None, ended.below, low=mark.since, since=since),)
    latest = reading.until if reading is not None else mark.below
    if latest is not None and latest > ended.below:
        return ()  # a standby that is behind the one that was read before
    if reading is None:
        return (Piece(mark.below, ended.below, low=mark.since, since=since),)
    begun = Piece(mark.below, reading.until, mark.since, reading.since, reading.after, nulls=False)
    return (begun, Piece(reading.until, ended.below, low=reading.since, since=since))


def transaction_batches(
    source: Source, found: Described, semantics: Settled, mark: Mark | None, rows: int | None
) -> Iterator[tuple[Any, Any, Sequence[Any]]]:
    """Read what has ended behind a mark in batches of about so many rows, or in one each piece."""
    plan = None if found.cursor is None else _planned(found, semantics)
    begun_before = _oldest_start(source, found, plan, mark)
    with source.open(found) as opened:
        ended = source.dialect.ended(opened.held.conn)
        looking, since = None, begun_before
        if plan is not None:
            looking = Looking(found.relation, plan, source.dialect, opened.reader)
            if plan.semantics == "overlap" and not _zoned(found):
                greatest = looking.greatest(None, None)
                since = None if greatest is None else plan.below(greatest)
        for piece in pieces(mark, ended, since, keyed=source.keyed):
            yield from _Reading(opened, piece, ended, plan).batches(looking, rows)


def _planned(found: Described, semantics: Settled) -> CursorPlan:
    """Plan a cursor to look from: as an overlap if it is known how far below rows may come."""
    column = found.cursor
    if column is None:
        raise ValidationError("there is no cursor")
    looks_back = semantics.lookback is not None or _zoned(found)
    kind = "overlap" if looks_back else "exclusive"
    cursor = Cursor(column.name, kind, semantics.lookback, nulls="each run")
    return CursorPlan.of(cursor, column, None, settles=True)


def _zoned(found: Described) -> bool:
    type_ = None if found.cursor is None else found.cursor.type
    return type_ is not None and pa.types.is_timestamp(type_) and type_.tz is not None


def _oldest_start(
    source: Source, found: Described, plan: CursorPlan | None, mark: Mark | None
) -> str | None:
    """Ask from where on open transactions stamp, less the lookback; None: nobody can tell.

    To be asked before the moment is held.
    """
    if plan is None or not _zoned(found):
        return None
    try:
        with source.connected() as conn:
            start = source.dialect.settled_before(conn, found.relation.part.table)
    except LockNotAvailable:
        # What was prepared since the mark began behind it; what was open at it, behind its since.
        if not isinstance(mark, TransactionMark):
            return None
        return mark.since if mark.reading is None else mark.reading.since
    except ValidationError as error:
        _log.warning("the next ingest from %s will search all of it: %s", source.name, error)
        return None
    return plan.below(start)


class _Reading:
    """One piece, in the moment that is read."""

    def __init__(self, opened: Opened, piece: Piece, ended: Ended, plan: CursorPlan | None) -> None:
        self._opened, self._piece, self._ended, self._plan = opened, piece, ended, plan
        self._source = opened.source
        self._dialect: Dialect = opened.source.dialect
        self._name = None if plan is None else self._dialect.quote(plan.column)

    def batches(
        self, looking: Looking | None, rows: int | None
    ) -> Iterator[tuple[Any, Any, Sequence[Any]]]:
        piece, made = self._piece, self._made()
        if piece.first is not None and piece.first >= piece.end:
            return
        after, nulls = piece.after, piece.nulls
        searched = [*made, *self._from(piece.low)]
        borders: Iterator[str | None] = iter([None])
        if looking is not None:
            borders = looking.borders(searched, after, rows)
        for border in borders:
            batch = self._opened.rows([*made, *self._where(after, border, nulls=nulls)])
            mark = self._mark(border)
            if batch is not None:
                yield mark.as_json(), self._told(), [(self._source.target, batch)]
            elif border is None and self._is_old():
                yield mark.as_json(), self._told(), []
            after, nulls = border, False

    def _is_old(self) -> bool:
        return self._piece.end - (self._piece.first or 0) > _OLD

    def _mark(self, border: str | None) -> TransactionMark:
        piece, column = self._piece, None if self._plan is None else self._plan.column
        server = self._ended.server
        if border is None:
            return TransactionMark(column, server, piece.end, piece.since)
        reading = Reading(piece.end, piece.since, border)
        return TransactionMark(column, server, piece.first, piece.low, reading)

    def _told(self) -> dict[str, Any]:
        first = self._piece.first
        read = (
            f"transactions {'' if first is None else f'from {first} '}to before {self._piece.end}"
        )
        return {"source": self._source.name, "semantics": "settled", "read": read}

    def _made(self) -> list[str]:
        """Write the conditions on who made a row.

        Raises:
            ValidationError: rows of long ago could be taken for new ones.

        """
        piece, ended = self._piece, self._ended
        if not self._source.keyed:
            self._refuse_ambiguous()
        if piece.first is not None:
            return [self._dialect.made_by(piece.first, piece.end)]
        if self._source.keyed or piece.end == ended.next:
            # What is seen already of those who may still be open comes again, and is merged; a row
            # that was there before must not be missing.
            return []
        settled = f"NOT ({self._dialect.made_by(piece.end, ended.next)})"
        if piece.since is not None:
            # Nobody who is open writes there, so an old number that looks like an open one is old.
            settled = f"({settled} OR {self._name} < {self._literal(piece.since)})"
        return [settled]

    def _refuse_ambiguous(self) -> None:
        piece, ended = self._piece, self._ended
        unknown = piece.since if piece.first is None else piece.low
        far = piece.first is not None and piece.end - piece.first >= _NUMBERS
        if far or (ended.ambiguous and unknown is None):
            msg = (
                f"{self._source.name} may have rows of 2^32 transactions ago, which cannot be told "
                f"from new ones; give {self._source.target.name} a primary key, or a cursor that "
                f"is a timestamp with time zone and a role with pg_read_all_stats"
            )
            raise ValidationError(msg, table=self._source.name)

    def _from(self, low: str | None) -> list[str]:
        return [] if low is None else [f"{self._name} >= {self._literal(low)}"]

    def _where(self, after: str | None, border: str | None, *, nulls: bool) -> list[str]:
        """Write the conditions on the cursor."""
        if self._name is None:
            return []
        limits = self._from(self._piece.low)
        limits += [] if after is None else [f"{self._name} > {self._literal(after)}"]
        limits += [] if border is None else [f"{self._name} <= {self._literal(border)}"]
        if not nulls:
            return limits or [f"{self._name} IS NOT NULL"]
        return [f"({' AND '.join(limits)}) OR {self._name} IS NULL"] if limits else []

    def _literal(self, text: str) -> str:
        sql_type = "text" if self._plan is None else self._plan.sql_type
        return self._dialect.literal(text, sql_type)
