"""The locks of one run: taken together before it begins, checked before each commit."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from ixflow.errors import ConfigError, LockError
from ixflow.pipeline.locks.base import BaseLockManager
from ixflow.pipeline.locks.context import StageLockContext

if TYPE_CHECKING:
    from ixflow.pipeline.config import ConfigContext

__all__ = ["NO_LOCKS", "RunLocks", "lock_for_reading", "manager_of"]


def manager_of(config: ConfigContext | None) -> BaseLockManager | None:
    """Give the lock manager of a configuration, None if it has none.

    Raises:
        ConfigError: what it names is no lock manager.

    """
    found = None if config is None else config.lock_manager
    if found is not None and not isinstance(found, BaseLockManager):
        msg = f"lock_manager is a {type(found).__name__}, which is no subclass of BaseLockManager"
        raise ConfigError(msg)
    return found


class RunLocks:
    """The locks of the stages that a run commits; none where there is no lock manager.

    They are taken in the order of their names, so that two runs never wait for each other in a
    circle, and each is let go after the commit of its stage; what is left, at the end of the
    block. Within a `StageLockContext` they are that one's.

    >>> with RunLocks(None, ["staging"]) as locks:
    ...     locks.check("staging")
    """

    def __init__(self, config: ConfigContext | None, stages: Iterable[str]) -> None:
        self._config = config
        self._stages = sorted(set(stages))
        self._manager: BaseLockManager | None = None
        self._own: set[str] = set()

    def __enter__(self) -> Self:
        """Take the locks.

        Raises:
            LockNotAvailable: others hold one for too long; then none is kept.
            LockError: one that a `StageLockContext` keeps is lost.

        """
        self._manager = manager_of(self._config)
        if self._manager is None or self._config is None:
            return self
        if (context := StageLockContext.innermost()) is not None:
            self._manager = context.keep(self._config, self._stages)
            return self
        try:
            for stage in self._stages:
                self._manager.acquire(stage)
                self._own.add(stage)
        except BaseException:
            self._release(set(self._own))
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let go what is left."""
        del kind, error, trace
        self._release(set(self._own))

    def check(self, stage: str) -> None:
        """Return if a stage may be committed.

        Raises:
            LockError: its lock is lost.

        """
        if self._manager is not None:
            self._manager.ensure(stage)

    def done(self, stage: str) -> None:
        """Let the lock of a committed stage go, unless a `StageLockContext` keeps it."""
        self._release({stage} & self._own)

    def _release(self, stages: Iterable[str]) -> None:
        for stage in sorted(stages):
            self._own.discard(stage)
            if self._manager is not None:
                self._manager.release(stage)


#: What a run has that is given none.
NO_LOCKS = RunLocks(None, ())


def lock_for_reading(config: ConfigContext, stage: str) -> None:
    """Keep a stage locked while its results are used, where there is a `StageLockContext`.

    Raises:
        LockError: there is none, but a lock manager and ``strict_result_get_locking``; or the lock
            is lost.
        LockNotAvailable: another run is at the stage for too long.

    """
    if manager_of(config) is None:
        return
    context = StageLockContext.innermost()
    if context is not None:
        context.keep(config, [stage])
    elif config.strict_result_get_locking:
        msg = (
            f"another run may replace the tables of stage {stage} while they are used; put "
            f"flow.run() and result.get() into one `with StageLockContext():`, or set "
            f"strict_result_get_locking to false"
        )
        raise LockError(msg, stage=stage)
