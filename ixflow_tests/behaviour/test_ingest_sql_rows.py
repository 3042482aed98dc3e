"""Rows that the server finds itself: SQL in the place of tuples, with both drivers."""

from __future__ import annotations

from typing import Any

import psycopg.sql
import psycopg2.sql
import pytest
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from ixflow.errors import IngestError
from ixflow_tests.behaviour.ingesting import ingested, people, rows

DRIVERS: dict[str, Any] = {"psycopg": psycopg.sql, "psycopg2": psycopg2.sql}


@pytest.fixture(params=DRIVERS)
def driver(request):
    return request.param


@pytest.fixture
def engine(fresh_postgres, driver):
    made = sa.create_engine(fresh_postgres.url.set(drivername=f"postgresql+{driver}"))
    yield made
    made.dispose()


@pytest.mark.parametrize("key", [True, False])
def test_sql_gives_rows_like_any_other(engine, driver, key):
    sql, table = DRIVERS[driver], people(key=key)
    select = sql.SQL("SELECT n, 'it''s 100% :n' FROM generate_series(1, 3) n")
    composed = sql.SQL("(name, id) VALUES ({}, {})").format(sql.Literal("o'x"), sql.Literal(7))
    done = ingested(engine, table, [(0, "tuple"), select, composed, (9, "last")])
    assert done.rows_inserted == 6
    names = [row[1] for row in rows(engine, table)]
    assert sorted(names) == sorted(["tuple", *["it's 100% :n"] * 3, "o'x", "last"])


def test_sql_is_upserted_and_the_last_row_of_a_key_wins(engine, driver):
    sql, table = DRIVERS[driver], people()
    ingested(engine, table, [(1, "old"), (2, "same")])
    again = [(1, "tuple"), sql.SQL("VALUES (1, 'new'), (2, 'same')")]
    done = ingested(engine, table, again)
    assert (done.rows_inserted, done.rows_updated) == (0, 2)
    assert rows(engine, table) == [(1, "new"), (2, "same")]


def test_types_that_wait_as_text_come_from_sql_too(engine, driver):
    table = people(sa.Column("j", JSONB))
    more = DRIVERS[driver].SQL("""VALUES (1, 'a', '{"a": [1]}'::jsonb)""")
    ingested(engine, table, [(1, "a", {"a": 0})])
    ingested(engine, table, [more])
    assert rows(engine, table) == [(1, "a", {"a": [1]})]


def test_sql_that_does_not_fit_is_an_ingest_error(engine, driver):
    table = people()
    with pytest.raises(IngestError, match="more expressions than target columns"):
        ingested(engine, table, [DRIVERS[driver].SQL("VALUES (1, 'a', 2)")])


@pytest.mark.parametrize("there", [False, True])
def test_of_tuples_and_sql_with_one_key_the_later_wins_wherever_its_row_fits(engine, driver, there):
    """Wide rows leave gaps in their pages, which INSERT fills with what comes later."""
    sql, table = DRIVERS[driver], people()
    if there:
        ingested(engine, table, [(5000, "other")])
    wide = [(n, "x" * (3000 if n % 2 else 5000)) for n in range(60)]
    many = sql.SQL("SELECT n, 'sql' FROM generate_series(0, 59) n")
    done = ingested(engine, table, [*wide, many, (7, "tuple again"), (8, "and again")])
    found = dict(rows(engine, table))
    assert (found[7], found[8], found[9]) == ("tuple again", "and again", "sql")
    assert len(found) == 60 + there
    assert done.rows_inserted == 60
