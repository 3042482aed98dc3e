"""The versions of a stage that are kept: listing them, finding their tables, rolling back.

A table that is replaced is set aside with the version that it was last published in. So a version
has some of its tables aside, others with later versions, and those that never changed are the
published ones: which, say the records of the tables, that are equal for one and the same table.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ixflow.errors import StageError
from ixflow.store.collect import collect, kept_versions
from ixflow.store.metadata import Publication, StageState, StoredTable
from ixflow.store.publish import NewState, publish_state
from ixflow.values import TableName, new_run_id

if TYPE_CHECKING:
    import sqlalchemy as sa

    from ixflow.store.sql_store import SQLTableStore

__all__ = ["Rollback", "StageVersion", "VersionHistory", "history", "rollback", "versions"]

_ROLLBACK = "rollback-to-"


@dataclass(frozen=True, slots=True)
class StageVersion:
    """A version of a stage: the published one, or one that is kept to roll back to.

    ``run`` is the transaction id of the run that published it. ``tables`` are its tables with
    their numbers of rows. It is not ``whole`` if a table of it was dropped by somebody else.
    """

    version: int
    published_at: dt.datetime
    run: str
    tables: Mapping[str, int]
    published: bool = False
    whole: bool = True

    @property
    def rows(self) -> int:
        """The number of rows of all its tables."""
        return sum(self.tables.values())


@dataclass(frozen=True, slots=True)
class Rollback:
    """What a rollback did: the new version, and the one whose tables it has.

    ``state`` is what is published now, ``before`` what was.
    """

    version: int
    restored: int
    published: tuple[str, ...]
    dropped: tuple[str, ...]
    state: StageState = field(default_factory=StageState, repr=False)
    before: StageState = field(default_factory=StageState, repr=False)


@dataclass(frozen=True, slots=True)
class VersionHistory:
    """What is known of a stage's versions, newest first, in one database transaction."""

    stage: str
    place: str
    current: Publication | None
    published: StageState
    kept: tuple[tuple[Publication, str, StageState], ...]
    present: Mapping[str, frozenset[str]]
    """The tables that are in the schema of each kept version, and in the published one."""

    def state(self, version: int | None = None) -> StageState:
        """Give the tables and results of a kept version; None: of the newest one.

        Raises:
            StageError: it is not kept.

        """
        for publication, _, state in self.kept:
            if version in (None, publication.version):
                return state
        known = ", ".join(str(one.version) for one, _, _ in self.kept)
        wanted = "no version before it" if version is None else f"no version {version}"
        published = "nothing" if self.current is None else f"version {self.current.version}"
        msg = (
            f"stage {self.stage} has {wanted} to go back to: it keeps {known or 'none'}, "
            f"{published} is published; say how many to keep with keep_versions"
        )
        raise StageError(msg, stage=self.stage, version=version)

    def scope_of(self, table: StoredTable) -> str | None:
        """Say in which scope a table of any version is; None: somebody else has dropped it."""
        scopes = [(self.place, self.published), *((scope, state) for _, scope, state in self.kept)]
        for scope, state in scopes:
            if state.tables.get(table.name) == table:
                return scope if table.name in self.present[scope] else None
        return None

    def located(self, state: StageState) -> dict[str, str]:
        """Map the tables of a version that are there to the scopes they are in."""
        found = {name: self.scope_of(table) for name, table in state.tables.items()}
        return {name: scope for name, scope in found.items() if scope is not None}


def history(store: SQLTableStore, conn: sa.Connection, stage: str) -> VersionHistory:
    """Read the versions of a stage."""
    place, metadata = store.schema(stage), store.metadata
    if not metadata.installed(conn):
        return VersionHistory(stage, place, None, StageState(), (), {place: frozenset()})
    kept = tuple(
        (
            Publication(record.attempt, record.transaction_id, record.seen_at),
            record.schema,
            metadata.state(conn, place, record.schema),
        )
        for record in kept_versions(metadata.transactions(conn, place))
    )
    scopes = [place, *(scope for _, scope, _ in kept)]
    present = {scope: frozenset(store.tables_in(conn, scope)) for scope in scopes}
    published = metadata.state(conn, place)
    return VersionHistory(stage, place, metadata.publication(conn, place), published, kept, present)


def versions(store: SQLTableStore, stage: str) -> tuple[StageVersion, ...]:
    """List the versions of a stage, newest first: the published one and those that are kept."""
    with store.begin() as conn:
        found = history(store, conn, stage)
    if found.current is None:
        return ()
    return (
        _described(found, found.current, found.published, published=True),
        *(_described(found, one, state, published=False) for one, _, state in found.kept),
    )


def _described(
    found: VersionHistory, one: Publication, state: StageState, *, published: bool
) -> StageVersion:
    return StageVersion(
        one.version,
        dt.datetime.fromisoformat(one.published_at),
        one.transaction_id,
        {name: state.tables[name].rows for name in sorted(state.tables)},
        published,
        len(found.located(state)) == len(state.tables),
    )


def rollback(
    store: SQLTableStore,
    stage: str,
    version: int | None = None,
    *,
    keep: int | None = None,
    by: str = "",
) -> Rollback:
    """Publish the tables and results of a kept version again, as a new version.

    None is the version before the published one. That one is kept, at least until the next
    publication, so that a rollback can be undone; ``keep`` is how many are, None: as the store
    does. ``by`` names who asks: asking again under the same name, as a retry does, gives what the
    first time did.

    Raises:
        StageError: the version is not kept, or a table of it is gone; or another was published
            since the same one has rolled back.
        ReplacementRefused: an object that is not the stage's own is in the way.
        LockNotAvailable: readers held the tables for too long.

    """
    place = store.schema(stage)
    with store.locked(f"stage {place}") as conn:
        found = history(store, conn, stage)
        done = _done_before(found, by)
        if done is not None:
            return done
        wanted = found.state(version)
        restored = next(one.version for one, _, state in found.kept if state is wanted)
        scopes = found.located(wanted)
        _refuse_lost(found, restored, sorted(set(wanted.tables) - set(scopes)))
        new = NewState(
            (0 if found.current is None else found.current.version) + 1,
            f"{_ROLLBACK}{restored}-{by or new_run_id()}",
            wanted.tables,
            wanted.results,
            {name: scope for name, scope in scopes.items() if scope != place},
            sorted(set(found.published.tables) - set(wanted.tables)),
        )
        publish_state(store, conn, stage, new, keeps=True)
    collect(store, place, "", keep=max(1, store.keep_versions if keep is None else keep))
    return Rollback(
        new.version,
        restored,
        tuple(sorted(new.sources)),
        tuple(new.drops),
        StageState(new.version, new.tables, tuple(new.results)),
        found.published,
    )


def _done_before(found: VersionHistory, by: str) -> Rollback | None:
    """Tell again what the same one has done, who was killed before he could tell it."""
    last = next((one for one in found.kept if by and _is_by(one[0], by)), None)
    if last is not None and found.current is not None:
        number, now = last[0].version, found.current.version
        msg = (
            f"stage {found.stage} was rolled back already, as version {number}, and version {now} "
            f"was published since; to roll that back, start another rollback"
        )
        raise StageError(msg, stage=found.stage, version=number)
    if found.current is None or not by or not _is_by(found.current, by):
        return None
    version, state, before = found.current.version, found.published, StageState()
    if found.kept:
        one, _, before = found.kept[0]
        before = replace(before, version=one.version)
    changed = (name for name, table in state.tables.items() if table != before.tables.get(name))
    return Rollback(
        version,
        int(found.current.transaction_id.removeprefix(_ROLLBACK).partition("-")[0]),
        tuple(sorted(changed)),
        tuple(sorted(set(before.tables) - set(state.tables))),
        replace(state, version=version),
        before,
    )


def _is_by(one: Publication, by: str) -> bool:
    run = one.transaction_id
    return run.startswith(_ROLLBACK) and run.removeprefix(_ROLLBACK).partition("-")[2] == by


def _refuse_lost(found: VersionHistory, version: int, lost: Sequence[str]) -> None:
    if lost:
        names = ", ".join(str(TableName(name, found.place)) for name in lost)
        msg = (
            f"version {version} of stage {found.stage} cannot be published again: somebody has "
            f"dropped its {names}; roll back to another version, or run the flow"
        )
        raise StageError(msg, stage=found.stage, version=version, tables=list(lost))
