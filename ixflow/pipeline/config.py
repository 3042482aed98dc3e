"""`ConfigContext`: what a flow runs with, immutable, its stores opened when they are needed."""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from box import Box

from ixflow.errors import NoConfiguration
from ixflow.pipeline.backends import Backends
from ixflow.pipeline.class_names import types_named
from ixflow.pipeline.config_merge import ANY, Layer, merged
from ixflow.pipeline.config_schema import Masked, Place, nearest
from ixflow.secrets import redact
from ixflow.store import SQLTableStore

__all__ = ["ConfigContext", "StageCommitTechnique", "frozen"]

_open: contextvars.ContextVar[tuple[ConfigContext, ...]] = contextvars.ContextVar(
    "ixflow_config", default=()
)


class StageCommitTechnique(enum.Enum):
    """How tables are published; each database has its own way, so this is accepted and carried."""

    SCHEMA_SWAP = 0
    READ_VIEWS = 1


def frozen(values: Mapping[str, Any]) -> Box:
    """Give a read-only mapping whose keys are attributes too.

    >>> frozen({"limits": {"rows": 5}}).limits.rows
    5
    """
    return Box(values, frozen_box=True)


@dataclass(frozen=True, eq=False, repr=False)
class ConfigContext:
    """What a flow runs with; within a ``with`` block it is the default of every run.

    `PipedagConfig.get` makes one from a file, `create_basic_pipedag_config` from a URL.
    ``fail_fast`` raises the first error, otherwise it is in the `Result`. ``max_workers`` is the
    number of tasks that run at once. ``attrs`` is the configuration's free section. A copy in
    another process opens its own stores.

    >>> from ixflow import create_basic_pipedag_config
    >>> with create_basic_pipedag_config("duckdb:////tmp/warehouse.duckdb") as config:
    ...     ConfigContext.get() is config
    True
    """

    config_dict: Mapping[str, Any]
    pipedag_name: str = "pipedag"
    flow_name: str | None = None
    instance_name: str = ANY
    fail_fast: bool = False
    strict_result_get_locking: bool = True
    ignore_task_version: bool = False
    instance_id: str = "pipeline"
    stage_commit_technique: StageCommitTechnique = StageCommitTechnique.SCHEMA_SWAP
    network_interface: str = "127.0.0.1"
    kroki_url: str | None = "https://kroki.io"
    attrs: Box = field(default_factory=lambda: frozen({}))
    table_hook_args: Box = field(default_factory=lambda: frozen({}))
    ignore_cache_function: bool = False
    swallow_exceptions: bool = False
    force_task_execution: bool = False
    max_workers: int = 4
    visualization: Box = field(default_factory=lambda: frozen({}))
    backends: Backends | None = None

    def __post_init__(self) -> None:
        """Freeze the mappings, and hide what the configuration may hold of passwords."""
        object.__setattr__(self, "config_dict", Masked(self.config_dict))
        for name in _MAPPINGS:
            object.__setattr__(self, name, frozen(getattr(self, name)))
        if self.backends is None:
            made = Backends(self.config_dict, Place("the configuration"))
            object.__setattr__(self, "backends", made)

    @classmethod
    def of_store(cls, store: SQLTableStore, **fields: Any) -> Self:
        """Make a configuration around a store that is there already.

        >>> ConfigContext.of_store(SQLTableStore("duckdb:///w.duckdb"), fail_fast=True).fail_fast
        True
        """
        return cls({}, backends=Backends({}, Place("the store"), {"table_store": store}), **fields)

    @classmethod
    def get(cls) -> ConfigContext:
        """Give the innermost open configuration.

        Raises:
            NoConfiguration: none is open. It is a `LookupError` and a `FlowError`.

        """
        if not _open.get():
            msg = (
                "there is no configuration; pass flow.run(config=...), or run within "
                "`with create_basic_pipedag_config(url):`"
            )
            raise NoConfiguration(msg)
        return _open.get()[-1]

    # -- what it describes ----------------------------------------------------------------------

    @property
    def table_store(self) -> SQLTableStore:
        """The table store."""
        store: SQLTableStore | None = self._backend("table_store")
        if store is None:
            raise self._backends.place.error("has no table_store")
        return store

    @property
    def blob_store(self) -> Any:
        """The blob store; None if there is no such section."""
        return self._backend("blob_store")

    @property
    def local_table_cache(self) -> Any:
        """The local table cache; None if there is no such section."""
        return self._backend("local_table_cache")

    @property
    def lock_manager(self) -> Any:
        """The lock manager; None if there is no such section."""
        return self._backend("lock_manager")

    @property
    def orchestration_engine(self) -> Any:
        """The engine; None if there is no such section, then the flow runs on its own threads."""
        return self._backend("orchestration")

    @property
    def store(self) -> Self:
        """The stores: `table_store`, `blob_store` and `local_table_cache` are attributes of it."""
        return self

    @property
    def auto_table(self) -> tuple[type, ...] | None:
        """The types whose objects are tables without being wrapped; None: all frames, queries."""
        return None if self.config_dict.get("auto_table") is None else self._types("auto_table")

    @property
    def auto_blob(self) -> tuple[type, ...]:
        """The types whose objects are blobs without being wrapped."""
        return self._types("auto_blob")

    def _types(self, key: str) -> tuple[type, ...]:
        return types_named(self.config_dict.get(key) or (), self._backends.place / key)

    @property
    def _backends(self) -> Backends:
        assert self.backends is not None  # noqa: S101 - __post_init__ sets it
        return self.backends

    def _backend(self, kind: str) -> Any:
        with self.current():
            return self._backends.get(kind)

    # -- another one ----------------------------------------------------------------------------

    def evolve(self, **changes: Any) -> Self:
        """Give a copy with changes; mappings are merged, null removes a key.

        The copy shares the stores. What they are made from, ``config_dict`` and ``instance_id``,
        cannot be changed: get another instance from `PipedagConfig` for that.

        Raises:
            ConfigError: there is no such field, or it cannot be changed.

        >>> config = ConfigContext({}, attrs={"a": 1})
        >>> config.evolve(attrs={"b": 2}, fail_fast=True).attrs == {"a": 1, "b": 2}
        True
        """
        place = Place("evolve()")
        fixed = ("config_dict", "instance_id", "backends")
        known = [one.name for one in dataclasses.fields(self) if one.name not in fixed]
        for name, value in changes.items():
            if name not in known:
                text = f"cannot change {name!r}{nearest(name, known)}; allowed are "
                raise place.error(text + ", ".join(known), known)
            if isinstance(getattr(self, name), Mapping):
                layers = [Layer(place, (), getattr(self, name)), Layer(place / name, (), value)]
                changes[name] = merged(layers)
        return dataclasses.replace(self, **changes)

    def __getstate__(self) -> dict[str, Any]:
        """Travel without what is open."""
        state = {one.name: getattr(self, one.name) for one in dataclasses.fields(self)}
        state["backends"] = (self._backends.place, self._backends.given)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Arrive; stores are opened when they are needed."""
        place, given = state["backends"]
        state["backends"] = Backends(state["config_dict"], place, given)
        for name, value in state.items():
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        """Show the names, and nothing that may be a credential."""
        shown = ("pipedag_name", "flow_name", "instance_name", "instance_id")
        said = ", ".join(f"{name}={getattr(self, name)!r}" for name in shown)
        return redact(f"ConfigContext({said})")

    # -- being the default ----------------------------------------------------------------------

    @contextlib.contextmanager
    def current(self) -> Iterator[Self]:
        """Let this be the default in the block, and leave the stores open after it."""
        token = _open.set((*_open.get(), self))
        try:
            yield self
        finally:
            _open.reset(token)

    @contextlib.contextmanager
    def kept_open(self) -> Iterator[None]:
        """Let the stores and the lock manager stay open in the block, and do nothing else."""
        self._backends.hold()
        try:
            yield
        finally:
            self._backends.release()

    def __enter__(self) -> Self:
        """Make this the default."""
        self._backends.hold()
        _open.set((*_open.get(), self))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End that, and close the stores if nobody else holds them."""
        del kind, error, trace
        _open.set(_open.get()[:-1])
        self._backends.release()


_MAPPINGS = ("attrs", "table_hook_args", "visualization")
