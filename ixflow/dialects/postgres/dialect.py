"""PostgreSQL: its facts, and the statements behind every method of `Dialect`."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import sqlalchemy as sa

from ixflow.dialects.base import Held, SourceFacts, run
from ixflow.dialects.config import server_url
from ixflow.dialects.fragments import Lexicon
from ixflow.dialects.postgres import (
    advice,
    catalog,
    queries,
    sequences,
    split,
    transactions,
    types,
)
from ixflow.dialects.postgres.checksums import PostgresChecksums
from ixflow.dialects.postgres.hold import hold_tables, is_transient, moment
from ixflow.dialects.postgres.keys import estimated_rows, probing, split_keys
from ixflow.dialects.postgres.reader import PostgresReader, open_reader
from ixflow.dialects.postgres.session_locks import PostgresSessionLocks
from ixflow.dialects.postgres.visit import connect_options
from ixflow.dialects.postgres.writing import PostgresWriting
from ixflow.dialects.ranges import SplitKey
from ixflow.dialects.transactions import Ended
from ixflow.errors import IxflowError, ValidationError
from ixflow.values import Column, KeyRange, PageRange, TableName, TablePart

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["PostgresDialect"]

_IDLE = 0
"""What libpq, and with it both drivers, call a connection outside a transaction."""


class PostgresDialect(PostgresChecksums, PostgresWriting):
    """PostgreSQL 14 and newer, through psycopg 3 (or psycopg2) and ADBC."""

    name = "postgresql"
    kind = "postgres"
    driver = "postgresql+psycopg"
    default_port = 5432
    shares_snapshot = True
    settles = True
    bounds_statements = True
    infinite_moments = True
    rows_at_once = 8_000
    row_place = "ctid"
    table_prefixes = ("UNLOGGED",)
    moves_tables = True
    temporary_schema = "pg_temp"
    row_values = True
    table_options: ClassVar[Mapping[str, type]] = {"unlogged": bool}
    session_locks = PostgresSessionLocks()
    overriding = "OVERRIDING SYSTEM VALUE "
    lexicon = Lexicon(escapes=True, dollars=True)

    def url(self, config: Mapping[str, Any]) -> sa.URL:
        """Make the URL of a ``source_config``."""
        made = server_url(config, driver=self.driver, default_port=5432)
        if made.get_driver_name() not in ("psycopg", "psycopg2"):
            msg = (
                f"the driver {made.get_driver_name()} is not used for reading; write "
                f"postgresql://..., postgresql+psycopg:// or postgresql+psycopg2://"
            )
            raise ValidationError(msg, driver=made.get_driver_name())
        return made

    def engine(self, url: str | sa.URL) -> sa.Engine:
        """Make an engine; a URL without a driver gets psycopg 3."""
        made = sa.make_url(url)
        if "+" not in made.drivername:
            made = made.set(drivername=self.driver)
        engine = sa.create_engine(made, pool_pre_ping=True)
        sa.event.listen(engine, "do_connect", _with_a_limit)
        return engine

    def source_tables(self, conn: sa.Connection, schema: str | None) -> tuple[str, ...]:
        """List the tables of a schema without the partitions of others."""
        parts = catalog.partitions_in(conn, schema)
        return tuple(name for name in super().source_tables(conn, schema) if name not in parts)

    @contextlib.contextmanager
    def reader(self, url: sa.URL, *, snapshot: str | None = None) -> Iterator[PostgresReader]:
        """Open a connection that reads one snapshot."""
        with open_reader(url, snapshot=snapshot) as reader:
            yield reader

    @contextlib.contextmanager
    def hold(self, url: sa.URL, tables: Sequence[TableName], *, workers: int = 1) -> Iterator[Held]:
        """Lock the tables against DDL, and export the snapshot that all readers import."""
        del workers
        engine = self.engine(url)
        try:
            with hold_tables(engine, [self.qualified(table) for table in tables]) as (conn, held):
                opening = functools.partial(self.reader, url, snapshot=held)
                yield Held(conn, held, opening, shared=True)
        finally:
            engine.dispose()

    @contextlib.contextmanager
    def join(self, url: sa.URL, tables: Sequence[TableName], *, snapshot: str) -> Iterator[Held]:
        """Lock the tables and import the snapshot, then export it anew for all readers."""
        engine = self.engine(url)
        names_ = [self.qualified(table) for table in tables]
        try:
            with hold_tables(engine, names_, snapshot=snapshot) as (conn, held):
                opening = functools.partial(self.reader, url, snapshot=held)
                yield Held(conn, held, opening, shared=True)
        finally:
            engine.dispose()

    def moment(self, conn: sa.Connection) -> str | None:
        """Name the transactions that the snapshot sees, of this start of this server."""
        return moment(conn)

    def is_transient(self, error: BaseException) -> bool:
        """Say whether reading again on a new connection can help."""
        return is_transient(error)

    def is_cancelled_by_replay(self, error: BaseException) -> bool:
        """Say whether a replica ended the query, which a shorter one may escape."""
        return advice.is_cancelled_by_replay(error)

    def explained(self, error: BaseException, table: str) -> IxflowError | None:
        """Name the setting or the right that an error is about."""
        return advice.advised(error, table)

    def exists(self, conn: sa.Connection, table: TableName) -> bool:
        """Say whether a table or view of exactly this name is there."""
        return catalog.regclass(conn, self.qualified(table)) is not None

    def read_columns(self, conn: sa.Connection, table: TableName) -> tuple[Column, ...]:
        """Read the columns from the catalogue, in order; none if there is no such table."""
        return catalog.columns(conn, self.qualified(table))

    def source_facts(self, conn: sa.Connection, table: TableName) -> SourceFacts:
        """Read the statistics of a table, its partitions included."""
        return catalog.source_facts(conn, self.qualified(table))

    def indexes(self, conn: sa.Connection, table: TableName) -> frozenset[str]:
        """Describe the indexes by what follows the table's name in their definitions."""
        return catalog.indexes(conn, self.qualified(table))

    def column_details(
        self, conn: sa.Connection, table: TableName
    ) -> Mapping[str, Mapping[str, str]]:
        """Read collation, computed value and identity of each column."""
        return catalog.column_details(conn, self.qualified(table))

    def set_identity(
        self, conn: sa.Connection, table: TableName, column: str, options: Mapping[str, int | bool]
    ) -> None:
        """Alter the options that are given, and where the next number lies if it must."""
        sequences.set_identity(conn, self.qualified(table), column, options)

    def parts(self, conn: sa.Connection, table: TableName) -> tuple[TablePart, ...]:
        """List the partitions, or the table itself."""
        return split.parts(conn, self.qualified(table)) or super().parts(conn, table)

    def key_bounds(self, conn: sa.Connection, table: TableName, column: str) -> tuple[float, ...]:
        """Give the histogram bounds that ANALYZE left."""
        return split.key_bounds(conn, self.qualified(table), column)

    def split_keys(self, conn: sa.Connection, part: TablePart) -> tuple[SplitKey, ...]:
        """List the indexes that can cut a table."""
        return split_keys(conn, self.qualified(part.table)) if part.in_snapshot else ()

    def estimated_rows(
        self, conn: sa.Connection, part: TablePart, key: SplitKey, keys: KeyRange
    ) -> float | None:
        """Ask the optimizer."""
        del key
        return estimated_rows(conn, self.part_relation(part), self.keys_condition(keys))

    @contextlib.contextmanager
    def probing(self, conn: sa.Connection) -> Iterator[None]:
        """Bound the time of a probe."""
        with probing(conn):
            yield

    def comment(self, conn: sa.Connection, table: TableName) -> str | None:
        """Read the table's comment."""
        query = sa.text("SELECT obj_description(to_regclass(:name), 'pg_class')")
        found = conn.execute(query, {"name": self.qualified(table)}).scalar_one()
        return None if found is None else str(found)

    def set_comment(self, conn: sa.Connection, table: TableName, comment: str | None) -> None:
        """Set the table's comment."""
        literal = "NULL" if comment is None else catalog.literal(comment)
        run(conn, f"COMMENT ON TABLE {self.qualified(table)} IS {literal}")

    def sql_type(self, type_: pa.DataType) -> str:
        """Name the column type that holds every value of an Arrow type."""
        found = types.sql_type(type_)
        if found is None:
            raise self.no_sql_type(type_)
        return found

    def part_relation(self, part: TablePart) -> str:
        """Leave out the tables that inherit from a part, which are parts of their own."""
        return f"{'ONLY ' if part.only else ''}{self.qualified(part.table)}"

    def pages_condition(self, part: TablePart, pages: PageRange) -> str:
        """Write the condition on ctid."""
        del part
        return split.pages_condition(pages)

    def literal(self, text: str, sql_type: str) -> str:
        """Write a bound of a key."""
        return f"{catalog.literal(text)}::{sql_type}"

    def text_is(self, column: Column, text: str) -> str:
        """Compare bytes, behind what an index of a text may find."""
        name, wanted = self.quote(column.name), catalog.literal(text)
        exact = f'{name}::text COLLATE "C" = {wanted}'
        plain = types.base_type(column.sql_type) in ("text", "character varying", "character")
        return f"{name} = {wanted} AND {exact}" if plain else exact

    def read_form(self, column: Column, expression: str) -> str:
        """Write the expression that reads a value, by a cast where ADBC would not be exact."""
        base = types.base_type(column.sql_type)
        cast = "text" if column.as_text else types.READ_AS.get(base)
        return f"{expression}::{cast}" if cast else expression

    def text_literal(self, value: str) -> str:
        """Write a text as a literal that means the same under every setting."""
        return catalog.literal(value)

    def describe(self, conn: sa.Connection, query: str) -> tuple[Column, ...]:
        """Find the columns of a query without running it."""
        return queries.describe(conn, query)

    def query_part(self, conn: sa.Connection, table: TableName, query: str) -> TablePart:
        """Estimate a query, and say whether its rows are all in one snapshot."""
        return queries.query_part(conn, table, query)

    def has_index(self, conn: sa.Connection, table: TableName, column: str) -> bool:
        """Say whether the greatest value of a column is found without a scan."""
        return queries.has_index(conn, self.qualified(table), column)

    def settled_before(self, conn: sa.Connection, table: TableName | None) -> str:
        """Give the beginning of the oldest transaction that is open."""
        return queries.settled_before(conn, None if table is None else self.qualified(table))

    def marks_rows(self, conn: sa.Connection, table: TableName) -> bool:
        """Say whether every row of a table carries its xmin."""
        return transactions.marks_rows(conn, self.qualified(table))

    def ended(self, conn: sa.Connection) -> Ended:
        """Ask the snapshot of a connection's transaction."""
        return transactions.ended(conn)

    def made_by(self, first: int, end: int) -> str:
        """Write the condition on xmin."""
        return transactions.made_by(first, end)

    def hash_form(self, text: str) -> str:
        """Write the SHA-256 of a text in UTF-8, in hexadecimal digits."""
        return f"encode(sha256(convert_to({text}, 'UTF8')), 'hex')"

    def year_form(self, column: Column, expression: str) -> str:
        """Write the first moment of the year, in UTC where the type has a zone."""
        if types.base_type(column.sql_type) == "timestamp with time zone":
            utc = f"{expression} AT TIME ZONE 'UTC'"
            return f"date_trunc('year', {utc}) AT TIME ZONE 'UTC'"
        return f"date_trunc('year', {expression}::timestamp)::{column.sql_type}"


def _with_a_limit(dialect: Any, record: Any, arguments: Any, options: dict[str, Any]) -> None:
    del dialect, record, arguments
    for key, value in connect_options().items():
        options.setdefault(key, value)
