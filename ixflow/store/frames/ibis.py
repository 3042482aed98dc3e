"""ibis tables: expressions over the warehouse, which it computes itself."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import ibis
import ibis.expr.operations as ops
import sqlalchemy as sa

from ixflow.dialects import connected, dialect_of, run
from ixflow.errors import UnsupportedType
from ixflow.store.frames.base import Frames, TableSpec, Wanted, Written
from ixflow.store.frames.sqlalchemy import SQLAlchemyFrames
from ixflow.values import TableName

__all__ = ["IbisFrames"]

_queries = SQLAlchemyFrames()


class IbisFrames(Frames):
    """Takes `ibis.Table` of any backend; gives those of PostgreSQL and DuckDB.

    An expression over nothing but tables of the warehouse, as tasks get them, is stored with
    CREATE TABLE ... AS: no row leaves the server. Another one is computed where it belongs, and
    its rows are streamed.
    """

    def owns(self, obj: Any) -> bool:
        """Say whether it is a table expression."""
        return isinstance(obj, ibis.Table)

    def gives(self) -> tuple[type, ...]:
        """Name the types that `read` gives."""
        return (ibis.Table,)

    def arrow(self, obj: Any) -> Any:
        """Compute the expression and stream its rows."""
        return obj.to_pyarrow_batches()

    def identity(self, engine: sa.Engine, obj: Any, spec: TableSpec) -> str | None:
        """Give the query's text, or a hash of the rows if they come from elsewhere."""
        query = _query(engine, obj)
        if query is None:
            return super().identity(engine, obj, spec)
        return _queries.identity(engine, query, spec)

    def write(self, conn: sa.Connection, table: TableName, obj: Any, spec: TableSpec) -> Written:
        """Let the server create the table, or stream the rows there."""
        query = _query(conn.engine, obj)
        if query is None:
            return super().write(conn, table, obj, spec)
        with _in_utc(conn):
            return _queries.write(conn, table, query, spec)

    def read(self, engine: sa.Engine, table: TableName, wanted: Wanted) -> ibis.Table:
        """Describe the table; its connection is closed when no expression needs it any more."""
        del wanted
        with connected(engine) as conn:
            dialect_of(conn).columns(conn, table)
        return _backend(engine).table(table.name, database=table.schema)

    def apart(self, obj: Any, number: int) -> Any:
        """Give a view, without which an expression could not join a table with itself."""
        del number
        return obj.view()


# The expressions of a task can be joined only if they share a backend, and a backend's connection
# does one thing at a time: there is one for each thread and database.
_of_thread = threading.local()


def _backends() -> weakref.WeakValueDictionary[str, Any]:
    if not hasattr(_of_thread, "backends"):
        _of_thread.backends = weakref.WeakValueDictionary()
    found: weakref.WeakValueDictionary[str, Any] = _of_thread.backends
    return found


def _address(engine: sa.Engine) -> str:
    return engine.url.render_as_string(hide_password=False)


def _backend(engine: sa.Engine) -> Any:
    backend = _backends().get(_address(engine))
    if backend is None:
        connect = _CONNECT.get(engine.dialect.name)
        if connect is None:
            msg = f"tables of {engine.dialect.name} cannot be read as ibis tables; use a frame"
            raise UnsupportedType(msg, type="ibis.Table")
        backend, connection = connect(engine)
        weakref.finalize(backend, connection.close)
        _backends()[_address(engine)] = backend
    return backend


def _postgres(engine: sa.Engine) -> tuple[Any, Any]:
    """Open a connection that leaves no transaction open, which would hold up publishing."""
    other = dialect_of(engine).engine(engine.url.set(drivername="postgresql+psycopg"))
    pooled = other.raw_connection()
    connection: Any = pooled.driver_connection
    pooled.detach()
    connection.rollback()
    connection.autocommit = True
    return ibis.postgres.from_connection(connection), connection


def _duckdb(engine: sa.Engine) -> tuple[Any, Any]:
    pooled = engine.raw_connection()
    wrapped: Any = pooled.driver_connection
    # The driver's own kind of connection, which lives as long as the wrapped one.
    return ibis.duckdb.from_connection(wrapped.duplicate()), pooled


_CONNECT = {"postgresql": _postgres, "duckdb": _duckdb}


def _query(engine: sa.Engine, obj: Any) -> sa.TextualSelect | None:
    """Write the expression as a query that the warehouse understands in any session, or None."""
    backend = _backends().get(_address(engine))
    node = obj.op()
    if backend is None or not _is_of(node, backend):
        return None
    text = str(backend.compile(obj)).replace(":", "\\:")
    return sa.text(text).columns(*(sa.column(name) for name in obj.columns))


# What names a table that only one session may know, or a function.
_OF_A_SESSION = (ops.SQLQueryResult, ops.SQLStringView, ops.ScalarUDF, ops.AggUDF)


def _is_of(node: Any, backend: Any) -> bool:
    tables = node.find(ops.PhysicalTable)
    return (
        bool(tables)
        and all(
            isinstance(table, ops.DatabaseTable)
            and table.source is backend
            and table.namespace.database is not None
            and table.namespace.catalog is None
            for table in tables
        )
        and not node.find(_OF_A_SESSION)
    )


@contextlib.contextmanager
def _in_utc(conn: sa.Connection) -> Iterator[None]:
    """Compute in the zone in which ibis computes."""
    usual = run(conn, "SELECT current_setting('TimeZone')").scalar_one()
    run(conn, "SET TimeZone = 'UTC'")
    yield
    # Otherwise the caller's transaction is rolled back, and with it the setting or the connection.
    zone = str(usual).replace("'", "''")
    run(conn, f"SET TimeZone = '{zone}'")
