"""`SQLTableStore`: the database whose schemas are the stages of a flow."""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import threading
import weakref
from collections.abc import Iterator, Mapping
from typing import Any, Self

import sqlalchemy as sa

from ixflow.dialects import connected, dialect_of, unavailable
from ixflow.errors import SourceUnavailable, StageError
from ixflow.secrets import redact_url
from ixflow.store.details import Details
from ixflow.store.frames import read_frame
from ixflow.store.local_cache import LocalTableCache, Writing, read_through
from ixflow.store.metadata import Metadata, StageState
from ixflow.store.options import ToldMetadata, checked_count, tell_statements
from ixflow.store.places import placed, prefix_of, scope_named
from ixflow.store.published import Published
from ixflow.store.remade import Remade
from ixflow.tables.read import reading_through
from ixflow.values import TableName

__all__ = ["SQLTableStore", "process_lock"]

_locks: weakref.WeakValueDictionary[tuple[str, str], threading.Lock] = weakref.WeakValueDictionary()
_locks_guard = threading.Lock()


def process_lock(url: str, name: str) -> threading.Lock:
    """Give this process's one lock of the name, for databases that lock nothing themselves."""
    with _locks_guard:
        lock = _locks.get((url, name))
        if lock is None:
            lock = _locks[(url, name)] = threading.Lock()
        return lock


class SQLTableStore(Remade):
    """Stores the tables of stages in schemas of one database (PostgreSQL, DuckDB).

    A stage's tables are seen in the schema ``schema_prefix + stage + schema_suffix``. What ixflow
    knows about them is in the schema ``metadata_schema`` of the same database. What a failed run
    left is kept for ``gc_after`` so that it can be resumed. A commit keeps the ``keep_versions``
    versions before it, for `Stage.rollback`; a stage may say another number.

    ``create_database_if_not_exists`` creates the database on first use. With
    ``avoid_drop_create_schema`` no schema is created or dropped: an administrator creates the
    schema of each stage, one more with ``__tx`` behind its name, and ``metadata_schema``.
    ``print_sql`` logs every statement, ``print_materialize`` every table that is written; rows that
    are copied in bulk are no statements. ``no_db_locking`` has no effect.

    ``materialization_details`` are named sets of options of how tables are stored (PostgreSQL:
    ``unlogged``), which `Table` and `Stage` refer to by their labels; ``__any__`` is the base of
    all others, and what a table without a label has unless ``default_materialization_details``
    names another. What is wrong with them is an error, or in the log, if
    ``strict_materialization_details`` is not set.

    >>> store = SQLTableStore("duckdb:////tmp/warehouse.duckdb", schema_prefix="dw_")
    >>> store.schema("staging")
    'dw_staging'
    """

    def __init__(
        self,
        engine_url: str | sa.URL,
        *,
        create_database_if_not_exists: bool = False,
        schema_prefix: str = "",
        schema_suffix: str = "",
        avoid_drop_create_schema: bool = False,
        print_materialize: bool = False,
        print_sql: bool = False,
        no_db_locking: bool = True,
        strict_materialization_details: bool = True,
        materialization_details: Mapping[str, Mapping[str, Any] | None] | None = None,
        default_materialization_details: str | None = None,
        metadata_schema: str = "ixflow",
        gc_after: dt.timedelta = dt.timedelta(days=2),
        keep_versions: int = 0,
    ) -> None:
        """Describe the store; nothing is opened or created before it is needed.

        Raises:
            UnsupportedDatabase: there is no dialect for the URL.
            ValidationError: an option has a wrong value, or a set of materialization details is
                not one of the database's.

        """
        del no_db_locking
        self.dialect = dialect_of(engine_url)
        self.engine = self.dialect.engine(engine_url)
        self.schema_prefix = schema_prefix
        self.schema_suffix = schema_suffix
        self.gc_after = gc_after
        self.keep_versions = checked_count("SQLTableStore", keep_versions)
        self.avoids_schemas = avoid_drop_create_schema
        self.details = Details(
            self.dialect,
            materialization_details,
            default=default_materialization_details,
            strict=strict_materialization_details,
        )
        #: Where tasks find tables that were read or written on this machine before.
        self.local_cache: LocalTableCache | None = None
        self.metadata = Metadata(self.dialect, metadata_schema)
        if print_materialize:
            self.metadata = ToldMetadata(self.dialect, metadata_schema)
        if print_sql:
            tell_statements(self.engine)
        self._missing = create_database_if_not_exists
        self._guard = threading.Lock()
        self._holders = 0
        self._held = contextlib.ExitStack()

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel without what is open."""
        return (_made_again, (type(self), *self.made_by, self.local_cache))

    @classmethod
    def _init_conf_(cls, args: dict[str, Any]) -> Self:
        """Make the store of a configuration file, where the times are seconds."""
        args["engine_url"] = args.pop("url")
        if isinstance(args.get("gc_after"), (int, float)):
            args["gc_after"] = dt.timedelta(seconds=args["gc_after"])
        return cls(**args)

    @property
    def url(self) -> sa.URL:
        """The URL of the database."""
        return self.engine.url

    def __repr__(self) -> str:
        """Show the store without a password."""
        return f"SQLTableStore({redact_url(self.url)!r})"

    def schema(self, stage: str) -> str:
        """Name the schema in which a stage's tables are seen.

        Raises:
            StageError: the name is longer than the database's longest identifier.

        """
        name = f"{self.schema_prefix}{stage}{self.schema_suffix}"
        if len(name.encode()) > self.dialect.max_identifier:
            msg = (
                f"the schema {name!r} of stage {stage} is longer than the "
                f"{self.dialect.max_identifier} bytes {self.dialect.name} allows; shorten the name"
            )
            raise StageError(msg, stage=stage)
        return name

    def transaction_schema(self, stage: str, transaction_id: str, attempt: int = 0) -> str:
        """Name the schema that a run writes to before it commits.

        A transaction that has committed the stage already gets another schema for its next
        attempt: what is published may still live in the first.
        """
        text = transaction_id if attempt == 0 else f"{transaction_id}#{attempt}"
        return scope_named(self.schema(stage), "tx", text, self.dialect.max_identifier)

    def version_scope(self, stage: str, version: int) -> str:
        """Name the schema of the tables that were last published in a version of a stage."""
        schema = self.schema(stage)
        return scope_named(schema, f"v{version}", schema, self.dialect.max_identifier)

    def physical(self, table: TableName) -> TableName:
        """Say what a table of a stage, of a transaction or of a kept version is really called."""
        return placed(table) if self.avoids_schemas else table

    def schema_of(self, scope: str) -> str:
        """Name the schema in which the tables of a transaction or of a stage really are."""
        shared = prefix_of(scope) if self.avoids_schemas else None
        return scope if shared is None else shared[0]

    def spellings(self, scope: str, published: str) -> dict[str, str]:
        """Map what names tables of a scope in the text of a query to what it is when published."""
        shared = prefix_of(scope) if self.avoids_schemas else None
        return {scope: published} if shared is None else {shared[0]: published, shared[1]: ""}

    def create_scope(self, conn: sa.Connection, scope: str) -> None:
        """Create the schema of a stage, of a transaction or of a kept version, unless it is there.

        Raises:
            StageError: it is not there and this store may not create it.

        """
        if not self.avoids_schemas:
            self.dialect.create_schema(conn, scope)
            return
        name = self.schema_of(scope)
        if not self.dialect.schema_exists(conn, name):
            msg = (
                f"there is no schema {name}, and with avoid_drop_create_schema ixflow does not "
                f"create it; create it and grant this role USAGE and CREATE on it"
            )
            raise StageError(msg, schema=name)

    def drop_scope(self, conn: sa.Connection, scope: str, *, dependents: bool = True) -> None:
        """Drop what is left of a transaction or of a kept version, and its schema if it has one."""
        shared = prefix_of(scope) if self.avoids_schemas else None
        if shared is None:
            self.dialect.drop_schema(conn, scope, dependents=dependents)
        else:
            schema, prefix = shared
            self.dialect.drop_schema(conn, schema, prefix=prefix, dependents=dependents)

    def tables_in(self, conn: sa.Connection, scope: str) -> tuple[str, ...]:
        """List the tables of a stage, of a transaction or of a kept version."""
        shared = prefix_of(scope) if self.avoids_schemas else None
        if shared is None:
            return self.dialect.tables_in(conn, scope)
        schema, prefix = shared
        found = self.dialect.tables_in(conn, schema)
        return tuple(name.removeprefix(prefix) for name in found if name.startswith(prefix))

    @contextlib.contextmanager
    def held_open(self) -> Iterator[None]:
        """Keep a database file open during the block, where each connection would reopen it.

        Other processes wait meanwhile. A server needs none of this, its engine keeps a pool.
        """
        if not isinstance(self.engine.pool, sa.NullPool):
            yield
            return
        self._create_if_missing()
        with self._guard:
            if self._holders == 0:
                self._held.enter_context(connected(self.engine))
            self._holders += 1
        try:
            yield
        finally:
            with self._guard:
                self._holders -= 1
                if self._holders == 0:
                    self._held.close()

    @contextlib.contextmanager
    def begin(self) -> Iterator[sa.Connection]:
        """Open a connection in a transaction, committed when the block ends well.

        Raises:
            SourceUnavailable: the database cannot be reached, or the connection was lost.

        """
        self._create_if_missing()
        try:
            with connected(self.engine) as conn, conn.begin():
                yield conn
        except sa.exc.DBAPIError as error:
            if error.connection_invalidated:
                raise unavailable(self.url, error.orig or error) from error
            raise

    def _create_if_missing(self) -> None:
        """Create the database before its first use, if that is wanted and it cannot be opened."""
        if not self._missing:
            return
        with self._guard:
            if self._missing:
                try:
                    with connected(self.engine):
                        pass
                except SourceUnavailable:
                    if not self.dialect.create_database(self.url):
                        raise
                self._missing = False

    @contextlib.contextmanager
    def locked(self, name: str) -> Iterator[sa.Connection]:
        """Open a transaction that holds a named lock until it ends."""
        full = f"{self.metadata.schema}:{name}"
        with (
            process_lock(str(self.url), full),
            self.begin() as conn,
            self.dialect.advisory_lock(conn, full),
        ):
            yield conn

    def install(self) -> None:
        """Make sure that ixflow's own tables are there and can be understood.

        Raises:
            UnsupportedState: they were written by a newer release.

        """
        with self.begin() as conn:
            if self.metadata.installed(conn):
                return
        with self.locked("metadata") as conn:
            if not self.metadata.installed(conn):
                self.create_scope(conn, self.metadata.schema)
                self.metadata.install(conn)

    def published(self, stage: str) -> StageState:
        """Read what is published of a stage, leaving out tables that were dropped behind our back.

        Raises:
            UnsupportedState: ixflow's own tables were written by a newer release.

        """
        with self.begin() as conn:
            if not self.metadata.installed(conn):
                return StageState()
            return self.published_in(conn, stage)

    def published_in(self, conn: sa.Connection, stage: str) -> StageState:
        """Read what is published of a stage, in the caller's transaction."""
        return Published.read(self, conn, stage).state

    def read(self, table: TableName, type_: Any) -> Any:
        """Read a committed table as a type of frame; None gives the pair (name, schema).

        Raises:
            TableNotFound: there is no such table.
            UnsupportedType: a table cannot be read as this type.

        """
        if type_ is None:
            place = self.physical(table)
            return (place.name, place.schema)
        if self.local_cache is None:
            return read_frame(self.engine, self.physical(table), type_)
        cache = self.local_cache
        look = functools.partial(self._writing, table)
        with reading_through(lambda read: read_through(cache, look, read)):
            return read_frame(self.engine, self.physical(table), type_)

    def _writing(self, table: TableName) -> Writing | None:
        with self.begin() as conn:
            return self.metadata.writing(conn, table) if self.metadata.installed(conn) else None

    def dispose(self) -> None:
        """Close the pooled connections."""
        self.engine.dispose()


def _made_again(
    kind: type[SQLTableStore],
    args: tuple[Any, ...],
    options: dict[str, Any],
    cache: LocalTableCache | None,
) -> SQLTableStore:
    made = kind(*args, **options)
    made.local_cache = cache
    return made
