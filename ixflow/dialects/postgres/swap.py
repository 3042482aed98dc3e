"""Putting tables in the place of others on PostgreSQL, in one transaction, under short locks.

Everything happens in a savepoint of the caller's transaction: take the locks (dependent views
first, then the tables, as every reader does), note what hangs on the old tables, drop views and
tables, move the new tables in, put back what was noted. A lock that is not free at once lets go of
all of them and the whole savepoint is tried again (see `until_locked`), so that no reader ever
queues behind a queued swap for long, and none is ever the victim of a deadlock (the server looks
for deadlocks after one second).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import sqlalchemy as sa

from ixflow.dialects.base import NOTHING_ASIDE, run
from ixflow.dialects.postgres.aside import rename_parts_apart, set_free
from ixflow.dialects.postgres.attachments import (
    Attachments,
    attachments_of,
    refuse_unkeepable,
    restore,
)
from ixflow.dialects.postgres.catalog import regclass, regclasses
from ixflow.dialects.postgres.hanging import hanging, logged_as_made, put_back, take_off
from ixflow.dialects.postgres.locks import until_locked
from ixflow.dialects.postgres.own_parts import (
    OwnParts,
    Special,
    own_parts,
    put_on,
    release,
    special,
    take_domains,
)
from ixflow.dialects.postgres.plain import Replaced, all_plain
from ixflow.dialects.postgres.refusals import state_of
from ixflow.dialects.postgres.views import (
    DependentView,
    break_circles,
    dependent_views,
    recreate,
)
from ixflow.dialects.waiting import patience_for_locks
from ixflow.errors import ReplacementRefused
from ixflow.values import TableName

if TYPE_CHECKING:
    from ixflow.dialects.base import Dialect

__all__ = ["lock_writers", "swap"]

_WRONG_KIND = "42809"


def swap(
    dialect: Dialect,
    conn: sa.Connection,
    moves: Sequence[tuple[TableName, TableName]],
    *,
    drops: Sequence[TableName] = (),
    aside: Mapping[TableName, TableName] = NOTHING_ASIDE,
    timeout_seconds: float = 60,
    keeps_options: bool = True,
) -> None:
    """Replace tables, keeping grants, owner, comments and dependent views of each.

    Old tables that ``aside`` names are put there, and are then tables that nothing depends on.
    Without ``keeps_options`` a new table is logged or not as it was made.
    """
    places = [place for _, place in moves] + list(drops)
    names = {place: dialect.qualified(place) for place in places}

    def quickly() -> None:
        _swap_plain(dialect, conn, moves, drops, keeps_options=keeps_options)

    def work() -> None:
        _swap_once(dialect, conn, moves, drops, aside, keeps_options=keeps_options)

    if not aside:
        try:
            until_locked(conn, quickly, names, timeout_seconds)
        except _CloserLookNeeded:
            pass
        else:
            return
    until_locked(conn, work, names, timeout_seconds)


class _CloserLookNeeded(Exception):
    """Something hangs on an old table, or it is none; the locks are let go.

    Views are locked before their tables.
    """


def _swap_plain(
    dialect: Dialect,
    conn: sa.Connection,
    moves: Sequence[tuple[TableName, TableName]],
    drops: Sequence[TableName],
    *,
    keeps_options: bool,
) -> None:
    """Replace tables on which nothing hangs, as most are."""
    news, places = [new for new, _ in moves], [place for _, place in moves]
    oids = _oids(dialect, conn, [*places, *drops, *news])
    made = {place: oids[new] for new, place in moves}
    old = [
        Replaced(dialect.qualified(place), oid, made.get(place))
        for place in (*places, *drops)
        if (oid := oids[place]) is not None
    ]
    try:
        _lock(dialect, conn, (), [place for place in (*places, *drops) if oids[place] is not None])
    except sa.exc.DBAPIError as error:
        if state_of(error) != _WRONG_KIND:
            raise
        raise _CloserLookNeeded from error
    renamed = any(new.name != place.name for new, place in moves)
    if not all_plain(conn, old, keeps_options=keeps_options, renamed=renamed):
        raise _CloserLookNeeded
    gone = [f"DROP TABLE {', '.join(one.name for one in old)}"] if old else []
    _run_all(conn, [*gone, *(one for pair in moves for one in _moving(dialect, *pair))])


def lock_writers(
    dialect: Dialect,
    conn: sa.Connection,
    table: TableName,
    *,
    timeout_seconds: float = 60,
) -> None:
    """Keep others from writing to a table until the transaction ends; reading stays possible."""
    qualified = dialect.qualified(table)
    statement = f"LOCK TABLE {qualified} IN SHARE ROW EXCLUSIVE MODE"

    def lock() -> None:
        oid = regclass(conn, qualified)
        refuse_other_kinds(conn, {table: oid})
        run(conn, statement)
        _refuse_hidden_rows(conn, table, oid)

    until_locked(conn, lock, {table: qualified}, timeout_seconds)


def _refuse_hidden_rows(conn: sa.Connection, table: TableName, oid: int | None) -> None:
    """Refuse to copy a table of which this role would see only some rows."""
    query = sa.text("SELECT row_security_active(CAST(:oid AS oid))")
    if oid is not None and conn.execute(query, {"oid": oid}).scalar():
        msg = (
            f"row-level security hides rows of {table} from this role, so it cannot be replaced; "
            f"use a role with BYPASSRLS, or the owner of a table without FORCE ROW LEVEL SECURITY"
        )
        raise ReplacementRefused(msg, objects=[str(table)])


def _swap_once(
    dialect: Dialect,
    conn: sa.Connection,
    moves: Sequence[tuple[TableName, TableName]],
    drops: Sequence[TableName],
    aside: Mapping[TableName, TableName],
    *,
    keeps_options: bool,
) -> None:
    places = [place for _, place in moves]
    oids = _oids(dialect, conn, [*places, *drops])
    refuse_other_kinds(conn, oids)
    existing = [oid for oid in oids.values() if oid is not None]
    views = dependent_views(conn, existing)
    _lock(dialect, conn, views, [place for place, oid in oids.items() if oid is not None])
    refuse_unkeepable(conn, existing, views)
    made = _oids(dialect, conn, [new for new, place in moves if oids[place] is not None])
    pairs = [_Pair(new, place, oids[place], made.get(new)) for new, place in moves]
    facts = special(conn, [pair.old for pair in pairs if pair.old is not None])
    for pair in pairs:
        if pair.old is not None and pair.made is not None and facts[pair.old].domains:
            take_domains(conn, old=pair.old, new=pair.made)
    _refuse_lost_constraints(conn, pairs)
    known = attachments_of(conn, existing)
    kept = {place: known[oid] for place, oid in oids.items() if oid is not None}
    replaced = [oids[place] for place in places]
    things = hanging(conn, [*filter(None, replaced), *(view.oid for view in views)])
    things = things if keeps_options else logged_as_made(things)
    own = _own(dialect, conn, pairs, kept, facts, aside)
    take_off(conn, things)
    release(conn, list(own.values()))
    there = {place: oid for place, oid in oids.items() if oid is not None and place in aside}
    set_free(
        conn,
        [there[place] for place in places if place in there],
        [there[place] for place in drops if place in there],
    )
    _drop_old(dialect, conn, views, kept, aside)
    _run_all(conn, [one for new, place in moves for one in _moving(dialect, new, place)])
    present = attachments_of(conn, [pair.made for pair in pairs if pair.made is not None])
    for pair in pairs:
        if pair.place in kept and pair.made is not None:
            at = dialect.qualified(pair.place)
            restore(conn, at, kept[pair.place], present[pair.made])
        if pair.place in own:
            put_on(conn, own[pair.place])
    _recreate(conn, views, places)
    put_back(conn, things)


def _oids(
    dialect: Dialect, conn: sa.Connection, tables: Sequence[TableName]
) -> dict[TableName, int | None]:
    found = regclasses(conn, [dialect.qualified(table) for table in tables])
    return dict(zip(tables, found, strict=True))


def _recreate(
    conn: sa.Connection, views: Sequence[DependentView], places: Sequence[TableName]
) -> None:
    """Make the views again, and say so, since materialized ones are computed behind the lock."""
    if not views:
        return
    log, over = patience_for_locks(0).log, ", ".join(str(place) for place in places)
    log.info(
        "making %d views over %s again: %s",
        *(len(views), over, ", ".join(view.qualified for view in views)),
    )
    started = time.monotonic()
    recreate(conn, views)
    log.info("made them again in %.1f s, while %s was locked", time.monotonic() - started, over)


class _Pair(NamedTuple):
    """A new table, its place, and the oids of the old and the new one, where they are there."""

    new: TableName
    place: TableName
    old: int | None
    made: int | None


def _own(  # noqa: PLR0917 - the pairs, and what is known of them
    dialect: Dialect,
    conn: sa.Connection,
    pairs: Sequence[_Pair],
    kept: Mapping[TableName, Attachments],
    facts: Mapping[int, Special],
    aside: Mapping[TableName, TableName],
) -> dict[TableName, OwnParts]:
    """Read what the old tables' columns, indexes and constraints have that the new ones' lack."""
    found = {}
    for new, place, old, made in pairs:
        if old is not None and made is not None:
            names, owner = _names(dialect, new, place), kept[place].owner
            # A table that is put aside keeps its sequences.
            moves = place not in aside
            found[place] = own_parts(conn, names, owner, facts[old], old=old, new=made, moves=moves)
    return found


def _names(dialect: Dialect, new: TableName, place: TableName) -> dict[str, str]:
    schema = "" if place.schema is None else f"{dialect.quote(place.schema)}."
    qualified = dialect.qualified(place)
    return {"place": qualified, "schema": schema, "now": new.name, "later": place.name}


def refuse_other_kinds(conn: sa.Connection, places: Mapping[TableName, int | None]) -> None:
    """Refuse to put a table where a view, a foreign table or anything else of that name is."""
    query = sa.text("""SELECT oid::bigint, CASE relkind WHEN 'v' THEN 'view'
                       WHEN 'm' THEN 'materialized view'
                       WHEN 'f' THEN 'foreign table' ELSE 'relation that is not a table' END
                       FROM pg_class
                       WHERE oid = ANY (CAST(:oids AS oid[])) AND relkind NOT IN ('r', 'p')""")
    oids = [oid for oid in places.values() if oid is not None]
    kinds: dict[int | None, str] = {}
    if oids:
        kinds.update((int(oid), str(kind)) for oid, kind in conn.execute(query, {"oids": oids}))
    for place, oid in places.items():
        kind = kinds.get(oid)
        if kind is not None:
            msg = f"{place} is a {kind}, which is not replaced by a table; rename or drop it first"
            raise ReplacementRefused(msg, objects=[str(place)])


_LOST_CONSTRAINTS = sa.text("""
    SELECT p.old::bigint, format('%I: %s', k.conname, pg_get_constraintdef(k.oid))
    FROM unnest(CAST(:old AS oid[]), CAST(:new AS oid[])) p (old, new)
    JOIN pg_constraint k ON k.conrelid = p.old
    WHERE k.contype IN ('c', 'f', 'x') AND NOT EXISTS (
        SELECT 1 FROM pg_constraint n WHERE n.conrelid = p.new
        AND pg_get_constraintdef(n.oid) = pg_get_constraintdef(k.oid))
    ORDER BY 1, 2
""")


def _refuse_lost_constraints(conn: sa.Connection, pairs: Sequence[_Pair]) -> None:
    """Refuse to lose checks, exclusions and foreign keys that the new table does not have."""
    both = {pair.old: pair for pair in pairs if pair.old is not None}
    if not both:
        return
    given = {"old": list(both), "new": [pair.made for pair in both.values()]}
    lost: dict[int, list[str]] = {}
    for oid, constraint in conn.execute(_LOST_CONSTRAINTS, given):
        lost.setdefault(oid, []).append(constraint)
    for oid, found in lost.items():
        msg = (
            f"{both[oid].place} is not replaced, because it would lose {'; '.join(found)}; "
            f"drop these first"
        )
        raise ReplacementRefused(msg, objects=found)


def _lock(
    dialect: Dialect,
    conn: sa.Connection,
    views: Sequence[DependentView],
    tables: Sequence[TableName],
) -> None:
    break_circles(conn, views)
    # Materialized views cannot be named in LOCK TABLE; their DROP takes the same lock.
    names = [view.qualified for view in reversed(views) if not view.materialized]
    names += [dialect.qualified(table) for table in tables]
    if names:
        run(conn, f"LOCK TABLE {', '.join(names)} IN ACCESS EXCLUSIVE MODE")


def _drop_old(
    dialect: Dialect,
    conn: sa.Connection,
    views: Sequence[DependentView],
    kept: Mapping[TableName, Attachments],
    aside: Mapping[TableName, TableName],
) -> None:
    for view in reversed(views):
        run(conn, f"DROP {view.kind} {view.qualified}")
    gone: dict[str, list[str]] = {}
    for table, old in kept.items():
        if table in aside:
            # The new name is one that both schemas have room for, the old one may not be.
            place = TableName(aside[table].name, table.schema)
            if place != table:
                rename_parts_apart(conn, dialect.qualified(table), place.name)
            _run_all(conn, _moving(dialect, table, place))
            _run_all(conn, _moving(dialect, place, aside[table]))
        else:
            gone.setdefault(old.kind, []).append(dialect.qualified(table))
    _run_all(conn, [f"DROP {kind} {', '.join(names)}" for kind, names in gone.items()])


def _moving(dialect: Dialect, new: TableName, place: TableName) -> list[str]:
    """Write what moves a table to its place."""
    statements = []
    if new.schema != place.schema and place.schema is not None:
        schema = dialect.quote(place.schema)
        statements.append(f"ALTER TABLE {dialect.qualified(new)} SET SCHEMA {schema}")
        new = TableName(new.name, place.schema)
    if new.name != place.name:
        name = dialect.quote(place.name)
        statements.append(f"ALTER TABLE {dialect.qualified(new)} RENAME TO {name}")
    return statements


def _run_all(conn: sa.Connection, statements: Sequence[str]) -> None:
    """Send statements together: a hundred of them take one round trip."""
    if statements:
        run(conn, "; ".join(statements))
