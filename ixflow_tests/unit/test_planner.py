"""The planner's rules: what they decide from which facts, without any database."""

from __future__ import annotations

from itertools import pairwise

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ixflow.extraction.context import RuntimeContext, resolve_workers
from ixflow.extraction.cost import GB, CostConfig, compare_costs, cost_lines
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


@pytest.mark.parametrize(
    ("context", "steps"),
    [
        ({"source_maintenance_scheduled": True}, [("base", 8), ("maintenance x0.5", 4)]),
        ({"source_maintenance_scheduled": False}, [("base", 8)]),
        (
            {
                "source_load": "high",
                "network_quality": "degraded",
                "source_maintenance_scheduled": True,
            },
            [("base", 8), ("load and network and maintenance x0.25", 2)],
        ),
        (
            {"max_workers": 6, "source_load": "high", "priority": "high"},
            [("base", 8), ("hard caps", 6), ("load x0.5", 3), ("priority high", 3)],
        ),
    ],
)
def test_each_stage_of_a_context_is_shown(context, steps):
    assert list(resolve_workers(8, RuntimeContext(**context)).steps) == steps


def test_a_priority_that_changes_nothing_is_said():
    assert resolve_workers(4, RuntimeContext(priority="low")).warnings == ()
    said = ("priority high changed nothing",)
    assert resolve_workers(4, RuntimeContext(priority="high")).warnings == said
    assert resolve_workers(1, RuntimeContext(priority="low")).warnings == (
        "priority low changed nothing",
    )


@pytest.mark.parametrize(
    ("cap", "others", "workers", "verdict"),
    [
        (9, 0, 8, SAFE),
        (9, 4, 4, SAFE),
        (9, 8, 1, SAFE),
        (9, 9, 1, NOT_RECOMMENDED),
        (None, 9, 8, SAFE),
    ],
)
def test_extractions_elsewhere_take_their_connections_from_the_cap(cap, others, workers, verdict):
    context = RuntimeContext(max_source_connections=cap, concurrent_extractions=others)
    draft = decide(Facts(table(), context, cpus=16, connection_cap=cap))
    assert (draft.workers, draft.verdict) == (workers, verdict)
    assert any("no connection is left" in said for said in draft.blocks) is (
        verdict == NOT_RECOMMENDED
    )
    assert bool(draft.resolution.warnings) is (cap is None)


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 64),
    st.none() | st.integers(1, 32),
    st.fixed_dictionaries(
        {},
        optional={
            "source_load": st.sampled_from(["low", "normal", "high"]),
            "network_quality": st.sampled_from(["good", "normal", "degraded"]),
            "priority": st.sampled_from(["low", "normal", "high"]),
            "source_maintenance_scheduled": st.booleans(),
            "max_workers": st.integers(8, 64),
            "min_workers": st.integers(1, 8),
        },
    ),
)
def test_no_context_leaves_its_limits_nor_raises_the_workers(base, limit, given_):
    context = RuntimeContext(**given_)
    found = resolve_workers(base, context, limit=limit)
    least = context.min_workers or 1
    most = min(base, limit or base, context.max_workers or base)
    assert 1 <= found.workers <= max(most, min(least, limit or least))
    assert found.workers >= min(least, limit or least)
    assert bool(found.infeasible) is (limit is not None and least > limit)
    assert found.workers == found.steps[-1][1]
    free = {k: v for k, v in given_.items() if k in ("min_workers", "max_workers")}
    assert found.workers <= resolve_workers(base, RuntimeContext(**free), limit=limit).workers


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


@pytest.mark.parametrize(("times", "verdict"), [(1.19, NOT_RECOMMENDED), (1.21, SAFE)])
def test_a_disk_needs_a_fifth_more_than_the_table_has(times, verdict):
    free = int(table().size_bytes * times)
    assert decide(Facts(table(), free_bytes=free)).verdict == verdict


def test_a_target_that_is_missed_says_how_many_workers_it_would_take():
    usual = decide(Facts(table(), RuntimeContext(max_workers=2), cpus=8))

    def advice(target):
        limits = RuntimeContext(max_workers=2, target_duration_seconds=target)
        (said,) = decide(Facts(table(), limits, cpus=8)).warnings
        return said

    assert usual.workers == 2
    assert "; about 8 workers would be needed, at most 2 can be had" in advice(usual.seconds / 2)
    limits = RuntimeContext(source_load="high", target_duration_seconds=usual.seconds / 1.3)
    (said,) = decide(Facts(table(), limits, cpus=4)).warnings
    assert said.endswith("; about 4 workers would be needed")


def test_an_egress_budget_says_by_how_much_it_is_exceeded():
    limits = RuntimeContext(egress_budget_gb=0.5)
    (said,) = decide(Facts(table(size=GB), limits)).warnings
    assert said == "egress budget: up to 1.00 GB, the budget is 0.5 GB (100% over)"
    (said,) = decide(Facts(table(size=GB), RuntimeContext(egress_budget_gb=0))).warnings
    assert said.endswith("the budget is 0 GB")


@pytest.mark.parametrize(("connections", "warned"), [(100, True), (1, False)])
def test_a_long_snapshot_of_one_connection_keeps_a_server_from_cleaning_up_too(connections, warned):
    huge = table(rows=10**10, size=1 << 40, shares=False, pages=None, connections=connections)
    said = "; ".join(decide(Facts(huge)).warnings)
    assert ("the snapshot stays open" in said) is warned


def test_what_forbids_a_plan_is_said_in_the_order_of_its_weight():
    limits = RuntimeContext(
        min_workers=60, maintenance_window_minutes=0.01, disk_budget_gb=0.1, egress_budget_gb=0
    )
    draft = decide(Facts(table(), limits, cpus=4, free_bytes=0))
    words = ["min_workers", "maintenance window", "disk budget", "disk space"]
    assert [said.startswith(word) for said, word in zip(draft.blocks, words, strict=True)] == 4 * [
        True
    ]
    assert (len(draft.warnings), draft.verdict) == (1, NOT_RECOMMENDED)


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
    draft = decide(Facts(table(), rates=CostConfig()))
    assert (draft.cost, draft.cost_options) == (None, ())


def test_half_as_many_and_half_as_many_more_workers_are_priced_beside_the_planned():
    rates = CostConfig(compute_rate=1)
    draft = decide(Facts(table(), RuntimeContext(max_workers=4), rates, cpus=16))
    options = {option.workers: option for option in draft.cost_options}
    # No more than the four that can be had.
    assert set(options) == {2, 4}
    assert options[4].is_planned
    assert draft.cost is not None
    assert options[4].cost == pytest.approx(draft.cost.total, rel=1e-3)
    assert options[2].estimated_duration_seconds == pytest.approx(draft.seconds * 2**0.5, rel=1e-3)
    *_, last = cost_lines(draft.cost_options)
    assert last.startswith("  saving ")
    assert last.endswith("(+41%)")


@settings(max_examples=100, deadline=None)
@given(
    st.builds(CostConfig, *[st.floats(0, 10)] * 3),
    st.integers(1, 16),
    st.integers(1, 16),
    st.floats(0, 10**5),
)
def test_a_comparison_keeps_the_planned_and_none_that_is_worse_in_both(rates, workers, most, time):
    options = compare_costs(rates, workers=workers, most=most, seconds=time, size_bytes=GB)
    assert bool(options) is (not rates.is_zero and time > 0)
    assert sum(option.is_planned for option in options) == bool(options)
    assert {option.workers for option in options} <= set(range(1, max(workers, most) + 1))
    for one, other in pairwise(option for option in options if not option.is_planned):
        assert one.estimated_duration_seconds > other.estimated_duration_seconds
        assert one.cost < other.cost


def test_skew_is_nothing_for_even_keys_and_most_for_one_far_key():
    assert skew(range(101)) == 0
    assert skew([*range(100), 10**9]) == pytest.approx(2.97, abs=0.05)
    assert skew([]) == 0
    assert skew([7] * 50) == 0
