"""The condition for the rows of several partitions of a table, as short as can be. No I/O."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import pyarrow as pa

from ixflow.dialects.cast import cast_column
from ixflow.dialects.types import split_sql_type
from ixflow.errors import ValidationError, ValueDoesNotFit
from ixflow.tables.slices import RowsOfKey, Slice, TimeWindow, inside
from ixflow.values import Column, TableName

if TYPE_CHECKING:
    from ixflow.dialects import Dialect

__all__ = ["Slices"]

Term = TimeWindow | RowsOfKey
_TEXTS = ("text", "varchar", "character")


class Slices:
    """Writes conditions for partitions of one table.

    A window of time is one of the clock in timestamps and dates; in any other column the rows of
    the window are those whose value is the partition's key.
    """

    def __init__(self, dialect: Dialect, columns: Sequence[Column], table: TableName) -> None:
        """Take the columns as the table has them."""
        self._dialect, self._table = dialect, table
        self._columns = {column.name: column for column in columns}

    def condition(self, slices: Sequence[Slice]) -> str:
        """Write what is true of the rows of any of these partitions, and of no others.

        Raises:
            ValidationError: the table lacks a column, or a key is no value of its type.

        """
        if not slices:
            return "1 = 0"
        rows = [self._terms(one) for one in slices]
        dimensions = [list(dict.fromkeys(terms)) for terms in zip(*rows, strict=True)]
        if len(set(rows)) == math.prod(map(len, dimensions)):
            return " AND ".join(self._any(terms) for terms in dimensions)
        each = (" AND ".join(self._any([term]) for term in terms) for terms in rows)
        return "(" + " OR ".join(f"({text})" for text in each) + ")"

    def values(self, slices: Sequence[Slice]) -> list[str]:
        """Write the keys that the server has to read as values, to see whether it can."""
        terms = dict.fromkeys(term for one in slices for term in self._terms(one))
        keys = [term for term in terms if isinstance(term, RowsOfKey)]
        columns = [(self._column(term.by.column), term.key) for term in keys]
        return [self._value(column, key) for column, key in columns if not _is_text(column)]

    def _column(self, name: str) -> Column:
        found = self._columns.get(name)
        if found is None:
            msg = (
                f"{self._table} has no column {name!r}, which partition_expr names; "
                f"it has {list(self._columns)}"
            )
            raise ValidationError(msg, table=str(self._table), column=name)
        return found

    def _terms(self, one: Slice) -> tuple[Term, ...]:
        """Take the key in the place of a window where the column is none of time."""
        return tuple(
            term if self._is_clock(term.by.column) else RowsOfKey(term.by, key)
            for term, key in zip(one.terms, one.path, strict=True)
        )

    def _is_clock(self, name: str) -> bool:
        column = self._column(name)
        timed = pa.types.is_timestamp(column.type) or pa.types.is_date(column.type)
        return timed and not column.as_text

    def _any(self, terms: Sequence[Term]) -> str:
        """Write what is true of the rows of any of the terms of one dimension."""
        column = self._column(terms[0].by.column)
        windows = [term for term in terms if isinstance(term, TimeWindow)]
        keys = [term.key for term in terms if isinstance(term, RowsOfKey)]
        if windows:
            each = [self._window(window, column) for window in _joined(windows)]
        elif _is_text(column):
            each = [self._dialect.text_is(column, key) for key in keys]
        else:
            values = ", ".join(self._value(column, key) for key in keys)
            each = [f"{self._dialect.quote(column.name)} IN ({values})"]
        return each[0] if len(each) == 1 else "(" + " OR ".join(f"({text})" for text in each) + ")"

    def _window(self, window: TimeWindow, column: Column) -> str:
        return inside(self._dialect, Slice((str(window),), (window,)), [column])

    def _value(self, column: Column, key: str) -> str:
        """Write a key as a value of a type, which must have exactly that value."""
        if not column.as_text:
            try:
                cast_column(pa.array([key]), column, table=str(self._table))
            except ValueDoesNotFit:
                msg = (
                    f"the partition key {key!r} is no value of {self._table}.{column.name}, "
                    f"which is {column.sql_type}"
                )
                raise ValidationError(msg, table=str(self._table), column=column.name) from None
        return self._dialect.literal(key, self._dialect.assigned_type(column.sql_type))


def _is_text(column: Column) -> bool:
    return split_sql_type(column.sql_type)[0].startswith(_TEXTS)


def _joined(windows: Sequence[TimeWindow]) -> Iterator[TimeWindow]:
    """Join windows that follow each other."""
    # Two moments of one time zone compare as its clock shows them, which may be set back.
    ordered = sorted(windows, key=lambda window: window.start.astimezone(dt.UTC))
    whole = ordered[0]
    for window in ordered[1:]:
        if window.start.astimezone(dt.UTC) > whole.end.astimezone(dt.UTC):
            yield whole
            whole = window
        else:
            ends = (whole.end, window.end)
            whole = replace(whole, end=max(ends, key=lambda moment: moment.astimezone(dt.UTC)))
    yield whole
