"""The rows of a batch as Arrow, table by table.

A batch gives pairs (table, row) or (table, frame). Rows are gathered per table and become one
Arrow piece at a time: as many rows as the buffer allows, fewer where rows are wide, so that memory
is bounded in bytes as well.
"""

from __future__ import annotations

import datetime as dt
import decimal
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from ixflow.dialects.cast import counted_from
from ixflow.dialects.types import arrow_schema, cast_column
from ixflow.errors import ColumnMismatch, ValueDoesNotFit
from ixflow.ingestion.texts import encoder
from ixflow.tables.arrow import is_arrow_like
from ixflow.values import Column

__all__ = ["Binder", "Router", "ServerRows", "is_sql", "rows_to_arrow"]

_FIRST_ROWS = 64
_PIECE_BYTES = 16 << 20
# Weighing a row costs as much as keeping it, so only every so many are weighed.
_WEIGHED = 16
_SMALL_VALUE = 16

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
        self._waiting: dict[Any, list[Any]] = {}
        self._limit: dict[Any, int] = {}
        self._weight: dict[Any, int] = {}
        self._seen: dict[Any, int] = {}
        self.skipped = 0

    def feed(self, pairs: Iterable[tuple[Any, Any]]) -> None:
        """Take all pairs of a batch, then hand over what is still waiting."""
        for named, row in pairs:
            table = self._match(named)
            if table is None:
                self.skipped += 1
            elif is_arrow_like(row) or is_sql(row):
                self._flush(table)
                self._sink(table, row)
            else:
                self._wait(table, row)
        for table in list(self._waiting):
            self._flush(table)

    def _wait(self, table: Any, row: Any) -> None:
        waiting = self._waiting.setdefault(table, [])
        # A generator may use one list or dict for all of its rows.
        waiting.append(row.copy() if isinstance(row, (list, dict)) else row)
        count = len(waiting)
        if count <= _WEIGHED or count % _WEIGHED == 0:
            stands_for = 1 if count < _WEIGHED else _WEIGHED
            self._weight[table] = self._weight.get(table, 0) + stands_for * _weight(row)
        limit = self._limit.get(table, min(_FIRST_ROWS, self._max_rows))
        if count >= limit or self._weight[table] >= _PIECE_BYTES:
            self._flush(table)

    def _flush(self, table: Any) -> None:
        self._weight[table] = 0
        rows = self._waiting.pop(table, [])
        if not rows:
            return
        first = self._seen.get(table, 0)
        piece = rows_to_arrow(
            rows,
            self._columns(table),
            table=str(table),
            first_row=first,
            binders=self._binders(table),
        )
        self._seen[table] = first + len(rows)
        self._limit[table] = min(self._max_rows, 16 * self._limit.get(table, _FIRST_ROWS))
        try:
            self._sink(table, piece)
        except ValueDoesNotFit as error:
            raise counted_from(error, first) from error.__cause__


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
    names = [column.name for column in columns]
    tuples = [_values(row, names, table, first_row + number) for number, row in enumerate(rows)]
    arrays = [
        _array(_bound(values, column, binders or {}, table), column, table, first_row)
        for values, column in zip(zip(*tuples, strict=True), columns, strict=True)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=arrow_schema(columns))


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
    if isinstance(row, (str, bytes)):
        msg = f"row {number} for {table} is a text, not a sequence of {len(names)} values"
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
    prepare = encoder(column)
    if prepare is not None:
        values = [None if value is None else prepare(value) for value in values]
    try:
        if pa.types.is_temporal(column.type):
            found = _moments(values)
        elif pa.types.is_integer(column.type) or pa.types.is_float32(column.type):
            # Told the type, Arrow would cut 1.5 to 1 and make 1e300 infinite.
            found = _numbers(values)
        else:
            found = pa.array(values, column.type)
        return cast_column(found, column, table=table, first_row=first_row)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, TypeError, ValueError):
        return _array_by_inference(values, column, table, first_row)


def _moments(values: Sequence[Any]) -> pa.Array:
    """Infer dates and times, since Arrow would drop a zone or make one up when told the type."""
    if any(isinstance(v, dt.datetime) for v in values):
        aware = {v.tzinfo is not None for v in values if isinstance(v, dt.datetime)}
        if len(aware) > 1:
            msg = "some of the timestamps have a zone and some have none"
            raise ValueError(msg)
        return pa.array(values, pa.timestamp("us", "UTC" if True in aware else None))
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
    except (pa.ArrowInvalid, pa.ArrowTypeError, ArithmeticError, TypeError, ValueError) as error:
        row, value = _odd_one_out(values, column, coerce)
        msg = (
            f"{table}.{column.name} in row {first_row + row} (value {value!r:.60}) "
            f"is not {column.sql_type}: {error}"
        )
        fields = {"table": table, "column": column.name, "row": first_row + row}
        raise ValueDoesNotFit(msg, **fields, value=repr(value)[:60]) from None
    return cast_column(found, column, table=table, first_row=first_row)


def _integer(value: Any) -> int:
    if isinstance(value, (str, bool)):
        return int(value)
    number = int(value)
    if number != value:
        msg = "not a whole number"
        raise ValueError(msg)
    return number


_COERCIONS: tuple[tuple[Callable[[pa.DataType], bool], Callable[[Any], Any]], ...] = (
    (pa.types.is_integer, _integer),
    (pa.types.is_decimal, lambda value: decimal.Decimal(str(value))),
    (pa.types.is_floating, float),
    (pa.types.is_string, str),
)


def _odd_one_out(
    values: Sequence[Any], column: Column, coerce: Callable[[Any], Any] | None
) -> tuple[int, Any]:
    for row, value in enumerate(values):
        try:
            pa.array([value if coerce is None or value is None else coerce(value)], column.type)
        except (pa.ArrowInvalid, pa.ArrowTypeError, ArithmeticError, TypeError, ValueError):
            return row, value
    return 0, values[0]
