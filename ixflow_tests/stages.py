"""Small flows for the tests, and looking at what they published from outside."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ixflow.pipeline import Flow, Stage
from ixflow.store import SQLTableStore
from ixflow.tables.read import read_table
from ixflow.values import TableName

if TYPE_CHECKING:
    import sqlalchemy as sa

__all__ = ["execute", "objects", "one_stage", "rows", "transactions"]


def one_stage(*tasks: Any, name: str = "staging") -> Stage:
    """Declare a flow of one stage that calls the tasks without arguments."""
    with Flow("test") as flow, Stage(name):
        for task in tasks:
            task()
    return flow[name]


def rows(store: SQLTableStore, stage: str, table: str) -> list[dict[str, Any]]:
    """Read the published rows of a stage's table."""
    found = read_table(store.engine, TableName(table, store.schema(stage)))
    return list(found.to_pylist())


def objects(store: SQLTableStore, schema: str) -> tuple[str, ...]:
    """List what a schema holds."""
    with store.begin() as conn:
        return store.dialect.tables_in(conn, schema)


def transactions(store: SQLTableStore, stage: str) -> dict[str, str]:
    """Give the states of the remembered transactions of a stage, by schema."""
    with store.begin() as conn:
        if not store.metadata.installed(conn):
            return {}
        found = store.metadata.transactions(conn, store.schema(stage))
    return {record.schema: record.state for record in found}


def execute(engine: sa.Engine, *statements: str) -> None:
    """Run statements in one transaction."""
    with engine.begin() as conn:
        for statement in statements:
            conn.exec_driver_sql(statement)
