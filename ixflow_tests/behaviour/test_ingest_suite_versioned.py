"""What users of pg-bulk-ingest may give to `ingest_versioned`."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from psycopg import sql

from ixflow.dialects import run
from ixflow.errors import ColumnMismatch, ValidationError
from ixflow.ingestion.options import HighWatermark
from ixflow.ingestion.versioned import ingest_versioned
from ixflow_tests.behaviour.ingesting import people, relations, rows
from ixflow_tests.servers import make_engine


@pytest.fixture(params=["psycopg", "psycopg2"])
def engine(request: pytest.FixtureRequest, fresh_postgres: sa.Engine) -> sa.Engine:
    """Give PostgreSQL through both drivers."""
    url = fresh_postgres.url.set(drivername=f"postgresql+{request.param}")
    return make_engine(url.render_as_string())


def versioned(engine: sa.Engine, table: sa.Table, version: str, *given: Any, **options: Any) -> str:
    """Ingest a version of one batch, and give the outcome."""
    with engine.connect() as conn:
        batch = (1, None, [(table, row) for row in given])
        return ingest_versioned(conn, table, lambda _: [batch], version, **options).outcome


def test_what_is_no_row_is_refused_and_the_version_begun_anew(engine):
    table = people()
    for row in ("1a", b"1a", {1, "a"}, None, 5):
        with pytest.raises(ColumnMismatch, match=r"row 0 for app\.people__1 "):
            versioned(engine, table, "1", row)
    for query in (sql.SQL("SELECT 1, 'a'"), sql.SQL("{}").format(sql.Literal(1))):
        with pytest.raises(ValidationError, match="SQL does not know the version"):
            versioned(engine, table, "1", query)
    assert versioned(engine, table, "1", (1, "Ann")) == "attached"
    assert rows(engine, table) == [(1, "Ann", "1")]


def test_autocommit_leaves_no_table(engine):
    automatic = engine.execution_options(isolation_level="AUTOCOMMIT")
    before = relations(engine)
    with pytest.raises(ValidationError, match="AUTOCOMMIT"):
        versioned(automatic, people(), "1", (1, "Ann"))
    assert relations(engine) == before


def test_identity_and_computed_columns_go_on_from_version_to_version(engine):
    table = sa.Table(
        "things",
        sa.MetaData(schema="app"),
        sa.Column("id", sa.BIGINT, sa.Identity(always=True), primary_key=True),
        sa.Column("a", sa.INTEGER),
        sa.Column("twice", sa.INTEGER, sa.Computed("a * 2", persisted=True)),
    )
    versioned(engine, table, "1", {"id": 1, "a": 5})
    versioned(engine, table, "2", {"id": 2, "a": 6})
    assert rows(engine, table) == [(1, 5, 10, "2"), (2, 6, 12, "2")]


def test_an_enumeration_stays_in_the_schema_it_was_declared_in(engine):
    with engine.begin() as conn:
        run(conn, "CREATE SCHEMA kinds")
    table = people(sa.Column("mood", sa.Enum("sad", "glad", name="mood", schema="kinds")))
    for version in ("1", "2"):
        one = (int(version), "Ann", "glad")
        versioned(engine, table, version, one, high_watermark=HighWatermark.EARLIEST)
    with engine.connect() as conn:
        query = "SELECT typnamespace::regnamespace::text FROM pg_type WHERE typname = 'mood'"
        assert run(conn, query).scalars().all() == ["kinds"]
    assert rows(engine, table) == [(2, "Ann", "glad", "2")]
