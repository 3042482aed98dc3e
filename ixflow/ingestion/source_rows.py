"""The source of an incremental ingest: a table or query, read in one moment as Arrow."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import sqlalchemy as sa

from ixflow.dialects import Dialect, Held, Reader, connected, dialect_named, dialect_of
from ixflow.dialects.fragments import checked_filter, checked_query
from ixflow.errors import (
    ColumnMismatch,
    IngestError,
    IxflowError,
    SourceUnavailable,
    TableNotFound,
    ValidationError,
)
from ixflow.secrets import redact
from ixflow.tables.declared import name_of
from ixflow.tables.window import Relation
from ixflow.values import Column, TableName, TablePart

__all__ = ["Described", "Opened", "Source", "SourceLike"]

SourceLike = str | sa.URL | sa.Engine | Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Described:
    """What the catalogue says: the columns to read, the cursor's, and what is read.

    ``marks_rows`` says that every row carries the number of its transaction.
    """

    columns: tuple[Column, ...]
    cursor: Column | None
    relation: Relation
    marks_rows: bool


@dataclass(frozen=True)
class Source:
    """Where rows are read, and the warehouse's table that they go to."""

    url: sa.URL = field(repr=False)
    dialect: Dialect
    target: sa.Table
    source_table: str | None = None
    query: str | None = None
    where: str | None = None

    @classmethod
    def of(
        cls,
        source: SourceLike,
        target: object,
        source_table: str | None,
        query: str | None,
        where: str | None,
    ) -> Source:
        """Read the ways to name a database, and check the SQL that is given.

        Raises:
            ValidationError: a table and a query are given, or SQL that could leave its place.

        """
        dialect, url = _database(source)
        if source_table is not None and query is not None:
            raise ValidationError("source_table and query are both given; give one of them")
        if not isinstance(target, sa.Table):
            msg = f"the table that rows go to is {target!r:.80}; it must be a SQLAlchemy Table"
            raise ValidationError(msg, argument="table")
        query = None if query is None else checked_query(query, dialect.lexicon)
        where = None if where is None else checked_filter(where, dialect.lexicon)
        return cls(url, dialect, target, source_table, query, where)

    @property
    def keyed(self) -> bool:
        """Say that the target has a primary key, by which what repeats is merged."""
        return len(self.target.primary_key.columns) > 0

    @property
    def name(self) -> str:
        """Say what is read the way people say it."""
        kind = "a query" if self.query is not None else None
        return kind or self.source_table or str(name_of(self.target))

    @contextlib.contextmanager
    def said_clearly(self) -> Iterator[None]:
        """Let an error of the database be one of ours, without a credential in it."""
        try:
            yield
        except IxflowError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever the driver raises
            explained = self.dialect.explained(error, self.name)
            if explained is not None:
                raise explained from None
            said = self._said(error)
            msg = f"rows of {self.name} could not be read from the source: {said}"
            if self.dialect.is_transient(error):
                raise SourceUnavailable(f"{msg}; run the ingest again") from None
            raise IngestError(msg, source=self.name, cause=said) from None

    @contextlib.contextmanager
    def _asked(self, argument: str) -> Iterator[None]:
        """Take what the source says to a piece of the user's SQL for a mistake in it.

        Raises:
            ValidationError: with the source's words.

        """
        try:
            yield
        except IxflowError:
            raise
        except Exception as error:
            if self.dialect.is_transient(error) or self.dialect.explained(error, self.name):
                raise
            said = self._said(error)
            msg = f"the source does not understand {argument}, or cannot compute it: {said}"
            raise ValidationError(msg, argument=argument, source=self.name, cause=said) from None

    def _said(self, error: Exception) -> str:
        """Give the database's words on one line, without the password."""
        cause = getattr(error, "orig", None) or error
        return redact(" ".join(str(cause).split()), str(self.url.password or ""))

    @contextlib.contextmanager
    def connected(self) -> Iterator[sa.Connection]:
        """Open a connection for questions to the catalogue."""
        engine = self.dialect.read_engine(self.url)
        try:
            with connected(engine) as conn:
                yield conn
        finally:
            engine.dispose()

    def describe(self, conn: sa.Connection, cursor: str | None) -> Described:
        """Look up the columns to read: those of the target, by name.

        Raises:
            TableNotFound: there is no such table, or the role may not see it.
            ColumnMismatch: the source lacks a column of the target, or the cursor.
            ValidationError: the source does not understand the query or the condition.

        """
        known, table = self._known(conn)
        columns = {column.name: column for column in known}
        wanted = [column.name for column in self.target.columns]
        named = wanted if cursor is None else [*wanted, cursor]
        missing = [name for name in dict.fromkeys(named) if name not in columns]
        if missing:
            msg = (
                f"{self.name} has no columns {missing}, which {name_of(self.target)} takes; it "
                f"has {sorted(columns)}; a query can make them"
            )
            raise ColumnMismatch(msg, table=self.name, missing=missing)
        part = TablePart(table)
        if self.where is not None:
            with self._asked("where"):
                self.dialect.check_filter(conn, part, self.where, table.name, self.query)
        marks = self.query is None and self.dialect.marks_rows(conn, table)
        relation = Relation(part, self.query, self.where, self.name)
        chosen = tuple(columns[name] for name in wanted)
        return Described(chosen, None if cursor is None else columns[cursor], relation, marks)

    def _known(self, conn: sa.Connection) -> tuple[Sequence[Column], TableName]:
        if self.query is not None:
            with self._asked("query"):
                return self.dialect.describe(conn, self.query), TableName("q")
        table = self._table(conn)
        return self.dialect.columns(conn, table), table

    def _table(self, conn: sa.Connection) -> TableName:
        """Read the name as ``schema.table``, or as the name of one table that holds a dot."""
        if self.source_table is None:
            return name_of(self.target)
        for table in (TableName.parse(self.source_table), TableName(self.source_table)):
            # SQLite refuses to look into a schema that it does not know.
            with contextlib.suppress(sa.exc.OperationalError):
                if self.dialect.exists(conn, table):
                    return table
        msg = (
            f"there is no table {self.source_table} in this {self.dialect.name} database, or the "
            f"role may not see it; names are compared exactly, capitals included"
        )
        raise TableNotFound(msg, table=self.source_table)

    @contextlib.contextmanager
    def open(self, found: Described) -> Iterator[Opened]:
        """Hold one moment of the source, in which everything is read.

        Raises:
            SourceUnavailable: the database cannot be reached or refuses us.
            LockNotAvailable: another session is changing the table's definition.

        """
        tables = [] if self.query is not None else [found.relation.part.table]
        with self.dialect.hold(self.url, tables) as held, held.open_reader() as reader:
            yield Opened(self, found, held, reader)


@dataclass(frozen=True)
class Opened:
    """A source in the moment that is read."""

    source: Source
    found: Described
    held: Held
    reader: Reader

    def rows(self, conditions: Sequence[str]) -> pa.RecordBatchReader | None:
        """Stream the rows that meet all conditions, as Arrow; None: there are none."""
        relation = self.found.relation
        kept = [f"({text}\n)" for text in (*conditions, relation.where) if text is not None]
        sql = self.source.dialect.select_part(
            relation.part,
            self.found.columns,
            query=relation.query,
            where=" AND ".join(kept) or None,
            alias=relation.part.table.name if relation.query is None else None,
        )
        batches = self._batches(sql)
        first = next(batches, None)
        if first is None:
            return None
        return pa.RecordBatchReader.from_batches(first.schema, itertools.chain([first], batches))

    def _batches(self, sql: str) -> Iterator[pa.RecordBatch]:
        with self.source.said_clearly(), self.reader.read(sql, self.found.columns) as found:
            yield from (batch for batch in found if batch.num_rows)


def _database(source: object) -> tuple[Dialect, sa.URL]:
    if isinstance(source, Mapping):
        config = dict(source)
        kind = config.pop("source_type", None)
        if not isinstance(kind, str):
            msg = "the source lacks source_type, such as 'postgresql', beside host, database, ..."
            raise ValidationError(msg, argument="source")
        dialect = dialect_named(kind)
        return dialect, dialect.url(config)
    if isinstance(source, sa.Engine):
        source = source.url
    if isinstance(source, sa.URL):
        source = source.render_as_string(hide_password=False)
    if isinstance(source, str):
        dialect = dialect_of(source)
        return dialect, dialect.url({"connection_string": source})
    msg = f"the source is a {type(source).__name__}; give a URL, an engine or a configuration"
    raise ValidationError(msg, argument="source")
