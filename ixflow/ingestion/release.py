"""Letting rows out of a quarantine: they are ingested like any others, and must pass again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ixflow.dialects import dialect_of, run
from ixflow.errors import TableNotFound
from ixflow.ingestion.checks import RULE, RUN, RowCheck, quarantine_of
from ixflow.ingestion.ingest import ingest
from ixflow.ingestion.router import ServerRows
from ixflow.ingestion.watermark import watermark_of
from ixflow.tables import declared

if TYPE_CHECKING:
    import sqlalchemy as sa

    from ixflow.dialects import Dialect
    from ixflow.ingestion.options import IngestResult

__all__ = ["release"]


def release(
    conn: sa.Connection,
    table: sa.Table,
    *,
    rule: str | None = None,
    checks: Sequence[RowCheck] = (),
    **options: Any,
) -> IngestResult:
    """Ingest the rows of a table's quarantine again, and take them out of it, in one transaction.

    Mend the rows in the quarantine first, or leave out the check that they broke.

    Args:
        conn: A connection that is not in a transaction.
        table: The table, as `ingest` had it; the high watermark of its metadata stays.
        rule: Only the rows that broke the rule of this name; None: all.
        checks: What they must satisfy; those that do not are put aside again, or refuse it all.
        options: Other options of `ingest`, such as ``upsert``.

    Raises:
        TableNotFound: the table has no quarantine.
        CheckFailed, IngestError, DataError: as `ingest`; the rows stay in the quarantine.

    """
    dialect = dialect_of(conn)
    with conn.begin():
        name = dialect.resolved(conn, declared.name_of(table))
        place = quarantine_of(name)
        there = {column.name for column in dialect.read_columns(conn, place)}
        if not there:
            msg = f"{name} has no quarantine: no row was put aside in {place}"
            raise TableNotFound(msg, table=str(place))
        relation = dialect.qualified(place)
        # What this ingest puts aside again has another run's id, and stays.
        runs = run(conn, f"SELECT DISTINCT {dialect.quote(RUN)} FROM {relation}").scalars().all()
        first = declared.name_of(next(iter(table.metadata.tables.values())))
        watermark = watermark_of(dialect.comment(conn, first))
    which = _condition(dialect, runs, rule)
    values = ", ".join(dialect.quote(c.name) if c.name in there else "NULL" for c in table.columns)
    rows = ServerRows(f"SELECT {values} FROM {relation} WHERE {which}")

    def take_out(inner: sa.Connection, _: Any) -> None:
        run(inner, f"DELETE FROM {relation} WHERE {which}")

    seen: list[Callable[..., None] | RowCheck] = [*checks, take_out]
    batch = [(watermark, None, [(table, rows)])]
    return ingest(conn, table.metadata, lambda _: batch, seen, **options)


def _condition(dialect: Dialect, runs: Sequence[str], rule: str | None) -> str:
    listed = ", ".join(dialect.text_literal(run_id) for run_id in runs) or "NULL"
    which = f"{dialect.quote(RUN)} IN ({listed})"
    if rule is None:
        return which
    return f"{which} AND {dialect.quote(RULE)} = {dialect.text_literal(rule)}"
