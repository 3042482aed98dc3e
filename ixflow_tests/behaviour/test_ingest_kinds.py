"""Tables that are declared partitioned, temporary or unlogged."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from ixflow.errors import DataError, ReplacementRefused, ValidationError
from ixflow_tests.behaviour.ingesting import ingested, people, relations, rows
from ixflow_tests.behaviour.swapping import execute, value


@pytest.mark.parametrize("by", ["LIST (id)", "RANGE (id)", "HASH (id)"])
def test_a_partition_that_is_not_there_is_named_with_what_to_do(fresh_postgres, by):
    table = people(postgresql_partition_by=by)
    with pytest.raises(DataError, match=r"no partition for a row with \(id\) = \(1\).*create_all"):
        ingested(fresh_postgres, table, [(1, "Ann")])
    assert relations(fresh_postgres) == set()
    execute(fresh_postgres, "CREATE SCHEMA app")
    table.metadata.create_all(fresh_postgres)
    bounds = {
        "LIST (id)": "FOR VALUES IN (1)",
        "RANGE (id)": "FOR VALUES FROM (0) TO (2)",
        "HASH (id)": "FOR VALUES WITH (MODULUS 1, REMAINDER 0)",
    }
    execute(fresh_postgres, f"CREATE TABLE app.one PARTITION OF app.people {bounds[by]}")
    ingested(fresh_postgres, table, [(1, "Ann")])
    assert rows(fresh_postgres, table) == [(1, "Ann")]
    if "HASH" not in by:
        with pytest.raises(DataError, match=r"no partition for a row with \(id\) = \(7\)"):
            ingested(fresh_postgres, table, [(7, "Eve")])
    with pytest.raises(ReplacementRefused, match=r"partition app\.one of app\.people"):
        ingested(fresh_postgres, people(sa.Column("x", sa.INTEGER)), [(1, "Ann", 1)])
    assert rows(fresh_postgres, table) == [(1, "Ann")]


@pytest.mark.parametrize("word", ["TEMPORARY", "temp", "GLOBAL TEMPORARY", "FOREIGN"])
def test_a_kind_of_table_that_nobody_else_would_see_is_refused(fresh_postgres, word):
    for schema in ("app", None):
        table = people(prefixes=[word], schema=schema)
        with pytest.raises(ValidationError, match=rf"people is declared with .*{word.upper()}"):
            ingested(fresh_postgres, table, [(1, "Ann")])
    assert relations(fresh_postgres) == set()


def test_an_unlogged_table_is_made_so_and_stays_so(fresh_postgres):
    kind = "SELECT relpersistence FROM pg_class WHERE oid = 'app.people'::regclass"
    ingested(fresh_postgres, people(prefixes=["UNLOGGED"]), [(1, "Ann")])
    assert value(fresh_postgres, kind) == "u"
    more = people(sa.Column("x", sa.INTEGER))
    ingested(fresh_postgres, more, [(1, "Ann", 1)])
    assert value(fresh_postgres, kind) == "u"


def test_duckdb_makes_no_such_tables(fresh_duckdb):
    for word in ("UNLOGGED", "TEMPORARY"):
        with pytest.raises(ValidationError, match=word):
            ingested(fresh_duckdb, people(prefixes=[word]), [(1, "Ann")])
