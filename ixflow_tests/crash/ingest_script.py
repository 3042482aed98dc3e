"""Ingests the same twenty batches from wherever the watermark stands; run as a process to kill.

Arguments: the URL, and how many statements it may run before it leaves without a word (0: all).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from ixflow.ingestion import batch
from ixflow.ingestion.ingest import ingest

BATCHES = 20
ROWS = 300
WITH_LOG = True


def tables(*, wide: bool) -> list[sa.Table]:
    """Declare one or two tables; the wide form of the first migrates it on the way."""
    metadata = sa.MetaData(schema="app")
    more = [sa.Column("extra", sa.INTEGER, unique=True)] if wide else []
    keyed = sa.Table(
        "keyed",
        metadata,
        sa.Column("id", sa.INTEGER, primary_key=True, autoincrement=False),
        sa.Column("v", sa.VARCHAR, index=True),
        *more,
    )
    if not WITH_LOG:
        return [keyed]
    log = sa.Table("log", metadata, sa.Column("batch", sa.INTEGER), sa.Column("n", sa.INTEGER))
    return [keyed, log]


def rows_of(number: int, both: list[sa.Table]) -> Iterator[tuple[sa.Table, tuple[Any, ...]]]:
    """Give the rows of one batch: some new, some that change what an earlier batch gave."""
    keyed = both[0]
    for n in range(ROWS):
        key = (number * ROWS + n) if n % 3 else n
        value = f"batch {number} row {n}"
        extra = (key,) if len(keyed.columns) == 3 else ()
        yield keyed, (key, value, *extra)
        yield from ((log, (number, n)) for log in both[1:])


def source(both: list[sa.Table], first: int, last: int):
    """Make the batches function: from behind the watermark up to ``last``."""

    def batches(high_watermark: Any) -> Iterator[tuple[int, None, Any]]:
        for number in range(first if high_watermark is None else high_watermark + 1, last):
            yield number, None, rows_of(number, both)
            sys.stdout.write(f"{number}\n")
            sys.stdout.flush()

    return batches


def run(engine: sa.Engine, last: int = BATCHES, middle: int = BATCHES // 2) -> None:
    """Ingest the first half narrow, then the second half wide."""
    for wide, until in ((False, middle), (True, last)):
        with engine.connect() as conn:
            stored = _watermark(conn)
            if stored is not None and stored >= until - 1:
                continue
            both = tables(wide=wide)
            ingest(conn, both[0].metadata, source(both, 0, until))


def _watermark(conn: sa.Connection) -> Any:
    from ixflow.dialects import dialect_of
    from ixflow.ingestion.watermark import watermark_of
    from ixflow.values import TableName

    with conn.begin():
        return watermark_of(dialect_of(conn).comment(conn, TableName("keyed", "app")))


def leave_after(engine: sa.Engine, statements: int) -> None:
    """Let the process vanish before the statement of this number, counting loads and commits."""
    count = 0

    def one_more(*_: Any) -> None:
        nonlocal count
        count += 1
        if count > statements:
            os._exit(42)

    sa.event.listen(engine, "before_cursor_execute", one_more)
    sa.event.listen(engine, "commit", one_more)
    loading = batch.BatchWriter._load

    def load(*given: Any) -> None:
        one_more()
        loading(*given)

    setattr(batch.BatchWriter, "_load", load)  # noqa: B010 - a COPY is no cursor event


if __name__ == "__main__":
    made = sa.create_engine(sys.argv[1], poolclass=sa.NullPool)
    if int(sys.argv[2]):
        leave_after(made, int(sys.argv[2]))
    run(made)
