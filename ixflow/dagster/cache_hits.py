"""Tables that are valid: told again, or left out so that what only takes them is skipped."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import dagster as dg

__all__ = ["OnCacheHit", "not_skipped"]

OnCacheHit = Literal["record", "skip"]
"""What is told of a valid table: a materialization with the same data version, or nothing."""


def not_skipped(
    context: dg.AssetExecutionContext, events: Sequence[dg.MaterializeResult[Any]]
) -> Iterator[dg.MaterializeResult[Any]]:
    """Leave out what need not be told, as far as no step of this run has to run for another reason.

    Dagster skips a step if any of its inputs was left out. So a valid table is told all the same if
    a step takes it together with anything that is not left out: that may have changed. And so it
    is if the event log does not have it with this content: the process that should have told it
    may have died.
    """
    left_out = {
        event.asset_key: event.data_version
        for event in events
        if (event.tags or {}).get("ixflow/cache") == "hit"
    }
    left_out = {key: it for key, it in left_out.items() if _is_known(context, key, it)}
    taken = _taken_by_steps(context)
    grown = True
    while grown:
        needed = {
            key for keys in taken if not keys <= left_out.keys() for key in keys & left_out.keys()
        }
        grown = bool(needed)
        for key in needed:
            del left_out[key]
    for event in events:
        if event.asset_key in left_out:
            context.log.info("%s is unchanged", event.asset_key)
        else:
            yield event


def _is_known(
    context: dg.AssetExecutionContext, key: dg.AssetKey | None, version: dg.DataVersion | None
) -> bool:
    if key is None or version is None:
        return False
    entry = context.instance.get_latest_materialization_event(key)
    known = None if entry is None else entry.asset_materialization
    return known is not None and (known.tags or {}).get("dagster/data_version") == version.value


def _taken_by_steps(context: dg.AssetExecutionContext) -> list[set[dg.AssetKey]]:
    """List, for each node of the run, the assets that it takes, be they of this run or not."""
    nodes = [data.assets_def for data in context.job_def.asset_layer.data]
    return [set(node.keys_by_input_name.values()) - node.keys for node in nodes]
