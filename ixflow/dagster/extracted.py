"""Ingesting what an extraction published: the common case, without a line of user code."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow.parquet as pq
import sqlalchemy as sa

from ixflow.dagster.extraction import extraction_key
from ixflow.dagster.failures import failures
from ixflow.dagster.ingestion import IngestConfig, materialize_ingest
from ixflow.dagster.table_store import SQLTableStoreResource, key_and_kinds
from ixflow.errors import TableNotFound
from ixflow.extraction.api import published
from ixflow.extraction.intent import ExtractionIntent
from ixflow.extraction.manifest import Manifest
from ixflow.extraction.storage import OutputPlace
from ixflow.ingestion.files import parquet_batches
from ixflow.tables.declared import sqlalchemy_type
from ixflow.values import TableName

__all__ = ["ingest_extraction"]


def ingest_extraction(
    intent: ExtractionIntent,
    *,
    cursor: str,
    schema: str = "raw",
    table: str | None = None,
    primary_key: Sequence[str] | None = None,
    overlap: Any = None,
    warehouse: str | SQLTableStoreResource = "warehouse",
    kinds: set[str] | None = None,
    automation_condition: dg.AutomationCondition | None = None,
    retry_policy: dg.RetryPolicy | None = None,
    pool: str | None = None,
    tags: Mapping[str, str] | None = None,
    owners: Sequence[str] | None = None,
) -> dg.AssetsDefinition:
    """Make an asset that ingests the rows of an extraction that lie beyond the high watermark.

    Columns, types and primary key are those of the source; ``cursor``, ``overlap``: see
    `ixflow.parquet_batches`. The asset key is ``[schema, table]``.

    >>> intent = ExtractionIntent("sqlite", {"database": "shop.db"}, "orders")
    >>> ingest_extraction(intent, cursor="order_id").key.to_user_string()
    'raw/orders'
    """
    name = table or TableName.parse(intent.object_name).name
    upstream = extraction_key(intent)
    key, icons = key_and_kinds(warehouse, kinds)

    @dg.multi_asset(
        name=f"ingest_{schema}_{_word(name)}",
        specs=[
            dg.AssetSpec(
                [schema, name],
                deps=[upstream],
                group_name=_word(schema),
                kinds=icons,
                automation_condition=automation_condition,
                tags=tags,
                owners=owners,
                description=f"The extracted rows of {intent.object_name}, by {cursor}.",
            )
        ],
        required_resource_keys={key, "planner"},
        retry_policy=retry_policy,
        pool=pool,
    )
    def _ingest(context: dg.AssetExecutionContext, config: IngestConfig) -> Any:
        resource = getattr(context.resources, key)
        with failures():
            manifest, files = _published(context.resources.planner.intent(intent))
            metadata = sa.MetaData()
            target = _table(metadata, TableName(name, schema), manifest, files[0], primary_key)
            batches = parquet_batches(files, target, cursor=cursor, overlap=overlap)
        yield from materialize_ingest(resource, metadata, batches, config)

    return _ingest


def _published(intent: ExtractionIntent) -> tuple[Manifest, list[Path]]:
    """Find the published files, by the paths that stay the same when the next run publishes."""
    place = OutputPlace(intent.output_dir, intent.object_name).published_directory()
    manifest = None if place is None else published(place)
    if place is None or manifest is None:
        msg = f"nothing of {intent.object_name} is published in {intent.output_dir}; extract it first"
        raise TableNotFound(msg, table=intent.object_name)
    return manifest, [place / file.name for file in manifest.files]


def _table(
    metadata: sa.MetaData,
    name: TableName,
    manifest: Manifest,
    file: Path,
    primary_key: Sequence[str] | None,
) -> sa.Table:
    """Declare the table that holds the files' columns, with the source's key."""
    schema = pq.read_schema(file)
    in_key = sorted((c for c in manifest.columns if c.key_position), key=lambda c: c.key_position or 0)
    names = [c.name for c in in_key] if primary_key is None else list(primary_key)
    nullable = {column.name: column.nullable for column in manifest.columns}
    columns = [
        sa.Column(
            field.name, sqlalchemy_type(field.type), nullable=nullable.get(field.name, True)
            and field.name not in names,
        )
        for field in schema
    ]
    return sa.Table(
        name.name, metadata, *columns, sa.PrimaryKeyConstraint(*names), schema=name.schema
    )


def _word(text: str) -> str:
    return "".join(char if char.isalnum() else "_" for char in text)
