"""What feeds the columns of a query, read off the query."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from ixflow.store.lineage import column_sources

META = sa.MetaData()
A = sa.Table("a", META, sa.Column("id", sa.Integer), sa.Column("x", sa.Text), schema="s")
B = sa.Table("b", META, sa.Column("id", sa.Integer), sa.Column("y", sa.Text), schema="s")


def recursive():
    start = sa.select(A.c.id, A.c.x).cte("tree", recursive=True)
    return sa.select(
        start.union_all(sa.select(B.c.id, start.c.x).join(start, B.c.id == start.c.id))
    )


def nested():
    inner = sa.select(A.c.id.label("n"), sa.func.upper(A.c.x).label("u")).subquery("q")
    outer = sa.select(inner.c.u, (inner.c.n + 1).label("m")).cte("w")
    return sa.select(outer.c.m, outer.c.u, sa.literal(1))


def scalar():
    y = sa.select(sa.func.max(B.c.y)).where(B.c.id == A.c.id).scalar_subquery()
    return sa.select(A.c.id, y, sa.exists().where(B.c.id == A.c.id), sa.func.count())


SELF = A.alias("other")
JOINED = A.join(B, A.c.id == B.c.id)
QUERIES: dict[str, tuple[Any, list[str | None]]] = {
    "a table": (A, ["a.id", "a.x"]),
    "everything of a table": (sa.select(A), ["a.id", "a.x"]),
    "conditions feed nothing": (sa.select(A.c.x).where(A.c.id > 1).group_by(A.c.x), ["a.x"]),
    "an expression": (sa.select((A.c.id + sa.cast(A.c.x, sa.Integer)).label("n")), ["a.id a.x"]),
    "a join": (sa.select(JOINED), ["a.id", "a.x", "b.id", "b.y"]),
    "an alias of the same table": (sa.select(SELF.c.x, A.c.id), ["a.x", "a.id"]),
    "a subquery within a CTE": (nested(), ["a.id", "a.x", ""]),
    "a union": (
        sa.union_all(sa.select(A.c.x, A.c.id), sa.select(B.c.y, sa.null())),
        ["a.x b.y", "a.id"],
    ),
    "a union as a subquery": (
        sa.select(sa.union(sa.select(A.c.x), sa.select(B.c.y)).subquery().c.x),
        ["a.x b.y"],
    ),
    "a recursive CTE": (recursive(), ["a.id b.id", "a.x"]),
    "a window": (
        sa.select(sa.func.sum(A.c.id).over(partition_by=A.c.x, order_by=A.c.id)),
        ["a.id a.x"],
    ),
    "a case": (sa.select(sa.case((A.c.x == "1", A.c.id), else_=B.c.id)), ["a.id a.x b.id"]),
    "a filtered aggregate": (sa.select(sa.func.max(A.c.id).filter(A.c.x != "")), ["a.id a.x"]),
    "scalar subqueries": (scalar(), ["a.id", "b.y", "a.id b.id", ""]),
    "a lateral": (
        sa.select(sa.select(B.c.y).where(B.c.id == A.c.id).lateral("l").c.y, A.c.id),
        ["b.y", "a.id"],
    ),
    "values": (
        sa.select(sa.values(sa.column("v", sa.Integer), name="v").data([(1,)]).c.v, A.c.id),
        ["", "a.id"],
    ),
    "a function that gives rows": (
        sa.select(sa.func.unnest(A.c.x).table_valued("value").c.value),
        ["a.x"],
    ),
    "literal text": (sa.select(sa.literal_column("x + 1"), A.c.id, sa.text("y")), [None, "a.id"]),
    "an expression with text in it": (
        sa.select((A.c.id + sa.literal_column("n")).label("m"), A.c.x),
        [None, "a.x"],
    ),
    "a text as a subquery": (
        sa.select(sa.text("SELECT 1 AS n").columns(sa.column("n")).subquery().c.n, A.c.x),
        [None, "a.x"],
    ),
}


@pytest.mark.parametrize("name", QUERIES)
def test_the_columns_that_feed_a_query(name):
    query, wanted = QUERIES[name]
    found = column_sources(query)
    assert found is not None
    shown = [
        None if one is None else " ".join(sorted(f"{s.table}.{s.column}" for s in one))
        for one in found
    ]
    assert shown[: len(wanted)] == wanted
    assert {s.schema for one in found if one for s in one} <= {"s"}


@pytest.mark.parametrize("what", [sa.text("SELECT 1"), 1, "SELECT 1", None])
def test_what_is_text_or_no_query_tells_nothing(what):
    assert column_sources(what) is None
