"""A check that a table of the warehouse has the rows of its source, by counts and checksums."""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg
import sqlalchemy as sa

from ixflow.dagster.comparing import (
    Measured,
    Side,
    can_sum,
    chosen,
    comparable,
    differences,
    literal_text,
)
from ixflow.dagster.extraction import resolved
from ixflow.dagster.failures import failures
from ixflow.dagster.metadata import asset_key
from ixflow.dagster.table_store import WAREHOUSE, SQLTableStoreResource
from ixflow.dialects import dialect_of
from ixflow.dialects.fragments import checked_filter
from ixflow.errors import ValidationError
from ixflow.extraction.intent import ExtractionIntent
from ixflow.secrets import redact
from ixflow.values import Column, TableName

__all__ = ["reconcile"]


@dataclass(frozen=True)
class _Question:
    """What is compared."""

    intent: ExtractionIntent
    target: TableName
    cursor: str | None
    until: Any
    key: str | None
    columns: tuple[str, ...] | None
    where: str | None
    checksum: bool


def reconcile(
    *,
    source: ExtractionIntent,
    target: str,
    cursor: str | None = None,
    until: Any = None,
    key: str | None = None,
    columns: Sequence[str] | None = None,
    where: str | None = None,
    checksum: bool = True,
    asset: Any = None,
    warehouse: str = WAREHOUSE,
    name: str = "reconcile",
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR,
    blocking: bool = False,
    automation_condition: dg.AutomationCondition[Any] | None = None,
) -> dg.AssetChecksDefinition:
    """Check that ``target``, a table of the warehouse (``schema.table``), has the source's rows.

    Rows are counted on both sides. Where both databases can (PostgreSQL, DuckDB), an order-free
    checksum of the columns that mean the same on both sides is compared, else the least and the
    greatest ``key`` if one is given. Masked columns are not compared; metadata names what was not.

    Args:
        source: The intent whose rows were ingested: its filter, query and columns hold.
        target: The table, as ``raw.orders``; the check is one of the asset ``[schema, table]``.
        cursor: A column by which rows arrive. Both sides are compared up to the greatest value
            that the target has, so rows that still arrive in the source are not called missing.
            It must not change: a row whose cursor has grown since is too many in the target. Rows
            without a value are not compared. None: all rows, of the moment of the check.
        until: Compare up to this value of the cursor instead.
        key: A number or a time, for databases without checksums.
        columns: The columns to compare; None: all that the source has.
        where: A condition for both sides, in SQL that both understand.
        checksum: False only counts (and compares the ends of the ``key``).
        asset: The asset of the check, if it has another key.
        warehouse: The key of the `SQLTableStoreResource`.
        name: The name of the check.
        severity: Of a difference.
        blocking: Whether a difference stops what depends on the asset.
        automation_condition: When the check runs on its own.

    Raises:
        ValidationError: ``until`` without ``cursor``, or a ``where`` that is no condition.

    >>> orders = ExtractionIntent("sqlite", {"database": "shop.db"}, "orders")
    >>> check = reconcile(source=orders, target="raw.orders", cursor="order_id")
    >>> check.check_key.asset_key.to_user_string()
    'raw/orders'

    """
    if until is not None and cursor is None:
        raise ValidationError("until is given without cursor; say of which column it is a value")
    place = TableName.parse(target)
    kept = None if where is None else checked_filter(where, source.dialect.lexicon)
    listed = None if columns is None else tuple(columns)
    asked = _Question(source, place, cursor, until, key, listed, kept, checksum)

    @dg.asset_check(
        asset=asset_key(place.schema, place.name) if asset is None else asset,
        name=name,
        blocking=blocking,
        automation_condition=automation_condition,
        required_resource_keys={warehouse},
        description=f"{target} has the rows of {source.object_name}.",
    )
    def _reconcile(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        resource: SQLTableStoreResource = getattr(context.resources, warehouse)
        with failures():
            return _answer(asked, resource.engine, severity)

    return _reconcile


def _answer(
    asked: _Question, warehouse: sa.Engine, severity: dg.AssetCheckSeverity
) -> dg.AssetCheckResult:
    """Look at both sides.

    Raises:
        SourceUnavailable, TableNotFound, ValidationError: what cannot be compared, and why.

    """
    intent = resolved(asked.intent)
    both = () if asked.where is None else (asked.where,)
    own = () if intent.where is None else (intent.where,)
    engine = intent.dialect.read_engine(intent.url())
    name = TableName.parse(intent.object_name)
    source = Side(intent.dialect, engine, name, intent.query, (*own, *both), frozenset(intent.mask))
    target = Side(dialect_of(warehouse), warehouse, asked.target, where=both)
    try:
        problems, seen = _compared(asked, intent, source, target)
    except sa.exc.DBAPIError as error:
        said = redact(" ".join(str(error.orig).split()), *intent.secrets, _password(warehouse))
        msg = f"{asked.target} cannot be compared with {intent.object_name}: {said}"
        raise ValidationError(msg, source=intent.object_name, target=str(asked.target)) from None
    finally:
        engine.dispose()
    words = "; ".join(problems) or "both sides have the same rows"
    bound = seen.get("ixflow/bound")
    return dg.AssetCheckResult(
        passed=not problems,
        severity=severity,
        description=f"{words} (where {bound})" if bound else words,
        metadata=seen,
    )


def _password(engine: sa.Engine) -> str:
    return str(engine.url.password or "")


def _compared(
    asked: _Question, intent: ExtractionIntent, source: Side, target: Side
) -> tuple[list[str], dict[str, Any]]:
    """Say what differs, and what was compared how."""
    have, there = source.columns(), target.columns()
    names = _names(asked, intent, have)
    problems = [f"the target has no column {name}" for name in names if name not in there]
    bounds, said = _bounds(asked, (source, have), (target, there))
    sums = asked.checksum and can_sum(source.dialect) and can_sum(target.dialect)
    pairs = [(have[name], there[name]) for name in names if sums and name in there]
    pairs = [(one, two) for one, two in pairs if comparable(source, one, target, two)]
    if pairs:
        how = "checksum"
        one = source.summed(bounds[0], [pair[0] for pair in pairs])
        two = target.summed(bounds[1], [pair[1] for pair in pairs])
    elif asked.key is not None:
        how = f"count, least and greatest {asked.key}"
        one = source.ranged(bounds[0], chosen(have, asked.key, "key", source.table))
        two = target.ranged(bounds[1], chosen(there, asked.key, "key", target.table))
    else:
        how, one, two = "count", source.counted(bounds[0]), target.counted(bounds[1])
    problems += differences(one, two, asked.key)
    if one.rows == two.rows and one.checksum != two.checksum:
        problems += _odd(pairs, source, target, bounds)
    compared = [pair[0].name for pair in pairs]
    return problems, {**said, **_metadata(how, one, two, compared, names)}


def _metadata(
    how: str, source: Measured, target: Measured, compared: Sequence[str], names: Sequence[str]
) -> dict[str, Any]:
    found: dict[str, Any] = {
        "ixflow/compared_at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "ixflow/compared_by": how,
        "ixflow/source_rows": source.rows,
        "ixflow/target_rows": target.rows,
        "ixflow/not_compared": ", ".join(n for n in names if n not in compared) or "none",
    }
    if source.checksum is not None and target.checksum is not None:
        found["ixflow/source_checksum"] = source.checksum
        found["ixflow/target_checksum"] = target.checksum
    return found


def _odd(
    pairs: Sequence[tuple[Column, Column]],
    source: Side,
    target: Side,
    bounds: tuple[str | None, str | None],
) -> list[str]:
    """Name the columns that differ, each by a checksum of its own."""
    odd = [
        one.name
        for one, two in pairs
        if source.summed(bounds[0], [one]) != target.summed(bounds[1], [two])
    ]
    if odd:
        return [f"values of {', '.join(odd)} differ"]
    return ["each column has the same values, but in other rows"]


def _bounds(
    asked: _Question, source: tuple[Side, dict[str, Column]], target: tuple[Side, dict[str, Column]]
) -> tuple[tuple[str | None, str | None], dict[str, str]]:
    """Write the condition up to which each side is compared, and say it; none: all rows are."""
    if asked.cursor is None:
        return (None, None), {}
    columns = [
        chosen(columns, asked.cursor, "cursor", side.table) for side, columns in (source, target)
    ]
    value = target[0].greatest(columns[1]) if asked.until is None else asked.until
    if value is None:
        return (None, None), {}
    text = literal_text(value)
    first, second = (
        f"{side.dialect.quote(asked.cursor)} <= {side.dialect.literal(text, column.sql_type)}"
        for (side, _), column in zip((source, target), columns, strict=True)
    )
    return (first, second), {"ixflow/bound": f"{asked.cursor} <= {text}"}


def _names(asked: _Question, intent: ExtractionIntent, have: dict[str, Column]) -> list[str]:
    wanted = asked.columns or intent.columns or tuple(n for n in have if n not in intent.drop)
    unknown = [name for name in wanted if name not in have]
    if unknown:
        msg = f"{intent.object_name} has no column {', '.join(unknown)}; it has {', '.join(have)}"
        raise ValidationError(msg, table=intent.object_name, columns=unknown)
    return list(wanted)
