"""Extractions as assets: the planner as a resource, a table's Parquet files as an asset."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from ixflow.dagster.extraction_events import ExtractionEvents, Published
from ixflow.dagster.extraction_run import INTENT, intents_of, published_before, published_tables
from ixflow.dagster.failures import failures
from ixflow.dagster.held import held
from ixflow.dagster.metadata import asset_key, table_uri, word
from ixflow.dagster.plan_checks import PlanCheck
from ixflow.dagster.runtime_config import RuntimeConfig
from ixflow.errors import ValidationError
from ixflow.extraction.api import execute, plan
from ixflow.extraction.context import RuntimeContext
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
        chosen = config or RuntimeConfig()
        given = [intents] if isinstance(intents, ExtractionIntent) else intents
        return ExtractionEvents(self._published(context, given, chosen, one_moment=one_moment))

    def _published(
        self,
        context: dg.AssetExecutionContext,
        given: Sequence[ExtractionIntent] | None,
        config: RuntimeConfig,
        *,
        one_moment: bool,
    ) -> Iterator[Published | dg.MaterializeResult[Any]]:
        with failures():
            wanted = intents_of(context, given)
            ready = {key: config.applied(self.intent(intent)) for key, intent in wanted.items()}
            before = published_before(context, ready)
            yield from before.values()
            rest = {key: intent for key, intent in ready.items() if key not in before}
            if rest:
                yield from published_tables(rest, config, context.log.info, one_moment=one_moment)

    def run_checked(
        self,
        context: dg.AssetExecutionContext,
        intent: ExtractionIntent,
        config: RuntimeConfig,
        check: PlanCheck,
    ) -> Iterator[Any]:
        """Plan, then execute unless the check refuses the plan or nothing but it was asked for."""
        with failures():
            planned = plan(config.applied(self.intent(intent)), config.context(), check.rates)
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
            with failures():
                done = execute(planned, force=config.force)
            told = Published(key, planned.intent, planned.plan, done, planned)
            yield told.event(rows=True, columns=True, plan=True)
        if asked:
            yield verdict


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
    check: PlanCheck | None = None,
) -> dg.AssetsDefinition:
    """Make an asset of an extraction: its materialization is a published set of Parquet files.

    The key is ``["extracted", table]`` unless given, the upstream asset the source table. By
    default the asset belongs to the pool ``source_<host>``, so that a deployment can limit how
    many extractions read one server. ``planner`` is the key of the `PlannerResource`. With
    ``check``, which `plan_check` makes, the plan is seen and judged before anything is read.

    >>> intent = ExtractionIntent("sqlite", {"database": "shop.db"}, "orders")
    >>> extraction_asset(intent).key.to_user_string()
    'extracted/orders'
    """
    made = extraction_key(intent) if key is None else dg.AssetKey.from_coercible(key)
    spec = extraction_spec(
        intent,
        key=made,
        deps=deps,
        group_name=group_name,
        automation_condition=automation_condition,
        tags=tags,
        owners=owners,
    )

    @dg.multi_asset(
        name=made.to_python_identifier(),
        specs=[spec],
        check_specs=[] if check is None else [check.spec(made)],
        # The check alone is a selection of no asset.
        can_subset=check is not None,
        required_resource_keys={planner},
        retry_policy=retry_policy,
        pool=pool or pool_of(intent),
    )
    def _extract(context: dg.AssetExecutionContext, config: RuntimeConfig) -> Any:
        resource: PlannerResource = getattr(context.resources, planner)
        # What was planned before is run again as it was, so there is nothing to judge.
        if check is None or config.replay_run_id is not None:
            events = resource.run(context, [intent], config)
            yield from events.fetch_row_count().fetch_column_metadata().fetch_plan()
        else:
            yield from resource.run_checked(context, intent, config, check)

    return _extract


def extraction_spec(
    intent: ExtractionIntent,
    *,
    key: dg.AssetKey | None = None,
    deps: Iterable[Any] | None = None,
    **options: Any,
) -> dg.AssetSpec:
    """Describe the asset of an extraction: key, source table upstream, place, kinds.

    >>> intent = ExtractionIntent("sqlite", {"database": "shop.db"}, "orders")
    >>> sorted(extraction_spec(intent).kinds)
    ['parquet', 'sqlite']
    """
    return dg.AssetSpec(
        key or extraction_key(intent),
        deps=[source_key(intent)] if deps is None else list(deps),
        kinds={intent.dialect.kind, intent.file_format, *_cloud(intent)},
        description=f"The rows of {intent.object_name} as files, all of one moment.",
        metadata={**_place(intent), INTENT: held(intent)},
        **options,
    )


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
