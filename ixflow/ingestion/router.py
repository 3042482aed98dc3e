"""The rows of a batch, gathered table by table.

A batch gives pairs (table, row) or (table, frame). Rows are gathered per table and become one
Arrow piece at a time: as many rows as the buffer allows, fewer where rows are wide, so that memory
is bounded in bytes as well.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from ixflow.dialects.cast import counted_from
from ixflow.dialects.later import Later, Wait
from ixflow.errors import ValidationError, ValueDoesNotFit
from ixflow.ingestion.pieces import CHUNK_ROWS, Piece, Slices
from ixflow.ingestion.rows import Binder, checked_rows, columns_to_arrow
from ixflow.tables.arrow import is_arrow_like
from ixflow.values import Column

__all__ = ["Router", "ServerRows", "is_sql"]

_FIRST_ROWS = 64
_PIECE_BYTES = 16 << 20
# Weighing a row costs as much as keeping it, so only every so many are weighed.
_WEIGHED = 16
_SMALL_VALUE = 16

Sink = Callable[[Any, Any, Later | None], None]
"""Takes a table of the metadata and slices of rows, something Arrow-like, or SQL, and loads it.

Slices may be loaded later than the sink returns: more rows are gathered meanwhile."""


class Router:
    """Sorts pairs by table and hands Arrow pieces to the sink, in the order of each table.

    ``match`` finds the metadata's table for what a pair names, None where it is not in there:
    such pairs are counted in ``skipped``.
    """

    def __init__(
        self,
        match: Callable[[Any], Any],
        columns: Callable[[Any], Sequence[Column]],
        sink: Sink,
        max_rows: int,
        binders: Callable[[Any], Mapping[str, Binder]] = lambda _: {},
    ) -> None:
        """Take how to find tables and columns, where to put pieces, and the most rows of one.

        ``binders`` gives, for a table, what the types of some columns do with a value first.
        """
        self._match = match
        self._columns = columns
        self._sink = sink
        self._max_rows = max(1, max_rows)
        self._binders = binders
        self._waiting: dict[Any, _Waiting] = {}
        # By identity, since hashing and comparing the name of a table takes longer than the rest.
        self._named: dict[int, _Waiting] = {}
        self._wait: Wait | None = None
        self._told: Exception | None = None
        self.skipped = 0

    def feed(
        self,
        pairs: Iterable[tuple[Any, Any]],
        notice: Callable[[Exception], None] = lambda _: None,
    ) -> None:
        """Take all pairs of a batch, then hand over what is still waiting.

        ``notice`` is told of an error that giving the pairs raises, which is not one of loading.
        """
        loading = False
        named_before, waiting = None, None
        try:
            for pair in pairs:
                try:
                    named, row = pair
                except (TypeError, ValueError):
                    loading = True
                    msg = f"a batch has pairs of table and row, not {pair!r:.80}"
                    raise ValidationError(msg) from None
                if named is not named_before:
                    named_before, waiting = named, self._named.get(id(named))
                if waiting is None or type(row) is not tuple:
                    loading = True
                    self._take(named, row)
                    loading = False
                    waiting = self._named.get(id(named))
                    continue
                rows = waiting.rows
                rows.append(row)
                if len(rows) >= waiting.look_at:
                    loading = True
                    self._look(waiting)
                    loading = False
        except Exception as error:
            # Whoever uses the connection after a load that fails meets the failed transaction.
            self._settle()
            if not loading:
                notice(error)
            raise
        for waiting in list(self._waiting.values()):
            self._flush(waiting)
        self._settle()

    def _take(self, named: Any, row: Any) -> None:
        """Take a row of any kind, for a table that may not have been named before."""
        table = self._match(named)
        if table is None:
            self.skipped += 1
            return
        waiting = self._waiting.get(table)
        if waiting is None:
            waiting = _Waiting(table, min(_FIRST_ROWS, self._max_rows))
            self._waiting[table] = waiting
        if table is named:
            self._named[id(named)] = waiting
        if is_arrow_like(row) or is_sql(row):
            self._flush(waiting)
            self._settle()
            self._sink(table, row, None)
            return
        # A generator may use one list or dict for all of its rows.
        waiting.rows.append(row.copy() if isinstance(row, (list, dict)) else row)
        if len(waiting.rows) >= waiting.look_at:
            self._look(waiting)

    def _look(self, waiting: _Waiting) -> None:
        """Weigh the last row, and hand over the rows if they are enough."""
        count = len(waiting.rows)
        total = count + (0 if waiting.piece is None else waiting.piece.rows)
        stands_for = 1 if total < _WEIGHED else _WEIGHED
        waiting.weight += stands_for * self._weight(waiting)
        if total >= waiting.limit or waiting.weight >= _PIECE_BYTES:
            self._flush(waiting)
            return
        if count >= CHUNK_ROWS:
            self._turn(waiting)
            count = 0
        waiting.look_at = count + min(stands_for, waiting.limit - total)

    def _weight(self, waiting: _Waiting) -> int:
        """Estimate the bytes of the last row, of which only some columns can have many."""
        row = waiting.rows[-1]
        if waiting.long is None:
            columns = self._columns(waiting.table)
            waiting.long = tuple(n for n, c in enumerate(columns) if not _is_small(c.type))
            waiting.width = len(columns)
        if type(row) is not tuple or len(row) != waiting.width:
            return _weight(row)
        weight = _SMALL_VALUE * waiting.width
        for place in waiting.long:
            value = row[place]
            if isinstance(value, (str, bytes)):
                weight += len(value)
        return weight

    def _turn(self, waiting: _Waiting) -> Piece:
        """Make columns of the last rows."""
        rows, waiting.rows = waiting.rows, []
        columns = self._columns(waiting.table)
        if waiting.piece is None:
            waiting.piece = Piece(len(columns))
        first = waiting.seen + waiting.piece.rows
        waiting.piece.add(checked_rows(rows, columns, str(waiting.table), first))
        return waiting.piece

    def _flush(self, waiting: _Waiting) -> None:
        piece = self._turn(waiting) if waiting.rows else waiting.piece
        waiting.piece, waiting.weight, waiting.look_at = None, 0, 1
        if piece is None:
            return
        table, first = waiting.table, waiting.seen
        columns, binders = self._columns(table), self._binders(table)
        waiting.seen += piece.rows
        waiting.limit = min(self._max_rows, 16 * waiting.limit)

        def convert(some: Sequence[Sequence[Any]], start: int) -> pa.RecordBatch:
            return columns_to_arrow(some, columns, str(table), start, binders)

        def hold(wait: Wait) -> None:
            self._wait = wait

        names = [column.name for column in columns]
        telling = functools.partial(self._telling, piece, names, first)
        with telling():
            later = Later(self._settle, hold).within(telling)
            self._sink(table, Slices(piece, columns, convert), later)

    def _settle(self) -> None:
        """Wait for the last load; nothing else may be loaded before."""
        wait, self._wait = self._wait, None
        try:
            if wait is not None:
                wait()
        except Exception as error:
            self._told = error
            raise

    @contextlib.contextmanager
    def _telling(self, piece: Piece, names: Sequence[str], first: int) -> Iterator[None]:
        """Show the value that does not fit, and count its row from the batch's first."""
        try:
            yield
        except ValueDoesNotFit as error:
            if error is self._told:  # it is of the load before
                raise
            told = _with_value(error, piece, names)
            raise counted_from(told, first) from error.__cause__


def _with_value(error: ValueDoesNotFit, piece: Piece, names: Sequence[str]) -> ValueDoesNotFit:
    """Add the value that the server refused, which tells only its row and column."""
    row, name = error.fields.get("row"), error.fields.get("column")
    if "value" in error.fields or name not in names or row is None or row >= piece.rows:
        return error
    shown = repr(piece.value(row, names.index(name)))[:60]
    message = error.message.replace(f"in row {row} ", f"in row {row} (value {shown}) ", 1)
    return ValueDoesNotFit(message, **error.fields, value=shown)


@dataclass(slots=True)
class _Waiting:
    """Rows of one table that wait, and when to look at them."""

    table: Any
    limit: int
    rows: list[Any] = field(default_factory=list)
    """The last of them; those before are columns of the piece."""
    piece: Piece | None = None
    weight: int = 0
    look_at: int = 1
    """The number of last rows at which the last of them is weighed."""
    seen: int = 0
    """Rows that were handed over before."""
    width: int = 0
    long: tuple[int, ...] | None = None
    """The places of the columns whose values can be long."""


@dataclass(frozen=True)
class ServerRows:
    """A query of ours whose rows the server inserts."""

    query: str

    def as_string(self, _: Any) -> str:
        """Give the query, as the SQL objects of drivers do."""
        return self.query


def is_sql(row: Any) -> bool:
    """Say whether it is SQL of psycopg or psycopg2, such as ``sql.SQL("SELECT ...")``."""
    drivers = type(row).__module__ in ("psycopg.sql", "psycopg2.sql")
    return isinstance(row, ServerRows) or (drivers and hasattr(row, "as_string"))


def _is_small(type_: pa.DataType) -> bool:
    return bool(pa.types.is_primitive(type_) or pa.types.is_decimal(type_))


def _weight(row: Any) -> int:
    """Estimate the bytes of a row by its texts; a generator weighs nothing before it is used."""
    values = row.values() if isinstance(row, Mapping) else row
    if not isinstance(values, Collection):
        return _SMALL_VALUE
    return sum(len(v) if isinstance(v, (str, bytes)) else _SMALL_VALUE for v in values)
