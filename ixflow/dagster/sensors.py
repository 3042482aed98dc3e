"""Sensors that poll the truth: the source's newest row against the watermark in the warehouse."""

import json
from collections.abc import Sequence
from typing import Any

import dagster as dg

from ixflow.dagster.extraction import extraction_key, resolved
from ixflow.dagster.table_store import SQLTableStoreResource
from ixflow.dialects import connected, dialect_of
from ixflow.errors import SourceUnavailable
from ixflow.extraction.intent import ExtractionIntent
from ixflow.ingestion.files import as_watermark
from ixflow.ingestion.watermark import watermark_of
from ixflow.values import TableName

__all__ = ["high_watermark_sensor"]


def high_watermark_sensor(
    *,
    name: str,
    intent: ExtractionIntent,
    cursor: str,
    table: str | None = None,
    schema: str = "raw",
    assets: Sequence[Any] | None = None,
    warehouse: str = "warehouse",
    minimum_interval_seconds: int = 30,
    default_status: dg.DefaultSensorStatus = dg.DefaultSensorStatus.STOPPED,
) -> dg.SensorDefinition:
    """Ask for a run when the source has rows beyond the watermark that the warehouse committed.

    It compares the greatest ``cursor`` of the source table with the watermark stored beside the
    ingested rows, so a run that failed is asked for again, and rows that are in are not. A run is
    asked for once per watermark. ``assets`` are what the run materializes: by default the
    extraction and its ingest. The cursor column needs an index, or the source is scanned at every
    look.

    Example::

        high_watermark_sensor(name="new_orders", intent=orders, cursor="order_id")

    """
    target = TableName(table or TableName.parse(intent.object_name).name, schema)
    keys = [extraction_key(intent), dg.AssetKey([schema, target.name])]
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
            newest = _newest(resolved(intent), cursor)
            stored = _stored(resource, target)
        except SourceUnavailable as error:
            return dg.SkipReason(str(error))
        if newest is None or newest == stored:
            return dg.SkipReason(f"{target} is up to date at {cursor} = {json.dumps(stored)}")
        text = json.dumps(newest)
        return dg.SensorResult(
            run_requests=[dg.RunRequest(run_key=f"{target}:{cursor}:{text}")], cursor=text
        )

    return _sensor


def _newest(intent: ExtractionIntent, cursor: str) -> Any:
    """Read the greatest cursor value of the source, as the watermark that it would become."""
    dialect = intent.dialect
    engine = dialect.engine(intent.url())
    table = TableName.parse(intent.object_name)
    try:
        with connected(engine) as conn:
            column = next(c for c in dialect.columns(conn, table) if c.name == cursor)
        query = f"SELECT max({dialect.quote(cursor)}) AS {dialect.quote(cursor)} " + (
            f"FROM {dialect.qualified(table)}"
        )
        with dialect.reader(engine.url) as reader:
            found = reader.read(query, [column]).read_all()
    finally:
        engine.dispose()
    return as_watermark(found.column(0)[0].as_py())


def _stored(warehouse: SQLTableStoreResource, table: TableName) -> Any:
    with connected(warehouse.engine) as conn:
        dialect = dialect_of(conn)
        return watermark_of(dialect.comment(conn, table))

