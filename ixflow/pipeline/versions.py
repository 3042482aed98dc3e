"""Going back to a version of a stage, listing versions, comparing them: what `Stage` can do."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ixflow.errors import StageError
from ixflow.events import StagePublished, emit
from ixflow.pipeline.encoding import MARKER
from ixflow.pipeline.locks.run_locks import RunLocks
from ixflow.pipeline.pipedag_config import configured
from ixflow.store.diff import Question, Side, StageDiff, compared
from ixflow.store.versions import Rollback, StageVersion, VersionHistory, history
from ixflow.store.versions import rollback as rolled_back
from ixflow.store.versions import versions as listed
from ixflow.store.waiting import WAITING
from ixflow.values import TableName

if TYPE_CHECKING:
    import sqlalchemy as sa

    from ixflow.pipeline.config import ConfigContext
    from ixflow.pipeline.pipedag_config import PipedagConfig
    from ixflow.pipeline.stage import Stage
    from ixflow.store import SQLTableStore, StageState
    from ixflow.store.metadata import TransactionRecord

    Config = ConfigContext | PipedagConfig | None

__all__ = ["diff", "rollback", "versions"]


def _flow_name(stage: Stage) -> str:
    return "default" if stage.flow is None else stage.flow.name


def rollback(stage: Stage, version: int | None, config: Config) -> Rollback:
    """Publish a kept version again; see `Stage.rollback`."""
    with (
        configured(config, _flow_name(stage)) as chosen,
        RunLocks(chosen, [stage.name]),
        chosen.table_store.held_open(),
    ):
        done = rolled_back(chosen.table_store, stage.name, version, keep=stage.keep_versions)
    emit(StagePublished(stage.name, done.version, done.published))
    return done


def versions(stage: Stage, config: Config) -> tuple[StageVersion, ...]:
    """List the versions of a stage; see `Stage.versions`."""
    with configured(config, _flow_name(stage)) as chosen:
        return listed(chosen.table_store, stage.name)


def diff(
    stage: Stage,
    version: int | None,
    config: Config,
    *,
    transaction_id: str | None,
    asked: Question,
) -> StageDiff:
    """Compare a transaction or a kept version with what is published; see `Stage.diff`."""
    with configured(config, _flow_name(stage)) as chosen:
        store = chosen.table_store
        place = store.schema(stage.name)
        # The lock keeps the tables where they are while they are read.
        with store.held_open(), store.locked(f"stage {place}") as conn:
            found = history(store, conn, stage.name)
            published = _published(store, found)
            if version is not None:
                sides = (_kept(store, found, version), published)
            else:
                record = _open(store, conn, stage.name, transaction_id)
                held = store.metadata.state(conn, place, record.schema)
                sides = (published, _held(store, published, record, held))
            keys = _keys(found.published) | dict(asked.keys)
            question = Question(keys, asked.rows, asked.sample)
            return compared(conn, store.dialect, stage.name, sides, question)


def _open(
    store: SQLTableStore, conn: sa.Connection, stage: str, transaction_id: str | None
) -> TransactionRecord:
    """Find the transaction to compare: the newest, or the newest of a run."""
    installed = store.metadata.installed(conn)
    known = store.metadata.transactions(conn, store.schema(stage)) if installed else []
    found = [
        record
        for record in known
        if record.state in ("open", WAITING) and transaction_id in (None, record.transaction_id)
    ]
    if not found:
        which = "" if transaction_id is None else f" {transaction_id!r}"
        msg = (
            f"stage {stage} has no open transaction{which} to compare with what is published; "
            f"name a version: stage.diff(version=...)"
        )
        raise StageError(msg, stage=stage, transaction_id=transaction_id)
    # What waits has no time when it was seen, and is what a person has to decide about.
    return max(found, key=lambda record: (record.state == WAITING, record.seen_at))


def _published(store: SQLTableStore, found: VersionHistory) -> Side:
    version = 0 if found.current is None else found.current.version
    return _side(store, found, found.published, f"version {version} (published)")


def _kept(store: SQLTableStore, found: VersionHistory, version: int) -> Side:
    return _side(store, found, found.state(version), f"version {version}")


def _side(store: SQLTableStore, found: VersionHistory, state: StageState, label: str) -> Side:
    located = found.located(state)
    tables = {name: table for name, table in state.tables.items() if name in located}
    return Side(label, tables, _places(store, located))


def _held(
    store: SQLTableStore, published: Side, record: TransactionRecord, held: StageState
) -> Side:
    """Describe what a transaction would publish: its tables over the published ones."""
    new = _places(store, dict.fromkeys(held.tables, record.schema))
    label = f"transaction {record.transaction_id}"
    return Side(label, {**published.tables, **held.tables}, {**published.places, **new})


def _places(store: SQLTableStore, scopes: Mapping[str, str]) -> dict[str, TableName]:
    return {name: store.physical(TableName(name, scope)) for name, scope in scopes.items()}


def _keys(state: StageState) -> dict[str, Sequence[str]]:
    """Read the primary keys of tables from the results that name them."""
    found: dict[str, Sequence[str]] = {}

    def look(form: Any) -> Any:
        if form.get(MARKER) == "table" and form.get("primary_key"):
            found[form["name"]] = tuple(form["primary_key"])
        return form

    for result in state.results:
        json.loads(result.output, object_hook=look)
    return found
