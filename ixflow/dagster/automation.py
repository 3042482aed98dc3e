"""Automation conditions that fire on changed data, not on repeated data."""

import datetime as dt
from typing import Any

import dagster as dg

__all__ = ["on_change", "on_data_change", "on_missing"]


def on_change(
    *,
    ignore: dg.AssetSelection | None = None,
    cron: str | None = None,
    timezone: str = "UTC",
) -> dg.AutomationCondition[Any]:
    """Materialize when the data of a dependency changed, the code changed, or nothing is there.

    Unlike `AutomationCondition.eager()` it does not fire when a dependency was materialized again
    with the same data version. Changes of the dependencies that ``ignore`` selects do not count.
    With ``cron`` it fires at the ticks of a schedule only, and only if something changed since it
    fired last: a tick without a change passes.

    >>> on_change().label
    'ixflow_on_change'
    >>> on_change(cron="0 6 * * *", timezone="Europe/Berlin").label
    'ixflow_on_change(0 6 * * *, Europe/Berlin)'
    """
    wanted: dg.AutomationCondition[Any] = (
        _changed(ignore)
        | dg.AutomationCondition.code_version_changed()
        | dg.AutomationCondition.missing()
    )
    return _when(wanted, "ixflow_on_change", cron, timezone)


def on_data_change(
    *,
    ignore: dg.AssetSelection | None = None,
    cron: str | None = None,
    timezone: str = "UTC",
) -> dg.AutomationCondition[Any]:
    """Materialize when the data of a dependency changed, and for no other reason.

    For what a person makes first and deploys without making it again, such as a costly ingest of
    an observed source. The arguments are those of `on_change`.

    >>> on_data_change().label
    'ixflow_on_data_change'
    """
    return _when(_changed(ignore), "ixflow_on_data_change", cron, timezone)


def on_missing(*, lookback: dt.timedelta | None = None) -> dg.AutomationCondition[Any]:
    """Materialize what was never materialized, once all that it depends on is there.

    Of time partitions the latest one counts, or those of the ``lookback``. What failed is not
    asked for again: that is for a retry policy or a person.

    >>> on_missing().label
    'ixflow_on_missing'
    """
    wanted: dg.AutomationCondition[Any] = (
        dg.AutomationCondition.in_latest_time_window(lookback) & dg.AutomationCondition.missing()
    )
    return _when(wanted, "ixflow_on_missing")


def _changed(ignore: dg.AssetSelection | None) -> dg.AutomationCondition[Any]:
    found = dg.AutomationCondition.any_deps_match(
        dg.AutomationCondition.data_version_changed() | dg.AutomationCondition.will_be_requested()
    )
    return found if ignore is None else found.ignore(ignore)


def _when(
    wanted: dg.AutomationCondition[Any], label: str, cron: str | None = None, timezone: str = "UTC"
) -> dg.AutomationCondition[Any]:
    """Remember the wish until it was asked for, which waits for inputs and for its own runs."""
    condition = (
        wanted.since_last_handled()
        & ~dg.AutomationCondition.in_progress()
        & ~dg.AutomationCondition.any_deps_missing()
    )
    if cron is None:
        return condition.with_label(label)
    tick = dg.AutomationCondition.cron_tick_passed(cron, timezone)
    return (condition & tick).with_label(f"{label}({cron}, {timezone})")
