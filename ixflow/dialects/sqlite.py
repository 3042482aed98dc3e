"""SQLite: declared types and dynamic values; its facts and the statements behind `Dialect`."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import sqlalchemy as sa

from ixflow.dialects.base import Dialect, MergeCounts, SourceFacts, run
from ixflow.dialects.config import file_url
from ixflow.dialects.connect import connected
from ixflow.dialects.rows import rows_reader
from ixflow.dialects.types import decimal_type, split_sql_type
from ixflow.errors import ReplacementRefused, UnsupportedDatabase
from ixflow.values import Column, TableName

__all__ = ["SQLiteDialect"]

# Declared type to Arrow. A value that is not of the declared type is refused, not guessed at.
_EXACT: dict[str, pa.DataType] = {
    "boolean": pa.bool_(),
    "bool": pa.bool_(),
    "date": pa.date32(),
    "time": pa.time64("us"),
    "datetime": pa.timestamp("us"),
    "timestamp": pa.timestamp("us"),
    "timestamp with time zone": pa.timestamp("us", "UTC"),
    "timestamptz": pa.timestamp("us", "UTC"),
}
_FROM_ARROW: tuple[tuple[pa.DataType, str], ...] = (
    (pa.bool_(), "BOOLEAN"),
    *((t, "INTEGER") for t in (pa.int8(), pa.int16(), pa.int32(), pa.int64())),
    *((t, "INTEGER") for t in (pa.uint8(), pa.uint16(), pa.uint32())),
    *((t, "REAL") for t in (pa.float16(), pa.float32(), pa.float64())),
    (pa.date32(), "DATE"),
    (pa.null(), "TEXT"),
)


class _Reader:
    """One sqlite3 connection in a transaction, which reads one snapshot."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw

    def read(self, sql: str, columns: Sequence[Column]) -> pa.RecordBatchReader:
        """Run a query made by `Dialect.select` and stream its rows with the columns' types."""
        cursor = self._raw.cursor()
        cursor.execute(sql)
        return rows_reader(cursor.fetchmany, columns, _to_array, close=cursor.close)


def _to_array(values: Sequence[Any], column: Column) -> pa.Array:
    type_ = column.type
    if pa.types.is_decimal(type_):
        # The shortest text of a float is what was written; Arrow refuses what the scale cuts off.
        return pa.array([None if v is None else str(v) for v in values], pa.string())
    if pa.types.is_boolean(type_):
        return pa.array([None if v is None else _boolean(v) for v in values], type_)
    if pa.types.is_temporal(type_):
        return pa.array([None if v is None else _moment(v, type_) for v in values], type_)
    if pa.types.is_string(type_) and column.as_text:
        return pa.array([v if v is None or isinstance(v, str) else str(v) for v in values])
    return pa.array(values, type_)


def _boolean(value: Any) -> bool:
    if value in (0, 1):
        return bool(value)
    msg = "a boolean is 0 or 1"
    raise ValueError(msg)


def _moment(value: Any, type_: pa.DataType) -> Any:
    if not isinstance(value, str):
        msg = "dates and times are read from ISO 8601 text"
        raise TypeError(msg)
    if pa.types.is_date(type_):
        return dt.date.fromisoformat(value)
    if pa.types.is_time(type_):
        return dt.time.fromisoformat(value)
    moment = dt.datetime.fromisoformat(value)
    if type_.tz is None and moment.tzinfo is not None:
        msg = "the value has a zone, the declared type has none"
        raise ValueError(msg)
    if type_.tz is not None and moment.tzinfo is None:
        msg = "the value has no zone, the declared type wants one"
        raise ValueError(msg)
    return moment


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
    def reader(self, url: sa.URL, *, snapshot: str | None = None) -> Iterator[_Reader]:
        """Open a connection whose transaction is the snapshot; the file must exist."""
        del snapshot
        existing = sa.URL.create(
            self.driver, database=f"file:{url.database}", query={"mode": "ro", "uri": "true"}
        )
        engine = self.engine(existing if url.database not in (None, "", ":memory:") else url)
        try:
            with connected(engine) as conn, conn.begin():
                yield _Reader(conn.connection.driver_connection)
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
            type_, as_text = _arrow_type(declared or "")
            # INTEGER PRIMARY KEY is the rowid: never NULL, though not declared so.
            found.append(
                Column(name, declared or "", type_, not (not_null or position), as_text, position or None)
            )
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
        msg = f"SQLite has no table comments, which {table} would need; ingest into another database"
        raise UnsupportedDatabase(msg, table=str(table), database="sqlite")

    def sql_type(self, type_: pa.DataType) -> str:
        """Name the column type that holds every value of an Arrow type."""
        types = pa.types
        for arrow, name in _FROM_ARROW:
            if type_ == arrow:
                return name
        # Decimals of up to 15 digits survive SQLite's REAL; more become text.
        if types.is_decimal(type_) and type_.scale >= 0:
            exact = type_.precision <= 15
            return f"DECIMAL({type_.precision},{type_.scale})" if exact else "TEXT"
        if types.is_dictionary(type_):
            return self.sql_type(type_.value_type)
        if types.is_string(type_) or types.is_large_string(type_) or types.is_string_view(type_):
            return "TEXT"
        if types.is_binary(type_) or types.is_large_binary(type_):
            return "BLOB"
        if types.is_timestamp(type_):
            return "TIMESTAMP" if type_.tz is None else "TIMESTAMP WITH TIME ZONE"
        if types.is_time(type_):
            return "TIME"
        raise self.no_sql_type(type_)

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
        statement = f"INSERT INTO {self.qualified(table)} ({names}) VALUES ({marks})"  # noqa: S608
        raw: Any = conn.connection.driver_connection
        rows = 0
        for batch in reader:
            values = [_stored(array) for array in batch.columns]
            raw.executemany(statement, zip(*values, strict=True))
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
        count = f"SELECT count(*) FROM {self.qualified(target)}"  # noqa: S608
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
            # rowid order: the last row of a key is merged last and wins.
            f"INSERT INTO {self.qualified(target)} AS t ({names}) "
            f"SELECT {names} FROM {self.qualified(source)} WHERE true ORDER BY rowid "
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
        query = sa.text("SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = :name")
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
        msg = "SQLite has no schemas, so a stage cannot be published in it; use PostgreSQL or DuckDB"
        raise UnsupportedDatabase(msg, schema=schema, database="sqlite")

    def drop_schema(self, conn: sa.Connection, schema: str) -> None:
        """Do nothing: there is never a transaction schema."""

    def tables_in(self, conn: sa.Connection, schema: str) -> tuple[str, ...]:
        """List the names of tables and views."""
        query = "SELECT name FROM sqlite_master WHERE type IN ('table', 'view') ORDER BY 1"
        return tuple(run(conn, query).scalars()) if schema == "main" else ()

    def _schema(self, table: TableName) -> str:
        return "" if table.schema is None else f"{self.quote(table.schema)}."


def _leave_transactions_to_us(connection: Any, record: Any) -> None:
    del record
    connection.isolation_level = None


def _begin(conn: sa.Connection) -> None:
    conn.exec_driver_sql("BEGIN")


def _arrow_type(declared: str) -> tuple[pa.DataType, bool]:
    """Follow SQLite's affinity rules (https://www.sqlite.org/datatype3.html), exact types first."""
    base, args = split_sql_type(declared) if declared else ("", ())
    if base in _EXACT:
        return _EXACT[base], False
    if base in ("decimal", "numeric"):
        found = decimal_type(args)
        return (found, False) if found is not None else (pa.string(), True)
    if "int" in base:
        return pa.int64(), False
    if any(word in base for word in ("char", "clob", "text")):
        return pa.string(), False
    if base == "blob":
        return pa.binary(), False
    if any(word in base for word in ("real", "floa", "doub")):
        return pa.float64(), False
    return pa.string(), True


def _stored(array: pa.Array) -> list[Any]:
    """Turn an Arrow array into values that SQLite stores and that read back the same."""
    type_ = array.type
    if pa.types.is_timestamp(type_) or pa.types.is_time(type_) or pa.types.is_date(type_):
        return [None if v is None else v.isoformat(*_separator(v)) for v in array.to_pylist()]
    if pa.types.is_decimal(type_):
        return [None if v is None else str(v) for v in array.to_pylist()]
    found: list[Any] = array.to_pylist()
    return found


def _separator(value: Any) -> tuple[str, ...]:
    return (" ",) if isinstance(value, dt.datetime) else ()
