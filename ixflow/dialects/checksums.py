"""Order-free checksums of rows: what a database says of a table, in words others can say too.

A row is written as one text: a canonical text of each value, with ``|`` between them. The first
eight bytes of its MD5, as an unsigned number, are the row's hash; a checksum is their sum modulo
2**64 beside the number of rows. `ixflow.dialects.canonical` writes the same texts from Arrow,
without the database, so that what was sent can be compared with what is there.

    NULL                  nothing at all
    texts                 the number of characters, a colon, the text
    bytes                 x and hexadecimal digits
    booleans              0 or 1
    integers              decimal digits
    decimals              all digits of the scale
    floats                their bits in hexadecimal digits; nan; -0.0 is written as 0.0
    dates                 days since 1970
    times, timestamps     microseconds (nanoseconds, where the type has them) since 1970 in UTC
    infinite moments      infinity, -infinity
    uuid                  32 hexadecimal digits
    all others            like texts: what the database writes for the value
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ixflow.dialects.facts import run
from ixflow.dialects.names import Names
from ixflow.errors import UnsupportedDatabase
from ixflow.values import Column, TableName

if TYPE_CHECKING:
    import sqlalchemy as sa

__all__ = ["SEPARATOR", "Checksum", "Checksums"]

SEPARATOR = "|"
_MODULUS = 1 << 64


@dataclass(frozen=True, slots=True)
class Checksum:
    """A number of rows, and the sum of their hashes modulo 2**64, whatever their order.

    >>> both = Checksum(1, 2**64 - 1) + Checksum(2, 5)
    >>> str(both), both - Checksum(2, 5) == Checksum(1, 2**64 - 1)
    ('3 rows, checksum 0000000000000004', True)
    """

    rows: int = 0
    value: int = 0

    def __add__(self, other: Checksum) -> Checksum:
        """Give the checksum of both sets of rows together."""
        return Checksum(self.rows + other.rows, (self.value + other.value) % _MODULUS)

    def __sub__(self, other: Checksum) -> Checksum:
        """Give the checksum of the rows that are left without the others."""
        return Checksum(self.rows - other.rows, (self.value - other.value) % _MODULUS)

    @property
    def text(self) -> str:
        """The sum in hexadecimal digits."""
        return f"{self.value:016x}"

    def __str__(self) -> str:
        """Show both numbers."""
        return f"{self.rows} rows, checksum {self.text}"


class Checksums(Names):
    """What a kind of database says to write canonical texts, and to find rows again."""

    name: ClassVar[str]

    def canonical_form(self, column: Column, expression: str) -> str:
        """Write the canonical text of a value, which is NULL for NULL.

        Raises:
            UnsupportedDatabase: this database writes none.

        """
        del column, expression
        msg = f"{self.name} cannot prove what has arrived; leave prove_arrival out"
        raise UnsupportedDatabase(msg, database=self.name)

    def row_hash(self, text: str) -> str:
        """Write the hash of a row, given the expression of its text."""
        del text
        msg = f"{self.name} cannot prove what has arrived; leave prove_arrival out"
        raise UnsupportedDatabase(msg, database=self.name)

    def session_zone(self, conn: sa.Connection) -> str:
        """Name the time zone in which the session writes moments."""
        del conn
        return "UTC"

    def proven(self, columns: Sequence[Column]) -> tuple[Column, ...]:
        """Say as which columns values are sent so that they can be compared as they were sent."""
        return tuple(columns)

    def value_form(self, column: Column, expression: str) -> str:
        """Write the value that the database makes of a text, without cutting it to a length."""
        return f"CAST({expression} AS {column.sql_type})"

    def checksum(self, conn: sa.Connection, relation: str, columns: Sequence[Column]) -> Checksum:
        """Compute the checksum of a relation (with its alias) that has these columns."""
        texts = [
            f"coalesce({self.canonical_form(column, self.quote(column.name))}, '')"
            for column in columns
        ]
        found = self.row_hash(_joined(texts))
        rows, total = run(conn, f"SELECT count(*), coalesce(sum({found}), 0) FROM {relation}").one()
        return Checksum(int(rows), int(total) % _MODULUS)

    def settle_deferred(self, conn: sa.Connection) -> None:
        """Let what waits for the end of the transaction happen now."""

    def mark_additions(self, conn: sa.Connection, table: TableName) -> Any:
        """Begin to remember which rows are added to a table without a key."""
        del conn, table
        msg = f"{self.name} cannot tell which rows were added; leave prove_arrival out"
        raise UnsupportedDatabase(msg, database=self.name)

    def add_marked(self, conn: sa.Connection, insert: str, mark: Any) -> int:
        """Run an INSERT of rows that are to be found again; count them."""
        del mark
        return run(conn, insert).rowcount

    def additions(self, table: TableName, mark: Any) -> str:
        """Write the rows that were added as a relation, with an alias."""
        del mark
        msg = f"{self.name} cannot tell which rows were added to {table}"
        raise UnsupportedDatabase(msg, database=self.name)

    @contextlib.contextmanager
    def by_place(self, conn: sa.Connection, table: TableName) -> Iterator[None]:
        """Let added rows be fetched one by one from where they are, not by reading all rows."""
        del conn, table
        yield

    def forget_additions(self, conn: sa.Connection, mark: Any) -> None:
        """Drop what remembered them."""


# PostgreSQL takes a hundred arguments.
_MOST_ARGUMENTS = 90


def _joined(texts: Sequence[str]) -> str:
    """Write the texts with the separator between them; none of them is NULL."""
    if not texts:
        return "''"
    parts = list(texts)
    while len(parts) > 1:
        groups = [parts[i : i + _MOST_ARGUMENTS] for i in range(0, len(parts), _MOST_ARGUMENTS)]
        parts = [f"concat_ws('{SEPARATOR}', {', '.join(group)})" for group in groups]
    return parts[0]
