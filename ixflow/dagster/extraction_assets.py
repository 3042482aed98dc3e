"""The tables of one source as assets of one step, which may be run for some of them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import dagster as dg

from ixflow.dagster.checked_plans import PLAN_CHECK
from ixflow.dagster.extraction import PlannerResource, extraction_key, extraction_spec, pool_of
from ixflow.dagster.held import held
from ixflow.dagster.metadata import word
from ixflow.dagster.partitions import By, Partitioning, backfills, partitioning
from ixflow.dagster.plan_checks import PlanCheck
from ixflow.dagster.runtime_config import RuntimeConfig
from ixflow.errors import ValidationError
from ixflow.extraction.intent import ExtractionIntent

__all__ = ["build_extraction_assets", "extraction_assets"]


def extraction_assets(
    *,
    intents: Sequence[ExtractionIntent],
    name: str | None = None,
    key: Callable[[ExtractionIntent], dg.AssetKey] = extraction_key,
    group_name: str = "extracted",
    planner: str | None = None,
    automation_condition: dg.AutomationCondition[Any] | None = None,
    retry_policy: dg.RetryPolicy | None = None,
    pool: str | None = None,
    tags: Mapping[str, str] | None = None,
    owners: Sequence[str] | None = None,
    partitions_def: dg.PartitionsDefinition[Any] | None = None,
    partition_by: By | Callable[[ExtractionIntent], By] | None = None,
    backfill_policy: dg.BackfillPolicy | None = None,
    check: PlanCheck | None = None,
) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """Decorate the body of a step that extracts the tables of one database.

    The body passes on what `PlannerResource.run` yields: an event for each table as soon as it is
    published. A table that fails does not stop the others; the step then fails and names it, and a
    retry extracts only what failed. ``key`` makes the asset key of an intent, ``planner`` is the
    key of a resource that the body takes from its context. ``partitions_def``, ``partition_by``
    (or a function that gives it for an intent) and ``backfill_policy``: see `extraction_asset`.
    ``check``, which `plan_check` makes, judges the plan of each table before anything is read; a
    table whose plan is refused does not stop the others.

    Raises:
        ValidationError: there is no intent, or they are of several databases, or there are
            partitions and a check.

    Example::

        @extraction_assets(intents=[orders, customers])
        def shop(context, planner: PlannerResource, config: RuntimeConfig):
            yield from planner.run(context, config=config).fetch_row_count()

    """
    if len({str(sorted(intent.source().items(), key=str)) for intent in intents}) != 1:
        msg = "extraction_assets needs intents of one database, at least one; make one for each"
        raise ValidationError(msg, argument="intents")
    if partitions_def is not None and check is not None:
        msg = "extraction_assets has partitions, and a plan check plans whole tables"
        raise ValidationError(f"{msg}; leave check out", argument="check")
    checked = {} if check is None else {PLAN_CHECK: held(check)}
    specs = [
        extraction_spec(
            intent,
            key=key(intent),
            metadata=checked,
            group_name=group_name,
            automation_condition=automation_condition,
            tags=tags,
            owners=owners,
            parted=_parted(partitions_def, partition_by, intent),
        )
        for intent in intents
    ]

    def decorate(body: Callable[..., Any]) -> dg.AssetsDefinition:
        made = dg.multi_asset(
            name=name or body.__name__,
            specs=specs,
            check_specs=[] if check is None else [check.spec(spec.key) for spec in specs],
            can_subset=True,
            required_resource_keys=set() if planner is None else {planner},
            retry_policy=retry_policy,
            pool=pool or pool_of(intents[0]),
            partitions_def=partitions_def,
            backfill_policy=backfills(partitions_def, backfill_policy),
        )
        return made(body)

    return decorate


def _parted(
    definition: dg.PartitionsDefinition[Any] | None,
    by: By | Callable[[ExtractionIntent], By] | None,
    intent: ExtractionIntent,
) -> Partitioning | None:
    chosen = by(intent) if callable(by) else by
    return partitioning(definition, chosen, f"the extraction of {intent.object_name}")


def build_extraction_assets(
    intents: Sequence[ExtractionIntent],
    *,
    name: str | None = None,
    planner: str = "planner",
    one_moment: bool = True,
    **options: Any,
) -> dg.AssetsDefinition:
    """Make the assets of the tables of one database, extracted by one step.

    ``planner`` is the key of the `PlannerResource`. The rows of all tables are of one moment unless
    ``one_moment`` is False. All other arguments are those of `extraction_assets`, as is the rest.

    >>> shop = {"database": "shop.db"}
    >>> tables = [ExtractionIntent("sqlite", shop, name) for name in ("items", "orders")]
    >>> sorted(key.to_user_string() for key in build_extraction_assets(tables).keys)
    ['extracted/items', 'extracted/orders']
    """
    database = str(intents[0].url().database or intents[0].dialect.name) if intents else ""
    op_name = name or f"extract_{word(database.rpartition('/')[2])}"

    @extraction_assets(intents=intents, name=op_name, planner=planner, **options)
    def _extract(context: dg.AssetExecutionContext, config: RuntimeConfig) -> Iterator[Any]:
        resource: PlannerResource = getattr(context.resources, planner)
        events = resource.run(context, config=config, one_moment=one_moment)
        yield from events.fetch_row_count().fetch_column_metadata().fetch_plan()

    return _extract
