"""Ingests as assets: one asset a table, recorded once its rows and watermark are committed."""

import inspect
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import dagster as dg
import sqlalchemy as sa

from ixflow.dagster.failures import failures
from ixflow.dagster.metadata import table_metadata
from ixflow.dagster.table_store import SQLTableStoreResource, key_and_kinds
from ixflow.dialects import connected, dialect_of
from ixflow.ingestion.ingest import ingest
from ixflow.ingestion.options import Delete, HighWatermark, IngestResult, Upsert
from ixflow.tables.declared import name_of

__all__ = ["IngestConfig", "ingest_asset", "materialize_ingest"]


class IngestConfig(dg.Config):
    """What the Launchpad offers for an ingest: ``__EARLIEST__`` ingests everything again."""

    high_watermark: str = HighWatermark.LATEST
    """A constant of `HighWatermark`, or the JSON text of a watermark to start behind."""
    delete: str = Delete.OFF
    """``__BEFORE_FIRST_BATCH__`` replaces all existing rows."""
    upsert: str = Upsert.IF_PRIMARY_KEY

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
    warehouse: str | SQLTableStoreResource = "warehouse",
    group_name: str | None = None,
    kinds: set[str] | None = None,
    automation_condition: dg.AutomationCondition | None = None,
    retry_policy: dg.RetryPolicy | None = None,
    pool: str | None = None,
    tags: Mapping[str, str] | None = None,
    owners: Sequence[str] | None = None,
) -> Callable[[Callable[..., Iterable[Any]]], dg.AssetsDefinition]:
    """Decorate a batches function, so that the tables of the metadata become assets.

    The function takes the high watermark, or the context and the high watermark, and yields
    batches as `ixflow.ingest` takes them. The asset keys are ``[*key_prefix, schema, table]``.
    ``warehouse`` is the `SQLTableStoreResource` to write to, or its key.

    Example::

        @ingest_asset(metadata=metadata, deps=[orders_files])
        def raw_orders(high_watermark):
            yield 42, None, [(orders, {"order_id": 42})]

    """

    key, icons = key_and_kinds(warehouse, kinds)

    def decorate(batches: Callable[..., Iterable[Any]]) -> dg.AssetsDefinition:
        specs = [
            dg.AssetSpec(
                key=_key(table, key_prefix),
                deps=list(deps),
                group_name=group_name or table.schema,
                kinds=icons,
                automation_condition=automation_condition,
                tags=tags,
                owners=owners,
                description=(inspect.getdoc(batches) or f"Ingested into {name_of(table)}."),
            )
            for table in metadata.tables.values()
        ]

        @dg.multi_asset(
            name=name or batches.__name__,
            specs=specs,
            required_resource_keys={key},
            retry_policy=retry_policy,
            pool=pool,
        )
        def _ingest(
            context: dg.AssetExecutionContext, config: IngestConfig
        ) -> Iterator[dg.MaterializeResult]:
            resource: SQLTableStoreResource = getattr(context.resources, key)
            bound = _bound(batches, context)
            yield from materialize_ingest(resource, metadata, bound, config, key_prefix)

        return _ingest

    return decorate


def materialize_ingest(
    warehouse: SQLTableStoreResource,
    metadata: sa.MetaData,
    batches: Callable[[Any], Iterable[Any]],
    config: IngestConfig,
    key_prefix: Sequence[str] = (),
) -> Iterator[dg.MaterializeResult]:
    """Ingest, then tell each table's event; none is told unless the ingest is committed."""
    with failures(), connected(warehouse.engine) as conn:
        result = ingest(
            conn,
            metadata,
            batches,
            high_watermark=config.watermark(),
            delete=config.delete,
            upsert=config.upsert,
        )
    for table in metadata.tables.values():
        yield _told(warehouse, table, result, key_prefix)


def _told(
    warehouse: SQLTableStoreResource,
    table: sa.Table,
    result: IngestResult,
    key_prefix: Sequence[str],
) -> dg.MaterializeResult:
    name = name_of(table)
    counts = result.tables[str(name)]
    with connected(warehouse.engine) as conn:
        dialect = dialect_of(conn)
        columns = dialect.columns(conn, name)
        rows = dialect.count(conn, name)
    extra: dict[str, Any] = {
        "ixflow/rows_inserted": counts.inserted,
        "ixflow/rows_updated": counts.updated,
        "ixflow/rows_unchanged": counts.unchanged,
        "ixflow/rows_deleted": counts.deleted,
        "ixflow/seconds": round(result.seconds, 3),
        "ixflow/run_id": result.run_id,
        "ixflow/high_watermark": json.dumps(result.high_watermark_after),
    }
    if counts.replaced_because:
        extra["ixflow/replaced_because"] = "; ".join(counts.replaced_because)
    return dg.MaterializeResult(
        asset_key=_key(table, key_prefix),
        metadata=table_metadata(
            warehouse.engine.url, name, rows=rows, columns=columns, extra=extra
        ),
        data_version=dg.DataVersion(result.changed_by.get(str(name), "empty")),
    )


def _key(table: sa.Table, prefix: Sequence[str]) -> dg.AssetKey:
    return dg.AssetKey([*prefix, *([table.schema] if table.schema else []), str(table.name)])


def _bound(
    batches: Callable[..., Iterable[Any]], context: dg.AssetExecutionContext
) -> Callable[[Any], Iterable[Any]]:
    if len(inspect.signature(batches).parameters) > 1:
        return lambda high_watermark: batches(context, high_watermark)
    return batches
