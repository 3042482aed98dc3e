"""Rows that the source no longer has go, or are marked; never more of them than may."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import INET

from ixflow.errors import TooManyMissing, ValidationError
from ixflow.ingestion.ingest import ingest
from ixflow.ingestion.missing import Missing
from ixflow.ingestion.options import Delete, HighWatermark, Upsert
from ixflow_tests.behaviour.ingesting import batches, ingested, oid, people, relations, rows

ALL: dict[str, Any] = {"high_watermark": HighWatermark.EARLIEST}
PEOPLE = [(n, f"p{n}") for n in range(1, 11)]


@pytest.fixture
def engine(warehouse_engine):
    return warehouse_engine


def ids(engine, table):
    return [row[0] for row in rows(engine, table)]


def test_rows_that_no_batch_gave_are_deleted_behind_the_last(engine):
    table = people()
    ingested(engine, table, PEOPLE)
    before = relations(engine), oid(engine, table)
    done = ingested(engine, table, PEOPLE[:4], PEOPLE[3:8], delete=Delete.MISSING, **ALL)
    assert sorted(ids(engine, table)) == list(range(1, 9))
    assert done.tables["app.people"].deleted == 2
    assert done.high_watermark_after == 2
    assert (relations(engine), oid(engine, table)) == before


def test_a_first_ingest_and_one_that_migrates_delete_nothing_that_was_given(engine):
    table = people()
    ingested(engine, table, PEOPLE, delete=Delete.MISSING)
    assert len(rows(engine, table)) == 10
    wider = people(sa.Column("note", sa.VARCHAR))
    some = [(*row, "x") for row in PEOPLE[:7]]
    done = ingested(engine, wider, some[:3], some[3:], delete=Delete.MISSING, **ALL)
    assert sorted(ids(engine, wider)) == list(range(1, 8))
    assert done.tables["app.people"].deleted == 3


def test_too_many_missing_rows_stop_it_and_none_is_deleted(engine):
    table = people()
    ingested(engine, table, PEOPLE)
    with pytest.raises(TooManyMissing, match=r"7 of 10 rows of app\.people") as caught:
        ingested(engine, table, [(1, "new"), *PEOPLE[1:3]], delete=Delete.MISSING, **ALL)
    assert (caught.value.missing, caught.value.rows) == (7, 10)
    assert len(rows(engine, table)) == 10
    assert (1, "new") in rows(engine, table)
    ingested(engine, table, PEOPLE[:3], delete=Missing(refuse_above=1), **ALL)
    assert sorted(ids(engine, table)) == [1, 2, 3]


def test_no_batches_delete_nothing_and_an_empty_batch_is_an_answer(engine):
    table = people()
    ingested(engine, table, PEOPLE)
    ingested(engine, table, delete=Missing(refuse_above=1), **ALL)
    assert len(rows(engine, table)) == 10
    with pytest.raises(TooManyMissing):
        ingested(engine, table, [], delete=Delete.MISSING, **ALL)
    ingested(engine, table, [], delete=Missing(refuse_above=1), **ALL)
    assert rows(engine, table) == []


def test_missing_rows_can_be_marked_and_lose_the_mark_when_they_come_again(engine):
    table = people(sa.Column("gone", sa.TIMESTAMP(timezone=True)))
    mark = Missing(mark="gone")
    given = [(*row, None) for row in PEOPLE]
    ingested(engine, table, given)
    done = ingested(engine, table, given[:8], delete=mark, **ALL)
    assert done.tables["app.people"].deleted == 2
    assert [row[0] for row in rows(engine, table) if row[2]] == [10, 9]
    again = ingested(engine, table, given[:9], delete=mark, **ALL)
    assert again.tables["app.people"].deleted == 0
    assert [row[0] for row in rows(engine, table) if row[2]] == [10]


def test_composite_keys_and_keys_that_wait_as_text_are_compared_by_value(fresh_postgres):
    table = sa.Table(
        "hosts",
        sa.MetaData(),
        sa.Column("net", INET, primary_key=True),
        sa.Column("name", sa.VARCHAR, primary_key=True),
        schema="app",
    )
    hosts = [("10.0.0.1", "a"), ("10.0.0.1", "b"), ("10.0.0.2", "a")]
    ingested(fresh_postgres, table, hosts)
    ingested(fresh_postgres, table, [("10.0.0.1/32", "b"), hosts[2]], delete=Delete.MISSING, **ALL)
    assert [(str(net), name) for net, name in rows(fresh_postgres, table)] == hosts[1:]


def test_an_ingest_that_fails_deletes_nothing_and_leaves_no_table(engine):
    table = people()
    ingested(engine, table, PEOPLE)
    before = relations(engine)

    def breaks(_):
        yield from batches(table, PEOPLE[:1])(None)
        raise RuntimeError

    with engine.connect() as conn:
        with pytest.raises(RuntimeError):
            ingest(conn, table.metadata, breaks, delete=Delete.MISSING, **ALL)
        ingest(conn, table.metadata, batches(table, PEOPLE[:9]), delete=Delete.MISSING, **ALL)
    assert len(rows(engine, table)) == 9
    assert relations(engine) == before


def test_what_cannot_tell_missing_rows_is_refused_before_anything_happens(engine):
    table = people()
    ingested(engine, table, PEOPLE)
    with pytest.raises(ValidationError, match=r"high_watermark=HighWatermark\.EARLIEST"):
        ingested(engine, table, PEOPLE, delete=Delete.MISSING)
    with pytest.raises(ValidationError, match="no primary key"):
        ingested(engine, people(key=False), [], delete=Delete.MISSING, **ALL)
    with pytest.raises(ValidationError, match="no primary key"):
        ingested(engine, table, [], delete=Delete.MISSING, upsert=Upsert.OFF, **ALL)
    with pytest.raises(ValidationError, match="no column gone"):
        ingested(engine, table, [], delete=Missing(mark="gone"), **ALL)
    with pytest.raises(ValidationError, match="share of the rows"):
        Missing(refuse_above=50)
    assert len(rows(engine, table)) == 10
