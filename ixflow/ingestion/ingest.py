"""The ingest loop: one transaction a batch, which holds its rows, schema change and watermark.

Nothing is open while the batches function fetches. Each batch then runs, in one transaction: lock
the tables, see that nobody moved the watermark meanwhile, load, call back, swap, write the
watermark with the run record, commit. So whatever the moment of a crash, the rows and the
watermark that are there belong together, and the next run continues behind them.
"""

from __future__ import annotations

import contextlib
import copy
import datetime as dt
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import sqlalchemy as sa

from ixflow.dialects import dialect_of
from ixflow.dialects.waiting import lock_patience
from ixflow.errors import IngestError, ValidationError
from ixflow.events import BatchIngested, emit
from ixflow.ingestion.arguments import checked_tables, three_arguments, triple_of
from ixflow.ingestion.batch import BatchWriter
from ixflow.ingestion.blockers import (
    TERMINATE,
    ForceExecute,
    GetForceExecute,
    chosen_blockers,
)
from ixflow.ingestion.checks import RowCheck, split_callbacks
from ixflow.ingestion.connection import one_transaction, unstreamed
from ixflow.ingestion.missing import GivenKeys, Missing
from ixflow.ingestion.options import (
    Delete,
    HighWatermark,
    IngestResult,
    Upsert,
    Visibility,
    checked,
)
from ixflow.ingestion.order import either_order
from ixflow.ingestion.proof import Prover
from ixflow.ingestion.troubles import Troubles, check_arguments, closed, iterable
from ixflow.ingestion.watermark import changed_by, watermark_of, with_watermark
from ixflow.tables.declared import name_of
from ixflow.values import TableName, new_run_id

__all__ = ["ingest"]

BeforeVisible = Callable[..., None] | RowCheck | Sequence[Callable[..., None] | RowCheck]

Batches = Callable[[Any], Iterable[tuple[Any, Any, Iterable[tuple[Any, Any]]]]]


@either_order
@unstreamed
def ingest(  # noqa: PLR0917 - the order that users of pg-bulk-ingest know
    conn: sa.Connection,
    metadata: sa.MetaData,
    batches: Batches,
    on_before_visible: BeforeVisible = lambda *_: None,
    high_watermark: Any = HighWatermark.LATEST,
    visibility: str = Visibility.AFTER_EACH_BATCH,
    upsert: str = Upsert.IF_PRIMARY_KEY,
    delete: str | Missing = Delete.OFF,
    max_rows_per_table_buffer: int = 10_000,
    *,
    get_pg_force_execute: ForceExecute | GetForceExecute | None = TERMINATE,
    logger: logging.Logger | None = None,
    prove_arrival: bool = False,
) -> IngestResult:
    """Ingest batches into the tables of a SQLAlchemy metadata, exactly once.

    Args:
        conn: A connection that is not in a transaction.
        metadata: The tables as they shall be; created or replaced where they differ.
        batches: Takes the high watermark (None: from the start) and yields triples (watermark,
            batch metadata, pairs). A pair is (table, tuple), (table, mapping by column name),
            (table, frame), which is anything that speaks Arrow, or (table, ``sql.SQL``) of the
            driver, which gives all columns in order: "SELECT ...". The watermark is a JSON value,
            or a function without arguments that is called after the pairs are consumed.
        on_before_visible: Called in the transaction before a batch becomes visible; with (conn,
            batch metadata) once a batch, or, if it takes three arguments, with (conn, table,
            batch metadata) once a table. A `RowCheck`, or a list of both, will do.
        high_watermark: LATEST, EARLIEST, or a JSON value that is given to ``batches`` as it is.
        visibility: Rows become visible after each batch.
        upsert: Whether rows replace rows with the same primary key.
        delete: Whether all existing rows go when the first batch comes; or, with MISSING or
            `Missing`, after the last batch those whose key was not given.
        max_rows_per_table_buffer: Most tuples that are held in memory per table; wide rows: fewer.
        get_pg_force_execute: What happens to sessions that keep a PostgreSQL table from being
            replaced: they are terminated after five minutes. `ForceExecute` with another time,
            None (never), or a function of (connection, logger) that gives a context manager.
        logger: Hears what happens; default: the logger ``ixflow``.
        prove_arrival: Before each commit, compare number and checksum of the rows that were sent
            with those that are there; the result's tables then have an ``arrival``.

    Raises:
        ValidationError: an argument is wrong; nothing was done.
        IngestError: the database refused a batch, which was rolled back; earlier ones stay.
        ArrivalDiffers: what is there is not what was sent; the batch was rolled back.
        DataError: a row does not fit; the batch was rolled back.
        LockNotAvailable: others held a table for too long; the batch was rolled back.

    The positional order of pg-bulk-ingest (a high watermark after ``batches``) is understood too.

    Example::

        with engine.connect() as conn:
            ingest(conn, metadata, lambda after: [(42, None, [(orders, (42, "new"))])])

    """
    check_arguments(conn, metadata, batches)
    tables = checked_tables(conn, metadata)
    missing = _missing(delete)
    if missing is None:
        delete = checked("delete", delete, Delete, empty=Delete.OFF)
    upsert = checked("upsert", upsert, Upsert)
    checked("visibility", visibility, Visibility)
    started = time.monotonic()
    log = logger or logging.getLogger("ixflow")
    patience, force = chosen_blockers(get_pg_force_execute, log)
    troubles = Troubles(conn, _names(tables))
    comment = _comment(conn, name_of(tables[0]), troubles)
    before = watermark_of(comment)
    watermark = _chosen(high_watermark, before)
    if missing is not None:
        missing.check(tables, upsert=upsert == Upsert.IF_PRIMARY_KEY, watermark=watermark)
    log.info("ingest into %s from watermark %r", _names(tables), watermark)
    given = None if missing is None else GivenKeys(conn, missing)
    functions, checks = split_callbacks(on_before_visible)
    run_id = new_run_id()
    prover = Prover(conn) if prove_arrival else None
    writer = BatchWriter(
        conn,
        tables,
        upsert=upsert == Upsert.IF_PRIMARY_KEY,
        delete=delete == Delete.BEFORE_FIRST_BATCH,
        max_rows=max_rows_per_table_buffer,
        run_id=run_id,
        checks=checks,
        given=given,
        prover=prover,
        around_swap=lambda: force(conn, log),
        log=log,
    )
    callbacks = [three_arguments(function) for function in functions]
    run = _Run(writer, before, callbacks, log, troubles)
    try:
        with closed(batches(copy.deepcopy(watermark))) as items:
            for item in iterable(items, "what batches returns"):
                with lock_patience(patience):
                    run.one_batch(item)
        if given is not None and run.batches:
            with lock_patience(patience):
                run.delete_missing()
    finally:
        if given is not None:
            given.forget()
        if prover is not None:
            prover.close()
    if not run.batches:
        run.create_bare()
    return IngestResult(
        run_id=run.run_id,
        tables=writer.counts,
        batches=run.batches,
        high_watermark_before=before,
        high_watermark_after=run.watermark,
        seconds=time.monotonic() - started,
        skipped_rows=writer.skipped,
        phases=writer.phases,
        changed_by=run.changed_by or changed_by(comment),
    )


class _Run:
    """What one call of `ingest` remembers from batch to batch."""

    def __init__(
        self,
        writer: BatchWriter,
        watermark: Any,
        callbacks: Sequence[Callable[[sa.Connection, sa.Table | None, Any], None]],
        log: logging.Logger,
        troubles: Troubles,
    ) -> None:
        self.run_id = writer.run_id
        self.batches = 0
        self.watermark = watermark
        self.changed_by: dict[str, str] = {}
        self._writer = writer
        self._callbacks = callbacks
        self._log = log
        self._troubles = troubles

    def one_batch(self, item: Any) -> None:
        watermark, batch_metadata, pairs = triple_of(item)
        writer = self._writer

        def change() -> Any:
            with self._still_open("the generator of rows"):
                writer.write(pairs, self._troubles.notice)
            with self._still_open("on_before_visible"):
                self._call_back(batch_metadata)
            writer.make_visible()
            with self._still_open("the function that gives the high watermark"):
                found = self._troubles.call(watermark) if callable(watermark) else watermark
            writer.prove()
            return found

        self._log.info("batch %d begins", self.batches + 1)
        value = self._in_transaction(change)
        writer.committed()
        self.batches += 1
        rows = writer.rows_of_batch
        emit(BatchIngested(tuple(writer.counts), rows, value))
        spent = ", ".join(f"{phase} {seconds:.1f} s" for phase, seconds in writer.phases.items())
        self._log.info(
            "batch %d of %d rows committed up to %r (so far: %s)", self.batches, rows, value, spent
        )

    def create_bare(self) -> None:
        """Create missing tables when there was no batch."""
        writer = self._writer
        try:
            with writer.conn.begin():
                writer.create_bare()
        except sa.exc.DBAPIError as error:
            raise self._told(error) from error

    def delete_missing(self) -> None:
        """Delete the rows that no batch gave, behind the last of them."""
        writer = self._writer

        def change() -> Any:
            writer.delete_missing()
            return self.watermark

        self._in_transaction(change)
        writer.committed()

    def _in_transaction(self, change: Callable[[], Any]) -> Any:
        """Change the tables and store the watermark that the change returns, or nothing."""
        conn, tables = self._writer.conn, self._writer.tables
        dialect, first = dialect_of(conn), name_of(tables[0])
        if conn.in_transaction():
            msg = (
                "the batches function left a transaction open on the ingest's own connection; "
                "let it use another one, or commit"
            )
            raise ValidationError(msg)
        try:
            with conn.begin(), contextlib.ExitStack() as locks:
                # In one order for everybody, so that two ingests never wait for each other.
                for name in sorted(str(name_of(table)) for table in tables):
                    locks.enter_context(dialect.advisory_lock(conn, f"ingest {name}"))
                dialect.bound_waits(conn)
                self._refuse_if_moved(dialect.comment(conn, first), first)
                with one_transaction(conn):
                    value = change()
                known = dialect.comment(conn, first)
                comment = with_watermark(known, value, self._record(changed_by(known)))
                dialect.set_comment(conn, first, comment)
        except Exception as error:
            told = self._told(error)
            if told is error:
                raise
            raise told from error
        # As it is stored: a tuple comes back as a list, and the caller may change its object.
        self.watermark = watermark_of(comment)
        return value

    def _refuse_if_moved(self, comment: str | None, table: TableName) -> None:
        stored = watermark_of(comment)
        # Compared as texts: a NaN, which pg-bulk-ingest could store, is not itself.
        if repr(stored) != repr(self.watermark):
            msg = (
                f"another ingest into {table} moved the high watermark from {self.watermark!r} "
                f"to {stored!r} meanwhile; this batch was not written; run the ingest again"
            )
            raise IngestError(msg, table=str(table), expected=self.watermark, found=stored)

    def _call_back(self, batch_metadata: Any) -> None:
        for callback in self._callbacks:
            for table in self._writer.tables_to_select():
                self._troubles.call(callback, self._writer.conn, table, batch_metadata)

    @contextlib.contextmanager
    def _still_open(self, who: str) -> Iterator[None]:
        """Refuse to go on after a function of the caller's has ended the transaction."""
        conn = self._writer.conn
        transaction = conn.get_transaction()
        msg = (
            f"{who} ended the transaction of the batch; it must not commit or roll back on this "
            f"connection"
        )
        try:
            yield
        except (sa.exc.InvalidRequestError, sa.exc.DBAPIError) as error:
            if conn.get_transaction() is transaction and conn.in_transaction():
                raise
            conn.rollback()  # of the transaction that the next statement has begun
            raise IngestError(msg) from error
        if conn.get_transaction() is not transaction or transaction is None:
            raise IngestError(msg)

    def _record(self, before: dict[str, str]) -> dict[str, Any]:
        """Describe this run, and for each table the last run that changed a row of it."""
        changed = dict.fromkeys(self._writer.changed_tables(), self.run_id)
        self.changed_by = {**before, **changed}
        return {
            "changed_by": self.changed_by,
            "run_id": self.run_id,
            "batch": self.batches + 1,
            "at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
            "rows": self._writer.rows_of_batch,
        }

    def _told(self, error: Exception) -> Exception:
        temporary = self._writer.temporary_names()
        return self._troubles.told(error, temporary, batch=self.batches + 1, run_id=self.run_id)


def _comment(conn: sa.Connection, table: TableName, troubles: Troubles) -> str | None:
    try:
        with conn.begin():
            return dialect_of(conn).comment(conn, table)
    except sa.exc.DBAPIError as error:
        raise troubles.told(error, {}, batch=1, run_id="") from error


def _chosen(wanted: Any, stored: Any) -> Any:
    if isinstance(wanted, str) and wanted == HighWatermark.LATEST:
        return stored
    return None if isinstance(wanted, str) and wanted == HighWatermark.EARLIEST else wanted


def _missing(delete: str | Missing) -> Missing | None:
    if isinstance(delete, Missing):
        return delete
    return Missing() if delete == Delete.MISSING else None


def _names(tables: Iterable[sa.Table]) -> str:
    return ", ".join(str(name_of(table)) for table in tables)
