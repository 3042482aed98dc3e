"""Automation conditions that fire on changed data, not on repeated data."""

from typing import Any

import dagster as dg

__all__ = ["on_change"]


def on_change() -> dg.AutomationCondition[Any]:
    """Materialize when the data of a dependency changed, the code changed, or nothing is there.

    Unlike `AutomationCondition.eager()` it does not fire when a dependency was materialized again
    with the same data version.

    >>> on_change().label
    'ixflow_on_change'
    """
    upstream = dg.AutomationCondition.any_deps_match(
        dg.AutomationCondition.data_version_changed() | dg.AutomationCondition.will_be_requested()
    )
    wanted: dg.AutomationCondition[Any] = (
        upstream | dg.AutomationCondition.code_version_changed() | dg.AutomationCondition.missing()
    )
    return (
        wanted.since_last_handled()
        & ~dg.AutomationCondition.in_progress()
        & ~dg.AutomationCondition.any_deps_missing()
    ).with_label("ixflow_on_change")
