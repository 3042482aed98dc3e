"""MySQL and MariaDB: their facts, and the catalogue. A source in this release, not a target."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import sqlalchemy as sa

from ixflow.dialects.base import Dialect, MergeCounts, SourceFacts
from ixflow.dialects.config import server_url
from ixflow.dialects.mysql.reader import MySQLReader, is_transient, open_reader, undecoded
from ixflow.dialects.mysql.types import arrow_type, select_form
from ixflow.errors import UnsupportedDatabase, ValidationError
from ixflow.values import Column, TableName, TablePart

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["MySQLDialect"]

# The catalogue compares without regard to case and to blanks at the end; bytes do not.
_HERE = """table_schema = coalesce(:schema, database()) AND table_name = :name
    AND CAST(table_name AS BINARY) = CAST(:name AS BINARY)"""
_COLUMNS = sa.text(f"""
    SELECT column_name, column_type, is_nullable = 'YES' FROM information_schema.columns
    WHERE {_HERE} ORDER BY ordinal_position
""")
_KEY = sa.text(f"""
    SELECT column_name, seq_in_index FROM information_schema.statistics
    WHERE {_HERE} AND index_name = 'PRIMARY'
""")
_TABLE = sa.text(f"""
    SELECT table_rows, data_length, engine, table_comment FROM information_schema.tables
    WHERE {_HERE}
""")
_TABLES = sa.text("""
    SELECT table_name FROM information_schema.tables
    WHERE table_schema = :schema ORDER BY 1
""")
_CONNECTIONS = sa.text("""
    SELECT @@max_connections, count(*) FROM information_schema.processlist
""")

# Engines whose tables have no versions: a transaction sees what others write meanwhile.
_WITHOUT_SNAPSHOT = (
    "myisam",
    "aria",
    "memory",
    "csv",
    "archive",
    "federated",
    "merge",
    "mrg_myisam",
)


class MySQLDialect(Dialect):
    """MySQL 8 and MariaDB 10.6 and newer, through PyMySQL."""

    name = "mysql"
    kind = "mysql"
    driver = "mysql+pymysql"
    default_port = 3306
    max_identifier = 64
    quotes = ("`", "`")

    def url(self, config: Mapping[str, Any]) -> sa.URL:
        """Make the URL of a ``source_config``; one for MariaDB means the same driver."""
        given = str(config.get("connection_string") or "")
        if given.startswith("mariadb"):
            config = {**config, "connection_string": given.replace("mariadb", "mysql", 1)}
        options = frozenset({"charset", "ssl_ca", "ssl_cert", "ssl_key", "connect_timeout"})
        url = server_url(config, driver=self.driver, default_port=3306, options=options)
        if url.get_driver_name() != "pymysql":
            msg = f"ixflow reads MySQL through PyMySQL, not {url.get_driver_name()}"
            raise ValidationError(msg, driver=url.get_driver_name())
        return url

    def engine(self, url: str | sa.URL) -> sa.Engine:
        """Make an engine that speaks utf8mb4 and keeps no connection."""
        made = sa.make_url(url)
        if "charset" not in made.query:
            made = made.update_query_dict({"charset": "utf8mb4"})
        try:
            return sa.create_engine(made, poolclass=sa.NullPool)
        except ModuleNotFoundError:
            msg = "the package pymysql is missing; install it with `pip install 'ixflow[mysql]'`"
            raise UnsupportedDatabase(msg, database=self.name, package="pymysql") from None

    @contextlib.contextmanager
    def reader(self, url: sa.URL, *, snapshot: str | None = None) -> Iterator[MySQLReader]:
        """Open a connection with a consistent snapshot of its own."""
        del snapshot
        engine = self.engine(url)

        @sa.event.listens_for(engine, "do_connect")
        def leave_values_undecoded(*given: Any) -> None:
            given[-1]["conv"] = undecoded()

        with open_reader(engine) as reader:
            yield reader

    def is_transient(self, error: BaseException) -> bool:
        """Say whether reading again on a new connection can help."""
        return is_transient(error)

    def exists(self, conn: sa.Connection, table: TableName) -> bool:
        """Say whether a table or view of exactly this name is there."""
        return conn.execute(_TABLE, _place(table)).first() is not None

    def read_columns(self, conn: sa.Connection, table: TableName) -> tuple[Column, ...]:
        """Read the columns from the catalogue, in order; none if there is no such table."""
        key = {str(name): int(place) for name, place in conn.execute(_KEY, _place(table))}
        found = []
        for name, sql_type, nullable in conn.execute(_COLUMNS, _place(table)):
            declared = sql_type.decode() if isinstance(sql_type, bytes) else str(sql_type)
            type_, as_text = arrow_type(declared)
            found.append(Column(name, declared, type_, bool(nullable), as_text, key.get(name)))
        return tuple(found)

    def source_facts(self, conn: sa.Connection, table: TableName) -> SourceFacts:
        """Read the statistics; a view has none."""
        found = conn.execute(_TABLE, _place(table)).one_or_none()
        most, active = conn.execute(_CONNECTIONS).one()
        rows = -1 if found is None or found[0] is None else int(found[0])
        size = 0 if found is None else int(found[1] or 0)
        return SourceFacts(rows, size, None, int(most), int(active))

    def parts(self, conn: sa.Connection, table: TableName) -> tuple[TablePart, ...]:
        """Give the table as one part; only engines with row versions have a snapshot."""
        found = conn.execute(_TABLE, _place(table)).one_or_none()
        engine = "" if found is None else str(found[2] or "").lower()
        return (TablePart(table, in_snapshot=engine not in _WITHOUT_SNAPSHOT),)

    def indexes(self, conn: sa.Connection, table: TableName) -> frozenset[str]:
        """Refuse: only targets are compared."""
        del conn
        self._refuse(str(table))

    def comment(self, conn: sa.Connection, table: TableName) -> str | None:
        """Read the table's comment."""
        found = conn.execute(_TABLE, _place(table)).one_or_none()
        return None if found is None else str(found[3]) or None

    def tables_in(self, conn: sa.Connection, schema: str) -> tuple[str, ...]:
        """List the names of tables and views of a database."""
        return tuple(conn.execute(_TABLES, {"schema": schema}).scalars())

    def select_item(self, column: Column) -> str:
        """Write one column of a select list, in a form the server sends exactly."""
        quoted = self.quote(column.name)
        return f"{select_form(column, quoted)} AS {quoted}"

    def text_type(self) -> str:
        """Name the type of a cast to text."""
        return "char"

    # -- writing: not in this release -------------------------------------------------------------

    def _refuse(self, what: str) -> NoReturn:
        msg = f"MySQL is a source in this release, not a target: cannot write {what}"
        raise UnsupportedDatabase(msg, database=self.name)

    def sql_type(self, type_: pa.DataType) -> str:
        """Refuse."""
        self._refuse(f"a column of {type_}")

    def set_comment(self, conn: sa.Connection, table: TableName, comment: str | None) -> None:
        """Refuse."""
        del conn, comment
        self._refuse(str(table))

    def create_schema(self, conn: sa.Connection, schema: str) -> None:
        """Refuse."""
        del conn
        self._refuse(schema)

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
        self._refuse(str(table))

    def load(
        self,
        conn: sa.Connection,
        table: TableName,
        columns: Sequence[Column],
        reader: pa.RecordBatchReader,
    ) -> int:
        """Refuse."""
        del conn, columns, reader
        self._refuse(str(table))

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
        self._refuse(str(target))

    def swap(
        self,
        conn: sa.Connection,
        moves: Sequence[tuple[TableName, TableName]],
        *,
        drops: Sequence[TableName] = (),
        timeout_seconds: float = 60,
    ) -> None:
        """Refuse."""
        del conn, drops, timeout_seconds
        self._refuse(", ".join(str(place) for _, place in moves))

    def publish(
        self,
        conn: sa.Connection,
        *,
        transaction: str,
        schema: str,
        tables: Sequence[str],
        drops: Sequence[str] = (),
        timeout_seconds: float = 60,
    ) -> None:
        """Refuse."""
        del conn, transaction, tables, drops, timeout_seconds
        self._refuse(schema)

    def drop_schema(self, conn: sa.Connection, schema: str) -> None:
        """Refuse."""
        del conn
        self._refuse(schema)


def _place(table: TableName) -> dict[str, str | None]:
    return {"schema": table.schema, "name": table.name}
