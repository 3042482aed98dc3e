"""SQLAlchemy tables as inputs; selects and text as outputs, computed on the server."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import sqlalchemy as sa

from ixflow.dialects import connected, dialect_of, run
from ixflow.dialects.types import split_sql_type
from ixflow.errors import ValidationError
from ixflow.store.frames.base import Frames, TableSpec, Wanted, Written
from ixflow.tables.load import add_primary_key, create_index
from ixflow.values import Column, TableName

__all__ = ["SQLAlchemyFrames"]


class SQLAlchemyFrames(Frames):
    """Takes `sqlalchemy.Select`, tables and text; gives `sqlalchemy.Table` and `sqlalchemy.Alias`.

    A query is stored with CREATE TABLE ... AS: no row leaves the server.
    """

    def owns(self, obj: Any) -> bool:
        """Say whether it is a query."""
        return isinstance(obj, (sa.FromClause, sa.SelectBase, sa.TextClause))

    def gives(self) -> tuple[type, ...]:
        """Name the types that `read` gives."""
        return (sa.Table, sa.Alias)

    def identity(self, engine: sa.Engine, obj: Any, spec: TableSpec) -> str | None:
        """Give the query's text, as the server would read it."""
        return _query_text(engine, obj, spec)

    def write(self, conn: sa.Connection, table: TableName, obj: Any, spec: TableSpec) -> Written:
        """Let the server create the table from the query, then add key and indexes."""
        dialect = dialect_of(conn)
        query = _query_text(conn, obj, spec)
        if spec.primary_key and not dialect.adds_keys:
            _create_keyed(conn, table, query, spec.primary_key)
            result = run(conn, f"INSERT INTO {dialect.qualified(table)} {query}")
        else:
            result = run(
                conn, f"CREATE {dialect.table_kind()} {dialect.qualified(table)} AS {query}"
            )
            if spec.primary_key:
                add_primary_key(conn, dialect, table, spec.primary_key)
        for index in spec.indexes:
            create_index(conn, dialect, table, index)
        return Written(_rows(conn, result, dialect.qualified(table)))

    def apart(self, obj: Any, number: int) -> Any:
        """Give an alias, without which a query could not join a table with itself."""
        return obj.alias(sa.quoted_name(f"{obj.name}_{number}", quote=True))

    def read(self, engine: sa.Engine, table: TableName, wanted: Wanted) -> sa.FromClause:
        """Describe the table, with its schema, for use in queries of the same database.

        An alias of it is called like the table.
        """
        with connected(engine) as conn:
            columns = dialect_of(conn).columns(conn, table)
        schema = None if table.schema is None else sa.quoted_name(table.schema, quote=True)
        made = (
            sa.Column(
                sa.quoted_name(column.name, quote=True),
                _sql_type(engine, column),
                nullable=column.nullable,
                primary_key=column.key_position is not None,
                autoincrement=False,
            )
            for column in columns
        )
        name = sa.quoted_name(table.name, quote=True)
        found = sa.Table(name, sa.MetaData(), *made, schema=schema)
        return found.alias(name) if wanted.type is sa.Alias else found


def _query_text(conn: sa.Connection | sa.Engine, obj: Any, spec: TableSpec) -> str:
    """Write the query with its values in place, as the server shall read it."""
    if isinstance(obj, sa.FromClause) and not isinstance(obj, sa.SelectBase):
        obj = sa.select(obj)
    if spec.type_map:
        obj = _typed(obj, spec)
    try:
        text = str(obj.compile(conn, compile_kwargs={"literal_binds": True}))
    except sa.exc.CompileError as error:
        msg = (
            f"the query of table {spec.name} has a value that cannot be written into CREATE TABLE "
            f"AS: {error}; cast it in the query, or return a frame"
        )
        raise ValidationError(msg, table=spec.name) from error
    # Drivers that take %s read %% for a percent sign; this text goes out without parameters.
    doubled = conn.dialect.paramstyle in ("format", "pyformat")
    return text.replace("%%", "%") if doubled else text


def _typed(obj: Any, spec: TableSpec) -> sa.Select[Any]:
    if isinstance(obj, sa.TextClause):
        msg = f"table {spec.name}: type_map needs a query with columns, not text; cast in the text"
        raise ValidationError(msg, table=spec.name)
    inner = obj.subquery()
    unknown = sorted(set(spec.type_map) - set(inner.c.keys()))
    if unknown:
        msg = f"table {spec.name}: type_map names {unknown}, the query has {inner.c.keys()}"
        raise ValidationError(msg, table=spec.name, columns=unknown)
    return sa.select(*(_cast(column, spec.type_map.get(column.name)) for column in inner.c))


def _cast(column: Any, wanted: Any) -> Any:
    if wanted is None:
        return column
    if isinstance(wanted, str):
        return sa.type_coerce(sa.cast(column, _Spelled(wanted)), sa.Text).label(column.name)
    return sa.cast(column, wanted).label(column.name)


class _Spelled(sa.types.UserDefinedType[Any]):
    """A type by its SQL text."""

    cache_ok = True

    def __init__(self, text: str) -> None:
        self.text = text

    def get_col_spec(self, **kw: Any) -> str:
        """Give the text."""
        del kw
        return self.text


def _create_keyed(conn: sa.Connection, table: TableName, query: str, key: tuple[str, ...]) -> None:
    """Create the empty table with its key, where a key cannot be added later."""
    dialect = dialect_of(conn)
    run(conn, f"CREATE TABLE {dialect.qualified(table)} AS SELECT * FROM ({query}) AS q LIMIT 0")
    found = dialect.columns(conn, table)
    _check_key(table, found, key)
    dialect.drop_table(conn, table)
    columns = [
        Column(c.name, c.sql_type, c.type, c.name not in key, c.as_text, _position(c.name, key))
        for c in found
    ]
    dialect.create_table(conn, table, columns)


def _check_key(table: TableName, columns: tuple[Column, ...], key: tuple[str, ...]) -> None:
    names = [column.name for column in columns]
    unknown = sorted(set(key) - set(names))
    if unknown:
        msg = f"table {table.name}: the primary key names {unknown}, the query has {names}"
        raise ValidationError(msg, table=table.name, columns=unknown)


def _position(name: str, key: tuple[str, ...]) -> int | None:
    return key.index(name) + 1 if name in key else None


def _rows(conn: sa.Connection, result: sa.CursorResult[Any], qualified: str) -> int:
    if result.rowcount >= 0:
        return int(result.rowcount)
    return int(run(conn, f"SELECT count(*) FROM {qualified}").scalar_one())


def _sql_type(engine: sa.Engine, column: Column) -> Any:
    """Choose the SQLAlchemy type: by the Arrow type where that is exact, else by the name."""
    if not column.as_text:
        for test, made in _BY_ARROW:
            if test(column.type):
                return made(column.type)
    known: dict[str, Any] = getattr(engine.dialect, "ischema_names", {})
    found = known.get(split_sql_type(column.sql_type)[0])
    try:
        return found() if found is not None else sa.types.NullType()
    except TypeError:  # a type that needs arguments, such as an array's item type
        return sa.types.NullType()


_SMALL, _MIDDLE = 16, 32  # bits of SMALLINT and INTEGER
_BY_ARROW: tuple[tuple[Any, Any], ...] = (
    (pa.types.is_boolean, lambda _: sa.Boolean()),
    (lambda t: pa.types.is_integer(t) and t.bit_width <= _SMALL, lambda _: sa.SmallInteger()),
    (lambda t: pa.types.is_integer(t) and t.bit_width <= _MIDDLE, lambda _: sa.Integer()),
    (pa.types.is_integer, lambda _: sa.BigInteger()),
    (pa.types.is_float32, lambda _: sa.REAL()),
    (pa.types.is_floating, lambda _: sa.Double()),
    (pa.types.is_decimal, lambda t: sa.Numeric(t.precision, t.scale)),
    (pa.types.is_date, lambda _: sa.Date()),
    (pa.types.is_time, lambda _: sa.Time()),
    (pa.types.is_timestamp, lambda t: sa.DateTime(timezone=t.tz is not None)),
    (pa.types.is_binary, lambda _: sa.LargeBinary()),
)
