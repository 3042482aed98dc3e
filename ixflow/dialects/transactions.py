"""Which transactions have ended in a snapshot, for databases that write it on every row.

A row carries the number of the transaction that made it. Numbers are given out in order, so those
below the oldest open one will never make another row: what they made is settled, exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ixflow.errors import ValidationError
from ixflow.values import TableName

if TYPE_CHECKING:
    import sqlalchemy as sa

__all__ = ["Ended", "Transactions"]

_NUMBERS = 2**32


@dataclass(frozen=True, slots=True)
class Ended:
    """What a snapshot knows of transactions, by their 64-bit numbers.

    All below ``below`` have ended, none from ``next`` on is seen. ``server`` names the history
    that the numbers are of: a restored, upgraded or failed-over server has another.
    """

    below: int
    next: int
    server: str

    @property
    def ambiguous(self) -> bool:
        """Say that rows, which carry 32 bits of a number, can look like rows of another time."""
        return self.next > _NUMBERS


class Transactions:
    """Questions about the transactions of one kind of database."""

    name: ClassVar[str]

    def marks_rows(self, conn: sa.Connection, table: TableName) -> bool:
        """Say whether every row of a table carries the number of its transaction."""
        del conn, table
        return False

    def ended(self, conn: sa.Connection) -> Ended:
        """Ask which transactions have ended in the snapshot of a connection's transaction.

        Raises:
            ValidationError: this database does not number them.

        """
        del conn
        msg = f"{self.name} does not write on its rows which transaction made them"
        raise ValidationError(msg, database=self.name)

    def made_by(self, first: int, end: int) -> str:
        """Write the condition for rows that transactions from ``first`` to before ``end`` made.

        No row must have been made 2^32 transactions away from those.
        """
        msg = f"{self.name} does not number transactions: {first} to {end}"
        raise ValidationError(msg, database=self.name)
