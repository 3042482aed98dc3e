"""SQL Server and Azure SQL: their facts. A source in this release, not a target."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from ixflow.dialects.base import Held, SourceFacts, run
from ixflow.dialects.connect import connected, seconds_to_wait
from ixflow.dialects.facts import only_reader
from ixflow.dialects.fragments import Lexicon
from ixflow.dialects.guest import CONNECT_SECONDS
from ixflow.dialects.ranges import SplitKey
from ixflow.dialects.source_only import SourceOnly
from ixflow.dialects.sqlserver import catalog, split
from ixflow.dialects.sqlserver.catalog import Isolation
from ixflow.dialects.sqlserver.config import DRIVER, connection_string, source_url, with_keepalive
from ixflow.dialects.sqlserver.failures import advised, is_transient
from ixflow.dialects.sqlserver.reader import (
    SQLServerReader,
    open_reader,
    open_session,
    session_settings,
)
from ixflow.dialects.sqlserver.types import literal, select_form
from ixflow.dialects.types import split_sql_type
from ixflow.errors import IxflowError, UnsupportedDatabase
from ixflow.values import Column, TableName, TablePart

if TYPE_CHECKING:
    from ixflow.dialects.keyspace import Kind

__all__ = ["SQLServerDialect"]


class SQLServerDialect(SourceOnly):
    """SQL Server 2017 and newer, and Azure SQL, through mssql-python."""

    name = "sqlserver"
    title = "SQL Server"
    kind = "sqlserver"
    driver = DRIVER
    default_port = 1433
    # Its driver has a long value as sent, in UTF-16 and in UTF-8, in buffers that double.
    row_copies = 20
    max_identifier = 128
    quotes = ("[", "]")
    lexicon = Lexicon({"'": "'", '"': '"', "[": "]"})
    snapshot_advice = (
        "allow it with ALTER DATABASE ... SET ALLOW_SNAPSHOT_ISOLATION ON; external and "
        "memory-optimized tables never have one"
    )

    def url(self, config: Mapping[str, Any]) -> sa.URL:
        """Make the URL of a ``source_config``; ``connection_string`` may also be ODBC's."""
        return source_url(config)

    def engine(self, url: str | sa.URL) -> sa.Engine:
        """Make an engine that keeps no connection and whose sessions start with our settings."""
        made = sa.make_url(url)
        try:
            engine = sa.create_engine(made, poolclass=sa.NullPool)
        except sa.exc.NoSuchModuleError:
            msg = (
                f"SQLAlchemy {sa.__version__} does not know the driver mssql-python; install 2.1 "
                f"or newer: `pip install 'ixflow[sqlserver]'`"
            )
            raise UnsupportedDatabase(msg, database=self.name, package="sqlalchemy") from None
        except ImportError as error:
            msg = (
                f"the package mssql-python cannot be used ({error}); install it with `pip install "
                f"'ixflow[sqlserver]'`, and the system's libltdl and libkrb5"
            )
            raise UnsupportedDatabase(msg, database=self.name, package="mssql-python") from None

        @sa.event.listens_for(engine, "do_connect")
        def write_connection_string(*given: Any) -> None:
            arguments, options = given[2:]
            arguments[:] = [connection_string(with_keepalive(made))]
            # Of connecting alone: a query may take as long as it takes.
            options["timeout"] = max(1, int(seconds_to_wait(CONNECT_SECONDS)))

        sa.event.listen(engine, "connect", _set_up)
        return engine

    @contextlib.contextmanager
    def reader(self, url: sa.URL, *, snapshot: str | None = None) -> Iterator[SQLServerReader]:
        """Open a connection with a snapshot of its own, where the database allows one."""
        del snapshot
        with open_reader(self.engine(url)) as reader:
            yield reader

    @contextlib.contextmanager
    def hold(self, url: sa.URL, tables: Sequence[TableName], *, workers: int = 1) -> Iterator[Held]:
        """Look at the tables, and choose how still they can be read.

        There are no snapshots that connections share. So several tables are read in one, in turn;
        of one table each reader has its own, which lets a lost one be replaced. Nothing changes in
        a database that is frozen.
        """
        del workers
        engine = self.engine(url)
        with connected(engine) as conn:
            isolation = self._isolation(conn, tables)
            if len(tables) == 1 or isolation.frozen or not isolation.holds:
                opening = functools.partial(open_reader, engine, isolation)
                yield Held(conn, None, opening, shared=isolation.frozen)
                return
        with open_session(engine, isolation) as (conn, reader):
            yield only_reader(conn, reader)

    def _isolation(self, conn: sa.Connection, tables: Sequence[TableName]) -> Isolation:
        """Ask how still these tables can be held, one of which may be the name of a query."""
        found = [catalog.find(conn, table, self.qualified(table)) for table in tables]
        held = all(table is None or table.held for table in found)
        return catalog.read_isolation(conn) if held else Isolation()

    def is_transient(self, error: BaseException) -> bool:
        """Say whether reading again on a new connection can help."""
        return is_transient(error)

    def explained(self, error: BaseException, table: str) -> IxflowError | None:
        """Say which setting or right an error of a read asks for."""
        return advised(error, table)

    def exists(self, conn: sa.Connection, table: TableName) -> bool:
        """Say whether a table or view of exactly this name is there."""
        return catalog.find(conn, table, self.qualified(table)) is not None

    def read_columns(self, conn: sa.Connection, table: TableName) -> tuple[Column, ...]:
        """Read the columns from the catalogue, in order; none if there is no such table."""
        if not self.exists(conn, table):
            return ()
        return catalog.read_columns(conn, self.qualified(table))

    def count(self, conn: sa.Connection, table: TableName) -> int:
        """Count the rows of a table, also beyond 2^31."""
        return int(run(conn, f"SELECT COUNT_BIG(*) FROM {self.qualified(table)}").scalar_one())

    def source_facts(self, conn: sa.Connection, table: TableName) -> SourceFacts:
        """Read the statistics; a view has none."""
        facts = catalog.read_facts(conn, self.qualified(table))
        return replace(facts, shares_snapshot=self._isolation(conn, [table]).frozen)

    def parts(self, conn: sa.Connection, table: TableName) -> tuple[TablePart, ...]:
        """Give the table as one part, held still where the database allows SNAPSHOT isolation."""
        return (TablePart(table, in_snapshot=self._isolation(conn, [table]).holds),)

    def split_keys(self, conn: sa.Connection, part: TablePart) -> tuple[SplitKey, ...]:
        """List the keys that cut a table of a database that nobody changes; elsewhere none."""
        if not self._isolation(conn, [part.table]).frozen:
            return ()
        columns = self.columns(conn, part.table)
        return split.split_keys(conn, self.qualified(part.table), columns)

    def key_item(self, quoted: str, kind: Kind) -> str:
        """Write the expression that gives a key's column as the exact text of a bound."""
        return split.key_item(quoted, kind)

    def describe(self, conn: sa.Connection, query: str) -> tuple[Column, ...]:
        """Find the columns of a query without running it."""
        return catalog.describe(conn, query)

    def query_part(self, conn: sa.Connection, table: TableName, query: str) -> TablePart:
        """Say whether the query's rows are all in one snapshot; nothing estimates them."""
        del query
        return TablePart(table, in_snapshot=catalog.read_isolation(conn).holds)

    def has_index(self, conn: sa.Connection, table: TableName, column: str) -> bool:
        """Say whether the greatest value of a column is found without a scan."""
        keys = split.split_keys(conn, self.qualified(table), self.columns(conn, table))
        return any(key.columns[0] == column for key in keys)

    def first_rows(self, count: int, items: str, rest: str) -> str:
        """Write a query that gives the first rows."""
        return f"SELECT TOP ({count}) {items} {rest}"

    def comment(self, conn: sa.Connection, table: TableName) -> str | None:
        """Read the table's description."""
        return catalog.read_comment(conn, self.qualified(table))

    def tables_in(self, conn: sa.Connection, schema: str) -> tuple[str, ...]:
        """List the names of tables and views of a schema."""
        return catalog.tables_in(conn, schema)

    def read_form(self, column: Column, expression: str) -> str:
        """Write the expression that reads a value, in a form the server sends exactly."""
        return select_form(column, expression)

    def text_literal(self, value: str) -> str:
        """Write a text as a literal that means the same under every setting."""
        return f"N{super().text_literal(value)}"

    def joined(self, first: str, second: str) -> str:
        """Write one text after another."""
        return f"CONCAT({first}, {second})"

    def hash_form(self, text: str) -> str:
        """Write the SHA-256 of a text in UTF-8, in hexadecimal digits."""
        utf8 = f"CONVERT(varchar(max), ({text}) COLLATE Latin1_General_100_BIN2_UTF8)"
        return f"LOWER(CONVERT(varchar(64), HASHBYTES('SHA2_256', {utf8}), 2))"

    def length_form(self, text: str) -> str:
        """Write the number of characters of a text, blanks at its end included."""
        return f"(LEN(CONCAT({text}, N'.')) - 1)"

    def year_form(self, column: Column, expression: str) -> str:
        """Write the first moment of the year, in UTC where the type has a zone."""
        offset = split_sql_type(column.sql_type)[0] == "datetimeoffset"
        moment = f"SWITCHOFFSET({expression}, 0)" if offset else expression
        first = f"DATEFROMPARTS(YEAR({moment}), 1, 1)"
        return f"CONVERT({column.sql_type}, {first})"

    def text_type(self) -> str:
        """Name the type of a cast to text."""
        return "nvarchar(max)"

    def literal(self, text: str, sql_type: str) -> str:
        """Write a bound of a key as a value of the column's type."""
        return literal(text, sql_type)

    def text_is(self, column: Column, text: str) -> str:
        """Compare bytes, behind what an index may find; blanks at the end count but in char."""
        name, wanted = self.quote(column.name), self.text_literal(text)
        padded = split_sql_type(column.sql_type)[0] in ("char", "nchar")
        value = f"RTRIM({name})" if padded else name
        left, right = (
            f"CONVERT(varbinary(max), CONVERT(nvarchar(max), {one}))" for one in (value, wanted)
        )
        return f"{name} = {wanted} AND {left} = {right}"


def _set_up(connection: Any, record: Any) -> None:
    del record
    cursor = connection.cursor()
    cursor.execute("; ".join(session_settings()))
    cursor.close()
