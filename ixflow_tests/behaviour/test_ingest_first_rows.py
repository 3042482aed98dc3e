"""The first rows of a table go straight into it, and are merged as others where that cannot be."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from ixflow.dialects import run
from ixflow.errors import IngestError
from ixflow.ingestion.ingest import ingest
from ixflow_tests.behaviour.ingesting import ingested, people, rows


@pytest.fixture
def table(fresh_postgres: sa.Engine) -> sa.Table:
    """Give a table that exists and has no rows."""
    declared = people()
    ingested(fresh_postgres, declared, [])
    return declared


def _statements(engine: sa.Engine) -> list[str]:
    seen: list[str] = []

    @sa.event.listens_for(engine, "before_cursor_execute")
    def note(_conn, _cursor, statement, *_):
        seen.append(statement)

    return seen


def test_first_rows_wait_nowhere(fresh_postgres, table):
    seen = _statements(fresh_postgres)
    found = ingested(fresh_postgres, table, [(n, str(n)) for n in range(3000)])
    assert found.rows_inserted == 3000
    assert [text for text in seen if "_ixflow_stage_" in text] == []


def test_rows_that_repeat_a_key_replace_those_that_went_straight_in(fresh_postgres, table):
    given = [(n % 700, str(n)) for n in range(2000)]
    found = ingested(fresh_postgres, table, given, max_rows_per_table_buffer=100)
    assert set(rows(fresh_postgres, table)) == set(dict(given).items())
    assert found.rows_inserted == 700


def test_many_small_pieces_arrive_whole(fresh_postgres, table):
    """More than the transactions within one that PostgreSQL keeps at hand."""
    seen = _statements(fresh_postgres)
    found = ingested(
        fresh_postgres, table, [(n, str(n)) for n in range(1000)], max_rows_per_table_buffer=5
    )
    assert (found.rows_inserted, found.rows_updated) == (1000, 0)
    assert len(rows(fresh_postgres, table)) == 1000
    assert len([text for text in seen if text.startswith("SAVEPOINT")]) <= 64


def test_a_row_that_another_session_adds_meanwhile_is_replaced(fresh_postgres, table):
    def given():
        for n in range(200):
            if n == 150:
                with fresh_postgres.begin() as other:
                    run(other, "INSERT INTO app.people VALUES (160, 'theirs')")
            yield table, (n, "ours")

    with fresh_postgres.connect() as conn:
        found = ingest(conn, table.metadata, lambda _: [(None, None, given())])
    assert set(rows(fresh_postgres, table)) == {(n, "ours") for n in range(200)}
    assert (found.rows_inserted, found.rows_updated) == (199, 1)


def test_what_the_generator_does_on_the_connection_outlives_a_refused_piece(fresh_postgres, table):
    def given(conn):
        for n in range(64):
            yield table, (n, "first")
        run(conn, "CREATE TABLE app.made_between AS SELECT 1 AS x")
        for n in range(60, 200):
            yield table, (n, "second")

    with fresh_postgres.connect() as conn:
        ingest(conn, table.metadata, lambda _: [(None, None, given(conn))])
    names = {n: "first" if n < 60 else "second" for n in range(200)}
    assert set(rows(fresh_postgres, table)) == set(names.items())
    with fresh_postgres.connect() as conn:
        assert run(conn, "SELECT x FROM app.made_between").scalar_one() == 1


def test_rows_that_a_trigger_drops_are_not_counted(fresh_postgres, table):
    with fresh_postgres.begin() as conn:
        run(
            conn,
            "CREATE FUNCTION app.even() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            "IF NEW.id % 2 = 1 THEN RETURN NULL; END IF; RETURN NEW; END $$;"
            "CREATE TRIGGER even BEFORE INSERT ON app.people "
            "FOR EACH ROW EXECUTE FUNCTION app.even()",
        )
    found = ingested(fresh_postgres, table, [(n, "x") for n in range(100)])
    assert found.rows_inserted == 50
    assert len(rows(fresh_postgres, table)) == 50


def test_a_statement_that_somebody_ends_is_not_tried_in_another_way(fresh_postgres, table):
    """The check cancels the statement the first time, and lets every row pass later."""
    with fresh_postgres.begin() as conn:
        run(
            conn,
            "CREATE SEQUENCE app.calls; "
            "CREATE FUNCTION app.passes() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN "
            "IF nextval('app.calls') = 50 THEN RAISE EXCEPTION 'ended' USING ERRCODE = '57014'; "
            "END IF; RETURN true; END $$; "
            "ALTER TABLE app.people ADD CHECK (app.passes())",
        )
    with pytest.raises(IngestError, match="ended"):
        ingested(fresh_postgres, table, [(n, "x") for n in range(100)])
    assert rows(fresh_postgres, table) == []


def test_a_row_without_a_key_is_refused_also_among_many_unchanged(fresh_postgres, table):
    given = [(n, "x") for n in range(100)]
    ingested(fresh_postgres, table, given)
    with pytest.raises(Exception, match="null value in column"):
        ingested(fresh_postgres, table, [*given, (None, "nobody")])
    assert len(rows(fresh_postgres, table)) == 100


def test_a_key_under_a_loose_collation_is_one_key(fresh_postgres):
    with fresh_postgres.begin() as conn:
        run(
            conn,
            "CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level2', "
            "deterministic = false)",
        )
    table = sa.Table(
        "people",
        sa.MetaData(schema="app"),
        sa.Column("id", sa.VARCHAR(collation="loose"), primary_key=True),
        sa.Column("name", sa.VARCHAR),
    )
    ingested(fresh_postgres, table, [("a", "1"), ("b", "1"), ("c", "1"), ("d", "1")])
    ingested(fresh_postgres, table, [("A", "2"), ("a", "1"), ("b", "1"), ("c", "1"), ("d", "1")])
    assert set(rows(fresh_postgres, table)) == {("a", "1"), ("b", "1"), ("c", "1"), ("d", "1")}
