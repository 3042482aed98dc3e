"""MySQL and MariaDB: their facts, and the catalogue. A source in this release, not a target."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from ixflow.dialects.base import Held, SourceFacts
from ixflow.dialects.config import server_url
from ixflow.dialects.facts import run
from ixflow.dialects.fragments import Lexicon
from ixflow.dialects.mysql import queries, split
from ixflow.dialects.mysql.advice import advised
from ixflow.dialects.mysql.hold import SPARES, hold_moment, may_lock
from ixflow.dialects.mysql.reader import MySQLReader, is_transient, open_reader
from ixflow.dialects.mysql.types import arrow_type, select_form
from ixflow.dialects.mysql.visit import connect, notice_silence
from ixflow.dialects.ranges import SplitKey
from ixflow.dialects.source_only import SourceOnly
from ixflow.errors import IxflowError, UnsupportedDatabase, ValidationError
from ixflow.values import Column, KeyRange, TableName, TablePart

if TYPE_CHECKING:
    from ixflow.dialects.keyspace import Kind

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
_VERSIONED = ("innodb",)


class MySQLDialect(SourceOnly):
    """MySQL 8 and MariaDB 10.6 and newer, through PyMySQL."""

    name = "mysql"
    title = "MySQL"
    kind = "mysql"
    bounds_statements = True
    driver = "mysql+pymysql"
    default_port = 3306
    max_identifier = 64
    spare_connections = SPARES
    quotes = ("`", "`")
    sharing_needs = (
        "several connections could share it if the table is InnoDB's and the role has the "
        "privilege LOCK TABLES"
    )
    lexicon = Lexicon({q: q for q in "'\"`"}, backslash=True, hashes=True, dash_needs_blank=True)

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
            engine = sa.create_engine(made, poolclass=sa.NullPool)
        except ModuleNotFoundError:
            msg = "the package pymysql is missing; install it with `pip install 'ixflow[mysql]'`"
            raise UnsupportedDatabase(msg, database=self.name, package="pymysql") from None
        sa.event.listen(engine, "do_connect", connect)
        sa.event.listen(engine, "connect", notice_silence)
        return engine

    @contextlib.contextmanager
    def reader(self, url: sa.URL, *, snapshot: str | None = None) -> Iterator[MySQLReader]:
        """Open a connection with a consistent snapshot of its own."""
        del snapshot
        with open_reader(self.engine(url)) as reader:
            yield reader

    @contextlib.contextmanager
    def hold(self, url: sa.URL, tables: Sequence[TableName], *, workers: int = 1) -> Iterator[Held]:
        """Begin all readers in one moment; a single reader of a single table begins when it reads.

        The latter can read again in a newer moment, if its connection is lost.
        """
        if workers == 1 and len(tables) == 1:
            with super().hold(url, tables, workers=workers) as held:
                yield held
            return
        names = [self.qualified(table) for table in tables]
        with hold_moment(self.engine(url), names, workers) as held:
            yield held

    def is_transient(self, error: BaseException) -> bool:
        """Say whether reading again on a new connection can help."""
        return is_transient(error)

    def explained(self, error: BaseException, table: str) -> IxflowError | None:
        """Name the setting or the right that an error is about."""
        return advised(error, table)

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
        shares = found is not None and str(found[2] or "").lower() in _VERSIONED
        if shares:
            schema = table.schema or run(conn, "SELECT database()").scalar_one()
            shares = may_lock(conn, self.quote(str(schema)))
        return SourceFacts(rows, size, None, int(most), int(active), shares_snapshot=shares)

    def parts(self, conn: sa.Connection, table: TableName) -> tuple[TablePart, ...]:
        """Give the table as one part; only engines with row versions have a snapshot."""
        held = queries.is_held(conn, table.schema, table.name, _WITHOUT_SNAPSHOT)
        return (TablePart(table, in_snapshot=held),)

    def comment(self, conn: sa.Connection, table: TableName) -> str | None:
        """Read the table's comment."""
        found = conn.execute(_TABLE, _place(table)).one_or_none()
        return None if found is None else str(found[3]) or None

    def tables_in(self, conn: sa.Connection, schema: str) -> tuple[str, ...]:
        """List the names of tables and views of a database."""
        return tuple(conn.execute(_TABLES, {"schema": schema}).scalars())

    def read_form(self, column: Column, expression: str) -> str:
        """Write the expression that reads a value, in a form the server sends exactly."""
        return select_form(column, expression)

    def describe(self, conn: sa.Connection, query: str) -> tuple[Column, ...]:
        """Find the columns of a query without running it."""
        return queries.describe(conn, query)

    def query_part(self, conn: sa.Connection, table: TableName, query: str) -> TablePart:
        """Say whether the query's rows are all in one snapshot; nothing estimates them."""
        unheld = queries.reads_unversioned(conn, query, _WITHOUT_SNAPSHOT)
        return TablePart(table, in_snapshot=not unheld)

    def has_index(self, conn: sa.Connection, table: TableName, column: str) -> bool:
        """Say whether the greatest value of a column is found without a scan."""
        return queries.has_index(conn, _place(table), column)

    def text_literal(self, value: str) -> str:
        """Write a text as a literal that means the same under every setting."""
        return f"_utf8mb4 x'{value.encode().hex()}'" if value else "''"

    def joined(self, first: str, second: str) -> str:
        """Write one text after another."""
        return f"CONCAT({first}, {second})"

    def null_form(self, column: Column) -> str:
        """Write a NULL: rows come as text, which has no types."""
        del column
        return "NULL"

    def hash_form(self, text: str) -> str:
        """Write the SHA-256 of a text in UTF-8, in hexadecimal digits."""
        return f"SHA2(CONVERT({text} USING utf8mb4), 256)"

    def length_form(self, text: str) -> str:
        """Write the number of characters of a text."""
        return f"CHAR_LENGTH({text})"

    def year_form(self, column: Column, expression: str) -> str:
        """Write the first moment of the year."""
        time = "" if column.sql_type == "date" else " 00:00:00"
        return f"DATE_FORMAT({expression}, '%Y-01-01{time}')"

    def text_type(self) -> str:
        """Name the type of a cast to text."""
        return "char"

    def split_keys(self, conn: sa.Connection, part: TablePart) -> tuple[SplitKey, ...]:
        """List the indexes that can cut a table."""
        return split.split_keys(conn, self.qualified(part.table), _place(part.table))

    def estimated_rows(
        self, conn: sa.Connection, part: TablePart, key: SplitKey, keys: KeyRange
    ) -> float | None:
        """Ask the optimizer, which dives into the index."""
        condition = self.keys_condition(keys)
        return split.estimated_rows(conn, self.probe_relation(part, key), condition)

    @contextlib.contextmanager
    def probing(self, conn: sa.Connection) -> Iterator[None]:
        """Bound the time of a probe."""
        with split.probing(conn):
            yield

    def key_item(self, quoted: str, kind: Kind) -> str:
        """Write the expression that gives a key's column as the text of a bound."""
        return split.key_item(quoted, kind)

    def probe_relation(self, part: TablePart, key: SplitKey) -> str:
        """Name the index: a probe must never scan the table."""
        hint = "" if key.index is None else f" FORCE INDEX ({self.quote(key.index)})"
        return f"{self.part_relation(part)}{hint}"

    def literal(self, text: str, sql_type: str) -> str:
        """Write a bound of a key."""
        return split.literal(text, sql_type)

    def text_is(self, column: Column, text: str) -> str:
        """Compare bytes, behind what an index may find."""
        name = self.quote(column.name)
        exact = f"CAST(CONVERT({name} USING utf8mb4) AS BINARY) = x'{text.encode().hex()}'"
        return f"{name} = {self.text_literal(text)} AND {exact}"


def _place(table: TableName) -> dict[str, str | None]:
    return {"schema": table.schema, "name": table.name}
