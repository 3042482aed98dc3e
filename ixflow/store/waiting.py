"""Work on a stage that was made and audited, and waits for a person to publish it.

The tables are in the schema of their transaction, whose record has the state ``waiting`` and, as
the time when it was seen, until when it waits. What else a publication needs is one more row among
the results, in a scope of its own: the results that the stage shall have, what was read for them,
and which version was published then.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ixflow.store.inputs import InputRead
from ixflow.store.metadata import StoredResult, TransactionRecord, now

if TYPE_CHECKING:
    import sqlalchemy as sa

    from ixflow.store.sql_store import SQLTableStore

__all__ = [
    "COLLECTED",
    "PUBLISHED_BY_HAND",
    "REJECTED",
    "WAITING",
    "Waiting",
    "all_waiting",
    "end_waiting",
    "forget_waiting",
    "put_waiting",
    "until_from",
    "waiting",
]

WAITING = "waiting"
"""The state of a transaction that waits to be published by hand."""
PUBLISHED_BY_HAND, REJECTED, COLLECTED = "published", "rejected", "collected"


@dataclass(frozen=True, slots=True)
class Waiting:
    """What waits: which transaction, over which version, and what to publish.

    ``since`` and ``until`` are moments (UTC). ``tables`` are those that would appear and ``drops``
    those that would go. ``note`` is what the one who let it wait wants to find again, as JSON.
    ``ended`` says what came of it: published, rejected or collected; nothing while it waits.
    """

    transaction_id: str
    attempt: int
    schema: str
    base_version: int
    since: str
    until: str
    full: bool
    results: tuple[StoredResult, ...]
    inputs: tuple[InputRead, ...]
    tables: tuple[str, ...] = ()
    drops: tuple[str, ...] = ()
    note: Mapping[str, Any] = field(default_factory=dict)
    ended: str = ""
    ended_at: str = ""
    by: str = ""
    version: int = 0

    @property
    def positions(self) -> frozenset[str]:
        """The places in the flow whose results it replaces."""
        return frozenset(result.position for result in self.results)


def put_waiting(store: SQLTableStore, conn: sa.Connection, place: str, one: Waiting) -> None:
    """Let a transaction wait, in the caller's database transaction, under the stage's lock."""
    record = TransactionRecord(one.transaction_id, one.attempt, one.schema, WAITING, one.until)
    store.metadata.put_transaction(conn, place, record)
    _write(store, conn, place, one)


def end_waiting(
    store: SQLTableStore,
    conn: sa.Connection,
    place: str,
    one: Waiting,
    how: str,
    *,
    by: str = "",
    version: int = 0,
) -> None:
    """Say what came of it; the transaction's own record is the caller's to change."""
    ended = dataclasses.replace(one, ended=how, ended_at=now(), by=by, version=version)
    _write(store, conn, place, ended)


def waiting(store: SQLTableStore, stage: str) -> tuple[Waiting, ...]:
    """List what waits for a stage to be published by hand, newest first."""
    with store.begin() as conn:
        if not store.metadata.installed(conn):
            return ()
        return tuple(one for one in all_waiting(store, conn, store.schema(stage)) if not one.ended)


def all_waiting(store: SQLTableStore, conn: sa.Connection, place: str) -> list[Waiting]:
    """List what waits or has waited, newest first, as long as it is remembered."""
    records = store.metadata.transactions(conn, place)
    found = [_read(store, conn, place, record.schema) for record in records]
    known = [one for one in found if one is not None]
    return sorted(known, key=lambda one: (one.since, one.attempt), reverse=True)


def forget_waiting(store: SQLTableStore, conn: sa.Connection, place: str, schema: str) -> None:
    """Forget that something has waited."""
    store.metadata.forget(conn, place, _scope(schema))


def until_from(since: str, keep_for: dt.timedelta) -> str:
    """Say until when something waits.

    >>> until_from("2026-03-01T10:00:00+00:00", dt.timedelta(days=7))
    '2026-03-08T10:00:00.000000+00:00'
    """
    return (dt.datetime.fromisoformat(since) + keep_for).isoformat(timespec="microseconds")


def _scope(schema: str) -> str:
    """Name the scope of the row; a blank keeps it apart from every schema that is made."""
    return f"{WAITING} {schema}"


def _write(store: SQLTableStore, conn: sa.Connection, place: str, one: Waiting) -> None:
    forget_waiting(store, conn, place, one.schema)
    row = StoredResult(WAITING, "", one.schema, json.dumps(dataclasses.asdict(one)), ())
    store.metadata.add(conn, place, _scope(one.schema), [], [row])


def _read(store: SQLTableStore, conn: sa.Connection, place: str, schema: str) -> Waiting | None:
    rows = store.metadata.state(conn, place, _scope(schema)).results
    if not rows:
        return None
    known = {one.name for one in dataclasses.fields(Waiting)}
    # What a newer release has added is for that to understand.
    form = {name: value for name, value in json.loads(rows[0].output).items() if name in known}
    form["results"] = tuple(_result(one) for one in form["results"])
    form["inputs"] = tuple(InputRead(**one) for one in form["inputs"])
    form["tables"], form["drops"] = tuple(form["tables"]), tuple(form["drops"])
    return Waiting(**form)


def _result(form: Mapping[str, Any]) -> StoredResult:
    lists: dict[str, Sequence[str]] = {name: tuple(form[name]) for name in ("tables", "keys")}
    return StoredResult(**{**form, **lists})
