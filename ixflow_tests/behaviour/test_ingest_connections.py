"""Connections that `ingest` is given: with options that it must not follow, or in a transaction."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from ixflow.dialects import run
from ixflow.errors import ValidationError
from ixflow.ingestion.ingest import ingest
from ixflow.ingestion.versioned import ingest_versioned
from ixflow_tests.behaviour.ingesting import batches, people, relations, rows


@pytest.fixture(params=["psycopg", "psycopg2"])
def engine(request: pytest.FixtureRequest, fresh_postgres: sa.Engine) -> Iterator[sa.Engine]:
    """Give PostgreSQL through both drivers."""
    made = sa.create_engine(fresh_postgres.url.set(drivername=f"postgresql+{request.param}"))
    yield made
    made.dispose()


@pytest.mark.parametrize("options", [{"stream_results": True}, {"yield_per": 1}])
def test_a_connection_that_streams_results_ingests_and_streams_again(engine, options):
    table, seen = people(), []

    def look(conn: sa.Connection, _: object) -> None:
        seen.append(run(conn, "SELECT count(*) FROM app.people").scalar())

    with engine.connect().execution_options(**options) as conn:
        for given in ([(1, "Ann"), (2, "Bob")], [(2, "Bill")]):
            ingest(conn=conn, metadata=table.metadata, batches=batches(table, given))
        ingest(conn, table.metadata, batches(table, [(3, "Cid")]), look, prove_arrival=True)
        assert all(conn.get_execution_options()[name] == it for name, it in options.items())
    assert seen == [3]
    assert rows(engine, table) == [(1, "Ann"), (2, "Bill"), (3, "Cid")]


def test_a_version_comes_over_a_connection_that_streams(engine):
    table = people()
    with engine.connect().execution_options(stream_results=True) as conn:
        ingest_versioned(conn, table, batches(table, [(1, "Ann")]), "1")
        ingest_versioned(conn, table, batches(table, [(2, "Bob")]), "2")
    assert rows(engine, table) == [(1, "Ann", "2"), (2, "Bob", "2")]


@pytest.mark.parametrize("how", ["a statement", "begin", "a savepoint", "the driver"])
def test_a_connection_in_a_transaction_is_refused_and_the_transaction_stays(engine, how):
    table = people()
    with engine.connect() as conn:
        if how == "the driver":
            conn.connection.driver_connection.cursor().execute("CREATE TABLE public.left_open ()")
        else:
            {"begin": conn.begin, "a savepoint": conn.begin_nested}.get(how, lambda: None)()
            run(conn, "CREATE TABLE public.left_open ()")
        with pytest.raises(ValidationError, match="in a transaction"):
            ingest(conn, table.metadata, batches(table, [(1, "Ann")]))
        conn.rollback()
        conn.connection.driver_connection.rollback()
    assert relations(engine) == set()


@pytest.mark.parametrize("how", ["engine", "connection", "driver"])
def test_autocommit_is_refused_before_anything_happens(engine, how):
    table = people()
    if how == "engine":
        engine = sa.create_engine(engine.url, isolation_level="AUTOCOMMIT")
    with engine.connect() as conn:
        if how == "connection":
            conn.execution_options(isolation_level="AUTOCOMMIT")
        elif how == "driver":
            conn.connection.driver_connection.autocommit = True
        with pytest.raises(ValidationError, match="AUTOCOMMIT"):
            ingest(conn, table.metadata, batches(table, [(1, "Ann")]))
        conn.detach()
    assert relations(engine) == set()
    engine.dispose()


def test_a_map_of_schemas_is_refused(engine):
    table = people()
    mapped = engine.execution_options(schema_translate_map={"app": "other"})
    with mapped.connect() as conn, pytest.raises(ValidationError, match="schema_translate_map"):
        ingest(conn, table.metadata, batches(table, [(1, "Ann")]))
    assert relations(engine) == set()
