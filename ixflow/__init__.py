"""Rows out of operational databases and into a warehouse, as Dagster assets, exactly once.

The Dagster surface is in `ixflow.dagster`; everything here works without it.
"""

from __future__ import annotations

from ixflow.engine import (
    DaskEngine,
    OrchestrationEngine,
    PrefectEngine,
    PrefectOneEngine,
    PrefectTwoEngine,
    SequentialEngine,
    ThreadedEngine,
)
from ixflow.errors import (
    ApprovalRefused,
    ArrivalDiffers,
    AuditFailed,
    CacheError,
    CheckFailed,
    ColumnMismatch,
    ConfigError,
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
    NoConfiguration,
    NoConnectionLeft,
    NoStageLockContext,
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
    ExecutionResult,
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
from ixflow.extraction.cost import CostConfig, CostEstimate
from ixflow.extraction.intent import ExtractionIntent
from ixflow.extraction.plan import ExecutionPlan, PlanResult
from ixflow.extraction.profile import SourceProfile
from ixflow.extraction.replay import replay
from ixflow.ingestion.blockers import ForceExecute
from ixflow.ingestion.checks import RowCheck
from ixflow.ingestion.existence import partition_attached, table_exists, view_exists
from ixflow.ingestion.file_like import to_file_like_obj, to_file_like_object
from ixflow.ingestion.files import parquet_batches
from ixflow.ingestion.incremental_batches import incremental_batches
from ixflow.ingestion.ingest import ingest
from ixflow.ingestion.missing import Missing
from ixflow.ingestion.options import (
    Arrival,
    Delete,
    HighWatermark,
    IngestResult,
    OnDuplicate,
    Upsert,
    Visibility,
)
from ixflow.ingestion.release import release
from ixflow.ingestion.semantics import Exclusive, Inclusive, Overlap, Settled
from ixflow.ingestion.versioned import VersionResult, ingest_versioned
from ixflow.pipeline.audit import AuditResult, audit
from ixflow.pipeline.auto_version import AUTO_VERSION
from ixflow.pipeline.basic_config import create_basic_pipedag_config
from ixflow.pipeline.blob import Blob
from ixflow.pipeline.blob_store import FileBlobStore, NoBlobStore
from ixflow.pipeline.config import ConfigContext, StageCommitTechnique
from ixflow.pipeline.containers import ExternalTableReference, Table
from ixflow.pipeline.flow import Flow
from ixflow.pipeline.locks import (
    BaseLockManager,
    DatabaseLockManager,
    FileLockManager,
    LockState,
    NoLockManager,
    StageLockContext,
    ZooKeeperLockManager,
)
from ixflow.pipeline.materialize import materialize
from ixflow.pipeline.parquet_cache import ParquetTableCache
from ixflow.pipeline.pipedag_config import PipedagConfig
from ixflow.pipeline.raw_sql import RawSql
from ixflow.pipeline.result import Result
from ixflow.pipeline.stage import Stage
from ixflow.pipeline.stage_run import run_stage
from ixflow.store.dialect_stores import (
    DuckDBTableStore,
    IBMDB2TableStore,
    MSSqlTableStore,
    PostgresTableStore,
)
from ixflow.store.diff import RowChange, StageDiff, TableDiff
from ixflow.store.sql_store import SQLTableStore
from ixflow.store.versions import Rollback, StageVersion
from ixflow.tables.cursor import Cursor

__version__ = "0.1.0"

__all__ = [
    "AUTO_VERSION",
    "ApprovalRefused",
    "Arrival",
    "ArrivalDiffers",
    "AuditFailed",
    "AuditResult",
    "BaseLockManager",
    "Blob",
    "CacheError",
    "CheckFailed",
    "ColumnMismatch",
    "ConfigContext",
    "ConfigError",
    "CostConfig",
    "CostEstimate",
    "Cursor",
    "DaskEngine",
    "DataError",
    "DatabaseLockManager",
    "Delete",
    "DuckDBTableStore",
    "DuplicateNameError",
    "DuplicatePartitionError",
    "Exclusive",
    "ExecutionError",
    "ExecutionPlan",
    "ExecutionResult",
    "ExternalTableReference",
    "ExtractionIntent",
    "FileBlobStore",
    "FileLockManager",
    "Flow",
    "FlowError",
    "ForceExecute",
    "HighWatermark",
    "IBMDB2TableStore",
    "Inclusive",
    "IngestError",
    "IngestResult",
    "IxflowError",
    "IxtractError",
    "LockError",
    "LockNotAvailable",
    "LockState",
    "MSSqlTableStore",
    "Missing",
    "NoBlobStore",
    "NoConfiguration",
    "NoConnectionLeft",
    "NoLockManager",
    "NoStageLockContext",
    "NotRecommendedError",
    "OnDuplicate",
    "OrchestrationEngine",
    "OutputNotWritable",
    "Overlap",
    "ParquetTableCache",
    "PipedagConfig",
    "PlanCorruptionError",
    "PlanResult",
    "PostgresTableStore",
    "PrefectEngine",
    "PrefectOneEngine",
    "PrefectTwoEngine",
    "RawSql",
    "ReadNotAllowed",
    "ReplacementRefused",
    "Result",
    "Rollback",
    "RowChange",
    "RowCheck",
    "RuntimeContext",
    "SQLTableStore",
    "SequentialEngine",
    "Settled",
    "SnapshotTooOld",
    "SnapshotUnavailable",
    "SourceLimitReached",
    "SourceProfile",
    "SourceUnavailable",
    "Stage",
    "StageCommitTechnique",
    "StageDiff",
    "StageError",
    "StageLockContext",
    "StageVersion",
    "StateUnavailable",
    "StatementTimeout",
    "Table",
    "TableDiff",
    "TableNotFound",
    "TaskError",
    "ThreadedEngine",
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
    "ZooKeeperLockManager",
    "audit",
    "create_basic_pipedag_config",
    "execute",
    "execute_plan",
    "execute_together",
    "explain",
    "hold_snapshot",
    "incremental_batches",
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
