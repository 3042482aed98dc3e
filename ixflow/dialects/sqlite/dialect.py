"""SQLite: its facts, and the statements behind every method of `Dialect`."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from ixflow.dialects.base import Dialect, MergeCounts, SourceFacts, run
from ixflow.dialects.cast import counted_from
from ixflow.dialects.config import file_url
from ixflow.dialects.connect import connected
from ixflow.dialects.facts import sqlalchemy_error
from ixflow.dialects.sqlite import types
from ixflow.dialects.sqlite.values import SQLiteReader, stored
from ixflow.errors import ReplacementRefused, UnsupportedDatabase, ValueDoesNotFit
from ixflow.values import Column, TableName

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["SQLiteDialect"]


class SQLiteDialect(Dialect):
    """SQLite 3.35 and newer through Python's sqlite3."""

    name = "sqlite"
    kind = "sqlite"
    driver = "sqlite"
    max_identifier = 1_000
    adds_keys = False
    temporary_schema = "temp"

    def url(self, config: Mapping[str, Any]) -> sa.URL:
        """Make the URL of a ``source_config``."""
        return file_url(config, driver=self.driver)

    def engine(self, url: str | sa.URL) -> sa.Engine:
        """Make an engine whose transactions hold DDL too, and that waits for other writers."""
        engine = sa.create_engine(url, connect_args={"timeout": 30})
        sa.event.listen(engine, "connect", _leave_transactions_to_us)
        sa.event.listen(engine, "begin", _begin)
        return engine

    @contextlib.contextmanager
    def reader(self, url: sa.URL, *, snapshot: str | None = None) -> Iterator[SQLiteReader]:
        """Open a connection whose transaction is the snapshot; the file must exist."""
        del snapshot
        existing = sa.URL.create(
            self.driver, database=f"file:{url.database}", query={"mode": "ro", "uri": "true"}
        )
        engine = self.engine(existing if url.database not in (None, "", ":memory:") else url)
        try:
            with connected(engine) as conn, conn.begin():
                yield SQLiteReader(conn.connection.driver_connection)
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
        """Count the rows, which SQLite keeps no statistics of; one pass over the smallest index."""
        rows = run(conn, f"SELECT count(*) FROM {self.qualified(table)}").scalar_one()
        pages = run(conn, "PRAGMA page_count").scalar_one()
        size = run(conn, "PRAGMA page_size").scalar_one()
        return SourceFacts(int(rows), int(pages) * int(size))

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
        *,
        transaction: str,
        schema: str,
        tables: Sequence[str],
        drops: Sequence[str] = (),
        timeout_seconds: float = 60,
    ) -> None:
        """Refuse: SQLite has no schemas to publish between."""
        del conn, transaction, tables, drops, timeout_seconds
        msg = "SQLite has no schemas to publish a stage in; use PostgreSQL or DuckDB"
        raise UnsupportedDatabase(msg, schema=schema, database="sqlite")

    def drop_schema(self, conn: sa.Connection, schema: str) -> None:
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


def _leave_transactions_to_us(connection: Any, record: Any) -> None:
    del record
    connection.isolation_level = None


def _begin(conn: sa.Connection) -> None:
    conn.exec_driver_sql("BEGIN")
