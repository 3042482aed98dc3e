"""`StageLockContext`: keeping the locks of stages beyond the run that took them."""

from __future__ import annotations

import contextlib
import contextvars
import threading
from collections.abc import Hashable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from ixflow.errors import NoStageLockContext

if TYPE_CHECKING:
    from ixflow.pipeline.config import ConfigContext
    from ixflow.pipeline.locks.base import BaseLockManager

__all__ = ["StageLockContext"]

_open: contextvars.ContextVar[tuple[StageLockContext, ...]] = contextvars.ContextVar(
    "ixflow_stage_locks", default=()
)


class StageLockContext:
    """Keeps the locks of all stages that runs in its block commit, until the block ends.

    So what `Result.get` gives cannot be replaced by another run before that. It needs a lock
    manager in the configuration, here and where the other runs are; without one it keeps nothing,
    and `Result.get` refuses what was replaced.

    Blocks can be nested: a stage that an outer block keeps locked is not locked again.

    >>> with StageLockContext():
    ...     result = flow.run()  # doctest: +SKIP
    ...     df = result.get(task_x)  # doctest: +SKIP
    """

    def __init__(self) -> None:
        self._depth = 0
        self._kept: dict[Hashable, tuple[BaseLockManager, set[str]]] = {}
        self._closing = contextlib.ExitStack()
        self._guard = threading.Lock()

    @classmethod
    def get(cls) -> StageLockContext:
        """Give the innermost open one.

        Raises:
            NoStageLockContext: none is open. It is a `LookupError` and a `LockError`.

        """
        found = cls.innermost()
        if found is None:
            msg = "no StageLockContext is open; run and read within `with StageLockContext():`"
            raise NoStageLockContext(msg)
        return found

    @classmethod
    def innermost(cls) -> StageLockContext | None:
        """Give the innermost open one, None if there is none."""
        return _open.get()[-1] if _open.get() else None

    def __enter__(self) -> Self:
        """Keep what is locked from now on."""
        self._depth += 1
        _open.set((*_open.get(), self))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let the locks go, with the last of the blocks of this object."""
        del kind, error, trace
        _open.set(_open.get()[:-1])
        self._depth -= 1
        if not self._depth:
            self._kept.clear()
            self._closing.close()

    def keep(self, config: ConfigContext, stages: Iterable[str]) -> BaseLockManager:
        """Lock stages that are not kept locked yet, and give the manager that has the locks.

        Raises:
            LockNotAvailable: others hold one for too long.
            LockError: one that was kept is lost.

        """
        with self._guard:
            manager = self._manager(config)
            kept = self._kept[manager.scope][1]
            outer = [block._kept.get(manager.scope) for block in _open.get()]  # noqa: SLF001 - ours
            known = kept.union(*(found[1] for found in outer if found))
            for stage in sorted(set(stages)):
                if stage in known:
                    manager.ensure(stage)
                    continue
                manager.acquire(stage)
                kept.add(stage)
                self._closing.callback(manager.release, stage)
            return manager

    def _manager(self, config: ConfigContext) -> BaseLockManager:
        """Give the manager of all blocks around us for the locks that this configuration means."""
        mine: BaseLockManager = config.lock_manager
        for block in _open.get():
            if mine.scope in block._kept:  # noqa: SLF001 - ours
                manager = block._kept[mine.scope][0]  # noqa: SLF001 - ours
                break
        else:
            manager = mine
            # The run closes its configuration, and with that the locks.
            self._closing.enter_context(config.kept_open())
        self._kept.setdefault(mine.scope, (manager, set()))
        return manager
