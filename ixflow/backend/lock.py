"""The lock managers."""

from __future__ import annotations

from ixflow.pipeline.locks import (
    BaseLockManager,
    DatabaseLockManager,
    FileLockManager,
    LockState,
    NoLockManager,
    ZooKeeperLockManager,
)

__all__ = [
    "BaseLockManager",
    "DatabaseLockManager",
    "FileLockManager",
    "LockState",
    "NoLockManager",
    "ZooKeeperLockManager",
]
