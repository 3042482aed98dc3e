"""What can be known about a source table from its catalogue and statistics, without reading it."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

from ixflow.dialects import Dialect, KeyCuts, connected
from ixflow.extraction.limits import seconds_of
from ixflow.extraction.selection import hidden_columns
from ixflow.extraction.source_object import find_object
from ixflow.tables.cursor import CursorPlan
from ixflow.values import Column, TableName, TablePart

if TYPE_CHECKING:
    import sqlalchemy as sa

    from ixflow.extraction.intent import ExtractionIntent

__all__ = ["SourceProfile", "profile", "skew", "source_connection"]

SMALL_ROWS, SMALL_BYTES = 100_000, 50_000_000
"""A table below either is read in one pass."""

_ROWS_OF_A_WORKER, _BYTES_OF_A_WORKER, _MOST_FIRST_WORKERS = 500_000, 1 << 28, 8
_PROBES = 5
_BUCKETS = 10
_BYTES_OF_A_CUT, _FEWEST_CUTS, _MOST_CUTS = 64 << 20, 16, 256
_CUTTING_SECONDS = 10.0


@dataclass(frozen=True)
class SourceProfile:
    """The statistics of one table, and what they recommend.

    ``row_count_estimate`` is -1 where nothing is known. ``cv`` is the coefficient of variation of
    the rows over ten equal ranges of the primary key (0: even, or unknown; 3: all in one).
    ``size_bytes`` counts the stored rows without indexes. Times are in milliseconds. ``cuts`` says
    for each part where a key can cut it, None where none can or none needs to; shorter than
    ``parts`` where nobody looked. ``cursor`` is the one of an incremental extraction,
    ``window_from`` the high watermark that is published, ``cursor_advice`` what speaks against
    them. The values of ``hidden_columns`` must appear in no plan.
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
    snapshot_advice: str = Dialect.snapshot_advice
    cuts: tuple[KeyCuts | None, ...] = ()
    cursor: CursorPlan | None = None
    window_from: str | None = None
    cursor_advice: tuple[str, ...] = ()
    hidden_columns: tuple[str, ...] = ()

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
        """Name the way to read: ``single_pass``, ``page_ranges`` or ``key_ranges``."""
        return "single_pass" if self.is_small else self.possible_split

    @property
    def possible_split(self) -> str:
        """Name the way to read in parallel or in steps, however small the table is."""
        if self.shares_snapshot and any(part.pages for part in self.parts):
            return "page_ranges"
        return "key_ranges" if any(self.cuts) else "single_pass"

    @property
    def recommended_start_workers(self) -> int:
        """Give the number of workers for a first run."""
        if self.recommended_strategy == "single_pass" or not self.shares_snapshot:
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


def profile(intent: ExtractionIntent, *, split_small: bool = False) -> SourceProfile:
    """Read the statistics of the intent's table: no scan, no count.

    Where keys cut a table, an index is asked for some of them; for a small table, which needs no
    cutting, only if ``split_small``.

    Raises:
        SourceUnavailable: the database cannot be reached or refuses us.
        TableNotFound: there is no such table, or the role may not see it.
        ValidationError: the intent names columns that are not there.

    """
    dialect, name = intent.dialect, intent.object_name
    with source_connection(intent) as (conn, connection_ms):
        found = find_object(intent, dialect, conn)
        table, facts = found.table, found.facts
        key = next((c.name for c in found.known if c.key_position == 1), None)
        # Not even a histogram of what is hidden may leave the source.
        seen_key = None if key in hidden_columns(intent) else key
        bounds = dialect.key_bounds(conn, table, seen_key) if seen_key else ()
        probes = sorted(_probes(conn))
        shares = dialect.shares_snapshot if facts.shares_snapshot is None else facts.shares_snapshot
        seen = SourceProfile(
            object_name=name,
            table=table,
            columns=found.columns,
            parts=found.parts,
            row_count_estimate=facts.rows,
            size_bytes=facts.size_bytes,
            pages=facts.pages,
            cv=skew(bounds),
            max_connections=facts.max_connections,
            active_connections=facts.active_connections,
            connection_ms=connection_ms,
            latency_p50_ms=probes[_PROBES // 2],
            latency_p95_ms=probes[-1],
            shares_snapshot=shares,
            snapshot_advice=dialect.snapshot_advice,
            cursor=found.cursor,
            window_from=found.mark,
            cursor_advice=found.advice,
            hidden_columns=hidden_columns(intent),
        )
        if (seen.is_small and not split_small) or intent.query is not None or found.by_index:
            return seen
        return replace(seen, cuts=tuple(_cuts(dialect, conn, seen)))


def _cuts(dialect: Dialect, conn: sa.Connection, seen: SourceProfile) -> Iterator[KeyCuts | None]:
    """Cut the parts that have no pages to be cut by, each in proportion to its size."""
    ends = time.monotonic() + _CUTTING_SECONDS
    total = max(1, seen.size_bytes)
    wanted = min(max(total / _BYTES_OF_A_CUT, _FEWEST_CUTS), _MOST_CUTS)
    for part in seen.parts:
        by_pages = part.pages is not None and seen.shares_snapshot
        share = math.ceil(wanted * part.size_bytes / total) if len(seen.parts) > 1 else wanted
        seconds = ends - time.monotonic()
        if by_pages or share <= 1 or seconds <= 0:
            yield None
        else:
            yield dialect.cut_keys(
                conn,
                part,
                int(share),
                seconds=seconds,
                scattered=seen.shares_snapshot,
                hidden=seen.hidden_columns,
            )


@contextmanager
def source_connection(intent: ExtractionIntent) -> Iterator[tuple[sa.Connection, float]]:
    """Connect to the source of an intent for questions; give also how long that took, in ms."""
    engine = intent.dialect.read_engine(intent.url())
    started = time.perf_counter()
    try:
        with connected(engine) as conn:
            connection_ms = round((time.perf_counter() - started) * 1000, 2)
            # Somebody may be changing the table; a plan waits no longer for that than a run.
            intent.dialect.bound_waits(conn, seconds_of("", intent.lock_timeout) or 60.0)
            yield conn, connection_ms
    finally:
        engine.dispose()


def _probes(conn: sa.Connection) -> Iterator[float]:
    for _ in range(_PROBES):
        started = time.perf_counter()
        conn.exec_driver_sql("SELECT 1").all()
        yield round((time.perf_counter() - started) * 1000, 2)


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
