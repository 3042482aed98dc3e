"""Ingesting what an extraction published: the common case, without a line of user code."""

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import dagster as dg
import sqlalchemy as sa

from ixflow.dagster.configured import configured, schema_of
from ixflow.dagster.extraction import extraction_key
from ixflow.dagster.failures import failures
from ixflow.dagster.ingest_partitions import (
    PartitionLoad,
    materialize_partitions,
    refuse_with_partitions,
)
from ixflow.dagster.ingestion import IngestConfig, materialize_ingest, table_spec
from ixflow.dagster.metadata import word
from ixflow.dagster.partitions import By, Partitioning, backfills, partitioning
from ixflow.dagster.specs import called_at
from ixflow.dagster.table_store import WAREHOUSE, SQLTableStoreResource, key_and_kinds
from ixflow.errors import TableNotFound, ValidationError
from ixflow.extraction.intent import ExtractionIntent
from ixflow.extraction.manifest import Manifest
from ixflow.extraction.output import place_of
from ixflow.ingestion.files import parquet_batches
from ixflow.tables.declared import sqlalchemy_type
from ixflow.values import TableName

__all__ = ["ingest_extraction"]


def ingest_extraction(
    intent: ExtractionIntent,
    *,
    cursor: str | None = None,
    schema: str = "raw",
    table: str | None = None,
    primary_key: Sequence[str] | None = None,
    overlap: Any = None,
    warehouse: str | SQLTableStoreResource = WAREHOUSE,
    planner: str = "planner",
    deps: Iterable[Any] | None = None,
    io_manager_key: str | None = None,
    kinds: set[str] | None = None,
    automation_condition: dg.AutomationCondition[Any] | None = None,
    retry_policy: dg.RetryPolicy | None = None,
    pool: str | None = None,
    tags: Mapping[str, str] | None = None,
    owners: Sequence[str] | None = None,
    partitions_def: dg.PartitionsDefinition[Any] | None = None,
    partition_by: By | None = None,
    backfill_policy: dg.BackfillPolicy | None = None,
    **asset: Any,
) -> dg.AssetsDefinition:
    """Make an asset that ingests the rows of an extraction that lie beyond the high watermark.

    Columns, types and primary key are those of the source; ``cursor``, ``overlap``: see
    `ixflow.parquet_batches`. The asset key is ``[schema, table]``. ``warehouse`` and ``planner``
    are keys of the definitions' resources; a `SQLTableStoreResource` in place of the key also
    tells the icon, and is expected as resource ``warehouse``. ``deps`` names the extraction asset
    where it does not have its default key.

    With ``partitions_def`` and ``partition_by``, those of the extraction, a run takes the files of
    its partition, and replaces the rows of that partition; there is no ``cursor`` then. All other
    arguments are those of `dagster.AssetSpec`.

    Raises:
        ValidationError: there is neither a cursor nor partitions, or there are both.

    >>> intent = ExtractionIntent("sqlite", {"database": "shop.db"}, "orders")
    >>> ingest_extraction(intent, cursor="order_id").key.to_user_string()
    'raw/orders'
    """
    name = table or TableName.parse(intent.object_name).name
    upstream = [extraction_key(intent)] if deps is None else list(deps)
    place = TableName(name, schema)
    key, icons = key_and_kinds(warehouse, kinds)
    parted = partitioning(partitions_def, partition_by, f"the ingest of {place}")
    if parted is not None:
        refuse_with_partitions(cursor=cursor is not None, overlap=overlap is not None)
    elif cursor is None:
        msg = (
            f"the ingest of {place} has no cursor, which says what is new; give one, or partitions"
        )
        raise ValidationError(msg, argument="cursor")

    @dg.multi_asset(
        name=f"ingest_{word(schema)}_{word(name)}",
        specs=[
            table_spec(
                place,
                warehouse=warehouse,
                io_manager_key=io_manager_key,
                deps=upstream,
                group_name=word(schema),
                kinds=icons,
                automation_condition=automation_condition,
                tags=tags,
                owners=owners,
                description=f"The extracted rows of {intent.object_name}"
                + (f", by {cursor}." if cursor else ", partition by partition."),
                code=called_at(),
                asset=asset,
                parted=parted,
            )
        ],
        config_schema=schema_of(IngestConfig),
        required_resource_keys={key, planner},
        retry_policy=retry_policy,
        pool=pool,
        partitions_def=partitions_def,
        backfill_policy=backfills(partitions_def, backfill_policy),
    )
    def _ingest(context: dg.AssetExecutionContext) -> Any:
        resource, config = getattr(context.resources, key), configured(context, IngestConfig)
        if parted is not None or cursor is None:
            with failures():
                config.refuse_with_partitions()
                ready = getattr(context.resources, planner).intent(intent)
            load = functools.partial(_load, parted, ready, place, primary_key)
            yield from materialize_partitions(context, resource, load)
            return
        with failures():
            ready = getattr(context.resources, planner).intent(intent)
            manifest, files, filesystem = _published(ready)
            metadata = sa.MetaData()
            _refuse_text_cursor(manifest, cursor)
            target = _table(metadata, place, manifest, primary_key)
            batches = parquet_batches(
                files, target, cursor=cursor, overlap=overlap, filesystem=filesystem
            )
        yield from materialize_ingest(resource, metadata, batches, config)

    return _ingest


def _load(
    parted: Partitioning | None,
    intent: ExtractionIntent,
    place: TableName,
    primary_key: Sequence[str] | None,
    partition: str,
) -> PartitionLoad:
    """Make ready what fills a partition of the table with the files of its extraction."""
    if parted is None:
        raise ValidationError(f"the ingest of {place} has neither a cursor nor partitions")
    slice_ = parted.slice(partition)
    manifest, files, filesystem = _published(replace(intent, partition=slice_.path))
    metadata = sa.MetaData()
    table = _table(metadata, place, manifest, primary_key)

    def batches(_: Any) -> Iterator[Any]:
        # It loads pandas, which nobody needs who does not come here.
        import pyarrow.dataset as ds

        rows = ds.dataset(files, format="parquet", filesystem=filesystem)
        yield None, {"files": len(files)}, [(table, rows.scanner().to_reader())]

    return PartitionLoad(metadata, batches, {table: slice_})


def _published(intent: ExtractionIntent) -> tuple[Manifest, list[str], Any]:
    """Find the published files, by the paths that stay the same when the next run publishes."""
    place = place_of(intent)
    manifest = place.published()
    if manifest is None:
        which = f" (partition {'|'.join(intent.partition)})" if intent.partition else ""
        msg = (
            f"nothing of {intent.object_name}{which} is published in {intent.output_dir}; extract "
            f"it first"
        )
        raise TableNotFound(msg, table=intent.object_name)
    if manifest.output_format != "parquet":
        msg = (
            f"{place.location} holds {manifest.output_format} files; ingest_extraction reads "
            f"Parquet, so extract with output_format='parquet'"
        )
        raise ValidationError(msg, table=intent.object_name)
    return manifest, place.files(manifest), place.filesystem()


def _refuse_text_cursor(manifest: Manifest, cursor: str) -> None:
    """Refuse a cursor whose values were read as text: as texts '10' comes before '9'."""
    column = next((c for c in manifest.columns if c.name == cursor), None)
    if column is not None and column.as_text:
        msg = (
            f"the cursor {cursor} of {manifest.table} is {column.sql_type}, which is read as text, "
            f"and texts do not grow as its values do; choose a column of another type"
        )
        raise ValidationError(msg, table=manifest.table, column=cursor)


def _table(
    metadata: sa.MetaData,
    name: TableName,
    manifest: Manifest,
    primary_key: Sequence[str] | None,
) -> sa.Table:
    """Declare the table that holds the files' columns, with the source's key."""
    in_key = sorted(
        (c for c in manifest.columns if c.key_position), key=lambda c: c.key_position or 0
    )
    names = [c.name for c in in_key] if primary_key is None else list(primary_key)
    nullable = {column.name: column.nullable for column in manifest.columns}
    columns = [
        sa.Column(
            field.name,
            sqlalchemy_type(field.type),
            nullable=nullable.get(field.name, True) and field.name not in names,
        )
        for field in manifest.schema()
    ]
    return sa.Table(
        name.name, metadata, *columns, sa.PrimaryKeyConstraint(*names), schema=name.schema
    )
