"""Where the outputs of pipelines live: tables of a stage, published together or not at all."""

from __future__ import annotations

from ixflow.store.frames import TableSpec
from ixflow.store.metadata import StageState, StoredResult, StoredTable, TableColumn
from ixflow.store.scripts import Script
from ixflow.store.sql_store import SQLTableStore
from ixflow.store.steps import StepRecord, Steps
from ixflow.store.transaction import Commit, InputRead, StageTransaction, TableWrite

__all__ = [
    "Commit",
    "InputRead",
    "SQLTableStore",
    "Script",
    "StageState",
    "StageTransaction",
    "StepRecord",
    "Steps",
    "StoredResult",
    "StoredTable",
    "TableColumn",
    "TableSpec",
    "TableWrite",
]
