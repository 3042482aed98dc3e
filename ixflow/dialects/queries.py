"""What is asked before a filter, a query or a cursor column is read: is it sound, what is in it.

Nothing here reads rows, but for the greatest value of a cursor column, which an index gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ixflow.dialects.facts import run
from ixflow.dialects.splits import Splits
from ixflow.dialects.transactions import Transactions
from ixflow.errors import UnsupportedDatabase, ValidationError
from ixflow.values import Column, TableName, TablePart

if TYPE_CHECKING:
    import sqlalchemy as sa

__all__ = ["Queries", "named_once"]


class Queries(Splits, Transactions):
    """Questions about filters, queries and cursor columns."""

    def describe(self, conn: sa.Connection, query: str) -> tuple[Column, ...]:
        """Find the columns of a query without running it.

        Raises:
            UnsupportedDatabase: this database cannot say.

        """
        del conn, query
        msg = f"{self.name} cannot tell the columns of a query without running it; make it a view"
        raise UnsupportedDatabase(msg, database=self.name)

    def query_part(self, conn: sa.Connection, table: TableName, query: str) -> TablePart:
        """Estimate a query, and say whether its rows are all in one snapshot."""
        del conn, query
        return TablePart(table)

    def check_filter(
        self,
        conn: sa.Connection,
        part: TablePart,
        where: str,
        alias: str,
        query: str | None = None,
    ) -> None:
        """Let the server read a filter of a table or a query; no row is."""
        never = f"1 = 0 AND ({where}\n)"
        run(conn, self.select_part(part, (), where=never, alias=alias, query=query)).all()

    def greatest(
        self,
        part: TablePart,
        column: Column,
        *,
        query: str | None = None,
        where: Sequence[str] = (),
    ) -> str:
        """Write the query that reads the greatest value of a column as a text, or no row.

        Not max(), which some databases lack for some types.
        """
        name = self.quote(column.name)
        relation = f"({query}\n) AS {self.quote('q')}" if query else self.qualified(part.table)
        conditions = " AND ".join([f"{name} IS NOT NULL", *where])
        first = self.first_row(name, f"FROM {relation} WHERE {conditions} ORDER BY {name} DESC")
        return self.select_part(part, [column], query=first)

    def has_index(self, conn: sa.Connection, table: TableName, column: str) -> bool:
        """Say whether the greatest value of a column is found without a scan."""
        del conn, table, column
        return False

    def settled_before(self, conn: sa.Connection, table: TableName | None) -> str:
        """Give a moment that no transaction which is still open has begun before, as a text.

        Rows stamped with the start of their transaction, earlier than that, are all there in every
        snapshot that is taken from now on. ``table`` None means any table.

        Raises:
            ValidationError: this database, or this role, cannot see when transactions began.
            LockNotAvailable: a prepared transaction, whose beginning nobody knows, is open.

        """
        del conn, table
        msg = (
            f"{self.name} does not tell when open transactions began, so the cursor cannot be "
            f"'settled'; use semantics='overlap'"
        )
        raise ValidationError(msg, database=self.name)


def named_once(names: Sequence[str]) -> None:
    """Refuse the columns of a query that could not be told apart.

    Raises:
        ValidationError: naming them.

    """
    unnamed = [str(place) for place, name in enumerate(names, 1) if name in ("", "?column?")]
    if unnamed:
        msg = f"the query's columns {', '.join(unnamed)} have no names; give them some with AS"
        raise ValidationError(msg, columns=unnamed)
    twice = sorted({name for name in names if list(names).count(name) > 1})
    if twice:
        msg = f"the query names {twice} more than once; rename them with AS"
        raise ValidationError(msg, columns=twice)
