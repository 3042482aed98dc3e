"""What can be known about a source table from its catalogue and statistics, without reading it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import pyarrow as pa
import sqlalchemy as sa

from ixflow.dialects import Dialect, SourceFacts, connected
from ixflow.errors import TableNotFound, ValidationError
from ixflow.values import Column, TableName, TablePart

if TYPE_CHECKING:
    from ixflow.extraction.intent import ExtractionIntent

__all__ = ["SourceProfile", "chosen_columns", "profile", "skew"]

SMALL_ROWS, SMALL_BYTES = 100_000, 50_000_000
"""A table below either is read in one pass."""

_ROWS_OF_A_WORKER, _BYTES_OF_A_WORKER, _MOST_FIRST_WORKERS = 500_000, 1 << 28, 8
_PROBES = 5
_BUCKETS = 10


@dataclass(frozen=True)
class SourceProfile:
    """The statistics of one table, and what they recommend.

    ``row_count_estimate`` is -1 where nothing is known. ``cv`` is the coefficient of variation of
    the rows over ten equal ranges of the primary key (0: even, or unknown; 3: all in one).
    ``size_bytes`` counts the stored rows without indexes. Times are in milliseconds.
    """

    object_name: str
    table: TableName
    columns: tuple[Column, ...]
    parts: tuple[TablePart, ...]
    row_count_estimate: int
    size_bytes: int
    pages: int | None
    cv: float
    max_connections: int
    active_connections: int
    connection_ms: float
    latency_p50_ms: float
    latency_p95_ms: float
    shares_snapshot: bool

    @property
    def primary_key(self) -> tuple[str, ...]:
        """Name the key's columns, in the key's order."""
        keyed = sorted((c.key_position, c.name) for c in self.columns if c.key_position)
        return tuple(name for _, name in keyed)

    @property
    def avg_row_bytes(self) -> int:
        """Give the mean stored size of a row; 0: unknown."""
        return self.size_bytes // self.row_count_estimate if self.row_count_estimate > 0 else 0

    @property
    def available_connections_safe(self) -> int:
        """Give half of the connections that are free now, at least one."""
        return max(1, max(0, self.max_connections - self.active_connections) // 2)

    @property
    def is_small(self) -> bool:
        """Say that one pass is enough."""
        few = 0 <= self.row_count_estimate < SMALL_ROWS and self.size_bytes < _BYTES_OF_A_WORKER
        return few or self.size_bytes < SMALL_BYTES

    @property
    def recommended_strategy(self) -> str:
        """Name the way to read: ``single_pass`` or ``page_ranges``."""
        ranges = self.shares_snapshot and any(part.pages for part in self.parts)
        return "page_ranges" if ranges and not self.is_small else "single_pass"

    @property
    def recommended_start_workers(self) -> int:
        """Give the number of workers for a first run."""
        if self.recommended_strategy == "single_pass":
            return 1
        by_rows = self.row_count_estimate // _ROWS_OF_A_WORKER
        wanted = max(by_rows, self.size_bytes // _BYTES_OF_A_WORKER)
        return min(self.available_connections_safe, max(1, min(_MOST_FIRST_WORKERS, wanted)))

    # The names of ixtract's implementation, next to those of its documentation.
    @property
    def row_estimate(self) -> int:
        """Give ``row_count_estimate``."""
        return self.row_count_estimate

    @property
    def pk_distribution_cv(self) -> float:
        """Give ``cv``."""
        return self.cv

    @property
    def size_estimate_bytes(self) -> int:
        """Give ``size_bytes``."""
        return self.size_bytes


def profile(intent: ExtractionIntent) -> SourceProfile:
    """Read the statistics of the intent's table: no scan, no count.

    Raises:
        SourceUnavailable: the database cannot be reached or refuses us.
        TableNotFound: there is no such table, or the role may not see it.
        ValidationError: the intent names columns that are not there.

    """
    dialect, name = intent.dialect, intent.object_name
    with _connection(intent) as (conn, connection_ms):
        table = _find(dialect, conn, name)
        columns = dialect.columns(conn, table)
        facts = dialect.source_facts(conn, table)
        parts = _with_facts(dialect.parts(conn, table), facts)
        key = next((c.name for c in columns if c.key_position == 1), None)
        bounds = dialect.key_bounds(conn, table, key) if key else ()
        probes = sorted(_probes(conn))
    return SourceProfile(
        object_name=name,
        table=table,
        columns=chosen_columns(intent, columns),
        parts=parts,
        row_count_estimate=facts.rows,
        size_bytes=facts.size_bytes,
        pages=facts.pages,
        cv=skew(bounds),
        max_connections=facts.max_connections,
        active_connections=facts.active_connections,
        connection_ms=connection_ms,
        latency_p50_ms=probes[_PROBES // 2],
        latency_p95_ms=probes[-1],
        shares_snapshot=dialect.shares_snapshot,
    )


@contextmanager
def _connection(intent: ExtractionIntent) -> Iterator[tuple[sa.Connection, float]]:
    engine = intent.dialect.read_engine(intent.url())
    started = time.perf_counter()
    try:
        with connected(engine) as conn:
            yield conn, round((time.perf_counter() - started) * 1000, 2)
    finally:
        engine.dispose()


def _probes(conn: sa.Connection) -> Iterator[float]:
    for _ in range(_PROBES):
        started = time.perf_counter()
        conn.exec_driver_sql("SELECT 1").all()
        yield round((time.perf_counter() - started) * 1000, 2)


def _find(dialect: Dialect, conn: sa.Connection, name: str) -> TableName:
    """Read the name as ``schema.table``, or as the name of one table that holds a dot."""
    parsed = TableName.parse(name)
    whole = TableName(name)
    for table in (parsed, whole):
        # SQLite refuses to look into a schema that it does not know.
        with suppress(sa.exc.OperationalError):
            if dialect.exists(conn, table):
                return table
    msg = (
        f"there is no table {parsed} in this {dialect.name} database, or the role may not see it; "
        f"names are compared exactly, capitals included"
    )
    raise TableNotFound(msg, table=name)


def _with_facts(parts: tuple[TablePart, ...], facts: SourceFacts) -> tuple[TablePart, ...]:
    if len(parts) == 1 and parts[0].rows < 0:
        return (replace(parts[0], rows=facts.rows, size_bytes=facts.size_bytes),)
    return parts


def chosen_columns(intent: ExtractionIntent, columns: Sequence[Column]) -> tuple[Column, ...]:
    """Take the columns that the intent selects, as text where it says so.

    Raises:
        ValidationError: a name is not a column of the table.

    """
    known = {column.name: column for column in columns}
    wanted = tuple(known) if intent.columns is None else tuple(intent.columns)
    missing = sorted({*wanted, *intent.as_text} - set(known))
    if missing:
        msg = f"{intent.object_name} has no columns {missing}; it has {sorted(known)}"
        raise ValidationError(msg, columns=missing, table=intent.object_name)
    text = {name: replace(known[name], type=pa.string(), as_text=True) for name in intent.as_text}
    return tuple(text.get(name, known[name]) for name in wanted)


def skew(bounds: Sequence[float]) -> float:
    """Give the coefficient of variation of rows over ten equal ranges between equi-depth bounds.

    >>> skew([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10])
    0.0
    """
    if len(bounds) <= _BUCKETS or not bounds[-1] > bounds[0]:
        return 0.0
    width = (bounds[-1] - bounds[0]) / _BUCKETS
    edges = [bounds[0] + width * number for number in range(_BUCKETS + 1)]
    counts = [_share(bounds, low, high) for low, high in pairwise(edges)]
    return round(statistics.pstdev(counts) / statistics.fmean(counts), 3)


def _share(bounds: Sequence[float], low: float, high: float) -> float:
    """Count the histogram's steps between two values, with the fractions at the ends."""
    total = 0.0
    for start, end in pairwise(bounds):
        if end <= start:
            total += low <= start < high or (start == high == bounds[-1])
        else:
            total += max(0.0, min(end, high) - max(start, low)) / (end - start)
    return total
