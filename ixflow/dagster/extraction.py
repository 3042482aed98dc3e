"""Extractions as assets: the planner as a resource, a table's Parquet files as an asset."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from ixflow.dagster.checked_plans import asked_checks, dry_runs
from ixflow.dagster.configured import configured, schema_of
from ixflow.dagster.extraction_events import ExtractionEvents, Published, Told
from ixflow.dagster.extraction_run import (
    INTENT,
    PARTITIONING,
    intents_of,
    known_intents,
    parts_of,
    published_before,
    published_tables,
)
from ixflow.dagster.failures import failures
from ixflow.dagster.held import held
from ixflow.dagster.metadata import asset_key, table_uri, word
from ixflow.dagster.partition_events import RangeEvents
from ixflow.dagster.partitions import By, Partitioning, backfills, partition_keys, partitioning
from ixflow.dagster.parts import Part
from ixflow.dagster.plan_checks import PlanCheck
from ixflow.dagster.runtime_config import RuntimeConfig
from ixflow.dagster.specs import asset_spec, called_at
from ixflow.dagster.timeline import Recorder
from ixflow.errors import ValidationError
from ixflow.events import listen
from ixflow.extraction.api import execute, plan
from ixflow.extraction.context import RuntimeContext
from ixflow.extraction.cost import CostConfig
from ixflow.extraction.explain import Explanation
from ixflow.extraction.intent import ExtractionIntent
from ixflow.extraction.output import published_uri
from ixflow.extraction.plan import PlanResult
from ixflow.values import TableName

__all__ = [
    "PlannerResource",
    "RuntimeConfig",
    "extraction_asset",
    "extraction_key",
    "extraction_spec",
    "pool_of",
    "resolved",
    "source_asset",
    "source_key",
]


_DEFAULT_OUTPUT = "./output"


class PlannerResource(dg.ConfigurableResource[Any]):
    """Plans and executes extractions; its limits hold for every asset that uses it.

    >>> PlannerResource(max_workers=2).max_workers
    2
    """

    max_workers: int | None = Field(default=None, description="most connections to one source")
    output_dir: str | None = Field(
        default=None, description="where files go, for intents that keep the default ./output"
    )
    dask_address: str | None = Field(
        default=None, description="scheduler of the Dask cluster whose workers read the tasks"
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
        context = runtime_context
        if self.dask_address is not None:
            context = context or RuntimeContext()
            address = context.dask_address or self.dask_address
            context = dataclasses.replace(context, dask_address=address)
        return plan(self.intent(intent), context)

    def _config(self, config: RuntimeConfig) -> RuntimeConfig:
        """Let the run's config say what the resource says, unless it says another thing."""
        address = config.dask_address or self.dask_address
        return config.model_copy(update={"dask_address": address})

    def run(
        self,
        context: dg.AssetExecutionContext,
        intents: ExtractionIntent | Sequence[ExtractionIntent] | None = None,
        config: RuntimeConfig | None = None,
        *,
        one_moment: bool = True,
    ) -> ExtractionEvents:
        """Extract the selected tables and tell of each as it is published.

        ``intents`` are those of the assets unless given; all are of one database, and their rows of
        one moment unless ``one_moment`` is False. A table that fails, fails by name after the
        others are published; a retry does only the rest.

        Example::

            yield from planner.run(context).fetch_row_count().fetch_column_metadata().fetch_plan()

        """
        chosen = self._config(config or RuntimeConfig())
        given = [intents] if isinstance(intents, ExtractionIntent) else intents
        range_ = RangeEvents(context, partition_keys(context)) if _ranged(context) else None
        published = self._published(context, given, chosen, one_moment=one_moment)
        return ExtractionEvents(published, range_)

    def _published(
        self,
        context: dg.AssetExecutionContext,
        given: Sequence[ExtractionIntent] | None,
        config: RuntimeConfig,
        *,
        one_moment: bool,
    ) -> Iterator[Published | tuple[Part, Told]]:
        with failures():
            checks = asked_checks(context)

            def planned(key: dg.AssetKey, rates: CostConfig | None) -> PlanResult:
                intent = config.applied(self.intent(known_intents(context)[key]))
                return plan(intent, config.context(), rates)

            yield from dry_runs(context, checks, planned, force=config.force)
            wanted = intents_of(context, given)
            intents = {key: config.applied(self.intent(intent)) for key, intent in wanted.items()}
            ready, unknown = parts_of(context, intents)
            before = published_before(context, ready)
            yield from before.items()
            rest = {key: intent for key, intent in ready.items() if key not in before}
            if rest or unknown:
                yield from published_tables(
                    rest,
                    config,
                    context.log.info,
                    one_moment=one_moment,
                    checks=checks,
                    unknown=unknown,
                )

    def run_checked(
        self,
        context: dg.AssetExecutionContext,
        intent: ExtractionIntent,
        config: RuntimeConfig,
        check: PlanCheck,
    ) -> Iterator[Any]:
        """Plan, then execute unless the check refuses the plan or nothing but it was asked for."""
        with failures():
            chosen = self._config(config).context()
            planned = plan(config.applied(self.intent(intent)), chosen, check.rates)
        context.log.info("%s", Explanation(planned))
        checks = context.selected_asset_check_keys
        # Executed alone, the check is all that is selected.
        [key] = context.selected_asset_keys or {one.asset_key for one in checks}
        asked = dg.AssetCheckKey(key, check.name) in checks
        verdict = check.result(planned, key, force=config.force)
        wanted = key in context.selected_asset_keys
        if asked and (not wanted or (planned.is_not_recommended and not config.force)):
            # Told before the execution refuses: a check that fails needs no materialization.
            yield verdict
            asked = False
        if wanted:
            seen = Recorder()
            with failures(), listen(seen):
                done = execute(planned, force=config.force)
            told = Published(Part(key), planned.intent, planned.plan, done, planned, seen.bars)
            yield told.event(rows=True, columns=True, plan=True)
        if asked:
            yield verdict


def _ranged(context: dg.AssetExecutionContext) -> bool:
    return context.has_partition_key_range and not context.has_partition_key


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
        metadata={"dagster/uri": table_uri(url, table), **called_at()},
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
    check: PlanCheck | None = None,
    partitions_def: dg.PartitionsDefinition[Any] | None = None,
    partition_by: By | None = None,
    backfill_policy: dg.BackfillPolicy | None = None,
    one_moment: bool = True,
    **asset: Any,
) -> dg.AssetsDefinition:
    """Make an asset of an extraction: its materialization is a published set of Parquet files.

    The key is ``["extracted", table]`` unless given, the upstream asset the source table. By
    default the asset belongs to the pool ``source_<host>``, so that a deployment can limit how
    many extractions read one server. ``planner`` is the key of the `PlannerResource`. With
    ``check``, which `plan_check` makes, the plan is seen and judged before anything is read.

    With ``partitions_def`` each partition is extracted on its own: the rows whose column
    ``partition_by`` lies in its window of time, or is its key. Their files are in
    ``<output_dir>/<table>/<partition>/``. Unless ``backfill_policy`` says otherwise, one run
    extracts all partitions of a backfill that follow each other, of one moment unless
    ``one_moment`` is False. All other arguments are those of `dagster.AssetSpec`, such as
    ``description``, ``metadata`` or ``freshness_policy``.

    Raises:
        ValidationError: partitions and their column do not go together, or with the rest.

    >>> intent = ExtractionIntent("sqlite", {"database": "shop.db"}, "orders")
    >>> extraction_asset(intent).key.to_user_string()
    'extracted/orders'
    """
    made = extraction_key(intent) if key is None else dg.AssetKey.from_coercible(key)
    parted = partitioning(partitions_def, partition_by, made.to_user_string())
    if parted is not None and check is not None:
        msg = f"{made.to_user_string()} has partitions, and a plan check plans a whole table"
        raise ValidationError(f"{msg}; leave check out", argument="check")
    spec = extraction_spec(
        intent,
        key=made,
        deps=deps,
        parted=parted,
        group_name=group_name,
        automation_condition=automation_condition,
        tags=tags,
        owners=owners,
        **asset,
    )

    @dg.multi_asset(
        name=made.to_python_identifier(),
        specs=[spec],
        check_specs=[] if check is None else [check.spec(made)],
        # The check alone is a selection of no asset.
        can_subset=check is not None,
        config_schema=schema_of(RuntimeConfig),
        required_resource_keys={planner},
        retry_policy=retry_policy,
        pool=pool or pool_of(intent),
        partitions_def=partitions_def,
        backfill_policy=backfills(partitions_def, backfill_policy),
    )
    def _extract(context: dg.AssetExecutionContext) -> Any:
        resource: PlannerResource = getattr(context.resources, planner)
        config = configured(context, RuntimeConfig)
        # What was planned before is run again as it was, so there is nothing to judge.
        if check is None or config.replay_run_id is not None:
            events = resource.run(context, [intent], config, one_moment=one_moment)
            yield from events.fetch_row_count().fetch_column_metadata().fetch_plan()
        else:
            yield from resource.run_checked(context, intent, config, check)

    return _extract


def extraction_spec(
    intent: ExtractionIntent,
    *,
    key: dg.AssetKey | None = None,
    deps: Iterable[Any] | None = None,
    parted: Partitioning | None = None,
    **options: Any,
) -> dg.AssetSpec:
    """Describe the asset of an extraction: key, source table upstream, place, kinds.

    ``parted`` says which rows its partitions are.

    >>> intent = ExtractionIntent("sqlite", {"database": "shop.db"}, "orders")
    >>> sorted(extraction_spec(intent).kinds)
    ['parquet', 'sqlite']
    """
    if parted is not None and intent.mode == "incremental":
        msg = (
            f"the extraction of {intent.object_name} is incremental and has partitions; a "
            f"partition says itself which rows it has, so give mode='full'"
        )
        raise ValidationError(msg, argument="partitions_def")
    by_partition = {} if parted is None else {PARTITIONING: held(parted)}
    own = {
        "deps": [source_key(intent)] if deps is None else list(deps),
        "kinds": {intent.dialect.kind, intent.file_format, *_cloud(intent)},
        "description": f"The rows of {intent.object_name} as files, all of one moment.",
        "metadata": {**_place(intent), INTENT: held(intent), **by_partition, **called_at()},
    }
    return asset_spec(key or extraction_key(intent), own, options)


def pool_of(intent: ExtractionIntent) -> str:
    """Name the pool of the extractions from one server.

    >>> pool_of(ExtractionIntent("sqlite", {"database": "shop.db"}, "orders"))
    'source_file'
    """
    return f"source_{word(intent.url().host or 'file')}"


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
