"""Extractions as assets: the planner as a resource, a table's Parquet files as an asset."""

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from ixflow.dagster.failures import failures
from ixflow.dagster.metadata import file_metadata, table_uri
from ixflow.extraction.api import ExecutionResult, execute, explain, plan, published
from ixflow.extraction.context import RuntimeContext
from ixflow.extraction.intent import ExtractionIntent
from ixflow.extraction.manifest import Manifest
from ixflow.extraction.plan import PlanResult
from ixflow.extraction.storage import OutputPlace
from ixflow.values import TableName

__all__ = [
    "PlannerResource",
    "RuntimeConfig",
    "extraction_asset",
    "resolved",
    "source_asset",
    "source_key",
]


class RuntimeConfig(dg.Config):
    """What the Launchpad offers for an extraction; see `ixflow.RuntimeContext`."""

    max_workers: int | None = None
    min_workers: int | None = None
    source_load: str | None = None
    network_quality: str | None = None
    priority: str | None = None
    target_duration_seconds: float | None = None
    maintenance_window_minutes: float | None = None
    disk_budget_gb: float | None = None
    egress_budget_gb: float | None = None
    force: bool = False
    """Extract although the verdict is NOT RECOMMENDED."""

    def context(self) -> RuntimeContext | None:
        """Give the runtime context; None when nothing is constrained."""
        given = {f.name: getattr(self, f.name) for f in dataclasses.fields(RuntimeContext)}
        set_ = {name: value for name, value in given.items() if value is not None}
        return RuntimeContext(**set_) if set_ else None


class PlannerResource(dg.ConfigurableResource):
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
        if self.output_dir is not None and str(intent.output_dir) == "./output":
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
    ) -> dg.MaterializeResult:
        """Plan and execute an extraction, and describe what was published."""
        chosen = config or RuntimeConfig()
        with failures():
            ready = self.intent(intent)
            planned = plan(ready, chosen.context())
            context.log.info("%s", explain(ready))
            done = execute(planned, force=chosen.force)
            manifest = published(Path(done.manifest_path).parent)
        if manifest is None:
            raise dg.Failure(description=f"the files of run {done.run_id} are gone already")
        return dg.MaterializeResult(
            metadata=_metadata(ready, planned, done, manifest),
            data_version=dg.DataVersion(_fingerprint(manifest)),
        )


def _metadata(
    intent: ExtractionIntent, planned: PlanResult, done: ExecutionResult, manifest: Manifest
) -> Mapping[str, Any]:
    return file_metadata(
        OutputPlace(intent.output_dir, intent.object_name).link,
        rows=done.rows_extracted,
        columns=planned.plan.columns,
        extra={
            "ixflow/verdict": planned.verdict,
            "ixflow/consistency": planned.plan.consistency,
            "ixflow/plan": dg.MetadataValue.md(f"```\n{explain(intent)}\n```"),
            "ixflow/workers": planned.plan.worker_count,
            "ixflow/tasks": len(planned.plan.tasks),
            "ixflow/files": len(manifest.files),
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
    """Put the values of environment variables in the place of `dagster.EnvVar`."""
    config = {
        key: value.get_value() if isinstance(value, dg.EnvVar) else value
        for key, value in intent.source_config.items()
    }
    return dataclasses.replace(intent, source_config=config)


def source_key(intent: ExtractionIntent) -> dg.AssetKey:
    """Name the source table as an asset: database, schema (if given), table."""
    database = str(intent.url().database or intent.dialect.name)
    name = Path(database).stem if intent.dialect.default_port is None else database
    table = TableName.parse(intent.object_name)
    return dg.AssetKey([name, *([table.schema] if table.schema else []), table.name])


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
    key: Sequence[str] | dg.AssetKey | None = None,
    deps: Iterable[Any] | None = None,
    planner: str = "planner",
    group_name: str = "extracted",
    automation_condition: dg.AutomationCondition | None = None,
    retry_policy: dg.RetryPolicy | None = None,
    pool: str | None = None,
    tags: Mapping[str, str] | None = None,
    owners: Sequence[str] | None = None,
) -> dg.AssetsDefinition:
    """Make an asset of an extraction: its materialization is a published set of Parquet files.

    The key is ``["extracted", table]`` unless given, the upstream asset the source table. By
    default the asset belongs to the pool ``source:<host>``, so that a deployment can limit how
    many extractions read one server. ``planner`` is the key of the `PlannerResource`.

    >>> intent = ExtractionIntent("sqlite", {"database": "shop.db"}, "orders")
    >>> extraction_asset(intent).key.to_user_string()
    'extracted/orders'
    """
    made = extraction_key(intent) if key is None else dg.AssetKey(list(getattr(key, "path", key)))
    host = intent.url().host or "file"

    @dg.asset(
        key=made,
        deps=[source_key(intent)] if deps is None else list(deps),
        group_name=group_name,
        kinds={intent.dialect.kind, "parquet"},
        required_resource_keys={planner},
        automation_condition=automation_condition,
        retry_policy=retry_policy,
        pool=pool or f"source_{_word(host)}",
        tags=tags,
        owners=owners,
        description=f"The rows of {intent.object_name} as Parquet files, all of one moment.",
    )
    def _extract(
        context: dg.AssetExecutionContext, config: RuntimeConfig
    ) -> dg.MaterializeResult:
        resource: PlannerResource = getattr(context.resources, planner)
        return resource.run(context, intent, config)

    return _extract


def extraction_key(intent: ExtractionIntent) -> dg.AssetKey:
    """Give the default key of an extraction asset."""
    return dg.AssetKey(["extracted", TableName.parse(intent.object_name).name])


def _word(text: str) -> str:
    return "".join(char if char.isalnum() else "_" for char in text)
