"""Instances and warehouses as Dagster sees them."""

from collections.abc import Iterator

import dagster as dg
import pytest
import sqlalchemy as sa

import ixflow.dagster as ixd


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """Give an instance that keeps its events in memory."""
    with dg.DagsterInstance.ephemeral() as made:
        yield made


@pytest.fixture
def warehouse(warehouse_engine: sa.Engine) -> Iterator[ixd.SQLTableStoreResource]:
    """Give a table store resource on a fresh database of each kind."""
    made = resource_of(warehouse_engine)
    yield made
    made.store().dispose()


@pytest.fixture
def duckdb_warehouse(fresh_duckdb: sa.Engine) -> ixd.SQLTableStoreResource:
    """Give a table store resource on a fresh DuckDB file."""
    return resource_of(fresh_duckdb)


def resource_of(engine: sa.Engine) -> ixd.SQLTableStoreResource:
    """Make the resource of an engine's database."""
    return ixd.SQLTableStoreResource(url=engine.url.render_as_string(hide_password=False))
