"""The moment that is read: one held snapshot, and the proof that the plan still fits the table."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ixflow.dialects import Dialect, Held
from ixflow.errors import ExecutionError
from ixflow.extraction.plan import ExecutionPlan
from ixflow.values import Column

if TYPE_CHECKING:
    import sqlalchemy as sa

__all__ = ["held_snapshot", "still_held"]


@contextlib.contextmanager
def held_snapshot(dialect: Dialect, url: sa.URL, plan: ExecutionPlan) -> Iterator[Held]:
    """Hold the plan's table still and yield its snapshot, after looking for changes since the plan.

    Raises:
        ExecutionError: the table's columns or partitions are not those of the plan.
        TableNotFound: the table is gone.

    """
    with contextlib.ExitStack() as stack:
        held = stack.enter_context(dialect.hold(url, [plan.table], workers=plan.worker_count))
        _verify_columns(plan, dialect.columns(held.conn, plan.table))
        if held.snapshot is None:
            stack.close()
        else:
            _verify_parts(dialect, held, plan)
        yield held


def still_held(held: Held) -> bool:
    """Say whether the session that held the table lived to the end of the reading."""
    if held.snapshot is None:
        return True
    try:
        held.conn.exec_driver_sql("SELECT 1").all()
    except Exception:  # noqa: BLE001 - whatever is wrong with the connection, it no longer holds
        return False
    return True


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
        known = {column.name for column in plan.columns}
        changes += [f"column {name} is new" for name in found if name not in known]
    if changes:
        raise _changed(plan, changes)


def _verify_parts(dialect: Dialect, held: Held, plan: ExecutionPlan) -> None:
    now = {(str(part.table), part.only) for part in dialect.parts(held.conn, plan.table)}
    then = {(str(task.part.table), task.part.only) for task in plan.tasks}
    changes = [f"{name} is new" for name, _ in sorted(now - then)]
    changes += [f"{name} is gone" for name, _ in sorted(then - now)]
    if changes:
        raise _changed(plan, changes)


def _changed(plan: ExecutionPlan, changes: list[str]) -> ExecutionError:
    msg = f"{plan.table} has changed since the plan: {'; '.join(changes)}; plan again"
    return ExecutionError(msg, table=str(plan.table), changes=changes)
