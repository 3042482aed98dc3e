"""`RuntimeConfig`: what the Launchpad offers for one run of an extraction."""

import dataclasses

import dagster as dg
from pydantic import Field

from ixflow.extraction.context import RuntimeContext
from ixflow.extraction.intent import ExtractionIntent

__all__ = ["RuntimeConfig"]


class RuntimeConfig(dg.Config):
    """What the Launchpad offers for an extraction; see `ixflow.RuntimeContext`.

    >>> RuntimeConfig(priority="low").context().priority
    'low'
    """

    max_workers: int | None = Field(default=None, description="most connections to the source")
    min_workers: int | None = Field(default=None, description="fewest connections to the source")
    source_load: str | None = Field(default=None, description="low, normal or high")
    network_quality: str | None = Field(default=None, description="good, normal or degraded")
    priority: str | None = Field(default=None, description="low, normal or high")
    target_duration_seconds: float | None = Field(
        default=None, description="a longer estimate is a warning"
    )
    maintenance_window_minutes: float | None = Field(
        default=None, description="a longer estimate is NOT RECOMMENDED"
    )
    disk_budget_gb: float | None = Field(
        default=None, description="a larger estimate is NOT RECOMMENDED"
    )
    egress_budget_gb: float | None = Field(
        default=None, description="a larger estimate is a warning"
    )
    max_source_connections: int | None = Field(
        default=None, description="most connections of all runs of this machine to the source"
    )
    concurrent_extractions: int | None = Field(
        default=None, description="connections of extractions elsewhere, within these"
    )
    source_maintenance_scheduled: bool | None = Field(
        default=None, description="true: half of the workers"
    )
    dask_address: str | None = Field(
        default=None, description="scheduler of the Dask cluster whose workers read the tasks"
    )
    memory_budget: str | None = Field(
        default=None, description="what each table may hold in memory, as 256MB"
    )
    force: bool = Field(
        default=False, description="extract although the verdict is NOT RECOMMENDED"
    )
    replay_run_id: str | None = Field(
        default=None,
        description="run the stored plan of this ixflow run again, as it was; of one table",
    )

    def context(self) -> RuntimeContext | None:
        """Give the runtime context; None when nothing is constrained."""
        given = {f.name: getattr(self, f.name) for f in dataclasses.fields(RuntimeContext)}
        set_ = {name: value for name, value in given.items() if value is not None}
        return RuntimeContext(**set_) if set_ else None

    def applied(self, intent: ExtractionIntent) -> ExtractionIntent:
        """Give the intent with what this run says in the place of its own."""
        if self.memory_budget is None:
            return intent
        return dataclasses.replace(intent, memory_budget=self.memory_budget)
