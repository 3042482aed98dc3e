"""The benchmark of workers: which pieces it reads, that it reads them at once, how it judges."""

from __future__ import annotations

import threading
from itertools import pairwise

import pyarrow as pa
import pytest

from ixflow.dialects import dialect_named
from ixflow.extraction.benchmark import Probe, _timed, judge, probes_of
from ixflow.extraction.plan import ExecutionPlan, ExtractionTask
from ixflow.extraction.selection import Statements
from ixflow.values import Column, KeyRange, TableName, TablePart

ORDERS = TablePart(TableName("orders"), pages=10_000, rows=1_000_000)


def page_tasks(count=20):
    bounds = [ORDERS.pages * n // count for n in range(count)] + [None]  # type: ignore[operator]
    return [
        ExtractionTask(f"{n:03d}", ORDERS, (low, high))
        for n, (low, high) in enumerate(pairwise(bounds), 1)
    ]


def key_tasks(count=20):
    part = TablePart(TableName("orders"), rows=1_000_000)
    keys = [KeyRange(("id",), ("bigint",), (str(n),), (str(n + 1),)) for n in range(count)]
    return [ExtractionTask(f"{n:03d}", part, keys=key) for n, key in enumerate(keys, 1)]


PLAN = ExecutionPlan(
    identity="x",
    source_type="postgresql",
    object_name="orders",
    table=ORDERS.table,
    columns=(Column("id", "bigint", pa.int64()),),
    strategy="key_ranges",
    tasks=tuple(key_tasks()),
    worker_count=4,
    consistency="one snapshot",
    require_snapshot=False,
    all_columns=True,
    output_format="parquet",
    compression="zstd",
    estimated_rows=1,
    estimated_bytes=1,
    estimated_seconds=1.0,
)


def pages_of(probes):
    return [probe.task.pages for probe in probes]


def test_the_pieces_of_pages_are_as_large_as_they_should_be_and_lie_apart():
    areas = [probes_of(page_tasks(), 50_000, 8, area) for area in range(3)]
    pages = [found for area in areas for found in pages_of(area)]
    assert all(end - first == pytest.approx(63, abs=1) for first, end in pages)
    assert len(set(pages)) == 24
    assert max(end for _, end in pages_of(areas[0])) < 3_500
    assert min(first for first, _ in pages_of(areas[2])) > 6_500


def test_a_table_of_few_tasks_has_pieces_within_them():
    pages = [page for area in range(3) for page in pages_of(probes_of(page_tasks(2), 9, 4, area))]
    assert all(0 <= first < end <= 10_000 for first, end in pages)
    assert len(set(pages)) == 12


def test_tasks_of_keys_are_read_up_to_a_number_of_rows():
    probes = probes_of(key_tasks(), 80_000, 8, 1)
    assert {probe.rows for probe in probes} == {10_000}
    assert all(probe.task.keys for probe in probes)


def test_unknown_row_counts_take_whole_tasks():
    part = TablePart(TableName("t"), pages=10)
    (probe,) = probes_of([ExtractionTask("1", part, (0, None))], 50_000, 1, 2)
    assert probe.task.pages == (0, 10)


class Together:
    """A reader that goes on only when as many read at once as should."""

    def __init__(self, barrier: threading.Barrier, seen: list[str]) -> None:
        """Share a barrier."""
        self.barrier, self.seen = barrier, seen

    def read(self, sql, columns):
        self.seen.append(sql)
        self.barrier.wait(20)
        batch = pa.record_batch({"id": pa.array(range(1_000), pa.int64())})
        return pa.RecordBatchReader.from_batches(batch.schema, [batch] * 3)


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_so_many_connections_read_at_once(workers):
    barrier, seen = threading.Barrier(workers), list[str]()
    readers = [Together(barrier, seen) for _ in range(workers)]
    area = [Probe(task, 1_500) for task in key_tasks(4)]
    speed = _timed(Statements(PLAN, dialect_named("postgresql")), area, readers)
    assert speed > 0
    assert len(seen) == 4
    assert all("WHERE" in sql for sql in seen)


@pytest.mark.parametrize(
    ("speeds", "optimal", "curve"),
    [
        ({1: 100, 2: 200, 4: 400, 8: 800}, 8, "increasing"),
        ({1: 100, 2: 190, 4: 196, 8: 193}, 2, "plateau"),
        ({1: 100, 2: 200, 4: 150, 8: 90}, 2, "non_monotonic"),
        ({1: 100, 2: 99, 4: 98}, 1, "plateau"),
        ({1: 100, 2: 50}, 1, "plateau"),
    ],
)
def test_the_fewest_workers_that_are_nearly_fastest_win(speeds, optimal, curve):
    made = judge("t", 9, {workers: [float(speed)] * 3 for workers, speed in speeds.items()})
    assert (made.optimal_workers, made.curve) == (optimal, curve)
    assert made.confidence == {"increasing": 0.75, "plateau": 1.0, "non_monotonic": 0.7}[curve]
    assert 0.15 <= made.signal_strength <= 1


def test_probes_that_differ_are_trusted_less():
    sure = judge("t", 9, {1: [100.0, 100.0], 2: [200.0, 200.0]})
    unsure = judge("t", 9, {1: [10.0, 190.0], 2: [20.0, 380.0]})
    assert unsure.confidence < 0.5 < sure.confidence


def test_an_empty_table_has_a_flat_curve():
    made = judge("t", 0, {1: [0.0, 0.0], 2: [0.0, 0.0]})
    assert (made.optimal_workers, made.signal_strength) == (1, 0.15)
