"""How plans use what earlier runs tell."""

from __future__ import annotations

import dataclasses

import pyarrow as pa
import pytest

from ixflow.extraction.context import RuntimeContext
from ixflow.extraction.controller import MOST_WORKERS, ControllerState, Sample
from ixflow.extraction.experience import BenchmarkFacts, Experience, shape_of
from ixflow.extraction.intent import ExtractionIntent
from ixflow.extraction.planner import Facts, decide
from ixflow.extraction.profile import SourceProfile
from ixflow.values import Column, TableName, TablePart

ID = Column("id", "bigint", pa.int64(), nullable=False, key_position=1)
ORDERS = TableName("orders", "shop")


def table(rows=1_200_000, size=600 << 20, connections=100) -> SourceProfile:
    part = TablePart(ORDERS, only=True, pages=size >> 13, rows=rows, size_bytes=size)
    return SourceProfile(
        object_name="shop.orders",
        table=ORDERS,
        columns=(ID,),
        parts=(part,),
        row_count_estimate=rows,
        size_bytes=size,
        pages=part.pages,
        cv=0.0,
        max_connections=connections,
        active_connections=0,
        connection_ms=1.0,
        latency_p50_ms=0.1,
        latency_p95_ms=0.2,
        shares_snapshot=True,
    )


def searching(workers: int, *, converged=False) -> Experience:
    return Experience(controller=ControllerState(workers, 2, converged=converged, cap=8))


def benchmarked(workers: int) -> Experience:
    facts = BenchmarkFacts(workers, confidence=0.9, signal_strength=0.9, row_estimate=1_200_000)
    return Experience(controller=ControllerState(2, 2), benchmark=facts)


@pytest.mark.parametrize(
    ("known", "workers", "source"),
    [
        (Experience(), 2, "profiler recommended"),
        (searching(3), 3, "controller exploring"),
        (searching(5, converged=True), 5, "controller converged"),
        (benchmarked(6), 6, "benchmarked"),
    ],
)
def test_workers_come_from_the_best_that_is_known(known, workers, source):
    draft = decide(Facts(table(), cpus=16, known=known))
    assert (draft.workers, draft.worker_source) == (workers, source)


@pytest.mark.parametrize(
    ("limit", "workers", "by"),
    [
        ({"cpus": 4}, 4, "processors"),
        ({"cpus": 16, "profile": table(connections=6)}, 3, "connections"),
        ({"cpus": 16, "max_workers": 2}, 2, "the intent"),
        ({"cpus": 16, "memory_workers": 2}, 2, "the memory budget"),
        ({"cpus": 16, "connection_cap": 4}, 3, "the cap on connections"),
    ],
)
def test_what_was_learned_is_capped_and_the_chain_says_by_what(limit, workers, by):
    draft = decide(Facts(**{"profile": table(), "known": searching(8), **limit}))
    assert draft.workers == workers
    assert draft.worker_source == f"controller exploring, capped by {by}"
    steps = [("profiler recommended", 2), ("controller exploring", 8), ("base", workers)]
    assert list(draft.resolution.steps) == steps
    assert draft.worker_cap == workers
    assert draft.held_back is (by == "the intent")


def test_a_context_works_on_what_was_learned():
    high = RuntimeContext(source_load="high")
    draft = decide(Facts(table(), high, cpus=16, known=searching(6)))
    assert draft.workers == 3
    assert draft.worker_source == "controller exploring, runtime context applied"


def test_a_search_has_a_bound_also_on_a_large_machine():
    draft = decide(Facts(table(connections=1_000), cpus=128))
    assert draft.worker_cap == MOST_WORKERS


def test_equal_facts_give_equal_drafts():
    samples = tuple(Sample(n, 2, 1_000.0 + n, rows=1_200_000) for n in range(9))
    known = dataclasses.replace(searching(3), samples=samples)
    first, second = (decide(Facts(table(), cpus=4, known=known)) for _ in range(2))
    assert first == second
    assert first.throughput.method == "history"
    assert first.seconds == pytest.approx(1_200_000 / first.throughput.value, abs=0.1)


def intent(**changes) -> ExtractionIntent:
    return ExtractionIntent("sqlite", {"database": "shop.db"}, "orders", **changes)


@pytest.mark.parametrize(
    "change",
    [
        {"where": "id > 1"},
        {"mask": {"id": "null"}},
        {"output_format": "csv"},
        {"compression": "none"},
        {"output_dir": "s3://lake/raw"},
        {"mode": "incremental", "incremental_key": "id"},
    ],
)
def test_what_is_read_or_written_otherwise_is_another_shape(change):
    assert shape_of(intent(**change), [ID]) != shape_of(intent(), [ID])


@pytest.mark.parametrize(
    "change",
    [{"max_workers": 3}, {"output_dir": "/elsewhere"}, {"require_snapshot": True}],
)
def test_what_changes_no_work_is_the_same_shape(change):
    assert shape_of(intent(**change), [ID]) == shape_of(intent(), [ID])


def test_other_columns_are_another_shape():
    text = dataclasses.replace(ID, type=pa.string(), as_text=True)
    assert len({shape_of(intent(), columns) for columns in ([ID], [text], [ID, text])}) == 3
