"""`SQLTableStore`: the database whose schemas are the stages of a flow."""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import threading
import weakref
from collections.abc import Iterator
from typing import Any, Self

import sqlalchemy as sa

from ixflow.dialects import connected, dialect_of, unavailable
from ixflow.errors import SourceUnavailable, StageError
from ixflow.secrets import redact_url
from ixflow.store.frames import frames_giving
from ixflow.store.metadata import Metadata, StageState
from ixflow.store.options import ToldMetadata, refuse_options, tell_statements
from ixflow.values import TableName

__all__ = ["SQLTableStore"]

_locks: weakref.WeakValueDictionary[tuple[str, str], threading.Lock] = weakref.WeakValueDictionary()
_locks_guard = threading.Lock()


def _process_lock(url: str, name: str) -> threading.Lock:
    """Give this process's one lock of the name, for databases that lock nothing themselves."""
    with _locks_guard:
        lock = _locks.get((url, name))
        if lock is None:
            lock = _locks[(url, name)] = threading.Lock()
        return lock


class SQLTableStore:
    """Stores the tables of stages in schemas of one database (PostgreSQL, DuckDB).

    A stage's tables are seen in the schema ``schema_prefix + stage + schema_suffix``. What ixflow
    knows about them is in the schema ``metadata_schema`` of the same database. What a failed run
    left is kept for ``gc_after`` so that it can be resumed.

    ``create_database_if_not_exists`` creates the database on first use. ``print_sql`` logs every
    statement, ``print_materialize`` every table that is written; rows that are copied in bulk are
    no statements. ``no_db_locking`` has no effect. The other options of pipedag's store are not
    there yet, and refused.

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
        print_materialize: bool = False,
        print_sql: bool = False,
        no_db_locking: bool = True,
        metadata_schema: str = "ixflow",
        gc_after: dt.timedelta = dt.timedelta(days=2),
        **not_yet: Any,
    ) -> None:
        """Describe the store; nothing is opened or created before it is needed.

        Raises:
            UnsupportedDatabase: there is no dialect for the URL.
            ValidationError: an option is not known, or not there yet.

        """
        del no_db_locking
        refuse_options(not_yet)
        self.dialect = dialect_of(engine_url)
        self.engine = self.dialect.engine(engine_url)
        self.schema_prefix = schema_prefix
        self.schema_suffix = schema_suffix
        self.gc_after = gc_after
        self.metadata = Metadata(self.dialect, metadata_schema)
        if print_materialize:
            self.metadata = ToldMetadata(self.dialect, metadata_schema)
        if print_sql:
            tell_statements(self.engine)
        self._missing = create_database_if_not_exists
        self._guard = threading.Lock()
        self._holders = 0
        self._held = contextlib.ExitStack()

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
        schema = self.schema(stage)
        tail = f"__tx_{hashlib.sha256(text.encode()).hexdigest()[:8]}"
        room = self.dialect.max_identifier - len(tail)
        if len(schema.encode()) > room:
            short = hashlib.sha256(schema.encode()).hexdigest()[:8]
            schema = schema.encode()[: room - 8].decode(errors="ignore") + short
        return schema + tail

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
            _process_lock(str(self.url), full),
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
        schema = self.schema(stage)
        known = self.metadata.state(conn, schema)
        present = set(self.dialect.tables_in(conn, schema)) if known.tables else set()
        tables = {name: table for name, table in known.tables.items() if name in present}
        return StageState(known.version, tables, known.results)

    def read(self, table: TableName, type_: Any) -> Any:
        """Read a committed table as a type of frame; None gives the pair (name, schema).

        Raises:
            TableNotFound: there is no such table.
            UnsupportedType: a table cannot be read as this type.

        """
        if type_ is None:
            return (table.name, table.schema)
        return frames_giving(type_).read(self.engine, table, type_)

    def dispose(self) -> None:
        """Close the pooled connections."""
        self.engine.dispose()
