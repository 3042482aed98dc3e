"""The configuration of a run: which store, and what a failure does."""

from __future__ import annotations

import contextvars
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from ixflow.errors import FlowError
from ixflow.store import SQLTableStore

if TYPE_CHECKING:
    import sqlalchemy as sa

__all__ = ["ConfigContext", "create_basic_pipedag_config"]

_open: contextvars.ContextVar[tuple[ConfigContext, ...]] = contextvars.ContextVar(
    "ixflow_config", default=()
)


@dataclass(frozen=True, slots=True)
class ConfigContext:
    """What a flow runs with; within a ``with`` block it is the default of every run.

    ``fail_fast`` raises the first error, otherwise it is in the `Result`. ``max_workers`` is the
    number of tasks that run at once.

    >>> with create_basic_pipedag_config("duckdb:////tmp/warehouse.duckdb") as config:
    ...     ConfigContext.get() is config
    True
    """

    table_store: SQLTableStore
    fail_fast: bool = False
    max_workers: int = 4

    @classmethod
    def get(cls) -> ConfigContext:
        """Give the innermost open configuration.

        Raises:
            FlowError: none is open.

        """
        if not _open.get():
            msg = (
                "there is no configuration; pass flow.run(config=...), or run within "
                "`with create_basic_pipedag_config(url):`"
            )
            raise FlowError(msg)
        return _open.get()[-1]

    def __enter__(self) -> Self:
        """Make this the default."""
        _open.set((*_open.get(), self))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End that, and close the store's pooled connections."""
        del kind, error, trace
        _open.set(_open.get()[:-1])
        self.table_store.dispose()


def create_basic_pipedag_config(
    engine_url: str | sa.URL,
    *,
    fail_fast: bool = True,
    max_workers: int = 4,
    **store_options: Any,
) -> ConfigContext:
    """Make a configuration for a database URL; other options go to `SQLTableStore`.

    >>> create_basic_pipedag_config("duckdb:////tmp/w.duckdb", schema_prefix="dw_").fail_fast
    True
    """
    store = SQLTableStore(engine_url, **store_options)
    return ConfigContext(store, fail_fast=fail_fast, max_workers=max_workers)
