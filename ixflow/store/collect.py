"""Collecting what abandoned and replaced transactions of a stage left behind.

A transaction that failed is kept so that it can be resumed: for the store's ``gc_after``, or until
a later one publishes the stage, but then for an hour at least, since it may be another process at
work. Its record outlives its tables for ``gc_after``, so that its schema's name is not used again.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import logging
from typing import TYPE_CHECKING

import sqlalchemy as sa

from ixflow.errors import IxflowError
from ixflow.store.metadata import TransactionRecord

if TYPE_CHECKING:
    from ixflow.store.sql_store import SQLTableStore

__all__ = ["collect", "is_over"]

_log = logging.getLogger("ixflow.store")
_MAY_BE_RUNNING = dt.timedelta(hours=1)


def is_over(store: SQLTableStore, record: TransactionRecord, own: str, *, committed: bool) -> bool:
    """Say whether there can be something of an attempt to collect.

    ``own`` is the schema of the transaction that asks, ``committed`` that it has just published.
    """
    if record.state == "committed":
        return True
    if record.state == "open" and record.schema == own:
        return False
    age = dt.datetime.now(dt.UTC) - dt.datetime.fromisoformat(record.seen_at)
    replaced = record.state == "open" and committed
    return age > store.gc_after or (replaced and age > _MAY_BE_RUNNING)


def collect(store: SQLTableStore, stage: str, own: str, *, committed: bool) -> None:
    """Drop what the stage's old transactions left; failing to is no reason to fail the run."""
    try:
        with store.locked(f"stage {stage}") as conn:
            for record in store.metadata.transactions(conn, stage):
                if is_over(store, record, own, committed=committed):
                    _collect_one(store, conn, stage, record)
    except (IxflowError, sa.exc.DBAPIError):
        _log.warning("stage %s: old transactions remain", stage, exc_info=True)


def _collect_one(
    store: SQLTableStore, conn: sa.Connection, stage: str, record: TransactionRecord
) -> None:
    if record.state == "collected":
        store.metadata.forget_transaction(conn, stage, record.schema)
        return
    store.metadata.forget(conn, stage, record.schema)
    store.dialect.drop_schema(conn, record.schema)
    # DuckDB keeps the tables that are published: they go when another version takes their place.
    if not store.dialect.tables_in(conn, record.schema):
        done = dataclasses.replace(record, state="collected")
        store.metadata.put_transaction(conn, stage, done)
