"""A database that rows are read from and never written to: every method that writes refuses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, NoReturn

from ixflow.dialects.base import NOTHING_ASIDE, Dialect, MergeCounts
from ixflow.errors import UnsupportedDatabase
from ixflow.values import Column, TableName

if TYPE_CHECKING:
    import pyarrow as pa
    import sqlalchemy as sa

__all__ = ["SourceOnly"]


class SourceOnly(Dialect):
    """A dialect without its writing half."""

    title: ClassVar[str]
    """The name of the database as people write it."""

    def refuse(self, what: str) -> NoReturn:
        """Say that nothing can be written.

        Raises:
            UnsupportedDatabase: always.

        """
        msg = f"{self.title} is a source in this release, not a target: cannot write {what}"
        raise UnsupportedDatabase(msg, database=self.name)

    def check_ingests(self, conn: sa.Connection) -> None:
        """Refuse."""
        del conn
        self.refuse("rows and a watermark")

    def sql_type(self, type_: pa.DataType) -> str:
        """Refuse."""
        self.refuse(f"a column of {type_}")

    def indexes(self, conn: sa.Connection, table: TableName) -> frozenset[str]:
        """Refuse: only targets are compared."""
        del conn
        self.refuse(str(table))

    def set_comment(self, conn: sa.Connection, table: TableName, comment: str | None) -> None:
        """Refuse."""
        del conn, comment
        self.refuse(str(table))

    def create_schema(self, conn: sa.Connection, schema: str) -> None:
        """Refuse."""
        del conn
        self.refuse(schema)

    def create_table(
        self,
        conn: sa.Connection,
        table: TableName,
        columns: Sequence[Column],
        *,
        temporary: bool = False,
    ) -> None:
        """Refuse."""
        del conn, columns, temporary
        self.refuse(str(table))

    def drop_table(self, conn: sa.Connection, table: TableName) -> None:
        """Refuse."""
        del conn
        self.refuse(str(table))

    def load(
        self,
        conn: sa.Connection,
        table: TableName,
        columns: Sequence[Column],
        reader: pa.RecordBatchReader,
    ) -> int:
        """Refuse."""
        del conn, columns, reader
        self.refuse(str(table))

    def merge(
        self,
        conn: sa.Connection,
        source: TableName,
        target: TableName,
        columns: Sequence[Column],
        key: Sequence[str],
    ) -> MergeCounts:
        """Refuse."""
        del conn, source, columns, key
        self.refuse(str(target))

    def swap(
        self,
        conn: sa.Connection,
        moves: Sequence[tuple[TableName, TableName]],
        *,
        drops: Sequence[TableName] = (),
        timeout_seconds: float = 60,
    ) -> None:
        """Refuse."""
        del conn, timeout_seconds
        places = [place for _, place in moves]
        self.refuse(", ".join(str(table) for table in (*places, *drops)))

    def publish(
        self,
        conn: sa.Connection,
        moves: Sequence[tuple[TableName, TableName]],
        *,
        drops: Sequence[TableName] = (),
        aside: Mapping[TableName, TableName] = NOTHING_ASIDE,
        timeout_seconds: float = 60,
        keeps_schemas: bool = False,
        keeps_options: bool = True,
    ) -> None:
        """Refuse."""
        del conn, aside, timeout_seconds, keeps_schemas, keeps_options
        self.refuse(", ".join(str(table) for table in (*(place for _, place in moves), *drops)))

    def drop_schema(
        self,
        conn: sa.Connection,
        schema: str,
        *,
        prefix: str | None = None,
        dependents: bool = True,
    ) -> None:
        """Refuse."""
        del conn, prefix, dependents
        self.refuse(schema)
