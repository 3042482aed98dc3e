"""Writing the queries that read a table: its columns, a range of its rows, the rows of a condition.

What a dialect has to say differently is one small method each: how a column is asked for, how a
bound is written, which pages are a range.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from ixflow.dialects.names import Names
from ixflow.errors import ValidationError
from ixflow.values import Column, KeyRange, PageRange, TableName, TablePart

__all__ = ["Selects"]


class Selects(Names):
    """The SELECT statements of one kind of database."""

    name: ClassVar[str]
    """SQLAlchemy's name of the dialect."""

    def select(self, table: TableName, columns: Sequence[Column], where: str | None = None) -> str:
        """Write the query that reads these columns, each in a form that Arrow holds exactly."""
        return self.select_from(self.qualified(table), columns, where)

    def select_part(
        self,
        part: TablePart,
        columns: Sequence[Column],
        *,
        pages: PageRange | None = None,
        keys: KeyRange | None = None,
        query: str | None = None,
        where: str | None = None,
    ) -> str:
        """Write the query that reads a part of a table, or only a range of its pages or keys.

        ``query`` stands in the place of the table, ``where`` is a further condition; both are SQL
        of the source.
        """
        ranges = [] if pages is None else [self.pages_condition(part, pages)]
        ranges += [] if keys is None else [self.keys_condition(keys)]
        # A comment at the end of somebody's SQL must not reach what follows.
        ranges += [] if where is None else [f"({where}\n)"]
        relation = f"({query}\n) AS {self.quote('q')}" if query else self.part_relation(part)
        return self.select_from(relation, columns, " AND ".join(ranges) or None)

    def select_from(self, relation: str, columns: Sequence[Column], where: str | None) -> str:
        """Write the query that reads these columns of a relation that is quoted already."""
        items = ", ".join(self.select_item(column) for column in columns) or "NULL"
        query = f"SELECT {items} FROM {relation}"
        return f"{query} WHERE {where}" if where else query

    def select_item(self, column: Column) -> str:
        """Write one column of a select list; text where Arrow has no exact type."""
        quoted = self.quote(column.name)
        return f"CAST({quoted} AS {self.text_type()}) AS {quoted}" if column.as_text else quoted

    def text_type(self) -> str:
        """Name the unbounded text type."""
        return "text"

    def part_relation(self, part: TablePart) -> str:
        """Write a part of a table where a query names what it reads."""
        return self.qualified(part.table)

    def pages_condition(self, part: TablePart, pages: PageRange) -> str:
        """Write the condition for the rows of a range of pages."""
        msg = f"{self.name} cannot read the range of pages {pages} of {part.table}"
        raise ValidationError(msg, table=str(part.table))

    def literal(self, text: str, sql_type: str) -> str:
        """Write a bound of a key so that the server compares it as a value of the column's type."""
        escaped = text.replace("'", "''")
        return f"CAST('{escaped}' AS {sql_type})"

    def keys_condition(self, keys: KeyRange) -> str:
        """Write the condition for the rows of a range of keys.

        Bounds are compared column by column, as no two databases write row values alike. The
        first column is also bounded alone, which is what every optimizer finds an index with.
        """
        first = self.quote(keys.columns[0])
        if keys.nulls:
            return f"{first} IS NULL"
        found = list(self._bounds(keys, first))
        return f"({' AND '.join(found)})" if found else f"{first} IS NOT NULL"

    def _bounds(self, keys: KeyRange, first: str) -> Iterator[str]:
        for bound, outer, inner, last in ((keys.low, ">=", ">", ">="), (keys.high, "<=", "<", "<")):
            if bound is None:
                continue
            values = [self.literal(*pair) for pair in zip(bound, keys.types, strict=True)]
            names = [self.quote(name) for name in keys.columns]
            if len(names) == 1:
                yield f"{first} {last} {values[0]}"
            else:
                yield f"{first} {outer} {values[0]}"
                yield self._lexical(names, values, inner, last)

    def _lexical(self, names: list[str], values: list[str], inner: str, last: str) -> str:
        """Compare the first columns in turn: ``(a > 1 OR (a = 1 AND b >= 2))``."""
        if len(names) == 1:
            return f"{names[0]} {last} {values[0]}"
        rest = self._lexical(names[1:], values[1:], inner, last)
        head, value = names[0], values[0]
        return f"({head} {inner} {value} OR ({head} = {value} AND {rest}))"
