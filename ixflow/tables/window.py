"""Which window of a cursor column is read in a moment, and the conditions that read it.

The windows themselves are values (`ixflow.tables.cursor`); here the source is asked where one ends.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from ixflow.dialects import Dialect, Reader
from ixflow.errors import ValidationError
from ixflow.tables.cursor import CursorPlan, Window
from ixflow.values import Column, TablePart

__all__ = ["Looking", "Relation", "condition_of"]


@dataclass(frozen=True, slots=True)
class Relation:
    """What is read: a table, or a query in its place; ``where`` is a condition on its rows.

    ``name`` is what people call it.
    """

    part: TablePart
    query: str | None = None
    where: str | None = None
    name: str = ""


class Looking:
    """Questions about a cursor column, in the moment that is read."""

    def __init__(
        self, relation: Relation, cursor: CursorPlan, dialect: Dialect, reader: Reader
    ) -> None:
        """Take what is looked at, and the reader of the moment."""
        self._relation, self._cursor = relation, cursor
        self._dialect, self._reader = dialect, reader
        self._column = Column(cursor.column, cursor.sql_type, pa.string(), as_text=True)
        self._name = dialect.quote(cursor.column)

    def window(self, mark: str | None, *, first: bool, settled: str | None = None) -> Window:
        """Choose the rows behind a mark, ``first`` if none were read yet.

        ``settled`` is the moment before which everything is settled, where that counts.

        Raises:
            ValidationError: rows have no key and are refused, or a key is infinite.

        """
        self.refuse_nulls()
        least = mark or self._cursor.start
        greatest = self.greatest(least, None)
        # Infinity is refused also where it is not settled, since it never will be.
        window = self._cursor.window(mark, greatest, first=first)
        if settled is None:
            return window
        below = self.greatest(least, settled)
        window = self._cursor.window(mark, below, first=first)
        later = greatest not in (None, below, mark)
        return replace(window, held_back=settled) if later else window

    def greatest(self, mark: str | None, below: str | None) -> str | None:
        """Give the greatest key from a mark on and below a bound, as text; None: there is none."""
        limits = {">=": mark, "<": below}
        conditions = [
            f"{self._name} {sign} {self._literal(text)}"
            for sign, text in limits.items()
            if text is not None
        ]
        return self._one(self._greatest(self._relation.query, conditions))

    def borders(
        self, conditions: Sequence[str], after: str | None, rows: int | None
    ) -> Iterator[str | None]:
        """Give the key of the last row of each batch of so many; None for the last batch.

        The rows are those of the conditions behind a key. Several with the key of a border are all
        before it, as the server compares them.
        """
        border = None if rows is None else self._border(conditions, after, rows)
        while rows is not None and border is not None:
            following = self._border(conditions, border, rows)
            if following is None:
                break
            yield border
            border = following
        yield None

    def _border(self, conditions: Sequence[str], after: str | None, rows: int) -> str | None:
        behind = [] if after is None else [f"{self._name} > {self._literal(after)}"]
        kept = [] if self._relation.where is None else [f"({self._relation.where}\n)"]
        wanted = " AND ".join([f"{self._name} IS NOT NULL", *behind, *conditions, *kept])
        relation, alias = self._read()
        rest = f"FROM {relation}{alias} WHERE {wanted} ORDER BY {self._name}"
        return self._one(self._greatest(self._dialect.first_rows(rows, self._name, rest), ()))

    def refuse_nulls(self) -> None:
        """Refuse rows without a key, if that is what shall happen to them."""
        if not self._cursor.nullable or self._cursor.nulls != "refuse":
            return
        relation, alias = self._read()
        where = self._relation.where
        kept = "" if where is None else f" AND ({where}\n)"
        rest = f"FROM {relation}{alias} WHERE {self._name} IS NULL{kept} ORDER BY 1"
        found = self._one(self._dialect.first_row(f"'1' AS {self._name}", rest))
        if found is not None:
            name, column = self._relation.name, self._cursor.column
            msg = (
                f"{name} has rows whose {column} is NULL, which no window of it holds; read them "
                f"with nulls='first run' or nulls='each run' (of Cursor or incremental_batches)"
            )
            raise ValidationError(msg, column=column, table=name)

    def _read(self) -> tuple[str, str]:
        relation, quote = self._relation, self._dialect.quote
        if relation.query:
            return f"({relation.query}\n)", f" AS {quote('q')}"
        table = relation.part.table
        return self._dialect.qualified(table), f" AS {quote(table.name)}"

    def _greatest(self, query: str | None, conditions: Sequence[str]) -> str:
        return self._dialect.greatest(
            self._relation.part, self._column, query=query, where=conditions
        )

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
    name = dialect.quote(window.cursor.column)
    keyed = " AND ".join(_limits(dialect, window, name))
    if not window.nulls:
        return keyed
    return f"({keyed}) OR {name} IS NULL" if keyed else f"{name} IS NULL"


def _limits(dialect: Dialect, window: Window, name: str) -> Iterator[str]:
    sql_type = window.cursor.sql_type
    if window.high is None:
        return
    yield f"{name} <= {dialect.literal(window.high, sql_type)}"
    if window.low is not None:
        sign = ">=" if window.low_included else ">"
        yield f"{name} {sign} {dialect.literal(window.low, sql_type)}"
