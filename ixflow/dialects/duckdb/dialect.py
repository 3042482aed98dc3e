"""DuckDB: its facts, and the statements behind every method of `Dialect`."""

from __future__ import annotations

import contextlib
import copy
import functools
import time
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import sqlalchemy as sa

from ixflow.dialects.base import NOTHING_ASIDE, Dialect, Held, MergeCounts, SourceFacts, run
from ixflow.dialects.config import file_url
from ixflow.dialects.connect import connected, seconds_to_wait
from ixflow.dialects.duckdb import catalog, publish, split, types
from ixflow.dialects.duckdb.checksums import DuckDBChecksums
from ixflow.dialects.duckdb.reader import DuckDBReader
from ixflow.dialects.duckdb.windows import RowsQuery
from ixflow.dialects.facts import only_reader
from ixflow.dialects.fragments import Lexicon
from ixflow.dialects.queries import named_once
from ixflow.dialects.ranges import KeyCuts
from ixflow.errors import ReplacementRefused
from ixflow.values import Column, KeyRange, PageRange, TableName, TablePart

__all__ = ["DuckDBDialect"]


class DuckDBDialect(DuckDBChecksums, Dialect):
    """DuckDB 1.5 through duckdb-sqlalchemy."""

    name = "duckdb"
    kind = "duckdb"
    driver = "duckdb"
    one_process = True
    max_identifier = 1_000
    adds_keys = False
    infinite_moments = True
    any_text = True
    rows_at_once = 122_880  # a row group
    renames_indexed = False
    temporary_schema = "temp"
    lexicon = Lexicon(escapes=True, dollars=True)
    busy_seconds: ClassVar[float] = 30
    """How long to wait for another process to close the file."""

    def url(self, config: Mapping[str, Any]) -> sa.URL:
        """Make the URL of a ``source_config``."""
        return file_url(config, driver=self.driver)

    def engine(self, url: str | sa.URL) -> sa.Engine:
        """Make an engine that holds the file only while a connection is open."""
        engine = sa.create_engine(url, poolclass=sa.pool.NullPool)
        sa.event.listen(engine, "do_connect", _connect_when_free)
        return engine

    @contextlib.contextmanager
    def reader(self, url: sa.URL, *, snapshot: str | None = None) -> Iterator[DuckDBReader]:
        """Open a connection whose transaction is the snapshot."""
        del snapshot
        with connected(self.engine(url)) as conn, conn.begin():
            raw: Any = conn.connection.driver_connection
            raw.execute("SET TimeZone = 'UTC'")
            yield DuckDBReader(raw)

    @contextlib.contextmanager
    def hold(self, url: sa.URL, tables: Sequence[TableName], *, workers: int = 1) -> Iterator[Held]:
        """Hold one transaction, in which every table is read."""
        del tables, workers
        with connected(self.read_engine(url)) as conn, conn.begin():
            raw: Any = conn.connection.driver_connection
            raw.execute("SET TimeZone = 'UTC'")
            # The moment is that of the first look into the file.
            raw.execute("SELECT count(*) FROM duckdb_tables()").fetchall()
            yield only_reader(conn, DuckDBReader(raw))

    def read_engine(self, url: sa.URL) -> sa.Engine:
        """Make an engine that opens the file for reading only, which other processes may do too.

        A file that is open in this process already is shared the way it is open.
        """
        super().read_engine(url).dispose()
        engine = sa.create_engine(url, poolclass=sa.pool.NullPool)
        sa.event.listen(engine, "do_connect", _connect_to_read)
        return engine

    def select_part(
        self,
        part: TablePart,
        columns: Sequence[Column],
        *,
        pages: PageRange | None = None,
        keys: KeyRange | None = None,
        query: str | None = None,
        where: str | None = None,
        alias: str | None = None,
        salt: str | None = None,
    ) -> str:
        """Write the query of a part so that its rows can be asked for a few at a time."""
        write = functools.partial(
            super().select_part, pages=pages, keys=keys, query=query, alias=alias, salt=salt
        )

        def written(rows: str | None) -> str:
            both = " AND ".join(f"({text}\n)" for text in (where, rows) if text) or None
            return write(part, columns, where=both)

        return written(None) if query else RowsQuery.made(written, self.qualified(part.table))

    def exists(self, conn: sa.Connection, table: TableName) -> bool:
        """Say whether a table or view of this name is there."""
        return bool(self.read_columns(conn, table))

    def read_columns(self, conn: sa.Connection, table: TableName) -> tuple[Column, ...]:
        """Read the columns from the catalogue, in order; none if there is no such table."""
        place = {"schema": table.schema, "name": table.name}
        described = catalog.table_info(conn, self.qualified(table))
        keyed = any(of_key for *_, of_key in described)
        key = (conn.execute(catalog.KEY, place).scalar() or []) if keyed else []
        found = []
        for name, sql_type, nullable, _ in described:
            type_, as_text = types.arrow_type(sql_type)
            position = key.index(name) + 1 if name in key else None
            found.append(Column(name, sql_type, type_, nullable, as_text, position))
        return tuple(found)

    def source_facts(self, conn: sa.Connection, table: TableName) -> SourceFacts:
        """Read the statistics of a table; a view has none."""
        place = {"schema": table.schema, "name": table.name}
        rows = conn.execute(catalog.ROW_ESTIMATE, place).scalar()
        width = sum(types.width(column.type) for column in self.columns(conn, table))
        known = -1 if rows is None else int(rows)
        return SourceFacts(known, max(0, known) * width)

    def cut_keys(
        self,
        conn: sa.Connection,
        part: TablePart,
        wanted: int,
        *,
        seconds: float = 5.0,
        scattered: bool = True,
        hidden: Collection[str] = (),
    ) -> KeyCuts | None:
        """Cut a table by rowid; a view has none."""
        del seconds, scattered, hidden
        place = {"schema": part.table.schema, "name": part.table.name}
        rows = conn.execute(catalog.ROW_ESTIMATE, place).scalar()
        columns = self.columns(conn, part.table)
        return None if rows is None else split.cut_rowids(columns, int(rows), wanted)

    def indexes(self, conn: sa.Connection, table: TableName) -> frozenset[str]:
        """Describe the indexes by their expressions, and unique constraints by their columns."""
        place = {"schema": table.schema, "name": table.name}
        return frozenset(conn.execute(catalog.INDEXES, place).scalars())

    def comment(self, conn: sa.Connection, table: TableName) -> str | None:
        """Read the table's comment."""
        place = {"schema": table.schema, "name": table.name}
        found = conn.execute(catalog.COMMENT, place).scalar()
        return None if found is None else str(found)

    def set_comment(self, conn: sa.Connection, table: TableName, comment: str | None) -> None:
        """Set the table's comment."""
        literal = "NULL" if comment is None else "'" + comment.replace("'", "''") + "'"
        run(conn, f"COMMENT ON TABLE {self.qualified(table)} IS {literal}")

    def sql_type(self, type_: pa.DataType) -> str:
        """Name the column type that holds every value of an Arrow type."""
        found = types.sql_type(type_)
        if found is None:
            raise self.no_sql_type(type_)
        return found

    def text_type(self) -> str:
        """Name the unbounded text type."""
        return "varchar"

    def read_form(self, column: Column, expression: str) -> str:
        """Write the expression that reads a value; nested values as JSON, which is exact."""
        if column.as_text and column.sql_type.endswith(("]", ")")):
            nested = column.sql_type.endswith("]") or column.sql_type.startswith(("STRUCT", "MAP"))
            if nested:
                return f"CAST(to_json({expression}) AS varchar)"
        return super().read_form(column, expression)

    def describe(self, conn: sa.Connection, query: str) -> tuple[Column, ...]:
        """Find the columns of a query without running it."""
        found = run(conn, f"DESCRIBE {query}").all()
        named_once([str(row[0]) for row in found])
        columns = []
        for name, sql_type, *_ in found:
            type_, as_text = types.arrow_type(str(sql_type))
            columns.append(Column(str(name), str(sql_type), type_, as_text=as_text))
        return tuple(columns)

    def transaction_mark(self, conn: sa.Connection) -> str:
        """Give its number."""
        return str(run(conn, "SELECT txid_current()").scalar_one())

    def text_is(self, column: Column, text: str) -> str:
        """Compare bytes, behind what statistics of the values may leave out."""
        name, wanted = self.quote(column.name), self.text_literal(text)
        exact = f"encode(CAST({name} AS VARCHAR)) = encode({wanted})"
        return f"{name} = {wanted} AND {exact}" if column.sql_type == "VARCHAR" else exact

    def has_index(self, conn: sa.Connection, table: TableName, column: str) -> bool:
        """Say yes: every block knows its greatest value, and a column is read alone."""
        del conn, table, column
        return True

    def hash_form(self, text: str) -> str:
        """Write the SHA-256 of a text in UTF-8, in hexadecimal digits."""
        return f"sha256({text})"

    def create_database(self, url: sa.URL) -> bool:
        """Create the directory of the file; the file itself is created when it is opened."""
        directory = Path(url.database or "").parent
        if not url.database or directory.is_dir():
            return False
        directory.mkdir(parents=True, exist_ok=True)
        return True

    def create_schema(self, conn: sa.Connection, schema: str) -> None:
        """Create the schema unless it is there."""
        run(conn, f"CREATE SCHEMA IF NOT EXISTS {self.quote(schema)}")

    def load(
        self,
        conn: sa.Connection,
        table: TableName,
        columns: Sequence[Column],
        reader: pa.RecordBatchReader,
    ) -> int:
        """Append the reader's rows with INSERT ... SELECT from the Arrow stream."""
        raw: Any = conn.connection.driver_connection
        view = f"_ixflow_{uuid.uuid4().hex}"
        watched = _Watched(reader)
        raw.register(view, watched.reader)
        try:
            names = self.column_list(c.name for c in columns)
            result = run(
                conn, f"INSERT INTO {self.qualified(table)} ({names}) SELECT {names} FROM {view}"
            )
            return int(result.scalar_one())
        except sa.exc.DBAPIError:
            if watched.error is not None:
                raise watched.error from None
            raise
        finally:
            # After an interrupt the connection may be closed, and the view gone with it.
            with contextlib.suppress(conn.dialect.loaded_dbapi.Error):
                raw.unregister(view)

    def merge(
        self,
        conn: sa.Connection,
        source: TableName,
        target: TableName,
        columns: Sequence[Column],
        key: Sequence[str],
    ) -> MergeCounts:
        """Upsert with MERGE; rows that would not change are not written."""
        total = run(conn, f"SELECT count(*) FROM {self.qualified(source)}").scalar_one()
        names = self.column_list(c.name for c in columns)
        # rowid is the order of loading: the last row of a key wins.
        rows = (
            f"SELECT {names} FROM {self.qualified(source)} QUALIFY row_number() OVER "
            f"(PARTITION BY {self.column_list(key)} ORDER BY rowid DESC) = 1"
        )
        on = " AND ".join(f"t.{self.quote(k)} = n.{self.quote(k)}" for k in key)
        others = [self.quote(c.name) for c in columns if c.name not in key]
        update = ""
        if others:
            differs = " OR ".join(f"t.{name} IS DISTINCT FROM n.{name}" for name in others)
            sets = ", ".join(f"{name} = n.{name}" for name in others)
            update = f"WHEN MATCHED AND ({differs}) THEN UPDATE SET {sets} "
        values = ", ".join(f"n.{self.quote(c.name)}" for c in columns)
        actions = run(
            conn,
            f"MERGE INTO {self.qualified(target)} AS t "
            f"USING ({rows}) AS n ON {on} {update}"
            f"WHEN NOT MATCHED THEN INSERT ({names}) VALUES ({values}) RETURNING merge_action",
        )
        done = [str(action) for action in actions.scalars()]
        inserted, updated = done.count("INSERT"), done.count("UPDATE")
        return MergeCounts(inserted, updated, total - inserted - updated)

    def swap(
        self,
        conn: sa.Connection,
        moves: Sequence[tuple[TableName, TableName]],
        *,
        drops: Sequence[TableName] = (),
        timeout_seconds: float = 60,
    ) -> None:
        """Drop and rename; views find the new table by its name, the comment is kept."""
        del timeout_seconds
        for gone in drops:
            self.drop_table(conn, gone)
        for new, place in moves:
            if new.schema != place.schema:
                msg = f"DuckDB cannot move {new} to another schema; publish it as a view"
                raise ReplacementRefused(msg, table=str(place))
            comment = self.comment(conn, new)
            if self.exists(conn, place):
                comment = comment or self.comment(conn, place)
                self.drop_table(conn, place)
            run(conn, f"ALTER TABLE {self.qualified(new)} RENAME TO {self.quote(place.name)}")
            if comment is not None:
                self.set_comment(conn, place, comment)

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
        """Point views of the published schema at the new tables."""
        del timeout_seconds, keeps_options
        publish.publish(self, conn, moves, drops, aside, keeps_schemas=keeps_schemas)

    def drop_schema(
        self,
        conn: sa.Connection,
        schema: str,
        *,
        prefix: str | None = None,
        dependents: bool = True,
    ) -> None:
        """Drop a transaction schema with the tables in it that are not published."""
        del dependents  # Views of others find their tables by name.
        publish.drop_schema(self, conn, schema, prefix)

    def tables_in(self, conn: sa.Connection, schema: str) -> tuple[str, ...]:
        """List the names of tables and views of a schema."""
        return tuple(conn.execute(catalog.TABLES, {"schema": schema}).scalars())


class _Watched:
    """A reader that remembers its exception, which DuckDB would turn into a text."""

    def __init__(self, source: pa.RecordBatchReader) -> None:
        self.error: Exception | None = None
        self.reader = pa.RecordBatchReader.from_batches(source.schema, self._batches(source))

    def _batches(self, source: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
        try:
            yield from source
        except Exception as error:
            self.error = error
            raise


_OTHERWISE_OPEN = "different configuration"

# "already attached": another thread of this process is just closing the file; "configuration": it
# has it open for reading only.
_BUSY = ("lock", "already attached", _OTHERWISE_OPEN)


def _connect_to_read(
    dialect: Any, record: Any, arguments: Sequence[Any], options: dict[str, Any]
) -> Any:
    """Connect for reading only, or as this process has the file open already."""
    if options.get("database") != ":memory:":
        # The driver empties what it is given.
        reading = {**copy.deepcopy(options), "read_only": True}
        with contextlib.suppress(dialect.dbapi.Error):
            return dialect.connect(*arguments, **reading)
    return _connect_when_free(dialect, record, arguments, options)


def _connect_when_free(
    dialect: Any, record: Any, arguments: Sequence[Any], options: dict[str, Any]
) -> Any:
    """Connect, waiting for another process that has the file open."""
    del record
    deadline = time.monotonic() + seconds_to_wait(DuckDBDialect.busy_seconds)
    while True:
        try:
            return dialect.connect(*arguments, **options)
        except dialect.dbapi.Error as error:
            busy = any(said in str(error) for said in _BUSY)
            if not busy or time.monotonic() > deadline:
                raise
            time.sleep(0.05)
