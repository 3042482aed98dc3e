"""The Dagster surface: assets, resources, IO managers, sensors and automation."""

from ixflow.dagster.automation import on_change, on_data_change, on_missing
from ixflow.dagster.build import build_definitions
from ixflow.dagster.components import (
    ExtractionComponent,
    FlowComponent,
    IngestComponent,
    TableStoreComponent,
)
from ixflow.dagster.contracts import schema_contract
from ixflow.dagster.drift import row_count_drift
from ixflow.dagster.extracted import ingest_extraction
from ixflow.dagster.extraction import (
    PlannerResource,
    RuntimeConfig,
    extraction_asset,
    source_asset,
)
from ixflow.dagster.extraction_assets import build_extraction_assets, extraction_assets
from ixflow.dagster.extraction_events import ExtractionEvents
from ixflow.dagster.garbage import collect_garbage_sensor
from ixflow.dagster.ingest_io import HighWatermarkIOManager, ingest_into
from ixflow.dagster.ingestion import IngestConfig, ingest_asset
from ixflow.dagster.io_managers import SQLTableStoreIOManager
from ixflow.dagster.manual import ApprovalConfig, approve_job
from ixflow.dagster.parquet_io import ParquetIOManager
from ixflow.dagster.plan_checks import PlanCheck, plan_check
from ixflow.dagster.reconcile import reconcile
from ixflow.dagster.rollback import RollbackConfig, rollback_job
from ixflow.dagster.sensors import high_watermark_sensor
from ixflow.dagster.stages import flow_definitions, stage_assets, table_key
from ixflow.dagster.stored import stored
from ixflow.dagster.table_store import SQLTableStoreResource
from ixflow.dagster.watermarks import watermark_source
from ixflow.tables.slices import PartitionBy, Slice

__all__ = [
    "ApprovalConfig",
    "ExtractionComponent",
    "ExtractionEvents",
    "FlowComponent",
    "HighWatermarkIOManager",
    "IngestComponent",
    "IngestConfig",
    "ParquetIOManager",
    "PartitionBy",
    "PlanCheck",
    "PlannerResource",
    "RollbackConfig",
    "RuntimeConfig",
    "SQLTableStoreIOManager",
    "SQLTableStoreResource",
    "Slice",
    "TableStoreComponent",
    "approve_job",
    "build_definitions",
    "build_extraction_assets",
    "collect_garbage_sensor",
    "extraction_asset",
    "extraction_assets",
    "flow_definitions",
    "high_watermark_sensor",
    "ingest_asset",
    "ingest_extraction",
    "ingest_into",
    "on_change",
    "on_data_change",
    "on_missing",
    "plan_check",
    "reconcile",
    "rollback_job",
    "row_count_drift",
    "schema_contract",
    "source_asset",
    "stage_assets",
    "stored",
    "table_key",
    "watermark_source",
]
