"""SQLite: its facts, and the statements behind every method of `Dialect`."""

from __future__ import annotations

import contextlib
import sqlite3
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import sqlalchemy as sa

from ixflow.dialects.base import NOTHING_ASIDE, Dialect, Held, MergeCounts, SourceFacts, run
from ixflow.dialects.cast import counted_from
from ixflow.dialects.config import file_url
from ixflow.dialects.connect import connected
from ixflow.dialects.facts import only_reader, sqlalchemy_error
from ixflow.dialects.fragments import Lexicon
from ixflow.dialects.queries import named_once
from ixflow.dialects.ranges import SplitKey
from ixflow.dialects.sqlite import split, types
from ixflow.dialects.sqlite.values import SHA256, SQLiteReader, sha256, stored
from ixflow.errors import ReplacementRefused, UnsupportedDatabase, ValueDoesNotFit
from ixflow.values import Column, TableName, TablePart

if TYPE_CHECKING:
    from ixflow.dialects.keyspace import Kind

__all__ = ["BUSY_SECONDS", "SQLiteDialect"]

BUSY_SECONDS = 30.0
"""How long to wait for other writers."""


class SQLiteDialect(Dialect):
    """SQLite 3.35 and newer through Python's sqlite3."""

    name = "sqlite"
    kind = "sqlite"
    driver = "sqlite"
    max_identifier = 1_000
    adds_keys = False
    temporary_schema = "temp"
    row_values = True
    moments_are_texts = True
    lexicon = Lexicon({"'": "'", '"': '"', "`": "`", "[": "]"})

    def url(self, config: Mapping[str, Any]) -> sa.URL:
        """Make the URL of a ``source_config``."""
        return file_url(config, driver=self.driver)

    def engine(self, url: str | sa.URL) -> sa.Engine:
        """Make an engine whose transactions hold DDL too, and that waits for other writers."""
        engine = sa.create_engine(url, connect_args={"timeout": BUSY_SECONDS})
        sa.event.listen(engine, "connect", _set_up)
        sa.event.listen(engine, "begin", _begin)
        return engine

    @contextlib.contextmanager
    def reader(self, url: sa.URL, *, snapshot: str | None = None) -> Iterator[SQLiteReader]:
        """Open a connection whose transaction is the snapshot; the file must exist."""
        del snapshot
        with self._reading(url) as conn:
            yield SQLiteReader(conn.connection.driver_connection)

    @contextlib.contextmanager
    def hold(self, url: sa.URL, tables: Sequence[TableName], *, workers: int = 1) -> Iterator[Held]:
        """Hold one transaction, in which every table is read."""
        del tables, workers
        self.read_engine(url).dispose()
        with self._reading(url) as conn:
            # The moment is that of the first read.
            run(conn, "SELECT count(*) FROM sqlite_master").all()
            yield only_reader(conn, SQLiteReader(conn.connection.driver_connection))

    @contextlib.contextmanager
    def _reading(self, url: sa.URL) -> Iterator[sa.Connection]:
        existing = sa.URL.create(
            self.driver, database=f"file:{url.database}", query={"mode": "ro", "uri": "true"}
        )
        engine = self.engine(existing if url.database not in (None, "", ":memory:") else url)
        try:
            with connected(engine) as conn, conn.begin():
                yield conn
        finally:
            engine.dispose()

    def exists(self, conn: sa.Connection, table: TableName) -> bool:
        """Say whether a table or view of this name is there."""
        return bool(self.read_columns(conn, table))

    def read_columns(self, conn: sa.Connection, table: TableName) -> tuple[Column, ...]:
        """Read the columns from the catalogue, in order; none if there is no such table."""
        pragma = f"PRAGMA {self._schema(table)}table_info({self.quote(table.name)})"
        found = []
        for _, name, declared, not_null, _, position in run(conn, pragma):
            type_, as_text = types.arrow_type(declared or "")
            # INTEGER PRIMARY KEY is the rowid: never NULL, though not declared so.
            nullable = not (not_null or position)
            found.append(Column(name, declared or "", type_, nullable, as_text, position or None))
        return tuple(found)

    def source_facts(self, conn: sa.Connection, table: TableName) -> SourceFacts:
        """Take what ANALYZE has counted, else the reach of the rowids; the size is the file's."""
        pages = run(conn, "PRAGMA page_count").scalar_one()
        size = int(pages) * int(run(conn, "PRAGMA page_size").scalar_one())
        rows = split.estimated_rows(
            conn, self._schema(table), table.name, self.split_keys(conn, TablePart(table)), size
        )
        return SourceFacts(rows, size)

    def split_keys(self, conn: sa.Connection, part: TablePart) -> tuple[SplitKey, ...]:
        """Give the rowid, or the key that stands for it."""
        table = part.table
        columns = self.columns(conn, table)
        return split.split_keys(conn, self._schema(table), self.quote(table.name), columns)

    def key_item(self, quoted: str, kind: Kind) -> str:
        """Write the expression that gives a key's column as the text of a bound."""
        return split.key_item(quoted, kind)

    def indexes(self, conn: sa.Connection, table: TableName) -> frozenset[str]:
        """Describe the indexes by their columns, or by their SQL where they are more than that."""
        found = set()
        pragma = f"PRAGMA {self._schema(table)}index_list({self.quote(table.name)})"
        for _, name, unique, origin, partial in run(conn, pragma).fetchall():
            if origin == "pk":
                continue
            parts = run(conn, f"PRAGMA index_xinfo({self.quote(name)})").fetchall()
            columns = [(column, order) for _, _, column, order, _, key in parts if key]
            query = sa.text("""
                SELECT sql FROM sqlite_master WHERE name = :name
                UNION ALL SELECT sql FROM sqlite_temp_master WHERE name = :name
            """)
            sql = str(conn.execute(query, {"name": name}).scalar() or "")
            whole = partial or any(column is None for column, _ in columns)
            what = sql.partition("(")[2] if whole else repr(columns)
            found.add(f"{'UNIQUE ' if unique else ''}{what}")
        return frozenset(found)

    def comment(self, conn: sa.Connection, table: TableName) -> str | None:
        """SQLite has no comments."""
        del conn, table
        return None

    def set_comment(self, conn: sa.Connection, table: TableName, comment: str | None) -> None:
        """Refuse: SQLite has no comments, so a watermark cannot sit beside its rows."""
        del conn, comment
        msg = f"SQLite has no table comments, which {table} would need; use another database"
        raise UnsupportedDatabase(msg, table=str(table), database="sqlite")

    def sql_type(self, type_: pa.DataType) -> str:
        """Name the column type that holds every value of an Arrow type."""
        found = types.sql_type(type_)
        if found is None:
            raise self.no_sql_type(type_)
        return found

    def describe(self, conn: sa.Connection, query: str) -> tuple[Column, ...]:
        """Find the columns of a query: declared types where they are columns of tables."""
        found = run(conn, f"SELECT * FROM ({query}\n) LIMIT 0")
        names = [str(name) for name in found.keys()]  # noqa: SIM118 - it iterates over rows
        # SQLite itself makes `id:1` of the second `id`.
        firsts = [name.rpartition(":")[0] for name in names]
        named_once([first if first in names else n for n, first in zip(names, firsts, strict=True)])
        view = TableName(f"ixflow_{uuid.uuid4().hex}", "temp")
        run(conn, f"CREATE TEMP VIEW {self.quote(view.name)} AS {query}")
        try:
            return self.read_columns(conn, view)
        finally:
            run(conn, f"DROP VIEW {self.qualified(view)}")

    def has_index(self, conn: sa.Connection, table: TableName, column: str) -> bool:
        """Say whether the greatest value of a column is found without a scan."""
        pragma = f"PRAGMA {self._schema(table)}index_list({self.quote(table.name)})"
        for _, name, _, _, partial in run(conn, pragma).fetchall():
            parts = run(conn, f"PRAGMA index_info({self.quote(name)})").fetchall()
            if not partial and parts[0][2] == column:
                return True
        # The rowid itself needs no index.
        keys = [c for c in self.read_columns(conn, table) if c.key_position]
        return [(c.name, c.sql_type.upper()) for c in keys] == [(column, "INTEGER")]

    def literal(self, text: str, sql_type: str) -> str:
        """Write a bound of a key; of a declared type a text, which takes the column's affinity."""
        found = split.literal(text, sql_type)
        return self.text_literal(text) if found is None else found

    def text_is(self, column: Column, text: str) -> str:
        """Compare bytes, whatever the column's collation is."""
        return f"{self.quote(column.name)} = {self.text_literal(text)} COLLATE BINARY"

    def hash_form(self, text: str) -> str:
        """Write a call of the function that every connection of ours brings with it."""
        return f"{SHA256}({text})"

    def null_form(self, column: Column) -> str:
        """Write a NULL: values bring their type with them."""
        del column
        return "NULL"

    def kept_form(self, text: str, end: str, count: int) -> str:
        """Write the first or last characters of a text."""
        return f"substr({text}, 1, {count})" if end == "first" else f"substr({text}, -{count})"

    def year_form(self, column: Column, expression: str) -> str:
        """Write the first moment of the year; what is no date stays something that is refused."""
        zoned = pa.types.is_timestamp(column.type) and column.type.tz is not None
        time = "" if pa.types.is_date(column.type) else " 00:00:00"
        form = f"strftime('%Y-01-01{time}{'+00:00' if zoned else ''}', {expression})"
        year = f"CASE WHEN typeof({expression}) = 'text' THEN {form} END"
        return f"CASE WHEN {expression} IS NOT NULL THEN coalesce({year}, '***') END"

    def check_ingests(self, conn: sa.Connection) -> None:
        """Refuse: without comments a watermark cannot sit beside its rows."""
        del conn
        msg = "SQLite has no table comments to keep a watermark in; ingest into another database"
        raise UnsupportedDatabase(msg, database="sqlite")

    def create_schema(self, conn: sa.Connection, schema: str) -> None:
        """Accept the database's own schema; SQLite has no others."""
        del conn
        if schema not in ("main", "temp"):
            msg = f"SQLite has no schemas, so {schema!r} cannot be created"
            raise UnsupportedDatabase(msg, schema=schema, database="sqlite")

    def create_table(
        self,
        conn: sa.Connection,
        table: TableName,
        columns: Sequence[Column],
        *,
        temporary: bool = False,
    ) -> None:
        """Create a table with these columns and their primary key."""
        _in_transaction(conn)
        super().create_table(conn, table, columns, temporary=temporary)

    def load(
        self,
        conn: sa.Connection,
        table: TableName,
        columns: Sequence[Column],
        reader: pa.RecordBatchReader,
    ) -> int:
        """Append the reader's rows with executemany, which runs in C for plain values."""
        names = self.column_list(c.name for c in columns)
        marks = ", ".join("?" for _ in columns)
        statement = f"INSERT INTO {self.qualified(table)} ({names}) VALUES ({marks})"
        raw = _in_transaction(conn)
        rows = 0
        for batch in reader:
            try:
                values = [stored(a, c) for a, c in zip(batch.columns, columns, strict=True)]
                raw.executemany(statement, zip(*values, strict=True))
            except ValueDoesNotFit as error:
                raise counted_from(error, rows) from None
            except sqlite3.Error as error:
                raise sqlalchemy_error(conn, statement, error) from error
            rows += batch.num_rows
        return rows

    def merge(
        self,
        conn: sa.Connection,
        source: TableName,
        target: TableName,
        columns: Sequence[Column],
        key: Sequence[str],
    ) -> MergeCounts:
        """Upsert with ON CONFLICT; rows that would not change are not written."""
        count = f"SELECT count(*) FROM {self.qualified(target)}"
        total = run(conn, f"SELECT count(*) FROM {self.qualified(source)}").scalar_one()
        before = run(conn, count).scalar_one()
        names = self.column_list(c.name for c in columns)
        others = [self.quote(c.name) for c in columns if c.name not in key]
        action = "DO NOTHING"
        if others:
            differs = " OR ".join(f"t.{name} IS NOT excluded.{name}" for name in others)
            sets = ", ".join(f"{name} = excluded.{name}" for name in others)
            action = f"DO UPDATE SET {sets} WHERE {differs}"
        changes = run(
            conn,
            # rowid is the order of loading: the last row of a key wins.
            f"INSERT INTO {self.qualified(target)} AS t ({names}) "
            f"SELECT {names} FROM {self.qualified(source)} WHERE rowid IN "
            f"(SELECT max(rowid) FROM {self.qualified(source)} GROUP BY {self.column_list(key)}) "
            f"ON CONFLICT ({self.column_list(key)}) {action}",
        ).rowcount
        inserted = run(conn, count).scalar_one() - before
        return MergeCounts(inserted, changes - inserted, total - changes)

    def swap(
        self,
        conn: sa.Connection,
        moves: Sequence[tuple[TableName, TableName]],
        *,
        drops: Sequence[TableName] = (),
        timeout_seconds: float = 60,
    ) -> None:
        """Drop and rename; views find the new table by its name."""
        del timeout_seconds
        _in_transaction(conn)
        self._refuse_triggers(conn, [place for _, place in moves])
        for gone in drops:
            self.drop_table(conn, gone)
        # Without this, renaming would rewrite the views that name the table.
        run(conn, "PRAGMA legacy_alter_table = ON")
        for new, place in moves:
            run(conn, f"DROP TABLE IF EXISTS {self.qualified(place)}")
            run(conn, f"ALTER TABLE {self.qualified(new)} RENAME TO {self.quote(place.name)}")
        run(conn, "PRAGMA legacy_alter_table = OFF")

    def _refuse_triggers(self, conn: sa.Connection, tables: Sequence[TableName]) -> None:
        query = sa.text(
            "SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = :name"
        )
        for table in tables:
            found = list(conn.execute(query, {"name": table.name}).scalars())
            if found:
                msg = f"{table} is not replaced, because its triggers {found} would be lost"
                raise ReplacementRefused(msg, objects=found)

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
        """Refuse: SQLite has no schemas to publish between."""
        del conn, moves, drops, aside, timeout_seconds, keeps_schemas, keeps_options
        msg = "SQLite has no schemas to publish a stage in; use PostgreSQL or DuckDB"
        raise UnsupportedDatabase(msg, database="sqlite")

    def drop_schema(
        self,
        conn: sa.Connection,
        schema: str,
        *,
        prefix: str | None = None,
        dependents: bool = True,
    ) -> None:
        """Do nothing: there is never a transaction schema."""

    def tables_in(self, conn: sa.Connection, schema: str) -> tuple[str, ...]:
        """List the names of tables and views."""
        query = "SELECT name FROM sqlite_master WHERE type IN ('table', 'view') ORDER BY 1"
        return tuple(run(conn, query).scalars()) if schema == "main" else ()

    def _schema(self, table: TableName) -> str:
        return "" if table.schema is None else f"{self.quote(table.schema)}."


def _in_transaction(conn: sa.Connection) -> Any:
    """Begin what Python's sqlite3 would begin too late on an engine of the user's: before DDL."""
    raw: Any = conn.connection.driver_connection
    if not raw.in_transaction:
        raw.execute("BEGIN")
    return raw


def _set_up(connection: Any, record: Any) -> None:
    del record
    connection.isolation_level = None
    connection.create_function(SHA256, 1, sha256, deterministic=True)


def _begin(conn: sa.Connection) -> None:
    conn.exec_driver_sql("BEGIN")
