"""Writing the queries that read a table: its columns, a range of its rows, the rows of a condition.

What a dialect has to say differently is one small method each: how a column is asked for, how a
bound is written, which pages are a range.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import ClassVar

import pyarrow as pa

from ixflow.dialects.fragments import Lexicon
from ixflow.dialects.masks import Masks
from ixflow.errors import ValidationError
from ixflow.values import Column, KeyRange, PageRange, TableName, TablePart

__all__ = ["Selects"]


class Selects(Masks):
    """The SELECT statements of one kind of database."""

    name: ClassVar[str]
    """SQLAlchemy's name of the dialect."""
    lexicon: ClassVar[Lexicon] = Lexicon()
    """What this database takes for strings, quoted names and comments."""
    row_values: ClassVar[bool] = False
    """The optimizer finds an index of several columns for ``(a, b) >= (1, 2)``."""

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
        alias: str | None = None,
        salt: str | None = None,
    ) -> str:
        """Write the query that reads a part of a table, or only a range of its pages or keys.

        ``query`` stands in the place of the table, ``where`` is a further condition; both are SQL
        of the source, which may call what is read by its ``alias``. ``salt`` goes into hashes.
        """
        ranges = [] if pages is None else [self.pages_condition(part, pages)]
        ranges += [] if keys is None else [self.keys_condition(keys)]
        # A comment at the end of somebody's SQL must not reach what follows.
        ranges += [] if where is None else [f"({where}\n)"]
        relation = f"({query}\n)" if query else self.part_relation(part)
        if query or alias:
            relation += f" AS {self.quote(alias or 'q')}"
        return self.select_from(relation, columns, " AND ".join(ranges) or None, salt)

    def select_from(
        self,
        relation: str,
        columns: Sequence[Column],
        where: str | None,
        salt: str | None = None,
    ) -> str:
        """Write the query that reads these columns of a relation that is quoted already."""
        items = ", ".join(self.select_item(column, salt) for column in columns) or "NULL"
        query = f"SELECT {items} FROM {relation}"
        return f"{query} WHERE {where}" if where else query

    def select_item(self, column: Column, salt: str | None = None) -> str:
        """Write one column of a select list, in a form that Arrow holds exactly, or masked."""
        quoted = self.quote(column.name)
        if column.mask:
            form = self.masked_form(column, quoted, salt)
        else:
            form = self.read_form(column, quoted)
        return quoted if form == quoted else f"{form} AS {quoted}"

    def arriving(self, columns: Sequence[Column]) -> tuple[Column, ...]:
        """Describe columns as a query gives them: what a mask makes a text is of the text type."""
        return tuple(
            replace(column, sql_type=self.text_type(), mask=None)
            if column.mask and pa.types.is_string(column.type)
            else column
            for column in columns
        )

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

    def text_is(self, column: Column, text: str) -> str:
        """Write the condition that a column's text is exactly this one.

        A collation may take other texts for equal; what is found by it is compared once more.
        """
        return f"{self.quote(column.name)} = {self.text_literal(text)}"

    def keys_condition(self, keys: KeyRange) -> str:
        """Write the condition for the rows of a range of keys.

        Bounds are compared column by column unless `row_values` find an index. The first column is
        also bounded alone, which is what every optimizer finds an index with.
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
            elif self.row_values:
                yield f"({', '.join(names)}) {last} ({', '.join(values)})"
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
