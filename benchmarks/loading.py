"""What loads the rows of the ingest cases: ixflow, pg-bulk-ingest, `adbc_ingest`.

``python -m benchmarks.loading WHO KIND SHAPE ROWS SHIFT KEY URL TABLE...`` is one contender; the
tables are made and checked by the case. Peers run it in environments of their own, without ixflow.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.harness import contend
from benchmarks.shapes import arrow_batches, arrow_table, sqlalchemy_table, tails, tuples

__all__ = ["LOADERS", "Job"]


@dataclass(frozen=True, slots=True)
class Job:
    """What to load: ``rows`` of a shape, in equal parts, into each of the tables."""

    kind: str
    """tuples, arrow, reader (Arrow batches that are made while read), polars or pandas."""
    shape: str
    rows: int
    shift: int
    key: bool
    url: str
    tables: tuple[str, ...]

    @classmethod
    def of(cls, arguments: Sequence[str]) -> Job:
        """Read the arguments of the command."""
        kind, shape, rows, shift, key, url, *tables = arguments
        return cls(kind, shape, int(rows), int(shift), key == "key", url, tuple(tables))

    def arguments(self) -> tuple[str, ...]:
        """Write the arguments of the command."""
        numbers = (str(self.rows), str(self.shift), "key" if self.key else "bare")
        return (self.kind, self.shape, *numbers, self.url, *self.tables)


def _frame(job: Job) -> Any:
    """Make the input in memory."""
    table = arrow_table(job.shape, job.rows, job.shift)
    if job.kind == "polars":
        return importlib.import_module("polars").from_arrow(table)
    if job.kind == "pandas":
        # pandas' own types would turn whole numbers with NULLs into floats.
        types = {} if job.shape == "narrow" else {"types_mapper": _arrow_dtype()}
        return table.to_pandas(**types)
    return table


def _arrow_dtype() -> Any:
    return importlib.import_module("pandas").ArrowDtype


def _pairs(job: Job, tables: Sequence[Any]) -> Callable[[], Iterator[tuple[Any, Any]]]:
    """Give what makes the pairs of a batch; row by row in turn if there are several tables."""
    if job.kind == "tuples":
        tails(job.shape)
        rows = job.rows // len(tables)
        return lambda: ((t, row) for row in tuples(job.shape, rows, job.shift) for t in tables)
    if job.kind == "reader":
        import pyarrow as pa

        schema = next(arrow_batches(job.shape, 1)).schema
        return lambda: (
            (table, pa.RecordBatchReader.from_batches(schema, _batches(job))) for table in tables
        )
    frame = _frame(job)
    return lambda: ((table, frame) for table in tables)


def _batches(job: Job) -> Iterator[Any]:
    return arrow_batches(job.shape, job.rows, job.shift)


def _ingesting(ingest: Callable[..., Any], job: Job) -> Callable[[], int]:
    """Ingest one batch; both libraries are called alike."""
    import sqlalchemy as sa

    metadata = sa.MetaData()
    tables = [sqlalchemy_table(job.shape, t, metadata, key=job.key) for t in job.tables]
    pairs = _pairs(job, tables)
    engine = sa.create_engine(job.url)
    _warm_up(ingest, engine, job)

    def work() -> int:
        with engine.connect() as conn:
            ingest(conn, metadata, lambda _: [(None, None, pairs())])
        return job.rows

    return work


def _warm_up(ingest: Callable[..., Any], engine: Any, job: Job) -> None:
    """Ingest one row elsewhere: what is imported, and asked of a new server, is not measured."""
    import sqlalchemy as sa

    metadata = sa.MetaData()
    table = sqlalchemy_table(job.shape, "warm_up", metadata, key=job.key)
    row = next(tuples(job.shape, 1)) if job.kind == "tuples" else arrow_table(job.shape, 1)
    with engine.connect() as conn:
        ingest(conn, metadata, lambda _: [(None, None, [(table, row)])])
    with engine.begin() as conn:
        table.drop(conn)


def ixflow(job: Job) -> Callable[[], int]:
    """Ingest with ixflow, all defaults."""
    return _ingesting(importlib.import_module("ixflow").ingest, job)


def pg_bulk_ingest(job: Job) -> Callable[[], int]:
    """Ingest with pg-bulk-ingest, all defaults."""
    return _ingesting(importlib.import_module("pg_bulk_ingest").ingest, job)


def adbc(job: Job) -> Callable[[], int]:
    """Append with `adbc_ingest`, on a connection and in a transaction of its own."""
    module = importlib.import_module("adbc_driver_postgresql.dbapi")
    frame = _frame(job)
    if job.kind == "pandas":
        importlib.import_module("pandas")
    conn = module.connect(job.url.replace("+psycopg", ""))
    with conn.cursor() as cursor:
        cursor.adbc_ingest("warm_up", arrow_table(job.shape, 1), mode="create", temporary=True)
    conn.commit()

    def work() -> int:
        with conn.cursor() as cursor:
            data = frame
            if job.kind == "pandas":
                import pyarrow as pa

                data = pa.Table.from_pandas(frame, preserve_index=False)
            cursor.adbc_ingest(job.tables[0], data, mode="append")
        conn.commit()
        return job.rows

    return work


LOADERS: dict[str, Callable[[Job], Callable[[], int]]] = {
    "ixflow": ixflow,
    "pg-bulk-ingest": pg_bulk_ingest,
    "adbc": adbc,
}


if __name__ == "__main__":
    contend(LOADERS[sys.argv[1]](Job.of(sys.argv[2:])))
