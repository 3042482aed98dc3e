"""The options of an extraction that YAML gives: for all tables of a component, or for one."""

from typing import Annotated, Any

import dagster as dg

from ixflow.dagster.components.fields import shown
from ixflow.dagster.components.partition_fields import PartitionColumn
from ixflow.extraction.intent import ExtractionIntent

__all__ = ["ExtractedTable", "ExtractionOptions", "intent_of"]


class ExtractionOptions(dg.Model, dg.Resolvable):
    """Options of `ixflow.ExtractionIntent`; those that are left out have its defaults.

    >>> ExtractionOptions(cursor="order_id").given()
    {'mode': 'incremental', 'incremental_key': 'order_id'}
    """

    cursor: Annotated[
        str | None, shown("read only rows that runs before have not read, by this column")
    ] = None
    incremental_value: Annotated[Any, shown("where the first run with a cursor begins")] = None
    output_format: Annotated[str | None, shown("parquet, csv, s3 or gcs")] = None
    columns: Annotated[list[str] | None, shown("the columns to extract, in this order")] = None
    drop: Annotated[list[str] | None, shown("the columns not to extract")] = None
    mask: Annotated[
        dict[str, str] | None,
        shown("columns that the source masks: hash, null, redact, first<N>, last<N> or year"),
    ] = None
    where: Annotated[str | None, shown("a condition in the source's SQL")] = None
    query: Annotated[str | None, shown("a SELECT whose rows are extracted")] = None
    as_text: Annotated[list[str] | None, shown("columns to read as text")] = None
    compression: Annotated[str | None, shown("zstd, snappy, gzip, lz4 or none")] = None
    require_snapshot: Annotated[
        bool | None, shown("refuse to extract without one snapshot for all rows")
    ] = None
    resume: Annotated[str | None, shown("same snapshot, or newer snapshot")] = None
    max_workers: Annotated[int | None, shown("most connections, 1 to 64")] = None
    memory_budget: Annotated[int | str | None, shown("what a run may hold, as 256MB")] = None
    statement_timeout: Annotated[float | str | None, shown("seconds, or a text as 30min")] = None
    lock_timeout: Annotated[float | str | None, shown("seconds, or a text as 60s")] = None
    silence_timeout: Annotated[float | str | None, shown("seconds, or a text as 60s")] = None
    max_snapshot_age: Annotated[float | str | None, shown("seconds, or a text as 2h")] = None

    def given(self) -> dict[str, Any]:
        """Give the arguments of `ixflow.ExtractionIntent` that are said here."""
        said = {k: v for k, v in self if v is not None and k not in ("name", "partition_by")}
        cursor = said.pop("cursor", None)
        return said if cursor is None else {"mode": "incremental", "incremental_key": cursor} | said


class ExtractedTable(ExtractionOptions):
    """One table of an extraction; its options go before those of the component."""

    name: Annotated[str, shown("table, or schema.table, exactly as the database spells it")]
    partition_by: Annotated[
        str | PartitionColumn | None, shown("the column that says the partition of a row")
    ] = None


def intent_of(
    source: ExtractionIntent, table: ExtractedTable, common: ExtractionOptions
) -> ExtractionIntent:
    """Make the intent of one table of a source, which is an intent itself."""
    options = common.given() | table.given()
    return ExtractionIntent(
        source.source_type,
        source.source_config,
        table.name,
        source.output_dir,
        storage_options=source.storage_options,
        mask_salt=source.mask_salt,
        **options,
    )
