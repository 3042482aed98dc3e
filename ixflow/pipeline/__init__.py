"""Flows of tasks in stages, whose tables are published a stage at a time."""

from __future__ import annotations

from ixflow.pipeline.audit import AuditOutcome, AuditResult, audit
from ixflow.pipeline.auto_version import AUTO_VERSION
from ixflow.pipeline.basic_config import create_basic_pipedag_config
from ixflow.pipeline.blob import Blob
from ixflow.pipeline.blob_store import FileBlobStore, NoBlobStore
from ixflow.pipeline.config import ConfigContext, StageCommitTechnique
from ixflow.pipeline.containers import ExternalTableReference, Table
from ixflow.pipeline.flow import Flow
from ixflow.pipeline.materialize import materialize
from ixflow.pipeline.pipedag_config import PipedagConfig
from ixflow.pipeline.raw_sql import RawSql
from ixflow.pipeline.result import Result, StageResult, TableResult, TaskState
from ixflow.pipeline.stage import Stage
from ixflow.pipeline.stage_run import run_stage
from ixflow.pipeline.task import Task, TaskGetItem

__all__ = [
    "AUTO_VERSION",
    "AuditOutcome",
    "AuditResult",
    "Blob",
    "ConfigContext",
    "ExternalTableReference",
    "FileBlobStore",
    "Flow",
    "NoBlobStore",
    "PipedagConfig",
    "RawSql",
    "Result",
    "Stage",
    "StageCommitTechnique",
    "StageResult",
    "Table",
    "TableResult",
    "Task",
    "TaskGetItem",
    "TaskState",
    "audit",
    "create_basic_pipedag_config",
    "materialize",
    "run_stage",
]
