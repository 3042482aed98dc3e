"""Stage locks: who may commit a stage, for runs that shall queue instead of racing.

Without them ixflow is right, too: a commit that was computed from what another run has replaced is
refused. With them the second run waits for the first before it computes anything.
"""

from __future__ import annotations

from ixflow.pipeline.locks.base import BaseLockManager, LockState
from ixflow.pipeline.locks.context import StageLockContext
from ixflow.pipeline.locks.database import DatabaseLockManager
from ixflow.pipeline.locks.file import FileLockManager
from ixflow.pipeline.locks.none import NoLockManager
from ixflow.pipeline.locks.zookeeper import ZooKeeperLockManager

__all__ = [
    "BaseLockManager",
    "DatabaseLockManager",
    "FileLockManager",
    "LockState",
    "NoLockManager",
    "StageLockContext",
    "ZooKeeperLockManager",
]
