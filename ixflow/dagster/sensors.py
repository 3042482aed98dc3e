"""Sensors that poll the truth: the source's newest row against the watermark in the warehouse."""

import datetime as dt
import decimal
import json
from collections.abc import Sequence
from typing import Any

import dagster as dg

from ixflow.dagster.extraction import extraction_key, resolved
from ixflow.dagster.metadata import asset_key
from ixflow.dagster.table_store import WAREHOUSE, SQLTableStoreResource
from ixflow.dialects import connected, dialect_of, patience
from ixflow.errors import SourceUnavailable, ValidationError
from ixflow.extraction.intent import ExtractionIntent
from ixflow.ingestion.files import as_watermark
from ixflow.ingestion.watermark import watermark_of
from ixflow.values import TableName

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
    ingested rows. A run is asked for once per greatest value: one that failed is asked for again
    by the next new row, or retried by hand. ``assets`` are what the run materializes: by default
    the extraction and its ingest. The cursor column needs an index, or the source is scanned at
    every look. A database that is busy or away makes the look end, not fail.

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
        except SourceUnavailable as error:
            return dg.SkipReason(str(error))
        if newest is None or not _is_beyond(newest, stored):
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
        with connected(engine) as conn:
            columns = {column.name: column for column in dialect.columns(conn, table)}
        if cursor not in columns:
            known = ", ".join(columns)
            msg = f"the table {table} has no column {cursor!r} to be watched; it has {known}"
            raise ValidationError(msg, table=str(table), column=cursor)
        if columns[cursor].as_text:
            kind = columns[cursor].sql_type
            msg = f"{table}.{cursor} is {kind}, which is read as text; texts do not grow as it does"
            raise ValidationError(msg, table=str(table), column=cursor)
        quoted = dialect.quote(cursor)
        query = f"SELECT max({quoted}) AS {quoted} FROM {dialect.qualified(table)}"
        with dialect.reader(engine.url) as reader:
            found = reader.read(query, [columns[cursor]]).read_all()
    finally:
        engine.dispose()
    return found.column(0)[0].as_py()


def _stored(warehouse: SQLTableStoreResource, table: TableName) -> Any:
    """Read the watermark that is committed; None: the table is not there yet."""
    with connected(warehouse.engine) as conn:
        return watermark_of(dialect_of(conn).comment(conn, table))


def _is_beyond(newest: Any, stored: Any) -> bool:
    """Compare as values of the cursor's own type, of which the watermark is the JSON form."""
    if stored is None:
        return True
    try:
        if isinstance(newest, (dt.datetime, dt.date)):
            return bool(newest > type(newest).fromisoformat(stored))
        if isinstance(newest, decimal.Decimal):
            return newest > decimal.Decimal(stored)
        return bool(newest > stored)
    except (TypeError, ValueError, ArithmeticError):
        # Somebody's own watermark, which has no order with the cursor.
        return bool(as_watermark(newest) != stored)
