"""Ranges of pages read every row of a table exactly once, wherever they are cut."""

from __future__ import annotations

import itertools

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ixflow.dialects import dialect_named, run
from ixflow.extraction.context import RuntimeContext
from ixflow.extraction.planner import Facts, decide
from ixflow.extraction.profile import SourceProfile
from ixflow.values import Column, TableName, TablePart

_names = itertools.count(1)
DIALECT = dialect_named("postgresql")

sizes = st.integers(0, 10**13)
part = st.builds(
    TablePart,
    table=st.builds(TableName, st.uuids().map(str)),
    only=st.just(value=True),
    pages=st.none() | st.integers(0, 10**9),
    rows=st.integers(-1, 10**10),
    size_bytes=sizes,
)


@given(
    parts=st.lists(part, min_size=1, max_size=6),
    cpus=st.integers(1, 64),
    least=st.none() | st.integers(1, 8),
)
def test_the_tasks_of_each_part_cover_all_its_pages_once(parts, cpus, least):
    profile = SourceProfile(
        object_name="t",
        table=TableName("t"),
        columns=(Column("id", "bigint", pa.int64()),),
        parts=tuple(parts),
        row_count_estimate=sum(max(0, p.rows) for p in parts),
        size_bytes=sum(p.size_bytes for p in parts),
        pages=None,
        cv=0.0,
        max_connections=100,
        active_connections=0,
        connection_ms=0.0,
        latency_p50_ms=0.0,
        latency_p95_ms=0.0,
        shares_snapshot=True,
    )
    draft = decide(Facts(profile, RuntimeContext(min_workers=least), cpus=cpus))
    assert 1 <= draft.workers <= len(draft.tasks)
    assert len({task.chunk_id for task in draft.tasks}) == len(draft.tasks)
    for each in parts:
        ranges = [task.pages for task in draft.tasks if task.part == each]
        if ranges == [None]:
            continue
        known = sorted(pages for pages in ranges if pages is not None)
        assert len(known) == len(ranges)
        assert known[0][0] == 0
        assert known[-1][1] is None
        assert all(low[1] == high[0] > low[0] for low, high in itertools.pairwise(known))


@settings(max_examples=15)
@given(
    rows=st.integers(0, 1_500),
    width=st.integers(0, 900),
    gone=st.integers(1, 7),
    cuts=st.lists(st.integers(1, 60), unique=True, max_size=6),
)
def test_any_cuts_of_a_real_table_give_each_row_once(fresh_postgres, rows, width, gone, cuts):
    name = TableName(f"t{next(_names)}")
    with fresh_postgres.begin() as conn:
        run(conn, f"CREATE TABLE {name} (id int, filler text) WITH (autovacuum_enabled = off)")
        run(
            conn,
            f"INSERT INTO {name} SELECT n, repeat('x', {width}) FROM generate_series(1, {rows}) n",
        )
        run(conn, f"DELETE FROM {name} WHERE id % {gone} = 1")
        run(conn, f"UPDATE {name} SET filler = filler || 'y' WHERE id % 3 = 0")
        (whole,) = DIALECT.parts(conn, name)
        bounds = [0, *sorted(cuts), None]
        found: list[int] = []
        for first, end in itertools.pairwise(bounds):
            sql = DIALECT.select_part(
                whole, DIALECT.columns(conn, name)[:1], pages=(first or 0, end)
            )
            found += run(conn, sql).scalars().all()
        assert sorted(found) == run(conn, f"SELECT id FROM {name} ORDER BY 1").scalars().all()


def test_a_range_is_read_by_a_tid_range_scan(fresh_postgres):
    with fresh_postgres.begin() as conn:
        run(
            conn,
            "CREATE TABLE t AS SELECT n, repeat('x', 90) AS x FROM generate_series(1, 9000) n",
        )
        run(conn, "ANALYZE t")
        (whole,) = DIALECT.parts(conn, TableName("t"))
        columns = DIALECT.columns(conn, TableName("t"))
        for pages in ((0, 10), (10, 20), (20, None)):
            sql = DIALECT.select_part(whole, columns, pages=pages)
            said = "\n".join(run(conn, f"EXPLAIN {sql}").scalars())
            assert "Tid Range Scan" in said
            assert "Seq Scan" not in said


def test_only_a_table_with_pages_can_be_read_by_pages():
    sqlite = dialect_named("sqlite")
    with pytest.raises(ValueError, match="range of pages"):
        sqlite.select_part(TablePart(TableName("t")), (), pages=(0, 1))
