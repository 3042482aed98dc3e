"""Extractions as assets: the planner as a resource, a table's Parquet files as an asset."""

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from ixflow.dagster.failures import failures
from ixflow.dagster.metadata import asset_key, file_metadata, table_uri, word
from ixflow.errors import ValidationError
from ixflow.extraction.api import ExecutionResult, execute, plan
from ixflow.extraction.context import RuntimeContext
from ixflow.extraction.explain import Explanation
from ixflow.extraction.intent import ExtractionIntent
from ixflow.extraction.manifest import Manifest
from ixflow.extraction.output import published_uri
from ixflow.extraction.plan import PlanResult
from ixflow.values import TableName

__all__ = [
    "PlannerResource",
    "RuntimeConfig",
    "extraction_asset",
    "resolved",
    "source_asset",
    "source_key",
]


_DEFAULT_OUTPUT = "./output"


class RuntimeConfig(dg.Config):
    """What the Launchpad offers for an extraction; see `ixflow.RuntimeContext`."""

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
    force: bool = Field(
        default=False, description="extract although the verdict is NOT RECOMMENDED"
    )

    def context(self) -> RuntimeContext | None:
        """Give the runtime context; None when nothing is constrained."""
        given = {f.name: getattr(self, f.name) for f in dataclasses.fields(RuntimeContext)}
        set_ = {name: value for name, value in given.items() if value is not None}
        return RuntimeContext(**set_) if set_ else None


class PlannerResource(dg.ConfigurableResource[Any]):
    """Plans and executes extractions; its limits hold for every asset that uses it.

    >>> PlannerResource(max_workers=2).max_workers
    2
    """

    max_workers: int | None = Field(default=None, description="most connections to one source")
    output_dir: str | None = Field(
        default=None, description="where files go, for intents that keep the default ./output"
    )

    def intent(self, intent: ExtractionIntent) -> ExtractionIntent:
        """Give the intent as it will run: secrets read, the resource's defaults filled in."""
        changes: dict[str, Any] = {}
        if self.max_workers is not None:
            limits = [m for m in (intent.max_workers, self.max_workers) if m is not None]
            changes["max_workers"] = min(limits)
        if self.output_dir is not None and str(intent.output_dir) == _DEFAULT_OUTPUT:
            changes["output_dir"] = self.output_dir
        return dataclasses.replace(resolved(intent), **changes)

    def plan(
        self, intent: ExtractionIntent, runtime_context: RuntimeContext | None = None
    ) -> PlanResult:
        """Plan an extraction; nothing is extracted."""
        return plan(self.intent(intent), runtime_context)

    def run(
        self,
        context: dg.AssetExecutionContext,
        intent: ExtractionIntent,
        config: RuntimeConfig | None = None,
    ) -> dg.MaterializeResult[Any]:
        """Plan and execute an extraction, and describe what was published."""
        chosen = config or RuntimeConfig()
        with failures():
            ready = self.intent(intent)
            planned = plan(ready, chosen.context())
            context.log.info("%s", Explanation(planned))
            done = execute(planned, force=chosen.force)
        return dg.MaterializeResult(
            metadata=_metadata(ready, planned, done),
            data_version=dg.DataVersion(_fingerprint(done.manifest)),
        )


def _metadata(
    intent: ExtractionIntent, planned: PlanResult, done: ExecutionResult
) -> Mapping[str, Any]:
    window = done.manifest.window
    seen: dict[str, Any] = {}
    if window is not None:
        seen = {"ixflow/window": str(window), "ixflow/new_rows": done.rows_extracted}
    if window is not None and window.high_watermark is not None:
        seen["ixflow/high_watermark"] = window.high_watermark
    if done.notes:
        seen["ixflow/notes"] = "; ".join(done.notes)
    return file_metadata(
        published_uri(intent.output_dir, intent.object_name),
        kind=intent.file_format,
        rows=done.manifest.total_rows,
        columns=planned.plan.columns,
        extra={
            **seen,
            "ixflow/verdict": planned.verdict,
            "ixflow/consistency": planned.plan.consistency,
            "ixflow/plan": dg.MetadataValue.md(f"```\n{Explanation(planned)}\n```"),
            "ixflow/workers": planned.plan.worker_count,
            "ixflow/tasks": len(planned.plan.tasks),
            "ixflow/files": len(done.manifest.files),
            "ixflow/bytes": done.bytes_written,
            "ixflow/seconds": round(done.duration_seconds, 3),
            "ixflow/rows_per_second": round(done.throughput_rows_sec),
            "ixflow/run_id": done.run_id,
            "ixflow/manifest": dg.MetadataValue.path(done.manifest_path),
        },
    )


def _fingerprint(manifest: Manifest) -> str:
    """Hash the files' checksums: extracting the same rows again gives the same data version."""
    sums = "".join(sorted(file.sha256 for file in manifest.files))
    return hashlib.sha256(sums.encode()).hexdigest()[:32]


def resolved(intent: ExtractionIntent) -> ExtractionIntent:
    """Put the values of environment variables in the place of `dagster.EnvVar`.

    Raises:
        ValidationError: one of the variables is not set.

    """
    config, options = (
        {key: _value(f"{name}[{key!r}]", value) for key, value in given.items()}
        for name, given in (
            ("source_config", intent.source_config),
            ("storage_options", intent.storage_options),
        )
    )
    return dataclasses.replace(
        intent,
        source_config=config,
        storage_options=options,
        mask_salt=_value("mask_salt", intent.mask_salt),
    )


def _value(what: str, value: Any) -> Any:
    if not isinstance(value, dg.EnvVar):
        return value
    found = value.get_value()
    if found is None:
        name = value.env_var_name
        msg = f"the environment variable {name} is not set; {what} is read from it"
        raise ValidationError(msg, argument=what, variable=name)
    return found


def source_key(intent: ExtractionIntent) -> dg.AssetKey:
    """Name the source table as an asset: database, schema (if given), table."""
    database = str(intent.url().database or intent.dialect.name)
    name = Path(database).stem if intent.dialect.default_port is None else database
    table = TableName.parse(intent.object_name)
    return asset_key(name, table.schema, table.name)


def source_asset(intent: ExtractionIntent, *, group_name: str = "sources") -> dg.AssetSpec:
    """Describe the intent's source table as an external asset, for the lineage graph."""
    url, table = intent.url(), TableName.parse(intent.object_name)
    return dg.AssetSpec(
        source_key(intent),
        group_name=group_name,
        kinds={intent.dialect.kind},
        description=f"The table {intent.object_name}, which other systems write to.",
        metadata={"dagster/uri": table_uri(url, table)},
    )


def extraction_asset(
    intent: ExtractionIntent,
    *,
    key: str | Sequence[str] | dg.AssetKey | None = None,
    deps: Iterable[Any] | None = None,
    planner: str = "planner",
    group_name: str = "extracted",
    automation_condition: dg.AutomationCondition[Any] | None = None,
    retry_policy: dg.RetryPolicy | None = None,
    pool: str | None = None,
    tags: Mapping[str, str] | None = None,
    owners: Sequence[str] | None = None,
) -> dg.AssetsDefinition:
    """Make an asset of an extraction: its materialization is a published set of Parquet files.

    The key is ``["extracted", table]`` unless given, the upstream asset the source table. By
    default the asset belongs to the pool ``source_<host>``, so that a deployment can limit how
    many extractions read one server. ``planner`` is the key of the `PlannerResource`.

    >>> intent = ExtractionIntent("sqlite", {"database": "shop.db"}, "orders")
    >>> extraction_asset(intent).key.to_user_string()
    'extracted/orders'
    """
    made = extraction_key(intent) if key is None else dg.AssetKey.from_coercible(key)
    host = intent.url().host or "file"

    @dg.asset(
        key=made,
        deps=[source_key(intent)] if deps is None else list(deps),
        group_name=group_name,
        kinds={intent.dialect.kind, intent.file_format, *_cloud(intent)},
        required_resource_keys={planner},
        automation_condition=automation_condition,
        retry_policy=retry_policy,
        pool=pool or f"source_{word(host)}",
        tags=tags,
        owners=owners,
        description=f"The rows of {intent.object_name} as files, all of one moment.",
        metadata=_place(intent),
    )
    def _extract(context: dg.AssetExecutionContext, config: RuntimeConfig) -> Any:
        resource: PlannerResource = getattr(context.resources, planner)
        return resource.run(context, intent, config)

    return _extract


def _place(intent: ExtractionIntent) -> dict[str, Any]:
    """Say where the files will be, unless the planner resource decides that."""
    if str(intent.output_dir) == _DEFAULT_OUTPUT:
        return {}
    return {"dagster/uri": published_uri(intent.output_dir, intent.object_name)}


def _cloud(intent: ExtractionIntent) -> set[str]:
    """Name the icon of the object store that the files go to."""
    scheme = str(intent.output_dir).partition("://")[0]
    return {"s3": {"s3"}, "gs": {"gcs"}}.get(scheme, set())


def extraction_key(intent: ExtractionIntent) -> dg.AssetKey:
    """Give the default key of an extraction asset."""
    return asset_key("extracted", TableName.parse(intent.object_name).name)
