"""The moment that is read: one held snapshot, and the proof that a plan still fits its table.

A moment is held by a session of this process, for one table or for several of one database. Its
`Moment.token` lets other processes read in it where the database can export a snapshot.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import threading
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self

from ixflow.dialects import Dialect, Held
from ixflow.dialects.connect import answered_within
from ixflow.errors import ExecutionError, SnapshotUnavailable, ValidationError
from ixflow.extraction.plan import ExecutionPlan
from ixflow.values import Column, TableName

if TYPE_CHECKING:
    import sqlalchemy as sa

__all__ = ["Moment", "MomentRecord", "held_moment", "joined_moment", "refuse_not_held"]

ANSWER_SECONDS = 30.0
"""How long to wait for a sign of life of the session that holds a moment."""


@dataclass(frozen=True, slots=True)
class MomentRecord:
    """How a moment is told from others.

    ``id`` was made by whoever held it first. ``snapshot`` is the database's own id of it while it
    is held, ``name`` what the database says it sees: equal names mean equal rows. ``one`` is False
    where each connection reads a moment of its own.
    """

    id: str
    snapshot: str | None
    name: str | None
    taken_at: str
    one: bool = True

    def same_as(self, other: MomentRecord) -> bool:
        """Say whether both surely see the same rows."""
        if not (self.one and other.one):
            return False
        return self.id == other.id or (self.name is not None and self.name == other.name)


class Moment:
    """One moment of some tables of one database, which stays until its block ends.

    ``record`` tells it from others. Give it, or its `token`, to `execute` and `execute_plan`.
    """

    def __init__(
        self,
        dialect: Dialect,
        url: sa.URL,
        held: Held,
        tables: Sequence[TableName],
        id_: str | None = None,
    ) -> None:
        """Take what is held; an id is given for a moment that somebody held before."""
        self.dialect, self.url, self.held = dialect, url, held
        self.tables = tuple(str(table) for table in tables)
        name = dialect.moment(held.conn) if held.shared else None
        taken_at = datetime.now(UTC).isoformat()
        self.record = MomentRecord(
            id_ or uuid.uuid4().hex, held.snapshot, name, taken_at, held.shared
        )
        self._lock = threading.RLock()

    def __repr__(self) -> str:
        """Show the id and the snapshot, never the URL."""
        return f"Moment(id={self.record.id!r}, snapshot={self.record.snapshot!r})"

    @property
    def token(self) -> str:
        """Give the text with which another process reads in this moment, while it is held.

        Raises:
            SnapshotUnavailable: this database has no snapshots that others can join.

        """
        if self.record.snapshot is None:
            msg = f"{self.dialect.name} has no snapshots that another process could join"
            raise SnapshotUnavailable(msg)
        made = _Token(self.record.id, self.record.snapshot, self.tables)
        return json.dumps(dataclasses.asdict(made))

    def verify(self, plan: ExecutionPlan) -> None:
        """See that the plan's table is as it was planned.

        Raises:
            ExecutionError: its columns or partitions are others.
            SnapshotUnavailable: the plan promises one snapshot, which is not to be had any more.
            TableNotFound: it is gone.

        """
        with self._connection() as conn:
            query = plan.query
            # A table that is gone is said to be gone, before anything else is said of it.
            if query is None:
                _verify_columns(plan, self.dialect.columns(conn, plan.table))
            else:
                _verify_columns(plan, self.dialect.describe(conn, query))
            _verify_promise(self.dialect, conn, plan)
            if query is None and (self.held.snapshot is not None or self.held.shared):
                _verify_parts(self.dialect, conn, plan)

    def alive(self) -> bool:
        """Say whether the session that holds the moment lived until now."""
        if self.held.snapshot is None and not self.held.shared:
            return True
        try:
            with self._connection() as conn:
                driver = conn.connection.driver_connection
                with answered_within(ANSWER_SECONDS, driver):
                    conn.exec_driver_sql("SELECT 1").all()
        except Exception:  # noqa: BLE001 - whatever is wrong with the connection, it no longer holds
            return False
        return True

    @contextlib.contextmanager
    def _connection(self) -> Iterator[sa.Connection]:
        # The reader's lock comes first, so that a worker that reads may ask whether we live.
        with self.held.lock or contextlib.nullcontext(), self._lock:
            yield self.held.conn


@contextlib.contextmanager
def held_moment(
    dialect: Dialect, url: sa.URL, tables: Sequence[TableName], *, workers: int
) -> Iterator[Moment]:
    """Hold tables of one database still, in one moment as far as the database can.

    Raises:
        SourceUnavailable: the database cannot be reached or refuses us.
        LockNotAvailable: another session is changing a table's definition.

    """
    with dialect.hold(url, tables, workers=workers) as held:
        yield Moment(dialect, url, held, tables)


@contextlib.contextmanager
def joined_moment(
    dialect: Dialect, url: sa.URL, tables: Sequence[TableName], token: str
) -> Iterator[Moment]:
    """Read in the moment that another process holds, and hold it from now on too.

    Raises:
        SnapshotUnavailable: it is held no longer, or sessions here cannot share one.
        ValidationError: the token is none, or a table is not held there.

    """
    given = _Token.parse(token)
    refuse_not_held(tables, given.tables)
    with dialect.join(url, tables, snapshot=given.snapshot) as held:
        yield Moment(dialect, url, held, tables, given.moment)


def refuse_not_held(wanted: Sequence[TableName], held: Sequence[str]) -> None:
    """Refuse tables that a moment does not hold: what others did to them is not held off.

    Raises:
        ValidationError: naming them.

    """
    others = [str(table) for table in wanted if str(table) not in held]
    if others:
        msg = f"the moment does not hold {', '.join(others)}; give hold_snapshot all the plans"
        raise ValidationError(msg, argument="moment", tables=others)


@dataclass(frozen=True)
class _Token:
    moment: str
    snapshot: str
    tables: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        given: Any = None
        with contextlib.suppress(ValueError):
            given = json.loads(text)
        if not isinstance(given, dict) or set(given) != {"moment", "snapshot", "tables"}:
            msg = "moment must be what hold_snapshot gives, or its token"
            raise ValidationError(msg, argument="moment")
        return cls(str(given["moment"]), str(given["snapshot"]), tuple(given["tables"]))


def _verify_columns(plan: ExecutionPlan, now: tuple[Column, ...]) -> None:
    found = {column.name: column for column in now}
    changes = []
    for column in plan.columns:
        if column.name not in found:
            changes.append(f"column {column.name} is gone")
        elif found[column.name].sql_type != column.sql_type:
            changes.append(
                f"column {column.name} was {column.sql_type}, is {found[column.name].sql_type}"
            )
    if plan.all_columns:
        known = {*(column.name for column in plan.columns), *plan.dropped}
        changes += [f"column {name} is new" for name in found if name not in known]
    if changes:
        raise _changed(plan, changes)


def _verify_promise(dialect: Dialect, conn: sa.Connection, plan: ExecutionPlan) -> None:
    if plan.consistency != "one snapshot":
        return
    query = plan.query
    parts = (
        dialect.parts(conn, plan.table)
        if query is None
        else (dialect.query_part(conn, plan.table, query),)
    )
    if not all(part.in_snapshot for part in parts):
        msg = (
            f"{plan.table}: one snapshot of all rows was planned and can no longer be had; "
            f"{dialect.snapshot_advice}; or plan again"
        )
        raise SnapshotUnavailable(msg, table=str(plan.table))


def _verify_parts(dialect: Dialect, conn: sa.Connection, plan: ExecutionPlan) -> None:
    now = {(str(part.table), part.only) for part in dialect.parts(conn, plan.table)}
    then = {(str(task.part.table), task.part.only) for task in plan.tasks}
    changes = [f"{name} is new" for name, _ in sorted(now - then)]
    changes += [f"{name} is gone" for name, _ in sorted(then - now)]
    if changes:
        raise _changed(plan, changes)


def _changed(plan: ExecutionPlan, changes: list[str]) -> ExecutionError:
    msg = f"{plan.table} has changed since the plan: {'; '.join(changes)}; plan again"
    return ExecutionError(msg, table=str(plan.table), changes=changes)
