"""What is published of one task, read without running anything."""

from __future__ import annotations

import contextlib
from typing import Any

from ixflow.errors import CacheError
from ixflow.pipeline.config import ConfigContext
from ixflow.pipeline.encoding import leaves
from ixflow.pipeline.execute import decoded_value
from ixflow.pipeline.result import Stores, item_of, loaded
from ixflow.pipeline.task import Task, TaskGetItem
from ixflow.pipeline.unchanged import read_unchanged, tables_of
from ixflow.store import StageState, StoredResult

__all__ = ["stored_output"]


def stored_output(
    item: Task | TaskGetItem,
    as_type: Any,
    config: ConfigContext | None,
    *,
    ignore_position_hashes: bool,
) -> Any:
    """Load what is published of a task; see `Task.get_output_from_store`."""
    task = item.task if isinstance(item, TaskGetItem) else item
    name = task.stage.name
    with contextlib.ExitStack() as stack:
        chosen = stack.enter_context(ConfigContext.get() if config is None else config)
        stores = Stores(chosen.table_store, chosen.blob_store)
        stack.enter_context(stores.tables.held_open())
        found = _found(stores.tables.published(name), task, anywhere=ignore_position_hashes)
        if found is None:
            msg = f"nothing is published of task {name}.{task.name}; run stage {name} first"
            raise CacheError(msg, stage=name, task=task.name)
        schema = stores.tables.schema(name)
        value = decoded_value(found.output, lambda *_: schema)
        if isinstance(item, TaskGetItem):
            value = item_of(value, item)
        kind = as_type or task.input_type
        tables = tables_of(leaves(value), {})
        return read_unchanged(stores.tables, tables, lambda: loaded(stores, value, kind))


def _found(state: StageState, task: Task, *, anywhere: bool) -> StoredResult | None:
    """Find the result of the task's place in the flow, or of any task of its name."""
    named = [result for result in state.results if result.task == task.name]
    here = [result for result in named if anywhere or result.position == task.position]
    return next((result for result in reversed(here) if state.holds(result)), None)
