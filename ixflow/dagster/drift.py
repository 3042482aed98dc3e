"""A check that the number of rows is about what it was: the latest against the median before."""

import datetime as dt
import re
import statistics
from collections.abc import Sequence
from typing import Any

import dagster as dg

from ixflow.errors import ValidationError

__all__ = ["Limit", "row_count_drift"]

ROW_COUNT = "dagster/row_count"
_PARTITION_COUNT = "dagster/partition_row_count"
_MOST_EVENTS = 1000
_PERCENT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*%\s*")


class Limit:
    """How far a number may be from another: ``"20%"`` of it, or so many rows.

    Raises:
        ValidationError: it is neither.

    >>> Limit("20%").holds(120, 100), Limit(5).holds(106, 100)
    (True, False)
    """

    def __init__(self, at_most: str | int) -> None:
        """Understand the limit."""
        found = _PERCENT.fullmatch(at_most) if isinstance(at_most, str) else None
        self.percent = None if found is None else float(found[1])
        self.rows = at_most if isinstance(at_most, int) and not isinstance(at_most, bool) else None
        if self.percent is None and (self.rows is None or self.rows < 0):
            msg = f"at_most is {at_most!r}; give a text like '20%', or a number of rows from 0"
            raise ValidationError(msg, at_most=at_most)

    def holds(self, rows: float, usual: float) -> bool:
        """Say whether a number of rows is near enough to the usual one."""
        away = abs(rows - usual)
        if self.rows is not None:
            return away <= self.rows
        return away * 100 <= usual * (self.percent or 0.0)

    def __str__(self) -> str:
        """Show the limit as it was given."""
        return f"{self.rows:,} rows" if self.rows is not None else f"{self.percent:g}%"


def row_count_drift(
    asset: Any,
    *,
    at_most: str | int = "20%",
    window: int | dt.timedelta = 10,
    name: str = "row_count_drift",
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.WARN,
    blocking: bool = False,
    automation_condition: dg.AutomationCondition[Any] | None = None,
) -> dg.AssetChecksDefinition:
    """Check that the latest ``dagster/row_count`` is near the median of those before it.

    ``at_most`` is the greatest distance: a text like ``"20%"`` (of the median), or a number of
    rows. ``window`` says which materializations before the latest count: so many of them, or those
    of a time before it. The first one passes. A partition is compared with those made before it,
    by ``dagster/partition_row_count`` where that is recorded. Numbers come from the event log: no
    database is asked, and the asset may be anybody's that records the key.

    Raises:
        ValidationError: a limit or a window that means nothing.

    >>> row_count_drift("orders", at_most="5%").check_key.name
    'row_count_drift'
    """
    limit = Limit(at_most)
    if not (window > dt.timedelta() if isinstance(window, dt.timedelta) else window >= 1):
        msg = f"window is {window!r}; give a number of materializations from 1, or a timedelta"
        raise ValidationError(msg, window=window)

    @dg.asset_check(
        asset=asset,
        name=name,
        blocking=blocking,
        automation_condition=automation_condition,
        description=f"The number of rows is at most {limit} away from the median before.",
    )
    def _drift(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        key = next(iter(context.selected_asset_check_keys)).asset_key
        return judged(key, limit, *_counts(context.instance, key, window), severity=severity)

    return _drift


def judged(
    key: dg.AssetKey,
    limit: Limit,
    latest: int | None,
    before: Sequence[int],
    *,
    severity: dg.AssetCheckSeverity,
) -> dg.AssetCheckResult:
    """Compare the latest number of rows with those before it."""
    name = key.to_user_string()
    if latest is None:
        return dg.AssetCheckResult(
            passed=False,
            severity=severity,
            description=f"{name} has no materialization with {ROW_COUNT}; materialize it, or let "
            f"its step record that key",
        )
    if not before:
        return dg.AssetCheckResult(
            passed=True,
            description=f"{latest:,} rows; nothing to compare them with yet",
            metadata={"ixflow/rows": latest, "ixflow/compared_with": 0},
        )
    usual = statistics.median(before)
    numbers: dict[str, Any] = {
        "ixflow/rows": latest,
        "ixflow/median_rows": usual,
        "ixflow/compared_with": len(before),
        "ixflow/at_most": str(limit),
    }
    if usual:
        numbers["ixflow/drift_percent"] = round((latest - usual) * 100 / usual, 2)
    passed = limit.holds(latest, usual)
    how = "within" if passed else "which is more than"
    return dg.AssetCheckResult(
        passed=passed,
        severity=severity,
        description=f"{name} has {latest:,} rows, the median of {len(before)} before is "
        f"{usual:,}: {abs(latest - usual):,} {'more' if latest >= usual else 'fewer'}, "
        f"{how} {limit}",
        metadata=numbers,
    )


def _counts(
    instance: dg.DagsterInstance, key: dg.AssetKey, window: int | dt.timedelta
) -> tuple[int | None, list[int]]:
    """Read the latest number of rows, and those before it within the window."""
    most = window + 1 if isinstance(window, int) else _MOST_EVENTS
    records = instance.fetch_materializations(key, limit=most).records
    if not records or (latest := _rows(records[0])) is None:
        return None, []
    since = -1.0 if isinstance(window, int) else records[0].timestamp - window.total_seconds()
    found = [_rows(record) for record in records[1:] if record.timestamp >= since]
    return latest, [rows for rows in found if rows is not None]


def _rows(record: dg.EventLogRecord) -> int | None:
    made = record.asset_materialization
    if made is None:
        return None
    found = made.metadata.get(_PARTITION_COUNT) if made.partition else None
    found = made.metadata.get(ROW_COUNT) if found is None else found
    value = None if found is None else found.value
    return int(value) if isinstance(value, (int, float)) else None
