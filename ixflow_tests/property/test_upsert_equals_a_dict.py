"""Whatever is there and whatever comes, an upsert leaves what a dict of the rows would hold."""

from __future__ import annotations

import decimal
import functools
import itertools
from collections.abc import Iterator

import hypothesis
import hypothesis.strategies as st
import pyarrow as pa
import sqlalchemy as sa

from ixflow.dialects import run
from ixflow.ingestion.ingest import ingest

_KEYS = st.tuples(st.integers(0, 12), st.sampled_from(["a", "A", "ä", ""]))
_VALUES = st.tuples(
    st.none() | st.sampled_from(["x", "X", ""]),
    st.none() | st.decimals(-2, 2, places=2, allow_nan=False),
)
_ROWS = st.lists(st.tuples(_KEYS, _VALUES), max_size=25)
_KINDS = ("tuples", "table", "reader")
_numbers = itertools.count(1)


def _table(name: str) -> sa.Table:
    return sa.Table(
        name,
        sa.MetaData(schema="app"),
        sa.Column("n", sa.INTEGER, primary_key=True, autoincrement=False),
        sa.Column("t", sa.VARCHAR, primary_key=True),
        sa.Column("name", sa.VARCHAR),
        sa.Column("amount", sa.NUMERIC(12, 2)),
    )


def _given(batches, _high_watermark):
    return batches


def _flat(rows):
    return [(*key, *values) for key, values in rows]


def _pairs(table: sa.Table, rows, kind: str) -> Iterator[tuple[sa.Table, object]]:
    if kind == "tuples":
        return ((table, row) for row in _flat(rows))
    columns = list(zip(*_flat(rows), strict=True)) or [(), (), (), ()]
    types = [pa.int32(), pa.string(), pa.string(), pa.decimal128(12, 2)]
    arrays = [pa.array(values, type_) for values, type_ in zip(columns, types, strict=True)]
    made = pa.table(arrays, names=["n", "t", "name", "amount"])
    return iter([(table, made if kind == "table" else made.to_reader())])


A, B, C = ((number, "a") for number in range(3))
ONE, TWO = ("x", None), ("X", decimal.Decimal("1.00"))
# Nearly all are there already, and the last row of one key takes back what the one before changed.
_TAKEN_BACK = [
    [([(A, ONE), (B, ONE), (C, ONE)], "tuples")],
    [([(A, TWO), (A, ONE), (B, ONE), (B, ONE), (C, ONE), (C, ONE)], "table")],
]
# A key comes again in a later piece, when the first have gone straight into the table.
_AGAIN = [[([(A, ONE)], "tuples"), ([(B, ONE)], "table"), ([(A, TWO), (C, ONE)], "table")]]


def test_an_upsert_leaves_what_a_dict_would(warehouse_engine):
    @hypothesis.settings(max_examples=40, deadline=None)
    @hypothesis.given(
        st.booleans(),
        st.lists(
            st.lists(st.tuples(_ROWS, st.sampled_from(_KINDS)), max_size=3), min_size=1, max_size=3
        ),
    )
    @hypothesis.example(created=False, batches=_TAKEN_BACK)
    @hypothesis.example(created=True, batches=_AGAIN)
    def check(created, batches):
        table = _table(f"t{next(_numbers)}")
        expected: dict[object, object] = {}
        with warehouse_engine.connect() as conn:
            if created:
                ingest(conn, table.metadata, lambda _: [(None, None, [])])
            for parts in batches:
                before = dict(expected)
                for rows, _ in parts:
                    expected.update(rows)
                pairs = itertools.chain.from_iterable(_pairs(table, *part) for part in parts)
                batch = [(None, None, pairs)]
                found = ingest(conn, table.metadata, functools.partial(_given, batch))
                counts = found.tables[f"app.{table.name}"]
                there = run(conn, f'SELECT * FROM app."{table.name}"').all()
                conn.rollback()
                assert {tuple(row) for row in there} == set(_flat(expected.items()))
                assert len(there) == len(expected)
                assert counts.inserted == len(set(expected) - set(before))
                differing = {k for k, v in before.items() if v != expected[k]}
                assert counts.updated >= len(differing)

    check()
