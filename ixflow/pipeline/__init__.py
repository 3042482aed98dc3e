"""Flows of tasks in stages, whose tables are published a stage at a time."""

from __future__ import annotations

from ixflow.pipeline.audit import AuditOutcome, AuditResult, audit
from ixflow.pipeline.config import ConfigContext, create_basic_pipedag_config
from ixflow.pipeline.containers import ExternalTableReference, Table
from ixflow.pipeline.flow import Flow
from ixflow.pipeline.materialize import materialize
from ixflow.pipeline.result import Result, StageResult, TableResult, TaskState
from ixflow.pipeline.run import run_flow, run_stage
from ixflow.pipeline.stage import Stage
from ixflow.pipeline.task import Task, TaskGetItem

__all__ = [
    "AuditOutcome",
    "AuditResult",
    "ConfigContext",
    "ExternalTableReference",
    "Flow",
    "Result",
    "Stage",
    "StageResult",
    "Table",
    "TableResult",
    "Task",
    "TaskGetItem",
    "TaskState",
    "audit",
    "create_basic_pipedag_config",
    "materialize",
    "run_flow",
    "run_stage",
]
