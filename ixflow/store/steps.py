"""How the tasks of a stage ended that run in processes of their own, remembered in the database.

A task's tables and result are in its transaction as soon as `StageTransaction.write` returns. What
the other processes need besides is one row a task here: which result it came to, also if that was
published already, and what it was computed from. A row is written by itself, after the result: a
process that dies in between leaves a result that is found again by its key.
"""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from ixflow.store.inputs import InputRead
from ixflow.store.metadata import StoredResult, now
from ixflow.values import TableName

if TYPE_CHECKING:
    from ixflow.store.sql_store import SQLTableStore

__all__ = ["StepRecord", "Steps"]

_NAME = "steps"
_COLUMNS = ("stage", "scope", "position", "task", "task_key", "output", "tables")
_MORE = ("state", "seconds", "reason", "inputs", "recorded_at")


@dataclass(frozen=True, slots=True)
class StepRecord:
    """What one task came to: ``inputs`` are the results of others that it took, of any stage.

    ``recorded_at`` is when its step had ended (UTC, ISO 8601), as the step's machine knows it.
    """

    result: StoredResult
    state: str
    seconds: float
    reason: str
    inputs: tuple[InputRead, ...]
    recorded_at: str = field(default="", compare=False)


class Steps:
    """The records of one store, in a table beside ixflow's others that is made when first needed.

    >>> Steps(store).read("staging", "staging__tx_1a2b")  # doctest: +SKIP
    {}
    """

    def __init__(self, store: SQLTableStore) -> None:
        self._store = store
        made = sa.MetaData(schema=sa.quoted_name(store.metadata.schema, quote=True))
        self._table = sa.Table(_NAME, made, *(sa.Column(n, sa.Text) for n in (*_COLUMNS, *_MORE)))
        self._installed = False

    def read(self, stage: str, scope: str) -> dict[str, StepRecord]:
        """Give the records of a transaction by the position of the task."""
        with self._store.begin() as conn:
            return self._read(conn, stage, scope) if self._is_installed(conn) else {}

    def put(
        self, stage: str, scope: str, record: StepRecord, *, before: StepRecord | None
    ) -> StepRecord:
        """Record what a task came to, in place of the record ``before``; give what is recorded.

        Where another process was first, that is its record: others may have read it already.
        """
        self._install()
        position = record.result.position
        with self._store.locked(f"step {scope} {position}") as conn:
            found = self._read(conn, stage, scope, position).get(position)
            if found is not None and found != before:
                return found
            conn.execute(sa.delete(self._table).where(*self._here(stage, scope, position)))
            row = {"stage": stage, "scope": scope, "recorded_at": now()} | _row(record)
            conn.execute(sa.insert(self._table).values(**row))
        return record

    def forget_old(self, stage: str, own: str) -> None:
        """Remove the records of transactions that are older than ``gc_after``, but not of ``own``.

        Those of a transaction that has just been committed stay: a process that dies between that
        and telling about it is tried again.
        """
        oldest = dt.datetime.now(dt.UTC) - self._store.gc_after
        old = self._table.c.recorded_at < oldest.isoformat(timespec="microseconds")
        with self._store.begin() as conn:
            if self._is_installed(conn):
                here = (self._table.c.stage == stage, self._table.c.scope != own, old)
                conn.execute(sa.delete(self._table).where(*here))

    def _here(self, stage: str, scope: str, position: str | None) -> list[Any]:
        t = self._table
        found = [t.c.stage == stage, t.c.scope == scope]
        return found if position is None else [*found, t.c.position == position]

    def _read(
        self, conn: sa.Connection, stage: str, scope: str, position: str | None = None
    ) -> dict[str, StepRecord]:
        query = sa.select(self._table).where(*self._here(stage, scope, position))
        return {row.position: _record(row) for row in conn.execute(query)}

    def _is_installed(self, conn: sa.Connection) -> bool:
        if not self._installed:
            table = TableName(_NAME, self._store.metadata.schema)
            self._installed = self._store.dialect.exists(conn, table)
        return self._installed

    def _install(self) -> None:
        self._store.install()
        with self._store.begin() as conn:
            if self._is_installed(conn):
                return
        with self._store.locked("metadata") as conn:
            if not self._is_installed(conn):
                self._table.create(conn, checkfirst=False)


def _row(record: StepRecord) -> dict[str, str]:
    result = record.result
    return {
        "position": result.position,
        "task": result.task,
        "task_key": result.task_key,
        "output": result.output,
        "tables": json.dumps([result.tables, result.keys]),
        "state": record.state,
        "seconds": repr(record.seconds),
        "reason": record.reason,
        "inputs": json.dumps([[read.stage, read.position, read.output] for read in record.inputs]),
    }


def _record(row: Any) -> StepRecord:
    tables, keys = json.loads(row.tables)
    named = (row.position, row.task, row.task_key, row.output)
    inputs = tuple(InputRead(*one) for one in json.loads(row.inputs))
    result = StoredResult(*named, tuple(tables), tuple(keys))
    return StepRecord(result, row.state, float(row.seconds), row.reason, inputs, row.recorded_at)
