"""Every version of a dataset as a partition of its own, and the newest of them under the name.

    orders                the view that people query: the newest version
    orders__20261121      one version, a partition of orders__history by the version's column
    orders__history       all versions

A version is loaded into a table that nobody sees, batch by batch. Attaching it and pointing the
view at it is one transaction; a version that is skipped or refused leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import sqlalchemy as sa

from ixflow.dialects import dialect_of, run
from ixflow.dialects.postgres import PostgresDialect, catalog, partitions
from ixflow.errors import (
    DataError,
    DuplicatePartitionError,
    IngestError,
    ReplacementRefused,
    UnsupportedDatabase,
    ValidationError,
)
from ixflow.ingestion.connection import check_connection, unstreamed
from ixflow.ingestion.ingest import Batches, ingest
from ixflow.ingestion.options import (
    Delete,
    HighWatermark,
    IngestResult,
    OnDuplicate,
    Upsert,
    checked,
)
from ixflow.ingestion.router import is_sql
from ixflow.ingestion.rows import NO_ROWS
from ixflow.ingestion.version_names import fitting, partition_names, partition_table
from ixflow.ingestion.watermark import facts_of, watermark_of, with_facts
from ixflow.tables import declared
from ixflow.tables.arrow import as_reader, is_arrow_like
from ixflow.values import TableName

if TYPE_CHECKING:
    from ixflow.values import Column

__all__ = ["VersionResult", "ingest_versioned"]

_log = logging.getLogger("ixflow")
_HASH = "ixflow-content"


@dataclass(frozen=True, slots=True)
class VersionResult:
    """What `ingest_versioned` did with a version.

    ``outcome`` is ``attached``, ``exists`` (it was there before), ``duplicate`` (of the version
    before), ``empty`` (no rows), or ``handled`` (by a function given as ``on_duplicate``).
    """

    version: str
    partition: TableName
    outcome: str
    rows: int = 0
    content_hash: str | None = None
    ingested: IngestResult | None = None


@unstreamed
def ingest_versioned(
    conn: sa.Connection,
    base_table: sa.Table,
    batches: Batches,
    version: str,
    *,
    on_partition_attached: Callable[..., None] | None = None,
    partition_column: str = "_version",
    root_table_name_suffix: str = "__history",
    on_duplicate: str | Callable[..., Any] = OnDuplicate.SKIP,
    high_watermark: Any = HighWatermark.LATEST,
    delete: str = Delete.OFF,
    upsert: str = Upsert.IF_PRIMARY_KEY,
    **options: Any,
) -> VersionResult:
    """Ingest one version of a dataset on PostgreSQL; nothing happens if it is there already.

    With LATEST the version begins as a copy of the one before, whose watermark ``batches`` gets;
    else it begins empty. Columns may be added and left out from version to version.

    Args:
        conn: A connection that is not in a transaction.
        base_table: The columns and key of the dataset; its name becomes the view's.
        batches: As for `ingest`; whatever table a pair names, its row goes into the version.
        version: Any text; one partition holds it.
        on_partition_attached: Called as (conn, partition's table, version, what its comment says)
            in the transaction that makes the version visible.
        partition_column: The column that holds the version in every row.
        root_table_name_suffix: What the name of the table of all versions ends in.
        on_duplicate: See `OnDuplicate`; or a function of (conn, schema, partition, the one before)
            that returns true if the version shall not be attached.
        high_watermark: As for `ingest`.
        delete: As for `ingest`; a new version has no rows to delete, so anything means OFF.
        upsert: As for `ingest`; LATEST means IF_PRIMARY_KEY.
        options: Any other option of `ingest`.

    Raises:
        DuplicatePartitionError: the rows are those of the version before, and ERROR was asked for.
        IngestError: another process is ingesting into the same dataset.
        DataError, ReplacementRefused: columns changed so that versions do not fit together.

    """
    work = _Version(conn, base_table, version, partition_column, root_table_name_suffix)
    log = work.log = options.get("logger") or _log
    latest = isinstance(high_watermark, str) and high_watermark == HighWatermark.LATEST
    if latest and checked("upsert", upsert, Upsert) == Upsert.OFF:
        log.warning("a version that begins as a copy is upserted into; upsert=OFF is not heeded")
        upsert = Upsert.IF_PRIMARY_KEY
    if checked("delete", delete, Delete, empty=Delete.OFF) != Delete.OFF:
        log.warning("a new version has nothing to delete; delete is not heeded")
    if not callable(on_duplicate):
        checked("on_duplicate", on_duplicate, OnDuplicate)
    with work.alone():
        if not work.begin(copy=latest):
            return VersionResult(version, work.partition, "exists")
        done = ingest(
            conn,
            work.table.metadata,
            work.into_partition(batches),
            high_watermark=high_watermark,
            upsert=upsert,
            **options,
        )
        return work.finish(on_duplicate, on_partition_attached, done)


class _Version:
    """One version on its way: its names, and the steps in order."""

    def __init__(
        self, conn: sa.Connection, base: sa.Table, version: Any, column: str, suffix: str
    ) -> None:
        dialect = dialect_of(conn)
        if not isinstance(dialect, PostgresDialect):
            msg = f"versions are partitions of PostgreSQL; this connection is to {dialect.name}"
            raise UnsupportedDatabase(msg, database=dialect.name)
        check_connection(conn)
        if not version or not isinstance(version, str):
            raise ValidationError(f"version is {version!r}; it must be a text", version=version)
        if column in base.columns:
            msg = f"{base.name} has a column {column} already; name another partition_column"
            raise ValidationError(msg, column=column)
        self.conn, self.dialect, self.version, self.column = conn, dialect, version, column
        self.log = _log
        with conn.begin():
            self.base = dialect.resolved(conn, declared.name_of(base))
            self.partition = self._named()
        self.root = self.base.renamed(fitting(self.base.name + suffix))
        self.table = partition_table(base, self.partition, column)
        self.columns = [c.name for c in base.columns]
        self._given = [c.name for c in base.columns if c.computed is None]

    def _named(self) -> TableName:
        """Name the partition as pg-bulk-ingest does, unless another version has that name."""
        plain, certain = (
            self.base.renamed(n) for n in partition_names(self.base.name, self.version)
        )
        facts = facts_of(self.dialect.comment(self.conn, plain))
        return plain if facts.get("version", self.version) == self.version else certain

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other processes from ingesting versions of this dataset, on this session.

        Raises:
            IngestError: another one is.

        """
        digest = hashlib.sha256(f"ixflow versions {self.base}".encode()).digest()
        key = int.from_bytes(digest[:8], "big", signed=True)
        with self.conn.begin():
            locked = run(self.conn, f"SELECT pg_try_advisory_lock({key})").scalar_one()
        if not locked:
            msg = (
                f"another process is ingesting a version of {self.base}; try again when it is done"
            )
            raise IngestError(msg, table=str(self.base))
        try:
            yield
        finally:
            with contextlib.suppress(sa.exc.DBAPIError):
                self.conn.rollback()
                with self.conn.begin():
                    run(self.conn, f"SELECT pg_advisory_unlock({key})")

    def begin(self, *, copy: bool) -> bool:
        """Make the version's table, as a copy of the version before if asked; False: it exists."""
        conn, dialect = self.conn, self.dialect
        with conn.begin():
            if self.base.schema is not None:
                dialect.create_schema(conn, self.base.schema)
            root = dialect.qualified(self.root)
            if partitions.partition_of_value(conn, root, self.version) is not None:
                return False
            self._drop_leftover()
            declared.create(conn, self.table, self.partition)
            before = self._before()
            watermark = None
            if copy and before is not None:
                self._copy(before)
                watermark = watermark_of(dialect.comment(conn, before))
            declared.create_indexes(conn, self.table, self.table, final=True)
            facts = {"high-watermark": watermark, "version": self.version}
            dialect.set_comment(conn, self.partition, with_facts(None, **facts))
        return True

    def _before(self) -> TableName | None:
        return partitions.view_source(self.conn, self.dialect.qualified(self.base))

    def _drop_leftover(self) -> None:
        qualified = self.dialect.qualified(self.partition)
        kind = partitions.kind_of(self.conn, qualified)
        if kind is None:
            return
        ours = facts_of(self.dialect.comment(self.conn, self.partition)).get("version")
        if kind != "r" or ours != self.version or partitions.is_attached(self.conn, qualified):
            msg = f"{self.partition} is in the way of version {self.version}; rename it first"
            raise ReplacementRefused(msg, objects=[str(self.partition)])
        run(self.conn, f"DROP TABLE {qualified}")

    def _copy(self, before: TableName) -> None:
        conn, dialect = self.conn, self.dialect
        there = {column.name for column in dialect.columns(conn, before)}
        common = [name for name in self._given if name in there]
        names = dialect.column_list([*common, self.column])
        source = f"{dialect.column_list(common)}, " if common else ""
        insert = (
            f"INSERT INTO {dialect.qualified(self.partition)} ({names}) {dialect.overriding}"
            f"SELECT {source}{catalog.literal(self.version)} FROM {dialect.qualified(before)}"
        )
        try:
            run(conn, insert)
        except sa.exc.DBAPIError as error:
            said = " ".join(str(error.orig).split())
            msg = f"the rows of {before} do not fit version {self.version}: {said}"
            raise DataError(msg, table=str(self.partition)) from error

    def into_partition(self, batches: Batches) -> Batches:
        """Let every row of the batches go into the version's table, with the version."""

        def found(watermark: Any) -> Iterator[tuple[Any, Any, Iterable[tuple[Any, Any]]]]:
            for value, batch_metadata, pairs in batches(watermark):
                rows = ((self.table, self._with_version(row)) for _, row in pairs)
                yield value, batch_metadata, rows

        return found

    def _with_version(self, row: Any) -> Any:
        if isinstance(row, Mapping):
            return {**row, self.column: self.version}
        if is_sql(row):
            msg = "SQL does not know the version that its rows belong to; give tuples or frames"
            raise ValidationError(msg, table=str(self.base))
        if not is_arrow_like(row):
            # What is no row is refused, with its number, by those who look at rows.
            is_row = isinstance(row, Iterable) and not isinstance(row, NO_ROWS)
            return (*row, self.version) if is_row else row
        reader = as_reader(row)
        schema = reader.schema.append(pa.field(self.column, pa.string()))
        return pa.RecordBatchReader.from_batches(schema, self._batches(reader, schema))

    def _batches(self, reader: pa.RecordBatchReader, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        for batch in reader:
            versions = pa.repeat(pa.scalar(self.version), batch.num_rows)
            yield pa.RecordBatch.from_arrays([*batch.columns, versions], schema=schema)

    # -- making it visible ----------------------------------------------------------------------

    def finish(
        self,
        on_duplicate: str | Callable[..., Any],
        on_attached: Callable[..., None] | None,
        done: IngestResult,
    ) -> VersionResult:
        """Attach the version and show it, or drop it; one transaction."""
        conn, dialect = self.conn, self.dialect
        with conn.begin():
            digest, rows = self._content(self.partition)
            result = VersionResult(self.version, self.partition, "empty", rows, digest, done)
            before = self._before()
            outcome = self._verdict(before, digest, on_duplicate) if rows else "empty"
            if outcome in ("empty", "duplicate", "refused"):
                told = (self.version, self.base, outcome)
                self.log.warning("version %s of %s is not kept: %s", *told)
                run(conn, f"DROP TABLE {dialect.qualified(self.partition)}")
            elif outcome == "attached":
                self._attach(rows, digest, on_attached)
        if outcome == "refused":
            msg = f"version {self.version} of {self.base} has exactly the rows of {before}"
            raise DuplicatePartitionError(msg, version=self.version, duplicate_of=str(before))
        return replace(result, outcome=outcome)

    def _content(self, table: TableName) -> tuple[str, int]:
        return partitions.content_hash(self.conn, self.dialect, table, self.columns)

    def _verdict(
        self, before: TableName | None, digest: str, on_duplicate: str | Callable[..., Any]
    ) -> str:
        if before is None or self._hash_of(before) != digest:
            return "attached"
        if callable(on_duplicate):
            schema, name = self.partition.schema, self.partition.name
            return "handled" if on_duplicate(self.conn, schema, name, before.name) else "attached"
        outcomes = {OnDuplicate.SKIP: "duplicate", OnDuplicate.ERROR: "refused"}
        return outcomes.get(on_duplicate, "attached")

    def _hash_of(self, before: TableName) -> str | None:
        """Give the hash of the version before; None if its columns are others."""
        stored = facts_of(self.dialect.comment(self.conn, before)).get(_HASH)
        mine, theirs = (
            {c.name: c.sql_type for c in self._data_columns(t)} for t in (self.partition, before)
        )
        if mine != theirs:
            return None
        return str(stored) if stored else self._content(before)[0]

    def _data_columns(self, table: TableName) -> list[Column]:
        found = self.dialect.columns(self.conn, table)
        return [column for column in found if column.name != self.column]

    def _attach(self, rows: int, digest: str, on_attached: Callable[..., None] | None) -> None:
        conn, dialect = self.conn, self.dialect
        facts = {
            _HASH: digest,
            "hash": digest,
            "row_count": rows,
            "version": self.version,
            "ingested_at": dt.datetime.now(dt.UTC).isoformat(),
        }
        comment = with_facts(dialect.comment(conn, self.partition), **facts)
        dialect.set_comment(conn, self.partition, comment)
        try:
            partitions.attach(
                conn, dialect, self.root, self.partition, column=self.column, value=self.version
            )
        except sa.exc.DBAPIError as error:
            said = " ".join(str(error.orig).split())
            msg = (
                f"version {self.version} cannot be a partition of {self.root}: {said}; columns may "
                f"be added and left out, but not change their type"
            )
            raise DataError(msg, table=str(self.partition), root=str(self.root)) from error
        legacy = self._make_room()
        shown = [*self.columns, self.column]
        partitions.point_view(conn, dialect, self.base, self.partition, shown)
        for source in filter(None, (self.root, legacy)):
            partitions.copy_grants(conn, dialect, source, self.partition)
        if legacy is not None:
            partitions.copy_grants(conn, dialect, legacy, self.base)
        if on_attached is not None:
            on_attached(conn, self.table, self.version, facts_of(comment))

    def _make_room(self) -> TableName | None:
        """Rename a table that has the view's name, from the time before there were versions."""
        qualified = self.dialect.qualified(self.base)
        if partitions.kind_of(self.conn, qualified) in (None, "v"):
            return None
        legacy = self.base.renamed(fitting(f"{self.base.name}_legacy"))
        run(self.conn, f"ALTER TABLE {qualified} RENAME TO {self.dialect.quote(legacy.name)}")
        return legacy
