"""Collecting what abandoned and replaced transactions of a stage left behind.

A transaction that failed is kept so that it can be resumed: for the store's ``gc_after``, or until
a later one publishes the stage, but then for an hour at least, since it may be another process at
work. Its record outlives its tables for ``gc_after``, so that its schema's name is not used again.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import sqlalchemy as sa

from ixflow.errors import IxflowError
from ixflow.store.metadata import TransactionRecord
from ixflow.store.publish import KEPT

if TYPE_CHECKING:
    from ixflow.store.sql_store import SQLTableStore

__all__ = ["collect", "is_over", "kept_versions"]

_log = logging.getLogger("ixflow.store")
_MAY_BE_RUNNING = dt.timedelta(hours=1)


def is_over(store: SQLTableStore, record: TransactionRecord, own: str, *, committed: bool) -> bool:
    """Say whether there can be something of an attempt to collect.

    ``own`` is the schema of the transaction that asks, ``committed`` that it has just published.
    """
    if record.state == KEPT:
        return False
    if record.state == "committed":
        return True
    if record.state == "open" and record.schema == own:
        return False
    age = dt.datetime.now(dt.UTC) - dt.datetime.fromisoformat(record.seen_at)
    replaced = record.state == "open" and committed
    return age > store.gc_after or (replaced and age > _MAY_BE_RUNNING)


def collect(store: SQLTableStore, stage: str, own: str, *, keep: int | None = None) -> None:
    """Drop what the stage's old transactions left; failing to is no reason to fail the run.

    ``keep`` is the number of versions to keep of a stage that has just been published, None: it
    was not.
    """
    records: list[TransactionRecord] = []
    try:
        with store.locked(f"stage {stage}") as conn:
            records = store.metadata.transactions(conn, stage)
            for record in records:
                if is_over(store, record, own, committed=keep is not None):
                    _collect_one(store, conn, stage, record)
    except (IxflowError, sa.exc.DBAPIError):
        _log.warning("stage %s: old transactions remain", stage, exc_info=True)
    if keep is not None:
        for record in reversed(kept_versions(records)[keep:]):
            _collect_version(store, stage, record)


def kept_versions(records: Sequence[TransactionRecord]) -> list[TransactionRecord]:
    """List the versions of a stage that are kept, newest first."""
    found = [record for record in records if record.state == KEPT]
    return sorted(found, key=lambda record: -record.attempt)


def _collect_version(store: SQLTableStore, stage: str, record: TransactionRecord) -> None:
    """Drop a version; no older one may have tables in its schema any more that are needed."""
    try:
        with store.locked(f"stage {stage}") as conn:
            store.metadata.forget(conn, stage, record.schema)
            # Views of users over an old version are theirs: nothing is dropped under them.
            store.drop_scope(conn, record.schema, dependents=False)
            store.metadata.forget_transaction(conn, stage, record.schema)
    except (IxflowError, sa.exc.DBAPIError):
        _log.warning(
            "stage %s: version %d remains, something may depend on it",
            stage,
            record.attempt,
            exc_info=True,
        )


def _collect_one(
    store: SQLTableStore, conn: sa.Connection, stage: str, record: TransactionRecord
) -> None:
    if record.state == "collected":
        store.metadata.forget_transaction(conn, stage, record.schema)
        return
    store.metadata.forget(conn, stage, record.schema)
    store.drop_scope(conn, record.schema)
    # DuckDB keeps the tables that are published: they go when another version takes their place.
    if not store.tables_in(conn, record.schema):
        done = dataclasses.replace(record, state="collected")
        store.metadata.put_transaction(conn, stage, done)
