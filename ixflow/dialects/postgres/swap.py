"""Putting tables in the place of others on PostgreSQL, in one transaction, under short locks.

Everything happens in a savepoint of the caller's transaction: take the locks (dependent views
first, then the tables, as every reader does), note what hangs on the old tables, drop views and
tables, move the new tables in, put back what was noted. A lock that is not free within
`_LOCK_WAIT` releases all of them and the whole savepoint is tried again, so that no reader ever
queues behind a queued swap for longer than that, and none is ever the victim of a deadlock (the
server looks for deadlocks after one second).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import sqlalchemy as sa

from ixflow.dialects.base import run
from ixflow.dialects.postgres.attachments import (
    Attachments,
    attachments,
    refuse_unkeepable,
    restore,
)
from ixflow.dialects.postgres.catalog import regclass
from ixflow.dialects.postgres.hanging import hanging, put_back, take_off
from ixflow.dialects.postgres.refusals import state_of
from ixflow.dialects.postgres.views import DependentView, dependent_views, recreate
from ixflow.errors import LockNotAvailable, ReplacementRefused
from ixflow.values import TableName

if TYPE_CHECKING:
    from ixflow.dialects.postgres.dialect import PostgresDialect

__all__ = ["lock_writers", "swap"]

_LOCK_WAIT = "400ms"
_PAUSE_SECONDS = 0.1
_LOCK_NOT_AVAILABLE = "55P03"
_DEADLOCK = "40P01"
_DEPENDENT_OBJECTS = "2BP01"
_NO_PRIVILEGE = "42501"


def swap(
    dialect: PostgresDialect,
    conn: sa.Connection,
    moves: Sequence[tuple[TableName, TableName]],
    *,
    drops: Sequence[TableName] = (),
    timeout_seconds: float = 60,
) -> None:
    """Replace tables, keeping grants, owner, comments and dependent views of each."""
    names = [place for _, place in moves] + list(drops)
    _until_locked(conn, lambda: _swap_once(dialect, conn, moves, drops), names, timeout_seconds)


def lock_writers(
    dialect: PostgresDialect,
    conn: sa.Connection,
    table: TableName,
    *,
    timeout_seconds: float = 60,
) -> None:
    """Keep others from writing to a table until the transaction ends; reading stays possible."""
    statement = f"LOCK TABLE {dialect.qualified(table)} IN SHARE ROW EXCLUSIVE MODE"

    def lock() -> None:
        oid = regclass(conn, dialect.qualified(table))
        refuse_other_kinds(conn, {table: oid})
        run(conn, statement)
        _refuse_hidden_rows(conn, table, oid)

    _until_locked(conn, lock, [table], timeout_seconds)


def _refuse_hidden_rows(conn: sa.Connection, table: TableName, oid: int | None) -> None:
    """Refuse to copy a table of which this role would see only some rows."""
    query = sa.text("SELECT row_security_active(CAST(:oid AS oid))")
    if oid is not None and conn.execute(query, {"oid": oid}).scalar():
        msg = (
            f"row-level security hides rows of {table} from this role, so it cannot be replaced; "
            f"use a role with BYPASSRLS, or the owner of a table without FORCE ROW LEVEL SECURITY"
        )
        raise ReplacementRefused(msg, objects=[str(table)])


def _until_locked(
    conn: sa.Connection,
    work: Callable[[], None],
    names: Sequence[TableName],
    timeout_seconds: float,
) -> None:
    """Do work that takes locks in a savepoint, again and again until they were free."""
    deadline = time.monotonic() + timeout_seconds
    old_timeout = str(conn.execute(sa.text("SHOW lock_timeout")).scalar_one())
    while True:
        try:
            with conn.begin_nested():
                run(conn, f"SET LOCAL lock_timeout = '{_LOCK_WAIT}'")
                work()
                run(conn, f"SET LOCAL lock_timeout = '{old_timeout}'")
        except sa.exc.DBAPIError as error:
            _raise_unless_locked(error, names)
            if time.monotonic() >= deadline:
                raise _not_locked(conn, names, timeout_seconds) from error
            time.sleep(_PAUSE_SECONDS)
        else:
            return


def _raise_unless_locked(error: sa.exc.DBAPIError, names: Sequence[TableName]) -> None:
    state = state_of(error)
    if state in (_DEPENDENT_OBJECTS, _NO_PRIVILEGE):
        shown = ", ".join(str(name) for name in names)
        said = " ".join(str(error.orig).split())
        msg = f"{shown} cannot be replaced without loss: {said}"
        raise ReplacementRefused(msg, tables=[str(name) for name in names]) from error
    if state not in (_LOCK_NOT_AVAILABLE, _DEADLOCK):
        raise error


def _not_locked(
    conn: sa.Connection, names: Sequence[TableName], timeout_seconds: float
) -> LockNotAvailable:
    query = sa.text("""
        SELECT DISTINCT format('pid %s (%s, %s)', a.pid, a.usename, a.state)
        FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
        JOIN pg_stat_activity a ON a.pid = l.pid
        WHERE l.granted AND l.pid <> pg_backend_pid() AND c.relname = ANY(:names)
    """)
    blockers = list(conn.execute(query, {"names": [name.name for name in names]}).scalars())
    shown = ", ".join(str(name) for name in names)
    msg = (
        f"{shown} could not be locked within {timeout_seconds:g} s; "
        f"held by {', '.join(blockers) or 'sessions that have ended meanwhile'}; "
        f"nothing was changed"
    )
    return LockNotAvailable(msg, tables=[str(name) for name in names], blockers=blockers)


def _swap_once(
    dialect: PostgresDialect,
    conn: sa.Connection,
    moves: Sequence[tuple[TableName, TableName]],
    drops: Sequence[TableName],
) -> None:
    places = [place for _, place in moves]
    oids = {place: regclass(conn, dialect.qualified(place)) for place in [*places, *drops]}
    refuse_other_kinds(conn, oids)
    existing = [oid for oid in oids.values() if oid is not None]
    views = dependent_views(conn, existing)
    _lock(dialect, conn, views, [place for place, oid in oids.items() if oid is not None])
    refuse_unkeepable(conn, existing, views)
    _refuse_lost_constraints(dialect, conn, moves, oids)
    kept = {place: attachments(conn, oid) for place, oid in oids.items() if oid is not None}
    replaced = [oids[place] for place in places]
    things = hanging(conn, [*filter(None, replaced), *(view.oid for view in views)])
    take_off(conn, things)
    _drop_old(dialect, conn, views, list(kept), kept)
    for new, place in moves:
        _move(dialect, conn, new, place)
        if place in kept:
            restore(conn, dialect.qualified(place), kept[place])
    recreate(conn, views)
    put_back(conn, things)


def refuse_other_kinds(conn: sa.Connection, places: Mapping[TableName, int | None]) -> None:
    """Refuse to put a table where a view, a foreign table or anything else of that name is."""
    query = sa.text("""SELECT CASE relkind WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view'
                       WHEN 'f' THEN 'foreign table' ELSE 'relation that is not a table' END
                       FROM pg_class WHERE oid = :oid AND relkind NOT IN ('r', 'p')""")
    for place, oid in places.items():
        kind = None if oid is None else conn.execute(query, {"oid": oid}).scalar()
        if kind is not None:
            msg = f"{place} is a {kind}, which is not replaced by a table; rename or drop it first"
            raise ReplacementRefused(msg, objects=[str(place)])


_LOST_CONSTRAINTS = sa.text("""
    SELECT format('%I: %s', k.conname, pg_get_constraintdef(k.oid)) FROM pg_constraint k
    WHERE k.conrelid = :old AND k.contype IN ('c', 'f', 'x') AND NOT EXISTS (
        SELECT 1 FROM pg_constraint n WHERE n.conrelid = :new
        AND pg_get_constraintdef(n.oid) = pg_get_constraintdef(k.oid))
""")


def _refuse_lost_constraints(
    dialect: PostgresDialect,
    conn: sa.Connection,
    moves: Sequence[tuple[TableName, TableName]],
    oids: Mapping[TableName, int | None],
) -> None:
    """Refuse to lose checks, exclusions and foreign keys that the new table does not have."""
    for new, place in moves:
        oid = oids[place]
        if oid is None:
            continue
        both = {"old": oid, "new": regclass(conn, dialect.qualified(new))}
        found = sorted(conn.execute(_LOST_CONSTRAINTS, both).scalars())
        if found:
            lost = "; ".join(found)
            msg = f"{place} is not replaced, because it would lose {lost}; drop these first"
            raise ReplacementRefused(msg, objects=found)


def _lock(
    dialect: PostgresDialect,
    conn: sa.Connection,
    views: Sequence[DependentView],
    tables: Sequence[TableName],
) -> None:
    # Materialized views cannot be named in LOCK TABLE; their DROP takes the same lock.
    names = [view.qualified for view in reversed(views) if not view.materialized]
    names += [dialect.qualified(table) for table in tables]
    for name in names:
        run(conn, f"LOCK TABLE {name} IN ACCESS EXCLUSIVE MODE")


def _drop_old(
    dialect: PostgresDialect,
    conn: sa.Connection,
    views: Sequence[DependentView],
    tables: Sequence[TableName],
    kept: dict[TableName, Attachments],
) -> None:
    for view in reversed(views):
        run(conn, f"DROP {view.kind} {view.qualified}")
    for table in tables:
        run(conn, f"DROP {kept[table].kind} {dialect.qualified(table)}")


def _move(dialect: PostgresDialect, conn: sa.Connection, new: TableName, place: TableName) -> None:
    if new.schema != place.schema and place.schema is not None:
        run(conn, f"ALTER TABLE {dialect.qualified(new)} SET SCHEMA {dialect.quote(place.schema)}")
        new = TableName(new.name, place.schema)
    if new.name != place.name:
        run(conn, f"ALTER TABLE {dialect.qualified(new)} RENAME TO {dialect.quote(place.name)}")
