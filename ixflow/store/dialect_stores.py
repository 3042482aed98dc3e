"""The table stores of pipedag that are each for one database; `SQLTableStore` takes any."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from ixflow.dialects import dialect_of
from ixflow.errors import UnsupportedDatabase, ValidationError
from ixflow.store.sql_store import SQLTableStore

if TYPE_CHECKING:
    import sqlalchemy as sa

__all__ = ["DuckDBTableStore", "IBMDB2TableStore", "MSSqlTableStore", "PostgresTableStore"]


class _OneDatabase(SQLTableStore):
    database: ClassVar[str]

    def __init__(self, engine_url: str | sa.URL, **options: Any) -> None:
        """Describe the store; see `SQLTableStore`.

        Raises:
            ValidationError: the URL is that of another database.

        """
        found = dialect_of(engine_url).name
        if found != self.database:
            msg = (
                f"{type(self).__name__} is for {self.database}, but its url is that of a {found} "
                f"database; SQLTableStore takes any"
            )
            raise ValidationError(msg, database=found)
        super().__init__(engine_url, **options)


class PostgresTableStore(_OneDatabase):
    """A `SQLTableStore` that takes PostgreSQL only.

    >>> PostgresTableStore("postgresql+psycopg://db/warehouse").schema("staging")
    'staging'
    """

    database = "postgresql"


class DuckDBTableStore(_OneDatabase):
    """A `SQLTableStore` that takes DuckDB only.

    >>> DuckDBTableStore("duckdb:///warehouse.duckdb").schema("staging")
    'staging'
    """

    database = "duckdb"


class _Later:
    title: ClassVar[str]

    def __init__(self, *args: Any, **options: Any) -> None:
        """Refuse.

        Raises:
            UnsupportedDatabase: always.

        """
        del args, options
        msg = (
            f"{type(self).__name__}: this release of ixflow publishes no stages in {self.title}; "
            f"that comes later. Use PostgreSQL or DuckDB"
        )
        raise UnsupportedDatabase(msg, database=self.title)


class MSSqlTableStore(_Later):
    """The store for Microsoft SQL Server, which this release does not have yet."""

    title = "SQL Server"


class IBMDB2TableStore(_Later):
    """The store for IBM Db2, which this release does not have yet."""

    title = "IBM Db2"
