"""Sensors that poll the truth: the source's newest row against the watermark in the warehouse."""

import datetime as dt
import decimal
import json
from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg
import sqlalchemy as sa

from ixflow.dagster.extraction import extraction_key, resolved
from ixflow.dagster.metadata import asset_key
from ixflow.dagster.table_store import WAREHOUSE, SQLTableStoreResource
from ixflow.dagster.watermarks import said_clearly
from ixflow.dialects import connected, dialect_of, patience
from ixflow.errors import LockNotAvailable, SourceUnavailable, ValidationError
from ixflow.extraction.intent import ExtractionIntent
from ixflow.ingestion.files import as_watermark
from ixflow.ingestion.watermark import watermark_of
from ixflow.tables.cursor import CursorPlan
from ixflow.values import Column, TableName

__all__ = ["high_watermark_sensor"]

# The daemon gives a tick a minute; a database that is busy now is looked at again soon.
_PATIENCE_SECONDS = 3.0


def high_watermark_sensor(
    *,
    name: str,
    intent: ExtractionIntent,
    cursor: str,
    table: str | None = None,
    schema: str = "raw",
    assets: Sequence[Any] | None = None,
    warehouse: str = WAREHOUSE,
    minimum_interval_seconds: int = 30,
    default_status: dg.DefaultSensorStatus = dg.DefaultSensorStatus.STOPPED,
) -> dg.SensorDefinition:
    """Ask for a run when the source has rows beyond the watermark that the warehouse committed.

    It compares the greatest ``cursor`` of the source table with the watermark stored beside the
    ingested rows; only rows that the intent selects count, and where its own ``incremental_key`` is
    this cursor and ``settled``, only those that are settled. Dagster's cursor is for people to see.
    A run is asked for once per greatest value: one that failed is asked for again by the next new
    row, or retried by hand. ``assets`` are what the run materializes: by default the extraction
    and its ingest; it may be an `ingest_asset` over `ixflow.incremental_batches`. The cursor column
    needs an index, or the source is scanned at every look. A database that is busy or away makes
    the look end with the reason, not fail.

    Example::

        high_watermark_sensor(name="new_orders", intent=orders, cursor="order_id")

    """
    target = TableName(table or TableName.parse(intent.object_name).name, schema)
    keys = [extraction_key(intent), asset_key(schema, target.name)]
    selection = dg.AssetSelection.assets(*(assets if assets is not None else keys))

    @dg.sensor(
        name=name,
        target=selection,
        required_resource_keys={warehouse},
        minimum_interval_seconds=minimum_interval_seconds,
        default_status=default_status,
        description=f"Asks for a run when {intent.object_name} has new rows by {cursor}.",
    )
    def _sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        resource: SQLTableStoreResource = getattr(context.resources, warehouse)
        try:
            with patience(_PATIENCE_SECONDS):
                newest = _newest(resolved(intent), cursor)
                stored = _stored(resource, target)
        except (SourceUnavailable, LockNotAvailable) as error:
            return dg.SkipReason(str(error))
        if newest is None or not _is_beyond(newest, _key_of(stored, cursor)):
            return dg.SkipReason(f"{target} is up to date at {cursor} = {json.dumps(stored)}")
        text = json.dumps(as_watermark(newest))
        return dg.SensorResult(
            run_requests=[dg.RunRequest(run_key=f"{target}:{cursor}:{text}")], cursor=text
        )

    return _sensor


def _newest(intent: ExtractionIntent, cursor: str) -> Any:
    """Read the greatest cursor value of the source; None: there is none.

    Raises:
        SourceUnavailable: the database cannot be reached, or is busy.
        TableNotFound: the source table is not there.
        ValidationError: it has no such column.

    """
    dialect = intent.dialect
    engine = dialect.read_engine(intent.url())
    table = TableName.parse(intent.object_name)
    try:
        with said_clearly(intent), connected(engine) as conn:
            described = dialect.describe(conn, intent.query) if intent.query else None
            columns = {c.name: c for c in described or dialect.columns(conn, table)}
            column = _watched(table, columns, cursor)
            # Asked before the rows are looked at: what is settled now is settled then.
            settled = _settled(conn, intent, column)
        with said_clearly(intent), dialect.reader(engine.url) as reader:
            found = reader.read(_greatest(intent, column, settled), [column]).read_all()
    finally:
        engine.dispose()
    return found.column(0)[0].as_py()


def _watched(table: TableName, columns: Mapping[str, Column], cursor: str) -> Column:
    if cursor not in columns:
        known = ", ".join(columns)
        msg = f"the table {table} has no column {cursor!r} to be watched; it has {known}"
        raise ValidationError(msg, table=str(table), column=cursor)
    column = columns[cursor]
    if column.as_text:
        kind = column.sql_type
        msg = f"{table}.{cursor} is {kind}, which is read as text; texts do not grow as it does"
        raise ValidationError(msg, table=str(table), column=cursor)
    return column


def _settled(conn: sa.Connection, intent: ExtractionIntent, column: Column) -> str | None:
    """Find what the intent's own cursor reads no further than; None: it reads everything."""
    dialect, cursor = intent.dialect, intent.cursor
    if cursor is None or cursor.column != column.name:
        return None
    plan = CursorPlan.of(cursor, column, None, settles=dialect.settles)
    if plan.semantics != "settled":
        return None
    table = None if intent.query else TableName.parse(intent.object_name)
    return dialect.settled_before(conn, table)


def _greatest(intent: ExtractionIntent, column: Column, settled: str | None) -> str:
    """Write the query for the greatest value among the rows that the intent selects."""
    dialect = intent.dialect
    name, table = dialect.quote(column.name), TableName.parse(intent.object_name)
    relation, alias = dialect.qualified(table), dialect.quote(table.name)
    if intent.query:
        relation, alias = f"({intent.query}\n)", dialect.quote("q")
    conditions = [] if intent.where is None else [f"({intent.where}\n)"]
    if settled is not None:
        conditions.append(f"{name} < {dialect.literal(settled, column.sql_type)}")
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    return f"SELECT max({name}) AS {name} FROM {relation} AS {alias}{where}"


def _stored(warehouse: SQLTableStoreResource, table: TableName) -> Any:
    """Read the watermark that is committed; None: the table is not there yet."""
    with connected(warehouse.engine) as conn:
        return watermark_of(dialect_of(conn).comment(conn, table))


def _key_of(stored: Any, cursor: str) -> Any:
    """Take the key out of the watermark that `ixflow.incremental_batches` stores."""
    if isinstance(stored, dict) and stored.get("cursor") == cursor and "after" in stored:
        return stored["after"]
    return stored


def _is_beyond(newest: Any, stored: Any) -> bool:
    """Compare as values of the cursor's own type, of which the watermark is the JSON form."""
    if stored is None:
        return True
    try:
        if isinstance(newest, (dt.datetime, dt.date)):
            return bool(newest > type(newest).fromisoformat(stored))
        if isinstance(newest, decimal.Decimal):
            return newest > decimal.Decimal(stored)
        if isinstance(newest, int) and isinstance(stored, str):
            return newest > int(stored)
        return bool(newest > stored)
    except (TypeError, ValueError, ArithmeticError):
        # Somebody's own watermark, which has no order with the cursor.
        return bool(as_watermark(newest) != stored)
