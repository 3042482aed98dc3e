"""Publishing what waits, or rejecting it: exactly the transaction that a person has looked at."""

from __future__ import annotations

import dataclasses
import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ixflow.errors import ApprovalRefused
from ixflow.store.collect import collect
from ixflow.store.commit import CommitPlan, plan_commit
from ixflow.store.inputs import changed_inputs, moved_stages
from ixflow.store.metadata import StageState, TransactionRecord
from ixflow.store.publish import NewState, publish_state
from ixflow.store.transaction import Commit
from ixflow.store.waiting import (
    COLLECTED,
    PUBLISHED_BY_HAND,
    REJECTED,
    Waiting,
    all_waiting,
    end_waiting,
)
from ixflow.values import TableName

if TYPE_CHECKING:
    import sqlalchemy as sa

    from ixflow.store.sql_store import SQLTableStore

__all__ = ["Approved", "approve", "reject"]


@dataclass(frozen=True, slots=True)
class Approved:
    """What an approval did: what had waited, the commit, and what is published since."""

    waited: Waiting
    commit: Commit
    state: StageState


def approve(
    store: SQLTableStore,
    stage: str,
    transaction_id: str | None = None,
    *,
    by: str = "",
    keep: int | None = None,
) -> Approved:
    """Publish what waits for a stage: the newest, or that of a transaction; all of it or nothing.

    ``by`` names who approves: asking again under the same name, as a retry does, gives what the
    first time did. ``keep`` is how many versions to keep, None: as the store does.

    Raises:
        ApprovalRefused: nothing waits, or it can be published no more: it is published, rejected
            or collected, a newer one waits, or another version was published meanwhile.
        InputChanged: one of its inputs is published no more.
        ReplacementRefused, LockNotAvailable: as for every publication.

    >>> approve(store, "mart", run_id).commit.version  # doctest: +SKIP
    7
    """
    place = store.schema(stage)
    keep = store.keep_versions if keep is None else keep
    with store.locked(f"stage {place}") as conn:
        known = _known(store, conn, stage)
        one = _chosen(stage, known, transaction_id, (by, PUBLISHED_BY_HAND))
        current = store.published_in(conn, stage)
        if (
            one.ended == PUBLISHED_BY_HAND
            and by
            and one.by == by
            and current.version == one.version
        ):
            done = Commit(current.version, one.tables, one.drops, changed=False, before=current)
            return Approved(one, done, current)
        _refuse_ended(stage, one)
        _refuse_passed(stage, one, known, current)
        plan = _plan(store, conn, stage, one, current)
        new = NewState(
            current.version + 1,
            one.transaction_id,
            plan.tables,
            plan.results,
            dict.fromkeys(plan.publish, one.schema),
            plan.drop,
        )
        publish_state(store, conn, stage, new, keeps=keep > 0)
        store.metadata.forget(conn, place, one.schema)
        store.metadata.put_transaction(conn, place, _record(one, "committed"))
        end_waiting(store, conn, place, one, PUBLISHED_BY_HAND, by=by, version=new.version)
    collect(store, place, one.schema, keep=keep)
    done = Commit(new.version, plan.publish, plan.drop, changed=True, before=current)
    return Approved(one, done, StageState(new.version, plan.tables, plan.results))


def reject(
    store: SQLTableStore, stage: str, transaction_id: str | None = None, *, by: str = ""
) -> Waiting:
    """Drop what waits for a stage: the newest, or that of a transaction. Nothing is published.

    ``by`` names who rejects: asking again under the same name gives what the first time did.

    Raises:
        ApprovalRefused: nothing waits, or it is published, rejected or collected already.

    """
    place = store.schema(stage)
    with store.locked(f"stage {place}") as conn:
        one = _chosen(stage, _known(store, conn, stage), transaction_id, (by, REJECTED))
        if one.ended == REJECTED and by and one.by == by:
            return one
        _refuse_ended(stage, one)
        store.metadata.forget(conn, place, one.schema)
        store.drop_scope(conn, one.schema)
        store.metadata.put_transaction(conn, place, _record(one, "collected"))
        end_waiting(store, conn, place, one, REJECTED, by=by)
    return one


def _record(one: Waiting, state: str) -> TransactionRecord:
    """Describe a transaction that waits no more; it is remembered as others are, from now on."""
    seen = dt.datetime.now(dt.UTC).isoformat(timespec="microseconds")
    return TransactionRecord(one.transaction_id, one.attempt, one.schema, state, seen)


def _known(store: SQLTableStore, conn: sa.Connection, stage: str) -> list[Waiting]:
    installed = store.metadata.installed(conn)
    return all_waiting(store, conn, store.schema(stage)) if installed else []


def _chosen(
    stage: str, known: list[Waiting], transaction_id: str | None, told: tuple[str, str]
) -> Waiting:
    """Find what is meant; without an id what waits, or what the same person has ended so.

    ``told`` is who asks, and how it ends.
    """
    if transaction_id is None:
        found = [one for one in known if told[0] and (one.by, one.ended) == told]
        found += [one for one in known if not one.ended]
        said = f"nothing of stage {stage} waits to be published"
    else:
        found = [one for one in known if one.transaction_id == transaction_id]
        said = f"no transaction {transaction_id!r} of stage {stage} is known to have waited"
    if found:
        return found[0]
    msg = f"{said}; what was collected is forgotten after a while. Run the stage again"
    raise ApprovalRefused(msg, stage=stage, transaction_id=transaction_id, reason="unknown")


def _refuse_ended(stage: str, one: Waiting) -> None:
    if not one.ended:
        return
    said = {
        PUBLISHED_BY_HAND: f"is published already, as version {one.version}",
        REJECTED: "was rejected and dropped",
        COLLECTED: f"waited until {one.until} and was collected then; run the stage again, and "
        f"let it wait longer with wait_hours",
    }[one.ended]
    raise _refused(stage, one, f"{said} ({one.ended_at})", one.ended)


def _refuse_passed(stage: str, one: Waiting, known: list[Waiting], current: StageState) -> None:
    """Refuse what was made for another state of the stage than the one that is published."""
    if current.version != one.base_version:
        said = (
            f"was made when version {one.base_version} was published, and version "
            f"{current.version} is now; what would change is not what was shown. Run the stage "
            f"again"
        )
        raise _refused(stage, one, said, "another version")
    newer = [o for o in known if not o.ended and o.since > one.since]
    for other in newer:
        if not one.positions.isdisjoint(other.positions):
            said = (
                f"is superseded by transaction {other.transaction_id}, which waits since "
                f"{other.since}; approve that, or reject it first"
            )
            raise _refused(stage, one, said, "superseded", by=other.transaction_id)


def _plan(
    store: SQLTableStore, conn: sa.Connection, stage: str, one: Waiting, current: StageState
) -> CommitPlan:
    """Decide what changes, if all of it is still there and nothing it was made from has moved."""
    if moved := moved_stages(store, conn, one.inputs):
        raise changed_inputs(stage, moved)
    held = store.metadata.state(conn, store.schema(stage), one.schema)
    present = set(store.tables_in(conn, one.schema))
    held = dataclasses.replace(
        held, tables={name: table for name, table in held.tables.items() if name in present}
    )
    pairs = [pair for result in one.results for pair in result.pairs()]
    lost = sorted({n for n, key in pairs if not (held.table(n, key) or current.table(n, key))})
    if lost:
        names = ", ".join(str(TableName(name, one.schema)) for name in lost)
        said = f"has lost {names}, which somebody has dropped; run the stage again"
        raise _refused(stage, one, said, "lost", tables=lost)
    return plan_commit(current, held, one.results, full=one.full)


def _refused(stage: str, one: Waiting, said: str, reason: str, **fields: object) -> ApprovalRefused:
    msg = f"transaction {one.transaction_id} of stage {stage} {said}; nothing was published"
    return ApprovalRefused(
        msg, stage=stage, transaction_id=one.transaction_id, reason=reason, **fields
    )
