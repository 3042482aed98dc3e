"""Ingesting one slice of a table: its rows are replaced by those that come, in one transaction.

First the rows are loaded into temporary tables, beside others who do the same for other slices.
Then, in one transaction and one after the other: lock the tables, see that all rows are of the
slice, replace it, call back, commit. The tables' high watermark stays what it is.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import sqlalchemy as sa

from ixflow.dialects import dialect_of
from ixflow.dialects.waiting import lock_patience
from ixflow.errors import ValidationError
from ixflow.events import BatchIngested, emit
from ixflow.ingestion import replacement
from ixflow.ingestion.arguments import checked_tables, three_arguments, triple_of
from ixflow.ingestion.blockers import TERMINATE, chosen_blockers
from ixflow.ingestion.checks import split_callbacks
from ixflow.ingestion.connection import one_transaction, unstreamed
from ixflow.ingestion.ingest import BeforeVisible, ingest
from ixflow.ingestion.options import IngestResult
from ixflow.ingestion.slice_writer import SliceWriter
from ixflow.ingestion.troubles import Troubles, check_arguments, closed, iterable
from ixflow.ingestion.watermark import changed_by, watermark_of, with_watermark
from ixflow.tables.declared import name_of
from ixflow.tables.slices import Slice
from ixflow.values import new_run_id

__all__ = ["ingest_slice"]

_log = logging.getLogger("ixflow")


@unstreamed
def ingest_slice(
    conn: sa.Connection,
    metadata: sa.MetaData,
    batches: Callable[[Any], Iterable[Any]],
    slices: Slice | Mapping[sa.Table, Slice],
    *,
    on_before_visible: BeforeVisible = (),
    max_rows_per_table_buffer: int = 10_000,
    logger: logging.Logger = _log,
) -> IngestResult:
    """Replace a slice of each table by the rows that all batches together give.

    Args:
        conn: A connection that is not in a transaction.
        metadata: The tables as they shall be; created or replaced where they differ, with all the
            rows that are there.
        batches: As `ixflow.ingest` takes it. It is called with None, since all rows of the slice
            are wanted, and watermarks that it gives are not kept. No batch: the slice has no rows.
        slices: The rows to replace, of all tables or by table.
        on_before_visible: As for `ixflow.ingest`; called once, with the last batch's metadata.
        max_rows_per_table_buffer: Most tuples that are held in memory per table.
        logger: Hears what happens.

    Raises:
        ValidationError: an argument is wrong, or a column cannot tell the slice exactly.
        DataError: a row does not fit, is outside of the slice, or has the key of one that is.
        IngestError: the database refused; what was there before still is.

    """
    check_arguments(conn, metadata, batches)
    tables = checked_tables(conn, metadata)
    by_table = {table: slices if isinstance(slices, Slice) else slices[table] for table in tables}
    functions, checks = split_callbacks(on_before_visible)
    started, run_id = time.monotonic(), new_run_id()
    patience, _ = chosen_blockers(TERMINATE, logger)
    writer = SliceWriter(
        conn,
        by_table,
        max_rows=max_rows_per_table_buffer,
        run_id=run_id,
        checks=checks,
        log=logger,
    )
    troubles = Troubles(conn, ", ".join(str(name_of(table)) for table in tables))
    run = _SliceRun(writer, [three_arguments(function) for function in functions], troubles)
    if _is_new(conn, tables, troubles):
        # An empty batch makes the tables as they shall be, and leaves the watermark as it is.
        ingest(conn, metadata, lambda after: [(after, None, [])], logger=logger)
    try:
        with lock_patience(patience):
            run.load(batches)
            run.replace()
    finally:
        writer.forget()
    return IngestResult(
        run_id=run_id,
        tables=writer.counts,
        batches=run.batches,
        high_watermark_before=run.watermark,
        high_watermark_after=run.watermark,
        seconds=time.monotonic() - started,
        skipped_rows=writer.skipped,
        phases=writer.phases,
        changed_by=run.changed_by,
    )


def _is_new(conn: sa.Connection, tables: Iterable[sa.Table], troubles: Troubles) -> bool:
    """Say whether one of the tables has to be made, or made anew."""
    try:
        with conn.begin():
            return any(replacement.reasons(conn, table, delete=False) for table in tables)
    except sa.exc.DBAPIError as error:
        raise troubles.told(error, {}, batch=1, run_id="") from error


class _SliceRun:
    """What one call of `ingest_slice` does and remembers."""

    def __init__(
        self,
        writer: SliceWriter,
        callbacks: Iterable[Callable[[sa.Connection, sa.Table | None, Any], None]],
        troubles: Troubles,
    ) -> None:
        self.batches = 0
        self.watermark: Any = None
        self.changed_by: dict[str, str] = {}
        self._writer, self._callbacks, self._troubles = writer, list(callbacks), troubles
        self._about: Any = None

    def load(self, batches: Callable[[Any], Iterable[Any]]) -> None:
        """Let the rows of all batches wait in temporary tables."""
        with self._telling(), self._writer.conn.begin() as transaction:
            self._writer.write(self._pairs(batches), self._troubles.notice)
            self._refuse_ended(transaction)

    def _pairs(self, batches: Callable[[Any], Iterable[Any]]) -> Iterator[tuple[Any, Any]]:
        with closed(batches(None)) as items:
            for item in iterable(items, "what batches returns"):
                _, self._about, pairs = triple_of(item)
                self.batches += 1
                yield from pairs

    def replace(self) -> None:
        """Put what waits in the place of the slice, and commit."""
        writer = self._writer
        conn, tables = writer.conn, writer.tables
        dialect, first = dialect_of(conn), name_of(tables[0])
        with self._telling(), conn.begin() as transaction, contextlib.ExitStack() as locks:
            # In one order for everybody, so that two ingests never wait for each other.
            for name in sorted(str(name_of(table)) for table in tables):
                locks.enter_context(dialect.advisory_lock(conn, f"ingest {name}"))
            dialect.bound_waits(conn)
            with one_transaction(conn):
                writer.replace()
                for callback in self._callbacks:
                    for table in writer.tables_to_select():
                        self._troubles.call(callback, conn, table, self._about)
                self._refuse_ended(transaction)
            known = dialect.comment(conn, first)
            self.watermark = watermark_of(known)
            comment = with_watermark(known, self.watermark, self._record(changed_by(known)))
            dialect.set_comment(conn, first, comment)
        writer.committed()
        emit(BatchIngested(tuple(writer.counts), writer.rows_of_batch, self.watermark))

    def _refuse_ended(self, transaction: sa.Transaction) -> None:
        if not transaction.is_active:
            msg = (
                "the batches function or on_before_visible ended the transaction; it must not "
                "commit or roll back on this connection"
            )
            raise ValidationError(msg)

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            told = self._troubles.told(error, {}, batch=1, run_id=self._writer.run_id)
            if told is error:
                raise
            raise told from error

    def _record(self, before: dict[str, str]) -> dict[str, Any]:
        """Describe this run, and for each table the last run that changed a row of it."""
        changed = dict.fromkeys(self._writer.changed_tables(), self._writer.run_id)
        self.changed_by = {**before, **changed}
        return {
            "changed_by": self.changed_by,
            "run_id": self._writer.run_id,
            "batch": 1,
            "at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
            "rows": self._writer.rows_of_batch,
        }
