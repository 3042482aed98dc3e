"""DuckDB: one file, one process at a time; its facts and the statements behind `Dialect`."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import pyarrow as pa
import sqlalchemy as sa

from ixflow.dialects import duckdb_publish
from ixflow.dialects.base import Dialect, MergeCounts, SourceFacts, run
from ixflow.dialects.config import file_url
from ixflow.dialects.connect import connected
from ixflow.dialects.types import arrow_schema, cast_column, decimal_type, split_sql_type
from ixflow.errors import ReplacementRefused, ValueDoesNotFit
from ixflow.values import Column, TableName

__all__ = ["DuckDBDialect"]

_EXACT: dict[str, pa.DataType] = {
    "boolean": pa.bool_(),
    "tinyint": pa.int8(),
    "smallint": pa.int16(),
    "integer": pa.int32(),
    "bigint": pa.int64(),
    "utinyint": pa.uint8(),
    "usmallint": pa.uint16(),
    "uinteger": pa.uint32(),
    "ubigint": pa.uint64(),
    "float": pa.float32(),
    "double": pa.float64(),
    "varchar": pa.string(),
    "json": pa.string(),
    "uuid": pa.string(),
    "blob": pa.binary(),
    "date": pa.date32(),
    "time": pa.time64("us"),
    "timestamp_s": pa.timestamp("s"),
    "timestamp_ms": pa.timestamp("ms"),
    "timestamp": pa.timestamp("us"),
    "timestamp_ns": pa.timestamp("ns"),
    "timestamp with time zone": pa.timestamp("us", "UTC"),
}
_FROM_ARROW: tuple[tuple[pa.DataType, str], ...] = (
    *((type_, name) for name, type_ in _EXACT.items() if name not in ("json", "uuid")),
    (pa.float16(), "float"),
    (pa.null(), "varchar"),
)
# Batches of tables with long values stay small, since DuckDB counts a batch in rows, not bytes.
_ROWS, _ROWS_OF_LONG_VALUES = 65_536, 256
# Values at the ends of the range stand for infinity.
_INFINITE = (2**63 - 1, -(2**63 - 1), 2**31 - 1, -(2**31 - 1))


class _Reader:
    """One DuckDB connection in a transaction, which reads one snapshot."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw

    def read(self, sql: str, columns: Sequence[Column]) -> pa.RecordBatchReader:
        """Run a query made by `Dialect.select` and stream its rows with the columns' types."""
        long = any(pa.types.is_string(c.type) or pa.types.is_binary(c.type) for c in columns)
        source = self._raw.execute(sql).to_arrow_reader(_ROWS_OF_LONG_VALUES if long else _ROWS)
        schema = arrow_schema(columns)
        batches = _exact_batches(source, columns, schema)
        return pa.RecordBatchReader.from_batches(schema, batches)


def _exact_batches(
    source: pa.RecordBatchReader, columns: Sequence[Column], schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    first_row = 0
    for batch in source:
        arrays = []
        for array, column in zip(batch.columns, columns, strict=True):
            cast = cast_column(array, column, table="query", first_row=first_row)
            _refuse_infinity(cast, column)
            arrays.append(cast)
        yield pa.RecordBatch.from_arrays(arrays, schema=schema)
        first_row += batch.num_rows


def _refuse_infinity(array: pa.Array, column: Column) -> None:
    if not (pa.types.is_timestamp(array.type) or pa.types.is_date(array.type)):
        return
    width = pa.int32() if pa.types.is_date32(array.type) else pa.int64()
    values = array.view(width).fill_null(0).to_numpy(zero_copy_only=False)
    if len(values) and {int(values.min()), int(values.max())} & set(_INFINITE):
        msg = f"{column.name} ({column.sql_type}) holds infinity; read this column as text"
        raise ValueDoesNotFit(msg, column=column.name, sql_type=column.sql_type)


class DuckDBDialect(Dialect):
    """DuckDB 1.5 through duckdb-sqlalchemy."""

    name = "duckdb"
    kind = "duckdb"
    driver = "duckdb"
    max_identifier = 1_000
    adds_keys = False
    renames_indexed = False
    temporary_schema = "temp"
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
    def reader(self, url: sa.URL, *, snapshot: str | None = None) -> Iterator[_Reader]:
        """Open a connection whose transaction is the snapshot."""
        del snapshot
        with connected(self.engine(url)) as conn, conn.begin():
            raw: Any = conn.connection.driver_connection
            raw.execute("SET TimeZone = 'UTC'")
            yield _Reader(raw)

    def exists(self, conn: sa.Connection, table: TableName) -> bool:
        """Say whether a table or view of this name is there."""
        return bool(self.read_columns(conn, table))

    def read_columns(self, conn: sa.Connection, table: TableName) -> tuple[Column, ...]:
        """Read the columns from the catalogue, in order; none if there is no such table."""
        place = {"schema": table.schema, "name": table.name}
        key = conn.execute(_KEY, place).scalar() or []
        found = []
        for name, sql_type, nullable in conn.execute(_COLUMNS, place):
            type_, as_text = _arrow_type(sql_type)
            position = key.index(name) + 1 if name in key else None
            found.append(Column(name, sql_type, type_, nullable, as_text, position))
        return tuple(found)

    def source_facts(self, conn: sa.Connection, table: TableName) -> SourceFacts:
        """Read the statistics of a table; a view has none."""
        place = {"schema": table.schema, "name": table.name}
        rows = conn.execute(_ROW_ESTIMATE, place).scalar()
        width = sum(_width(column.type) for column in self.columns(conn, table))
        known = -1 if rows is None else int(rows)
        return SourceFacts(known, max(0, known) * width)

    def indexes(self, conn: sa.Connection, table: TableName) -> frozenset[str]:
        """Describe the indexes by their expressions, and unique constraints by their columns."""
        place = {"schema": table.schema, "name": table.name}
        return frozenset(conn.execute(_INDEXES, place).scalars())

    def comment(self, conn: sa.Connection, table: TableName) -> str | None:
        """Read the table's comment."""
        place = {"schema": table.schema, "name": table.name}
        found = conn.execute(_COMMENT, place).scalar()
        return None if found is None else str(found)

    def set_comment(self, conn: sa.Connection, table: TableName, comment: str | None) -> None:
        """Set the table's comment."""
        literal = "NULL" if comment is None else "'" + comment.replace("'", "''") + "'"
        run(conn, f"COMMENT ON TABLE {self.qualified(table)} IS {literal}")

    def sql_type(self, type_: pa.DataType) -> str:
        """Name the column type that holds every value of an Arrow type."""
        types = pa.types
        for arrow, name in _FROM_ARROW:
            if type_ == arrow:
                return name
        if types.is_decimal(type_) and type_.precision <= 38 and type_.scale >= 0:
            return f"decimal({type_.precision},{type_.scale})"
        if types.is_dictionary(type_):
            return self.sql_type(type_.value_type)
        if types.is_large_string(type_) or types.is_string_view(type_):
            return "varchar"
        if types.is_large_binary(type_) or types.is_fixed_size_binary(type_):
            return "blob"
        if types.is_timestamp(type_) and type_.tz is not None:
            return "timestamp with time zone"
        if types.is_time(type_):
            return "time"
        raise self.no_sql_type(type_)

    def text_type(self) -> str:
        """Name the unbounded text type."""
        return "varchar"

    def select_item(self, column: Column) -> str:
        """Write one column of a select list; nested values as JSON, which is exact."""
        quoted = self.quote(column.name)
        if column.as_text and column.sql_type.endswith(("]", ")")):
            nested = column.sql_type.endswith("]") or column.sql_type.startswith(("STRUCT", "MAP"))
            if nested:
                return f"CAST(to_json({quoted}) AS varchar) AS {quoted}"
        return super().select_item(column)

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
        *,
        transaction: str,
        schema: str,
        tables: Sequence[str],
        drops: Sequence[str] = (),
        timeout_seconds: float = 60,
    ) -> None:
        """Point views of the published schema at the tables of the transaction schema."""
        del timeout_seconds
        duckdb_publish.publish(self, conn, transaction, schema, tables, drops)

    def drop_schema(self, conn: sa.Connection, schema: str) -> None:
        """Drop a transaction schema with the tables in it that are not published."""
        duckdb_publish.drop_schema(self, conn, schema)

    def tables_in(self, conn: sa.Connection, schema: str) -> tuple[str, ...]:
        """List the names of tables and views of a schema."""
        return tuple(conn.execute(_TABLES, {"schema": schema}).scalars())


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


def _connect_when_free(
    dialect: Any, record: Any, arguments: Sequence[Any], options: dict[str, Any]
) -> Any:
    """Connect, waiting for another process that has the file open."""
    del record
    deadline = time.monotonic() + DuckDBDialect.busy_seconds
    while True:
        try:
            return dialect.connect(*arguments, **options)
        except dialect.dbapi.Error as error:
            if "lock" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _arrow_type(sql_type: str) -> tuple[pa.DataType, bool]:
    base, args = split_sql_type(sql_type)
    if base == "decimal":
        found = decimal_type(args)
        return (found, False) if found is not None else (pa.string(), True)
    return (_EXACT[base], False) if base in _EXACT else (pa.string(), True)


def _width(type_: pa.DataType) -> int:
    try:
        return max(1, int(type_.bit_width) // 8)
    except ValueError:
        return 24


# Temporary tables live in a database of their own.
_HERE = """
    database_name = CASE WHEN :schema = 'temp' THEN 'temp' ELSE current_database() END
    AND schema_name = CASE WHEN :schema = 'temp' THEN 'main'
                           ELSE coalesce(:schema, current_schema()) END
"""
_COLUMNS = sa.text(f"""
    SELECT column_name, data_type, is_nullable FROM duckdb_columns()
    WHERE {_HERE} AND lower(table_name) = lower(:name) ORDER BY column_index
""")  # noqa: S608 - the inserted text is the constant above
_KEY = sa.text(f"""
    SELECT constraint_column_names FROM duckdb_constraints()
    WHERE {_HERE} AND lower(table_name) = lower(:name) AND constraint_type = 'PRIMARY KEY'
""")  # noqa: S608
_INDEXES = sa.text(f"""
    SELECT CASE WHEN is_unique THEN 'UNIQUE ' ELSE '' END || expressions FROM duckdb_indexes()
    WHERE {_HERE} AND lower(table_name) = lower(:name) AND NOT is_primary
    UNION ALL
    SELECT 'UNIQUE [' || array_to_string(constraint_column_names, ', ') || ']'
    FROM duckdb_constraints()
    WHERE {_HERE} AND lower(table_name) = lower(:name) AND constraint_type = 'UNIQUE'
""")  # noqa: S608
_ROW_ESTIMATE = sa.text(f"""
    SELECT estimated_size FROM duckdb_tables() WHERE {_HERE} AND lower(table_name) = lower(:name)
""")  # noqa: S608
_COMMENT = sa.text(f"""
    SELECT comment FROM duckdb_tables() WHERE {_HERE} AND lower(table_name) = lower(:name)
    UNION ALL
    SELECT comment FROM duckdb_views() WHERE {_HERE} AND lower(view_name) = lower(:name)
""")  # noqa: S608
_TABLES = sa.text(f"""
    SELECT table_name FROM duckdb_tables() WHERE {_HERE}
    UNION ALL SELECT view_name FROM duckdb_views() WHERE {_HERE} ORDER BY 1
""")  # noqa: S608
