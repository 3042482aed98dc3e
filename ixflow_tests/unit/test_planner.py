"""The planner's rules: what they decide from which facts, without any database."""

from __future__ import annotations

from itertools import pairwise

import pyarrow as pa
import pytest

from ixflow.extraction.context import RuntimeContext, resolve_workers
from ixflow.extraction.cost import GB, CostConfig
from ixflow.extraction.planner import NOT_RECOMMENDED, SAFE, WARNINGS, Facts, decide
from ixflow.extraction.profile import SourceProfile, skew
from ixflow.values import Column, TableName, TablePart

MB = 1 << 20


def table(
    rows=5_000_000, size=800 * MB, *, pages=100_000, parts=None, connections=100, shares=True
) -> SourceProfile:
    name = TableName("orders", "shop")
    return SourceProfile(
        object_name="shop.orders",
        table=name,
        columns=(Column("id", "bigint", pa.int64(), nullable=False, key_position=1),),
        parts=parts or (TablePart(name, only=True, pages=pages, rows=rows, size_bytes=size),),
        row_count_estimate=rows,
        size_bytes=size,
        pages=pages,
        cv=0.0,
        max_connections=connections,
        active_connections=0,
        connection_ms=1.0,
        latency_p50_ms=0.1,
        latency_p95_ms=0.2,
        shares_snapshot=shares,
    )


def test_a_big_table_is_read_in_page_ranges_by_several_workers():
    draft = decide(Facts(table(), cpus=16))
    assert (draft.strategy, draft.workers, draft.verdict) == ("page_ranges", 8, SAFE)
    assert len(draft.tasks) == 32


@pytest.mark.parametrize("size", [641, 700, 5_000])
def test_no_worker_is_idle_while_another_reads_a_last_task(size):
    draft = decide(Facts(table(size=size * MB), cpus=3))
    assert draft.workers == 3
    assert len(draft.tasks) % 3 == 0


def test_a_small_table_is_read_in_one_task_by_one_worker():
    draft = decide(Facts(table(rows=99_999, size=40 * MB), cpus=16))
    assert (draft.strategy, draft.workers, len(draft.tasks)) == ("single_pass", 1, 1)


def test_few_rows_of_great_size_are_split_too():
    draft = decide(Facts(table(rows=1_000, size=5 * GB, pages=10_000), cpus=16))
    assert draft.strategy == "page_ranges"
    assert draft.workers == 8


def test_a_database_without_shared_snapshots_has_one_reader_and_one_task():
    draft = decide(Facts(table(shares=False, pages=None), cpus=16))
    assert (draft.workers, len(draft.tasks), draft.tasks[0].pages) == (1, 1, None)


def test_the_ranges_of_a_table_meet_without_gap_and_have_no_end():
    ranges = [task.pages for task in decide(Facts(table(), cpus=4)).tasks]
    assert ranges[0] is not None
    assert ranges[0][0] == 0
    assert all(a and b and a[1] == b[0] for a, b in pairwise(ranges))
    assert ranges[-1] is not None
    assert ranges[-1][1] is None


def test_each_partition_has_tasks_of_its_own_and_the_largest_come_first():
    parts = (
        TablePart(TableName("small", "s"), only=True, pages=10, rows=10, size_bytes=MB),
        TablePart(
            TableName("large", "s"), only=True, pages=50_000, rows=10**6, size_bytes=400 * MB
        ),
    )
    tasks = decide(Facts(table(rows=10**6, size=401 * MB, parts=parts), cpus=4)).tasks
    assert tasks[0].part.table.name == "large"
    assert tasks[-1].part.table.name == "small"
    assert tasks[-1].pages is None
    assert [task.chunk_id for task in tasks] == [f"{n:03d}" for n in range(1, len(tasks) + 1)]


@pytest.mark.parametrize(
    ("facts", "workers", "source"),
    [
        (Facts(table(), cpus=2), 2, "profiler recommended, capped by processors"),
        (Facts(table(connections=8), cpus=64), 4, "profiler recommended"),
        (Facts(table(), cpus=64, max_workers=3), 3, "profiler recommended, capped by the intent"),
    ],
)
def test_workers_are_capped_and_the_cap_is_named(facts, workers, source):
    draft = decide(facts)
    assert (draft.workers, draft.worker_source) == (workers, source)


def test_the_documented_example_of_a_context_gives_two_workers():
    context = RuntimeContext(source_load="high", network_quality="degraded", priority="low")
    assert [n for _, n in resolve_workers(8, context).steps] == [8, 3, 2]


@pytest.mark.parametrize(
    ("context", "workers"),
    [
        (RuntimeContext(), 8),
        (RuntimeContext(max_workers=4), 4),
        (RuntimeContext(priority="high"), 8),
        (RuntimeContext(source_load="high", priority="high"), 5),
        (RuntimeContext(source_load="high", min_workers=6), 6),
        (RuntimeContext(max_workers=1, source_load="high"), 1),
    ],
)
def test_a_context_moves_the_workers_within_its_limits(context, workers):
    assert resolve_workers(8, context).workers == workers


def test_more_workers_than_connections_is_not_recommended():
    draft = decide(Facts(table(connections=8), RuntimeContext(min_workers=5), cpus=16))
    assert draft.verdict == NOT_RECOMMENDED
    assert draft.blocks == ("min_workers 5 is above the 4 that can be had",)


@pytest.mark.parametrize(
    ("context", "verdict", "word"),
    [
        (RuntimeContext(target_duration_seconds=1), WARNINGS, "target duration"),
        (RuntimeContext(egress_budget_gb=0.1), WARNINGS, "egress budget"),
        (RuntimeContext(disk_budget_gb=0.8), WARNINGS, "disk budget"),
        (RuntimeContext(disk_budget_gb=0.1), NOT_RECOMMENDED, "disk budget"),
        (RuntimeContext(maintenance_window_minutes=0.01), NOT_RECOMMENDED, "maintenance window"),
        (RuntimeContext(target_duration_seconds=10**6, egress_budget_gb=99), SAFE, ""),
    ],
)
def test_a_limit_that_is_exceeded_is_named(context, verdict, word):
    draft = decide(Facts(table(), context, cpus=4))
    assert draft.verdict == verdict
    assert word in "; ".join([*draft.blocks, *draft.warnings])
    assert bool(draft.blocks + draft.warnings) is bool(word)


def test_a_full_disk_is_not_recommended():
    assert decide(Facts(table(), free_bytes=MB)).verdict == NOT_RECOMMENDED


def test_rows_outside_of_the_database_are_not_called_one_snapshot():
    parts = (TablePart(TableName("far", "s"), in_snapshot=False),)
    draft = decide(Facts(table(parts=parts)))
    assert (draft.consistency, draft.verdict) == ("per connection", WARNINGS)


def test_the_cost_is_workers_times_seconds_and_gigabytes():
    rates = CostConfig(compute_rate=1, egress_rate=8, connection_rate=0.5)
    draft = decide(Facts(table(size=GB), rates=rates, cpus=4))
    assert draft.cost is not None
    assert draft.cost.compute == pytest.approx(draft.workers * draft.seconds)
    assert draft.cost.connections == pytest.approx(draft.cost.compute / 2)
    assert draft.cost.egress == 8
    assert draft.cost.total == pytest.approx(sum(draft.cost.breakdown.values()))


def test_there_is_no_cost_without_rates():
    assert decide(Facts(table(), rates=CostConfig())).cost is None


def test_skew_is_nothing_for_even_keys_and_most_for_one_far_key():
    assert skew(range(101)) == 0
    assert skew([*range(100), 10**9]) == pytest.approx(2.97, abs=0.05)
    assert skew([]) == 0
    assert skew([7] * 50) == 0
