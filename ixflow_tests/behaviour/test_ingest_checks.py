"""Rows that break a rule: the batch is refused, or they wait in quarantine until released."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from ixflow.dialects import run
from ixflow.errors import CheckFailed, IngestError, TableNotFound, ValidationError
from ixflow.ingestion.checks import RowCheck
from ixflow.ingestion.ingest import ingest
from ixflow.ingestion.options import Delete, Upsert
from ixflow.ingestion.release import release
from ixflow.values import TableName
from ixflow_tests.behaviour.ingesting import ingested, people, relations, rows

NAMED = RowCheck("has a name", "name <> ''  -- not NULL either", on_fail="quarantine")
SMALL = RowCheck("small id", "id < 100", on_fail="quarantine")
ASIDE = TableName("people__quarantine", "app")


@pytest.fixture
def engine(warehouse_engine):
    return warehouse_engine


def aside(engine):
    with engine.connect() as conn:
        found = run(conn, "SELECT id, name, ixflow_rule FROM app.people__quarantine ORDER BY id")
        return [tuple(row) for row in found]


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("key", [True, False])
def test_bad_rows_are_put_aside_with_their_rule_and_the_others_arrive(engine, key, there):
    table = people(key=key)
    if there:
        ingested(engine, table, [(50, "old")])
    batch = [(1, "a"), (2, ""), (3, None), (400, "d"), (500, None)]
    done = ingested(engine, table, batch, on_before_visible=[NAMED, SMALL])
    assert rows(engine, table) == [(1, "a"), *([(50, "old")] if there else [])]
    rules = {2: NAMED, 3: NAMED, 400: SMALL, 500: NAMED}
    assert aside(engine) == [(n, name, rules[n].name) for n, name in batch if n in rules]
    assert done.tables["app.people"].quarantined == 4
    assert done.rows_inserted == 1
    with engine.connect() as conn:
        facts = run(
            conn, "SELECT DISTINCT ixflow_run_id, ixflow_reason FROM app.people__quarantine"
        )
        assert {row[0] for row in facts} == {done.run_id}


def test_a_rule_that_refuses_rolls_its_batch_back_and_earlier_ones_stay(engine):
    table = people()
    strict = RowCheck("has a name", "name <> ''")
    with pytest.raises(CheckFailed, match=r"2 rows for app\.people break the rule 'has a name'"):
        ingested(
            engine, table, [(1, "a")], [(2, ""), (3, None), (4, "d")], on_before_visible=strict
        )
    assert rows(engine, table) == [(1, "a")]
    assert "app.people__quarantine" not in relations(engine)


def test_without_bad_rows_there_is_no_quarantine(engine):
    ingested(engine, people(), [(1, "a")], on_before_visible=[NAMED])
    assert "app.people__quarantine" not in relations(engine)


def test_rules_and_functions_go_together_and_functions_see_only_good_rows(engine):
    table, seen = people(), []

    def look(conn, found, _):
        seen.append(conn.execute(sa.select(sa.func.count()).select_from(found)).scalar_one())

    ingested(engine, table, [(1, "a"), (2, "")], on_before_visible=[look, NAMED])
    assert seen == [1]


def test_a_key_that_is_there_is_not_changed_by_a_bad_row(engine):
    table = people()
    ingested(engine, table, [(1, "good")])
    ingested(engine, table, [(1, "")], on_before_visible=[NAMED])
    assert rows(engine, table) == [(1, "good")]


def test_mended_rows_are_released_and_the_watermark_stays(engine):
    table = people()
    ingested(
        engine, table, [(1, "a"), (2, ""), (3, ""), (400, "d")], on_before_visible=[NAMED, SMALL]
    )
    with engine.begin() as conn:
        run(conn, "UPDATE app.people__quarantine SET name = 'mended' WHERE id = 2")
    with engine.connect() as conn:
        done = release(conn, table, rule=NAMED.name, checks=[NAMED])
    assert (done.rows_inserted, done.tables["app.people"].quarantined) == (1, 1)
    assert done.high_watermark_before == done.high_watermark_after == 1
    assert rows(engine, table) == [(1, "a"), (2, "mended")]
    assert [row[0] for row in aside(engine)] == [3, 400]
    with engine.connect() as conn:
        release(conn, table)
    assert [row[0] for row in rows(engine, table)] == [1, 2, 3, 400]
    assert aside(engine) == []


def test_a_release_that_fails_leaves_the_rows_where_they_are(engine):
    table = people()
    ingested(engine, table, [(1, "a"), (1, "")], on_before_visible=[NAMED])
    with engine.connect() as conn:
        with pytest.raises(IngestError):
            release(conn, table, upsert=Upsert.OFF)
        with pytest.raises(CheckFailed):
            release(conn, table, checks=[RowCheck("named", "name <> ''")])
    assert aside(engine) == [(1, "", NAMED.name)]


def test_columns_that_came_since_are_in_the_quarantine_and_released_as_null(engine):
    old, new = people(), people(sa.Column("note", sa.VARCHAR))
    ingested(engine, old, [(1, "a"), (2, "")], on_before_visible=[NAMED])
    ingested(engine, new, [(3, "", "x")], on_before_visible=[NAMED])
    with engine.connect() as conn:
        release(conn, new)
    assert rows(engine, new) == [(1, "a", None), (2, "", None), (3, "", "x")]


def test_a_rule_is_for_its_table_only_and_deletion_goes_with_rules(engine):
    metadata = sa.MetaData()
    one, two = (
        sa.Table(name, metadata, sa.Column("id", sa.INTEGER, primary_key=True), schema="app")
        for name in ("one", "two")
    )
    rule = RowCheck("positive", "id > 0", table=one, on_fail="quarantine")
    for _ in range(2):
        with engine.connect() as conn:
            ingest(
                conn,
                metadata,
                lambda _: [(1, None, [(one, (-1,)), (one, (1,)), (two, (-2,))])],
                on_before_visible=[rule],
                delete=Delete.BEFORE_FIRST_BATCH,
            )
    assert rows(engine, one) == [(1,)]
    assert rows(engine, two) == [(-2,)]
    assert len(rows(engine, TableName("one__quarantine", "app"))) == 2


def test_values_that_wait_as_text_are_judged_as_what_they_will_be(fresh_postgres):
    table = people(sa.Column("j", JSONB))
    rule = RowCheck("has a", "j ? 'a'", on_fail="quarantine")
    ingested(fresh_postgres, table, [(1, "x", {"a": 1}), (2, "y", {})], on_before_visible=rule)
    assert rows(fresh_postgres, table) == [(1, "x", {"a": 1})]


def test_a_condition_that_is_no_sql_is_an_ingest_error(engine):
    with pytest.raises(IngestError):
        ingested(engine, people(), [(1, "a")], on_before_visible=RowCheck("bad", "no such thing"))
    assert "app.people" not in relations(engine)


def test_what_is_no_rule_is_refused(engine):
    with pytest.raises(ValidationError, match="a function, a RowCheck, or a list"):
        ingested(engine, people(), [(1, "a")], on_before_visible=[NAMED, 5])
    with pytest.raises(ValidationError, match="refuse or quarantine"):
        RowCheck("x", "true", on_fail="drop")  # type: ignore[arg-type] # the point
    with pytest.raises(ValidationError, match="needs a name"):
        RowCheck("", "true")


def test_a_table_without_quarantine_has_nothing_to_release(engine):
    ingested(engine, people(), [(1, "a")])
    with engine.connect() as conn, pytest.raises(TableNotFound, match="has no quarantine"):
        release(conn, people())
