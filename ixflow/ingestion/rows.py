"""The rows of a batch as Arrow, table by table.

A batch gives pairs (table, row) or (table, frame). Rows are gathered per table and become one
Arrow piece at a time: as many rows as the buffer allows, fewer where rows are wide, so that memory
is bounded in bytes as well.
"""

from __future__ import annotations

import datetime as dt
import decimal
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ixflow.dialects.cast import counted_from
from ixflow.dialects.moments import checked_moments, is_moments
from ixflow.dialects.types import cast_column
from ixflow.errors import ColumnMismatch, ValidationError, ValueDoesNotFit
from ixflow.ingestion.odd_values import plainer, without_missing
from ixflow.ingestion.plain_values import columnwise, in_slices, plain_array
from ixflow.ingestion.texts import encoder
from ixflow.tables.arrow import is_arrow_like
from ixflow.values import Column

__all__ = ["NO_ROWS", "Binder", "Router", "ServerRows", "is_sql", "rows_to_arrow"]

_FIRST_ROWS = 64
_PIECE_BYTES = 16 << 20
# Weighing a row costs as much as keeping it, so only every so many are weighed.
_WEIGHED = 16
_SMALL_VALUE = 16
NO_ROWS = (str, bytes, bytearray, memoryview, set, frozenset)
"""What can be iterated over and is no row of values."""
_NOT_ITS = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What converting a value raises when it is not one of the type."""

Binder = Callable[[Any], Any]

Sink = Callable[[Any, Any], None]
"""Takes a table of the metadata and something Arrow-like, or SQL, and loads it."""


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
        self.skipped = 0

    def feed(self, pairs: Iterable[tuple[Any, Any]]) -> None:
        """Take all pairs of a batch, then hand over what is still waiting."""
        for pair in pairs:
            try:
                named, row = pair
            except (TypeError, ValueError):
                msg = f"a batch has pairs of table and row, not {pair!r:.80}"
                raise ValidationError(msg) from None
            waiting = self._named.get(id(named))
            if waiting is None or type(row) is not tuple:
                self._take(named, row)
                continue
            rows = waiting.rows
            rows.append(row)
            if len(rows) >= waiting.look_at:
                self._look(waiting)
        for waiting in list(self._waiting.values()):
            self._flush(waiting)

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
            self._sink(table, row)
            return
        # A generator may use one list or dict for all of its rows.
        waiting.rows.append(row.copy() if isinstance(row, (list, dict)) else row)
        if len(waiting.rows) >= waiting.look_at:
            self._look(waiting)

    def _look(self, waiting: _Waiting) -> None:
        """Weigh the last row, and hand over the rows if they are enough."""
        count = len(waiting.rows)
        stands_for = 1 if count < _WEIGHED else _WEIGHED
        waiting.weight += stands_for * _weight(waiting.rows[-1])
        if count >= waiting.limit or waiting.weight >= _PIECE_BYTES:
            self._flush(waiting)
        else:
            waiting.look_at = min(waiting.limit, count + stands_for)

    def _flush(self, waiting: _Waiting) -> None:
        rows, waiting.rows = waiting.rows, []
        waiting.weight, waiting.look_at = 0, 1
        if not rows:
            return
        table, first = waiting.table, waiting.seen
        columns, binders = self._columns(table), self._binders(table)
        tuples = _checked(rows, columns, str(table), first)
        waiting.seen += len(rows)
        waiting.limit = min(self._max_rows, 16 * waiting.limit)

        def convert(some: Sequence[Any], start: int) -> pa.RecordBatch:
            return _to_arrow(some, columns, str(table), start, binders)

        try:
            self._sink(table, in_slices(tuples, columns, convert))
        except ValueDoesNotFit as error:
            told = _with_value(error, tuples, [column.name for column in columns])
            raise counted_from(told, first) from error.__cause__


def _with_value(
    error: ValueDoesNotFit, tuples: Sequence[Sequence[Any]], names: Sequence[str]
) -> ValueDoesNotFit:
    """Add the value that the server refused, which tells only its row and column."""
    row, name = error.fields.get("row"), error.fields.get("column")
    if "value" in error.fields or name not in names or row is None or row >= len(tuples):
        return error
    shown = repr(tuples[row][names.index(name)])[:60]
    message = error.message.replace(f"in row {row} ", f"in row {row} (value {shown}) ", 1)
    return ValueDoesNotFit(message, **error.fields, value=shown)


@dataclass(slots=True)
class _Waiting:
    """Rows of one table that wait, and when to look at them."""

    table: Any
    limit: int
    rows: list[Any] = field(default_factory=list)
    weight: int = 0
    look_at: int = 1
    """The number of rows at which the last of them is weighed."""
    seen: int = 0
    """Rows that were handed over before."""


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


def _weight(row: Any) -> int:
    """Estimate the bytes of a row by its texts; a generator weighs nothing before it is used."""
    values = row.values() if isinstance(row, Mapping) else row
    if not isinstance(values, Collection):
        return _SMALL_VALUE
    return sum(len(v) if isinstance(v, (str, bytes)) else _SMALL_VALUE for v in values)


def rows_to_arrow(
    rows: Sequence[Any],
    columns: Sequence[Column],
    *,
    table: str,
    first_row: int = 0,
    binders: Mapping[str, Binder] | None = None,
) -> pa.RecordBatch:
    """Turn tuples (in the order of the columns) or mappings (by name) into one Arrow batch.

    ``binders`` are functions by column name that every value goes through first.

    Raises:
        ColumnMismatch: a row has too many or too few values, or is a text.
        ValueDoesNotFit: naming table, column, row and value.

    """
    tuples = _checked(rows, columns, table, first_row)
    return _to_arrow(tuples, columns, table, first_row, binders or {})


def _checked(
    rows: Sequence[Any], columns: Sequence[Column], table: str, first_row: int
) -> Sequence[Sequence[Any]]:
    """See that every row has a value for every column, in their order."""
    if set(map(type, rows)) <= {tuple, list} and set(map(len, rows)) <= {len(columns)}:
        return rows
    names = [column.name for column in columns]
    return [_values(row, names, table, first_row + number) for number, row in enumerate(rows)]


def _to_arrow(
    tuples: Sequence[Sequence[Any]],
    columns: Sequence[Column],
    table: str,
    first_row: int,
    binders: Mapping[str, Binder],
) -> pa.RecordBatch:
    values = columnwise(tuples, len(columns))
    arrays = [
        _array(_bound(given, column, binders, table), column, table, first_row)
        for given, column in zip(values, columns, strict=True)
    ]
    return pa.RecordBatch.from_arrays(arrays, names=[column.name for column in columns])


def _bound(
    values: Sequence[Any], column: Column, binders: Mapping[str, Binder], table: str
) -> Sequence[Any]:
    bind = binders.get(column.name)
    if bind is None:
        return values
    try:
        return [bind(value) for value in values]
    except (LookupError, TypeError, ValueError) as error:
        msg = f"{table}.{column.name}: the column's type refuses a value: {error}"
        raise ValueDoesNotFit(msg, table=table, column=column.name) from error


def _values(row: Any, names: Sequence[str], table: str, number: int) -> Sequence[Any]:
    if isinstance(row, Mapping):
        surplus, missing = sorted(set(row) - set(names)), sorted(set(names) - set(row))
        if surplus or missing:
            msg = f"row {number} for {table}: surplus keys {surplus}, missing keys {missing}"
            raise ColumnMismatch(msg, table=table, row=number, surplus=surplus, missing=missing)
        return [row[name] for name in names]
    if isinstance(row, NO_ROWS):
        what = "a set, which has no order" if isinstance(row, (set, frozenset)) else "a text"
        msg = f"row {number} for {table} is {what}, not a sequence of {len(names)} values"
        raise ColumnMismatch(msg, table=table, row=number)
    try:
        values = row if isinstance(row, (tuple, list)) else tuple(row)
    except TypeError:
        msg = f"row {number} for {table} is {row!r:.60}, not a sequence of {len(names)} values"
        raise ColumnMismatch(msg, table=table, row=number) from None
    if len(values) != len(names):
        msg = f"row {number} for {table} has {len(values)} values for {len(names)} columns {names}"
        raise ColumnMismatch(msg, table=table, row=number)
    return values


def _array(values: Sequence[Any], column: Column, table: str, first_row: int) -> pa.Array:
    encode = encoder(column)
    plain = plain_array(values, column.type) if encode is None else None
    if plain is not None:
        return plain
    values = without_missing(values)
    if is_moments(column.type) and any(_is_infinite(value) for value in values):
        return _infinite_moments(values, column, table, first_row)
    prepare = encode or plainer(values, column)
    if prepare is not None:
        values = _each(values, prepare, column, table, first_row)
    try:
        if pa.types.is_temporal(column.type):
            _refuse_mixed_zones(values, column, table, first_row)
            found = _moments(values)
        elif pa.types.is_integer(column.type) or pa.types.is_float32(column.type):
            # Told the type, Arrow would cut 1.5 to 1 and make 1e300 infinite.
            found = _numbers(values)
        else:
            found = pa.array(values, column.type)
        return cast_column(found, column, table=table, first_row=first_row)
    except (pa.ArrowException, OverflowError, TypeError, ValueError):
        return _array_by_inference(values, column, table, first_row)


def _is_infinite(value: Any) -> bool:
    return isinstance(value, str) and value.strip().lower() in ("infinity", "-infinity")


def _infinite_moments(
    values: Sequence[Any], column: Column, table: str, first_row: int
) -> pa.Array:
    """Convert moments some of which are infinite, which only texts can say."""
    texts = pa.array([v if isinstance(v, str) else None for v in values], pa.string())
    others = _array([None if isinstance(v, str) else v for v in values], column, table, first_row)
    written = checked_moments(texts, column, table=table, first_row=first_row)
    return pc.coalesce(written, others.cast(pa.string()))


def _each(
    values: Sequence[Any], how: Callable[[Any], Any], column: Column, table: str, first_row: int
) -> list[Any]:
    """Convert the values one by one; name the one that cannot be."""
    made = []
    for number, value in enumerate(values):
        try:
            made.append(None if value is None else how(value))
        except _NOT_ITS as error:
            raise _misfit(value, column, table, first_row + number, error) from error
    return made


def _misfit(value: Any, column: Column, table: str, row: int, why: object) -> ValueDoesNotFit:
    shown = repr(value)[:60]
    msg = f"{table}.{column.name} in row {row} (value {shown}) is not {column.sql_type}: {why}"
    return ValueDoesNotFit(msg, table=table, column=column.name, row=row, value=shown)


def _refuse_mixed_zones(values: Sequence[Any], column: Column, table: str, first_row: int) -> None:
    """Refuse timestamps with and without a zone in one column: Arrow would make them alike."""
    moments = [isinstance(v, dt.datetime) and (v.tzinfo is not None) + 1 for v in values]
    if 1 in moments and 2 in moments:  # noqa: PLR2004 - without a zone, and with one
        row = moments.index(1 if getattr(column.type, "tz", None) else 2)
        why = "some of the timestamps have a zone and some have none"
        raise _misfit(values[row], column, table, first_row + row, why)


def _moments(values: Sequence[Any]) -> pa.Array:
    """Infer dates and times, since Arrow would drop a zone or make one up when told the type."""
    found = next((v for v in values if isinstance(v, dt.datetime)), None)
    if found is not None:
        return pa.array(values, pa.timestamp("us", None if found.tzinfo is None else "UTC"))
    return pa.array(values)


def _numbers(values: Sequence[Any]) -> pa.Array:
    found = pa.array(values)
    types = pa.types
    if not (types.is_integer(found.type) or types.is_floating(found.type)):
        msg = f"{found.type} is not a number"
        raise TypeError(msg)
    return found


def _array_by_inference(
    values: Sequence[Any], column: Column, table: str, first_row: int
) -> pa.Array:
    """Convert one value at a time where that loses nothing, else let Arrow see what they are."""
    coerce = next((how for test, how in _COERCIONS if test(column.type)), None)
    try:
        if coerce is not None:
            return pa.array([None if v is None else coerce(v) for v in values], column.type)
        found = pa.array(values)
    except (pa.ArrowException, ArithmeticError, TypeError, ValueError) as error:
        row, value = _odd_one_out(values, column, coerce)
        raise _misfit(value, column, table, first_row + row, error) from None
    return cast_column(found, column, table=table, first_row=first_row)


def _integer(value: Any) -> int:
    if isinstance(value, (str, bool)):
        return int(value)
    number = int(value)
    if number != value:
        msg = "not a whole number"
        raise ValueError(msg)
    return number


def _floating(value: Any) -> float:
    found = float(value)
    if isinstance(value, int) and int(found) != value:
        msg = "no float is this number"
        raise ValueError(msg)
    return found


_COERCIONS: tuple[tuple[Callable[[pa.DataType], bool], Callable[[Any], Any]], ...] = (
    (pa.types.is_integer, _integer),
    (pa.types.is_decimal, lambda value: decimal.Decimal(str(value))),
    (pa.types.is_floating, _floating),
    (pa.types.is_string, str),
)


def _odd_one_out(
    values: Sequence[Any], column: Column, coerce: Callable[[Any], Any] | None
) -> tuple[int, Any]:
    for row, value in enumerate(values):
        try:
            pa.array([value if coerce is None or value is None else coerce(value)], column.type)
        except (pa.ArrowException, ArithmeticError, TypeError, ValueError):
            return row, value
    return 0, values[0]
