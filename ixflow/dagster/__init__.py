"""The Dagster surface: assets, resources, IO managers, sensors and automation."""

from ixflow.dagster.automation import on_change
from ixflow.dagster.extracted import ingest_extraction
from ixflow.dagster.extraction import (
    PlannerResource,
    RuntimeConfig,
    extraction_asset,
    source_asset,
)
from ixflow.dagster.ingestion import IngestConfig, ingest_asset
from ixflow.dagster.io_managers import SQLTableStoreIOManager
from ixflow.dagster.sensors import high_watermark_sensor
from ixflow.dagster.stages import flow_definitions, stage_assets, table_key
from ixflow.dagster.table_store import SQLTableStoreResource

__all__ = [
    "IngestConfig",
    "PlannerResource",
    "RuntimeConfig",
    "SQLTableStoreIOManager",
    "SQLTableStoreResource",
    "extraction_asset",
    "flow_definitions",
    "high_watermark_sensor",
    "ingest_asset",
    "ingest_extraction",
    "on_change",
    "source_asset",
    "stage_assets",
    "table_key",
]
