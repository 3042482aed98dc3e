"""The new rows of a table or query of another database, as batches for `ingest`.

The high watermark says what was read; it commits with the rows, in the warehouse. So whatever dies
when, the next run goes on where the rows that are there end.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import re
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ixflow.dialects.guest import Guest, visiting
from ixflow.errors import ValidationError
from ixflow.ingestion.by_transactions import transaction_batches
from ixflow.ingestion.by_windows import (
    planned,
    refuse_without_key,
    settled_moment,
    window_batches,
)
from ixflow.ingestion.marks import mark_of
from ixflow.ingestion.semantics import Inclusive, Overlap, Semantics, Settled
from ixflow.ingestion.source_rows import Source, SourceLike
from ixflow.tables.cursor import NULLS

if TYPE_CHECKING:
    import sqlalchemy as sa

__all__ = ["incremental_batches"]

Batch = tuple[Any, Any, Sequence[Any]]


def incremental_batches(
    source: SourceLike,
    table: sa.Table,
    *,
    cursor: str | None = None,
    semantics: Semantics | None = None,
    source_table: str | None = None,
    query: str | None = None,
    where: str | None = None,
    nulls: str | None = None,
    batch_rows: int | None = None,
    statement_timeout: dt.timedelta | None = None,
) -> Callable[[Any], Iterator[Batch]]:
    """Make the batches function of `ingest` for new rows of a table or query, none of them lost.

    Args:
        source: A URL, a SQLAlchemy engine (its URL is used), or a mapping of ``source_type`` and
            host, port, database, user, password.
        table: The table of the metadata that the rows go to. Its columns are read, by name.
        cursor: The column that tells where new rows are. Of a PostgreSQL table none is needed;
            then every run searches all of it.
        semantics: `Settled`, `Overlap`, `Exclusive` or `Inclusive`. None: Settled where the source
            is PostgreSQL, else Overlap if the cursor is a timestamp or a date.
        source_table: ``schema.table`` in the source; None: as the warehouse's table is called.
        query: A SELECT in the source's SQL, in the place of a table.
        where: A condition in the source's SQL; only rows that meet it are read.
        nulls: What happens to rows whose cursor is NULL: ``refuse`` (the default), ``first run``
            or ``each run``. Settled reads those of a PostgreSQL table like all others.
        batch_rows: Commit after about so many rows, in the order of the cursor, which should have
            an index then; rows of one cursor value stay together. None: one batch a run.
        statement_timeout: How long a statement at the source may take, with the taking of its
            rows, which also waits for the warehouse (PostgreSQL, MySQL, MariaDB). None: as the
            server has it for the role.

    Raises:
        ValidationError: what is asked for could lose or double rows, or cannot be read.

    Further errors are raised when the batches are asked for: a table that is not there
    (`TableNotFound`), columns that it lacks (`ColumnMismatch`), a server that cannot be reached
    (`SourceUnavailable`).

    Example::

        new_orders = incremental_batches(url, orders, cursor="updated_at")
        with engine.connect() as conn:
            ingest(conn, metadata, new_orders)

    """
    given = Source.of(source, table, source_table, query, where)
    _check(given, cursor, semantics, nulls, batch_rows)
    rules = _rules(given, statement_timeout)

    def found_batches(high_watermark: Any) -> Generator[Batch, None, None]:
        mark = mark_of(high_watermark, cursor)
        with given.said_clearly():
            with given.connected() as conn:
                found = given.describe(conn, cursor)
            if found.marks_rows and isinstance(semantics, Settled | None):
                _refuse_nulls_option(given, nulls)
                chosen = semantics or Settled()
                yield from transaction_batches(given, found, chosen, mark, batch_rows)
            else:
                plan = planned(given, found, semantics, nulls or "refuse")
                moment = settled_moment(given, found, plan, semantics)
                yield from window_batches(given, found, plan, mark, settled=moment, rows=batch_rows)

    def batches(high_watermark: Any) -> Iterator[Batch]:
        # The rules are for what happens here, not for those who take a batch meanwhile.
        with contextlib.closing(found_batches(high_watermark)) as found:
            while True:
                with visiting(rules):
                    batch = next(found, None)
                if batch is None:
                    return
                yield batch

    # What Dagster calls the asset's function, and says of it.
    batches.__name__ = re.sub(r"\W", "_", str(table.name))
    batches.__doc__ = f"New rows of {given.name}, of a {given.dialect.name} database."
    return batches


def _check(
    source: Source, cursor: object, semantics: object, nulls: str | None, batch_rows: object
) -> None:
    """Refuse what can be seen to be wrong without asking the source."""
    if cursor is not None and (not isinstance(cursor, str) or not cursor):
        msg = f"cursor is {cursor!r}; it must be the name of a column of the source"
        raise ValidationError(msg, argument="cursor")
    if semantics is not None and not isinstance(semantics, Semantics):
        msg = f"semantics is {semantics!r}; give Settled(), Overlap(by), Exclusive() or Inclusive()"
        raise ValidationError(msg, argument="semantics")
    if nulls is not None and nulls not in NULLS:
        msg = f"nulls is {nulls!r}; it can be {', '.join(NULLS)}"
        raise ValidationError(msg, nulls=nulls)
    if isinstance(semantics, (Overlap, Inclusive)) or nulls == "each run":
        refuse_without_key(source, type(semantics).__name__ if nulls != "each run" else nulls)
    if batch_rows is None:
        return
    if not isinstance(batch_rows, int) or isinstance(batch_rows, bool) or batch_rows < 1:
        msg = f"batch_rows is {batch_rows!r}; it must be a number over 0, or None"
        raise ValidationError(msg, argument="batch_rows")
    if cursor is None:
        msg = "batch_rows needs a cursor, in whose order the batches are read"
        raise ValidationError(msg, argument="batch_rows")


def _rules(source: Source, statement_timeout: object) -> Guest:
    if statement_timeout is None:
        return Guest()
    if not source.dialect.bounds_statements:
        msg = f"a {source.dialect.name} source does not end statements; leave statement_timeout out"
        raise ValidationError(msg, argument="statement_timeout")
    seconds = 0.0
    if isinstance(statement_timeout, dt.timedelta):
        seconds = statement_timeout.total_seconds()
    if seconds <= 0:
        msg = f"statement_timeout is {statement_timeout!r}; it must be a timedelta above zero"
        raise ValidationError(msg, argument="statement_timeout")
    return Guest(statement_seconds=seconds)


def _refuse_nulls_option(source: Source, nulls: str | None) -> None:
    if nulls is not None:
        msg = (
            f"Settled reads the rows of {source.name} without a cursor like all others, when they "
            f"are new; leave nulls={nulls!r} out"
        )
        raise ValidationError(msg, nulls=nulls)
