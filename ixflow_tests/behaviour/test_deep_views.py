"""A table on which a long chain of views hangs is replaced like any other."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from ixflow.dialects import run
from ixflow_tests.behaviour.ingesting import ingested, oid, people

DEPTH = 120


def definitions(engine: sa.Engine) -> dict[str, str]:
    query = """SELECT relname, pg_get_viewdef(oid) FROM pg_class
               WHERE relkind IN ('v', 'm') AND relnamespace = 'app'::regnamespace"""
    with engine.connect() as conn:
        return {name: text for name, text in run(conn, query)}  # noqa: C416 - rows are no pairs


@pytest.mark.parametrize("every", [1, 3])
def test_a_chain_of_views_is_kept(fresh_postgres, every):
    """All of them materialized, or every third, so that views over views are among them."""
    ingested(fresh_postgres, people(), [(1, "a")])
    with fresh_postgres.begin() as conn:
        for number in range(DEPTH):
            below = f"app.v{number - 1}" if number else "app.people"
            kind = "VIEW" if number % every else "MATERIALIZED VIEW"
            run(conn, f"CREATE {kind} app.v{number} AS SELECT * FROM {below}")
    before, first = definitions(fresh_postgres), oid(fresh_postgres, people())
    more = people(sa.Column("more", sa.INTEGER))
    ingested(fresh_postgres, more, [(2, "b", 3)])
    assert oid(fresh_postgres, more) != first
    after = definitions(fresh_postgres)
    assert len(after) == DEPTH
    assert {name for name in before if after[name] != before[name]} == set()
    with fresh_postgres.connect() as conn:
        last = run(conn, f"SELECT id, name FROM app.v{DEPTH - 1} ORDER BY id").all()
    assert [tuple(row) for row in last] == [(1, "a"), (2, "b")]
