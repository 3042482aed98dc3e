"""Collecting what abandoned and replaced transactions of a stage left behind.

A transaction that failed is kept so that it can be resumed: for the store's ``gc_after``, or until
a later one publishes the stage, but then for an hour at least, since it may be another process at
work. Its record outlives its tables for ``gc_after``, so that its schema's name is not used again.
What waits to be published by hand is kept until its own time is over, and it is told when it goes.
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
from ixflow.store.waiting import COLLECTED, WAITING, all_waiting, end_waiting, forget_waiting

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
    if record.state == WAITING:  # its time is that until which it waits
        return age > dt.timedelta(0)
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
        forget_waiting(store, conn, stage, record.schema)
        store.metadata.forget_transaction(conn, stage, record.schema)
        return
    if record.state == WAITING:
        _tell_of_waiting(store, conn, stage, record)
    store.metadata.forget(conn, stage, record.schema)
    store.drop_scope(conn, record.schema)
    # DuckDB keeps the tables that are published: they go when another version takes their place.
    if not store.tables_in(conn, record.schema):
        done = dataclasses.replace(record, state="collected")
        store.metadata.put_transaction(conn, stage, done)


def _tell_of_waiting(
    store: SQLTableStore, conn: sa.Connection, stage: str, record: TransactionRecord
) -> None:
    """Say that something goes that nobody has published, here and to whoever asks for it later."""
    for one in all_waiting(store, conn, stage):
        if one.schema == record.schema and not one.ended:
            end_waiting(store, conn, stage, one, COLLECTED)
            _log.warning(
                "stage %s: transaction %s waited for approval from %s to %s, and is dropped now",
                stage,
                one.transaction_id,
                one.since,
                one.until,
            )
