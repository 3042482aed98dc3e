"""Looking at what a run left: events, failures, and tables from outside."""

from typing import Any

import dagster as dg
import sqlalchemy as sa
from dagster import AssetMaterialization, AssetObservation

__all__ = ["checks", "data_version", "failure", "made", "rows", "value"]


def made(result: dg.ExecuteInProcessResult) -> dict[str, AssetMaterialization]:
    """Give the materializations of a run by asset key."""
    found = {}
    for event in result.get_asset_materialization_events():
        one = event.step_materialization_data.materialization
        found[one.asset_key.to_user_string()] = one
    return found


def checks(result: dg.ExecuteInProcessResult) -> dict[str, bool]:
    """Give the verdicts of the checks that were recorded, by name."""
    return {one.check_name: one.passed for one in result.get_asset_check_evaluations()}


def value(one: AssetMaterialization | AssetObservation, key: str) -> Any:
    """Give a metadata value as Python sees it."""
    return one.metadata[key].value


def data_version(one: AssetMaterialization) -> str | None:
    """Give the data version that was recorded."""
    return (one.tags or {}).get("dagster/data_version")


def failure(result: dg.ExecuteInProcessResult) -> Any:
    """Give what the one failed step said: description, metadata, allow_retries."""
    failed = [event for event in result.all_node_events if event.is_step_failure]
    assert len(failed) == 1, failed
    data = failed[0].step_failure_data
    assert data.user_failure_data is not None, data.error
    return data.user_failure_data


def rows(engine: sa.Engine, table: str) -> list[tuple[Any, ...]]:
    """Read the rows of a table, sorted; None where there is no such table."""
    with engine.connect() as conn:
        return sorted(tuple(row) for row in conn.exec_driver_sql(f"SELECT * FROM {table}"))
