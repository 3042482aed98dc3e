"""Ingests as assets: one asset a table, recorded once its rows and watermark are committed."""

import functools
import inspect
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import dagster as dg
import sqlalchemy as sa
from pydantic import Field

from ixflow.dagster.described import described_table
from ixflow.dagster.failures import failures
from ixflow.dagster.guard import guarded
from ixflow.dagster.ingest_partitions import (
    backfills_of,
    materialize_partitions,
    partition_load,
    partitioned_tables,
    refuse_with_partitions,
)
from ixflow.dagster.metadata import asset_key, lag_metadata, word
from ixflow.dagster.partitions import By, Partitioning
from ixflow.dagster.specs import asset_spec, defined_at
from ixflow.dagster.table_store import WAREHOUSE, SQLTableStoreResource, key_and_kinds, storage
from ixflow.dialects import connected
from ixflow.ingestion.checks import RowCheck, split_callbacks
from ixflow.ingestion.ingest import BeforeVisible, ingest
from ixflow.ingestion.missing import Missing
from ixflow.ingestion.options import Delete, HighWatermark, IngestResult, TableCounts, Upsert
from ixflow.tables.declared import name_of
from ixflow.values import TableName

__all__ = ["IngestConfig", "ingest_asset", "materialize_ingest", "table_spec"]


class IngestConfig(dg.Config):
    """What the Launchpad offers for an ingest: ``__EARLIEST__`` ingests everything again."""

    high_watermark: str = Field(
        default=HighWatermark.LATEST,
        description="__LATEST__: only what is new; __EARLIEST__: everything again; or the JSON "
        "text of a watermark to start behind",
    )
    delete: str = Field(
        default=Delete.OFF,
        description="__BEFORE_FIRST_BATCH__ replaces all existing rows; __MISSING__ deletes those "
        "that an ingest of everything does not give; __OFF__: as the asset says",
    )
    upsert: str = Field(
        default=Upsert.IF_PRIMARY_KEY, description="__OFF__ inserts only, it never updates"
    )

    def refuse_with_partitions(self) -> None:
        """Refuse what only an ingest by a high watermark can do.

        Raises:
            ValidationError: naming it.

        """
        kept = (HighWatermark.LATEST, HighWatermark.EARLIEST)
        wrong = {
            "high_watermark": self.high_watermark not in kept,
            "delete": self.delete != Delete.OFF,
            "upsert": self.upsert != Upsert.IF_PRIMARY_KEY,
        }
        refuse_with_partitions(**wrong)

    def watermark(self) -> Any:
        """Give the watermark as a value."""
        if self.high_watermark in (HighWatermark.LATEST, HighWatermark.EARLIEST):
            return self.high_watermark
        try:
            return json.loads(self.high_watermark)
        except ValueError:
            return self.high_watermark


def ingest_asset(
    *,
    metadata: sa.MetaData,
    name: str | None = None,
    key_prefix: Sequence[str] = (),
    deps: Iterable[Any] = (),
    warehouse: str | SQLTableStoreResource = WAREHOUSE,
    io_manager_key: str | None = None,
    on_before_visible: BeforeVisible = (),
    delete: str | Missing = Delete.OFF,
    prove_arrival: bool = False,
    group_name: str | None = None,
    kinds: set[str] | None = None,
    automation_condition: dg.AutomationCondition[Any] | None = None,
    retry_policy: dg.RetryPolicy | None = None,
    pool: str | None = None,
    tags: Mapping[str, str] | None = None,
    owners: Sequence[str] | None = None,
    partitions_def: dg.PartitionsDefinition[Any] | None = None,
    partition_by: By | Callable[[sa.Table], By] | None = None,
    backfill_policy: dg.BackfillPolicy | None = None,
    **asset: Any,
) -> Callable[[Callable[..., Iterable[Any]]], dg.AssetsDefinition]:
    """Decorate a batches function, so that the tables of the metadata become assets.

    The function takes the high watermark, or the context and the high watermark, and yields
    batches as `ixflow.ingest` takes them. The asset keys are ``[*key_prefix, schema, table]``.
    ``warehouse`` is the key of the `SQLTableStoreResource` to write to; the resource itself also
    tells the icon, and is expected as resource ``warehouse`` of the definitions. Downstream assets
    load the tables through the IO manager ``io_manager_key``. ``on_before_visible``, ``delete``
    and ``prove_arrival`` are those of `ixflow.ingest`; each `RowCheck` is an asset check too, which
    fails when rows were put aside.

    With ``partitions_def`` a run replaces the rows of its partition, whose column ``partition_by``
    (or what a function gives for a table) lies in its window of time or is its key. The function
    may then take ``partition``, a `Slice`; a function that does not is run for one partition at a
    time. No watermark is kept. ``backfill_policy``: see `extraction_asset`. All other arguments
    are those of `dagster.AssetSpec`, for every table.

    Raises:
        ValidationError: partitions and their column do not go together, or with the rest.

    Example::

        @ingest_asset(metadata=metadata, deps=[orders_files])
        def raw_orders(high_watermark):
            yield 42, None, [(orders, {"order_id": 42})]

    """
    key, icons = key_and_kinds(warehouse, kinds)
    _, checks = split_callbacks(on_before_visible)
    parted = partitioned_tables(metadata, partitions_def, partition_by)
    if parted:
        refuse_with_partitions(delete=delete != Delete.OFF, prove_arrival=prove_arrival)

    def decorate(batches: Callable[..., Iterable[Any]]) -> dg.AssetsDefinition:
        specs = [
            table_spec(
                name_of(table),
                key_prefix,
                warehouse=warehouse,
                io_manager_key=io_manager_key,
                deps=list(deps),
                group_name=group_name or (word(table.schema) if table.schema else None),
                kinds=icons,
                automation_condition=automation_condition,
                tags=tags,
                owners=owners,
                description=(inspect.getdoc(batches) or f"Ingested into {name_of(table)}."),
                code=defined_at(batches),
                asset=asset,
                parted=parted.get(table),
            )
            for table in metadata.tables.values()
        ]

        @dg.multi_asset(
            name=name or batches.__name__,
            specs=specs,
            check_specs=_check_specs(metadata, checks, key_prefix),
            required_resource_keys={key},
            retry_policy=retry_policy,
            pool=pool,
            partitions_def=partitions_def,
            backfill_policy=backfills_of(batches, partitions_def, backfill_policy),
        )
        def _ingest(context: dg.AssetExecutionContext, config: IngestConfig) -> Iterator[Any]:
            resource: SQLTableStoreResource = getattr(context.resources, key)
            if parted:
                with failures():
                    config.refuse_with_partitions()
                yield from materialize_partitions(
                    context,
                    resource,
                    functools.partial(partition_load, metadata, batches, context, parted),
                    key_prefix=key_prefix,
                    on_before_visible=on_before_visible,
                    judge=_checked,
                )
                return
            bound = _bound(batches, context)
            yield from materialize_ingest(
                resource,
                metadata,
                bound,
                config,
                key_prefix=key_prefix,
                on_before_visible=on_before_visible,
                delete=delete,
                prove_arrival=prove_arrival,
            )

        return _ingest

    return decorate


def table_spec(
    table: TableName,
    prefix: Sequence[str] = (),
    *,
    warehouse: str | SQLTableStoreResource,
    io_manager_key: str | None,
    code: Mapping[str, Any] | None = None,
    asset: Mapping[str, Any] | None = None,
    parted: Partitioning | None = None,
    **options: Any,
) -> dg.AssetSpec:
    """Describe a table that an ingest writes; its place is for the IO manager that loads it.

    ``code`` leads to where it is defined, ``asset`` is what the user says of it, ``parted`` which
    rows its partitions are.
    """
    place: dict[str, Any] = {"ixflow/schema": table.schema or "", "ixflow/table": table.name}
    place |= {**storage(warehouse, table), **(code or {})}
    if parted is not None and (expr := parted.expr()) is not None:
        place["partition_expr"] = expr
    key = asset_key(*prefix, table.schema, table.name)
    spec = asset_spec(key, {**options, "metadata": place}, asset)
    return spec if io_manager_key is None else spec.with_io_manager_key(io_manager_key)


def materialize_ingest(
    warehouse: SQLTableStoreResource,
    metadata: sa.MetaData,
    batches: Callable[[Any], Iterable[Any]],
    config: IngestConfig,
    *,
    key_prefix: Sequence[str] = (),
    on_before_visible: BeforeVisible = (),
    delete: str | Missing = Delete.OFF,
    prove_arrival: bool = False,
) -> Iterator[dg.MaterializeResult[Any]]:
    """Ingest, then tell each table's event; none is told unless the ingest is committed."""
    _, checks = split_callbacks(on_before_visible)
    with failures(), connected(warehouse.engine) as conn:
        result = ingest(
            conn,
            metadata,
            batches,
            on_before_visible=on_before_visible,
            high_watermark=config.watermark(),
            delete=delete if config.delete == Delete.OFF else config.delete,
            upsert=config.upsert,
            prove_arrival=prove_arrival,
        )
    for table in metadata.tables.values():
        name = name_of(table)
        yield dg.MaterializeResult(
            asset_key=asset_key(*key_prefix, name.schema, name.name),
            metadata={
                **described_table(warehouse, name),
                **guarded(f"the counts of {name}", functools.partial(_counted, name, result)),
            },
            data_version=dg.DataVersion(result.changed_by.get(str(name), "empty")),
            check_results=[
                _checked(check, result.tables[str(name)]) for check in checks if check.judges(table)
            ],
        )


def _check_specs(
    metadata: sa.MetaData, checks: Sequence[RowCheck], prefix: Sequence[str]
) -> list[dg.AssetCheckSpec]:
    return [
        dg.AssetCheckSpec(
            word(check.name),
            asset=asset_key(*prefix, table.schema, name_of(table).name),
            description=f"Every row satisfies: {check.condition}",
        )
        for check in checks
        for table in metadata.tables.values()
        if check.judges(table)
    ]


def _checked(check: RowCheck, counts: TableCounts) -> dg.AssetCheckResult:
    rows = counts.broken_rules.get(check.name, 0)
    return dg.AssetCheckResult(
        check_name=word(check.name),
        passed=rows == 0,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"ixflow/rows_quarantined": rows, "ixflow/condition": check.condition},
    )


def _counted(name: TableName, result: IngestResult) -> dict[str, Any]:
    counts = result.tables[str(name)]
    extra: dict[str, Any] = {
        "ixflow/rows_inserted": counts.inserted,
        "ixflow/rows_updated": counts.updated,
        "ixflow/rows_unchanged": counts.unchanged,
        "ixflow/rows_deleted": counts.deleted,
        "ixflow/rows_quarantined": counts.quarantined,
        "ixflow/seconds": round(result.seconds, 3),
        "ixflow/run_id": result.run_id,
        "ixflow/high_watermark": json.dumps(result.high_watermark_after),
        **lag_metadata(result.high_watermark_after),
    }
    if counts.arrival is not None:
        extra |= {
            "ixflow/proved_rows_sent": counts.arrival.rows_sent,
            "ixflow/proved_rows_there": counts.arrival.rows_there,
            "ixflow/proved_checksum": counts.arrival.checksum.text,
            "ixflow/proved_not_compared": ", ".join(counts.arrival.not_compared) or "none",
        }
    if counts.replaced_because:
        extra["ixflow/replaced_because"] = "; ".join(counts.replaced_because)
    return extra


def _bound(
    batches: Callable[..., Iterable[Any]], context: dg.AssetExecutionContext
) -> Callable[[Any], Iterable[Any]]:
    if len(inspect.signature(batches).parameters) > 1:
        return lambda high_watermark: batches(context, high_watermark)
    return batches
