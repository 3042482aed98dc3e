"""Rows out of operational databases and into a warehouse, as Dagster assets, exactly once.

The Dagster surface is in `ixflow.dagster`; everything here works without it.
"""

from __future__ import annotations

from ixflow.errors import (
    AuditFailed,
    CacheError,
    CheckFailed,
    ColumnMismatch,
    DataError,
    DuplicateNameError,
    DuplicatePartitionError,
    ExecutionError,
    FlowError,
    IngestError,
    IxflowError,
    IxtractError,
    LockError,
    LockNotAvailable,
    NoConnectionLeft,
    NotRecommendedError,
    OutputNotWritable,
    PlanCorruptionError,
    ReadNotAllowed,
    ReplacementRefused,
    SnapshotTooOld,
    SnapshotUnavailable,
    SourceLimitReached,
    SourceUnavailable,
    StageError,
    StatementTimeout,
    StateUnavailable,
    TableNotFound,
    TaskError,
    TooManyMissing,
    UnsupportedDatabase,
    UnsupportedPlanVersion,
    UnsupportedState,
    UnsupportedType,
    ValidationError,
    ValueDoesNotFit,
)
from ixflow.extraction.api import (
    execute,
    execute_plan,
    execute_together,
    explain,
    hold_snapshot,
    plan,
    profile,
    published,
)
from ixflow.extraction.context import RuntimeContext
from ixflow.extraction.cost import CostConfig
from ixflow.extraction.cursor import Cursor
from ixflow.extraction.intent import ExtractionIntent
from ixflow.extraction.plan import PlanResult
from ixflow.extraction.replay import replay
from ixflow.ingestion.blockers import ForceExecute
from ixflow.ingestion.checks import RowCheck
from ixflow.ingestion.existence import partition_attached, table_exists, view_exists
from ixflow.ingestion.file_like import to_file_like_obj, to_file_like_object
from ixflow.ingestion.files import parquet_batches
from ixflow.ingestion.ingest import ingest
from ixflow.ingestion.missing import Missing
from ixflow.ingestion.options import (
    Delete,
    HighWatermark,
    IngestResult,
    OnDuplicate,
    Upsert,
    Visibility,
)
from ixflow.ingestion.release import release
from ixflow.ingestion.versioned import VersionResult, ingest_versioned
from ixflow.pipeline.audit import AuditResult, audit
from ixflow.pipeline.config import ConfigContext, create_basic_pipedag_config
from ixflow.pipeline.containers import ExternalTableReference, Table
from ixflow.pipeline.flow import Flow
from ixflow.pipeline.materialize import materialize
from ixflow.pipeline.result import Result
from ixflow.pipeline.run import run_stage
from ixflow.pipeline.stage import Stage
from ixflow.store.sql_store import SQLTableStore

__version__ = "0.1.0"

__all__ = [
    "AuditFailed",
    "AuditResult",
    "CacheError",
    "CheckFailed",
    "ColumnMismatch",
    "ConfigContext",
    "CostConfig",
    "Cursor",
    "DataError",
    "Delete",
    "DuplicateNameError",
    "DuplicatePartitionError",
    "ExecutionError",
    "ExternalTableReference",
    "ExtractionIntent",
    "Flow",
    "FlowError",
    "ForceExecute",
    "HighWatermark",
    "IngestError",
    "IngestResult",
    "IxflowError",
    "IxtractError",
    "LockError",
    "LockNotAvailable",
    "Missing",
    "NoConnectionLeft",
    "NotRecommendedError",
    "OnDuplicate",
    "OutputNotWritable",
    "PlanCorruptionError",
    "PlanResult",
    "ReadNotAllowed",
    "ReplacementRefused",
    "Result",
    "RowCheck",
    "RuntimeContext",
    "SQLTableStore",
    "SnapshotTooOld",
    "SnapshotUnavailable",
    "SourceLimitReached",
    "SourceUnavailable",
    "Stage",
    "StageError",
    "StateUnavailable",
    "StatementTimeout",
    "Table",
    "TableNotFound",
    "TaskError",
    "TooManyMissing",
    "UnsupportedDatabase",
    "UnsupportedPlanVersion",
    "UnsupportedState",
    "UnsupportedType",
    "Upsert",
    "ValidationError",
    "ValueDoesNotFit",
    "VersionResult",
    "Visibility",
    "audit",
    "create_basic_pipedag_config",
    "execute",
    "execute_plan",
    "execute_together",
    "explain",
    "hold_snapshot",
    "ingest",
    "ingest_versioned",
    "materialize",
    "parquet_batches",
    "partition_attached",
    "plan",
    "profile",
    "published",
    "release",
    "replay",
    "run_stage",
    "table_exists",
    "to_file_like_obj",
    "to_file_like_object",
    "view_exists",
]
