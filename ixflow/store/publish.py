"""Putting one state of a stage in the place of another, in the caller's database transaction."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ixflow.errors import ReplacementRefused
from ixflow.store.metadata import (
    PUBLISHED,
    StageState,
    StoredResult,
    StoredTable,
    TransactionRecord,
)
from ixflow.store.published import Published
from ixflow.values import TableName

if TYPE_CHECKING:
    import sqlalchemy as sa

    from ixflow.store.sql_store import SQLTableStore

__all__ = ["KEPT", "NewState", "publish_state"]

KEPT = "kept"
"""The state of a version that was published before."""


@dataclass(frozen=True, slots=True)
class NewState:
    """What a stage shall be: ``sources`` maps the tables that appear to the scopes they are in.

    ``drops`` are those that disappear; the other ones of ``tables`` stay where they are.
    """

    version: int
    run: str
    tables: Mapping[str, StoredTable]
    results: Sequence[StoredResult]
    sources: Mapping[str, str]
    drops: Sequence[str]


def publish_state(
    store: SQLTableStore,
    conn: sa.Connection,
    stage: str,
    new: NewState,
    *,
    keeps: bool,
    found: Published | None = None,
    held: tuple[str, StageState] | None = None,
) -> None:
    """Publish a new state under the stage's lock; ``keeps`` the old one as a version.

    ``found`` is what is published, where that is known. The records of a transaction that ``held``
    names with its scope become those of the new state, or go.

    Raises:
        ReplacementRefused: an object that is not the stage's own is in the way.
        LockNotAvailable: readers held the old tables for too long.

    """
    place, metadata = store.schema(stage), store.metadata
    if found is None:
        found = Published.read(store, conn, stage)
    owned = set(found.records.tables)
    _refuse_foreign(stage, place, new, found.present - owned)
    old = found.publication if keeps else None
    scope = None if old is None else store.version_scope(stage, old.version)
    if new.sources or new.drops:
        _move(store, conn, new, owned, (place, scope))
    before = found.records
    if old is not None and scope is not None:
        metadata.forget(conn, place, scope)
        metadata.rescope(conn, place, PUBLISHED, scope)
        record = TransactionRecord(old.transaction_id, old.version, scope, KEPT, old.published_at)
        metadata.put_transaction(conn, place, record)
        before = StageState()
    after = StageState(new.version, new.tables, tuple(new.results))
    metadata.settle(conn, place, before, after, held)
    again = found.publication is not None
    metadata.set_version(conn, place, new.version, new.run, again=again)


def _move(
    store: SQLTableStore,
    conn: sa.Connection,
    new: NewState,
    owned: set[str],
    places: tuple[str, str | None],
) -> None:
    place, scope = places
    aside = {}
    if scope is not None and (old := owned & {*new.sources, *new.drops}):
        store.create_scope(conn, scope)
        aside = {
            TableName(name, place): store.physical(TableName(name, scope)) for name in sorted(old)
        }
    store.create_scope(conn, place)
    store.dialect.publish(
        conn,
        [
            (store.physical(TableName(name, source)), TableName(name, place))
            for name, source in sorted(new.sources.items())
        ],
        drops=[TableName(name, place) for name in new.drops],
        aside=aside,
        keeps_schemas=store.avoids_schemas,
        keeps_options=not store.details,
    )


def _refuse_foreign(stage: str, place: str, new: NewState, others: Collection[str]) -> None:
    """Refuse to replace a table of this schema that no stage of ours has written."""
    foreign = sorted(name for name in new.sources if name in others)
    if foreign:
        names = ", ".join(foreign)
        msg = (
            f"the schema {place} has {names} already, not written by stage {stage}; drop or "
            f"rename it, or rename the stage's table"
        )
        raise ReplacementRefused(msg, tables=foreign, stage=stage)
