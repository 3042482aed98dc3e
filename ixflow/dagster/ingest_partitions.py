"""Partitions of ingested tables: each is replaced in a transaction of its own, and told on its own.

A run of a range takes one partition after the other. One that fails does not stop the others; the
step then fails and names it.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import dagster as dg
import sqlalchemy as sa

from ixflow.dagster.described import described_table
from ixflow.dagster.guard import guarded, tried
from ixflow.dagster.metadata import asset_key
from ixflow.dagster.partition_events import RangeEvents
from ixflow.dagster.partitions import By, Partitioning, backfills, partition_keys, partitioning
from ixflow.dagster.parts import Part, raise_failed
from ixflow.dagster.table_store import SQLTableStoreResource
from ixflow.dialects import connected
from ixflow.errors import ValidationError
from ixflow.ingestion.by_slice import ingest_slice
from ixflow.ingestion.checks import RowCheck, split_callbacks
from ixflow.ingestion.options import IngestResult, TableCounts
from ixflow.tables.declared import name_of
from ixflow.tables.slices import Slice
from ixflow.values import TableName

__all__ = [
    "PartitionLoad",
    "backfills_of",
    "materialize_partitions",
    "part_of",
    "partition_event",
    "partition_load",
    "partitioned_tables",
    "refuse_with_partitions",
]

_VERSION = "ixflow/changed_by"

Judge = Callable[[RowCheck, TableCounts], dg.AssetCheckResult]


@dataclass(frozen=True)
class PartitionLoad:
    """What fills a partition: tables, batches function, and which rows of each table are in it."""

    metadata: sa.MetaData
    batches: Callable[[Any], Iterable[Any]]
    slices: Mapping[sa.Table, Slice]


def materialize_partitions(
    context: dg.AssetExecutionContext,
    warehouse: SQLTableStoreResource,
    load: Callable[[str], PartitionLoad],
    *,
    key_prefix: Sequence[str] = (),
    on_before_visible: Any = (),
    judge: Judge | None = None,
) -> Iterator[Any]:
    """Ingest the partitions of the run, and tell of each table's when they are committed.

    ``load`` makes ready what fills a partition; ``judge`` tells the outcome of a check.
    """
    told = _Told(context, warehouse, tuple(key_prefix))
    checks = [] if judge is None else split_callbacks(on_before_visible)[1]
    failed: dict[Part, Exception] = {}
    ended: BaseException | None = None
    for key in told.keys:
        try:
            ready = load(key)
            result = _ingested(warehouse, ready, on_before_visible)
        except Exception as error:  # noqa: BLE001 - it is raised below, with the others
            failed[Part(asset_key(context.op_execution_context.op.name), key)] = error
            continue
        except BaseException as error:  # noqa: BLE001 - somebody ends the run; raised below
            ended = error
            break
        for table, slice_ in ready.slices.items():
            whole = told.take(table, slice_, key, result)
            if whole is None:
                continue
            found = [one for one in checks if one.judges(table)]
            results = [judge(one, told.broken[name_of(table)]) for one in found if judge]
            yield _with_checks(whole, results)
    if failed or ended:
        yield from told.range.rest()
    if ended is not None:
        raise ended
    raise_failed(failed, len(told.keys), "ingested", "there")


def partition_load(
    metadata: sa.MetaData,
    batches: Callable[..., Iterable[Any]],
    context: dg.AssetExecutionContext,
    parted: Mapping[sa.Table, Partitioning],
    partition: str,
) -> PartitionLoad:
    """Let a batches function fill a partition of its tables."""
    slices = {table: one.slice(partition) for table, one in parted.items()}
    first = next(iter(slices.values()))
    return PartitionLoad(metadata, _bound_to(batches, context, first), slices)


def _bound_to(
    batches: Callable[..., Iterable[Any]], context: dg.AssetExecutionContext, slice_: Slice
) -> Callable[[Any], Iterable[Any]]:
    """Give a batches function what its parameters ask for: context, watermark, partition."""
    named = inspect.signature(batches).parameters
    others = [name for name in named if name != "partition"]
    given = {"partition": slice_} if "partition" in named else {}
    if len(others) > 1 or others == ["context"]:
        asked: tuple[Any, ...] = (context, None)[: len(others)]
        return lambda _: batches(*asked, **given)
    return lambda _: batches(*([None] * len(others)), **given)


def backfills_of(
    batches: Callable[..., Iterable[Any]],
    definition: dg.PartitionsDefinition[Any] | None,
    policy: dg.BackfillPolicy | None,
) -> dg.BackfillPolicy | None:
    """Choose how backfills run: several partitions in one run if the function is told which.

    Raises:
        ValidationError: they shall, and it is not.

    """
    if definition is None or "partition" in inspect.signature(batches).parameters:
        return backfills(definition, policy)
    one_by_one = dg.BackfillPolicy.multi_run(max_partitions_per_run=1)
    if policy not in (None, one_by_one):
        msg = (
            "one run shall ingest several partitions, but the batches function does not ask "
            "which; give it a parameter named partition"
        )
        raise ValidationError(msg, argument="backfill_policy")
    return one_by_one


def partitioned_tables(
    metadata: sa.MetaData,
    definition: dg.PartitionsDefinition[Any] | None,
    by: By | Callable[[sa.Table], By] | None,
) -> dict[sa.Table, Partitioning]:
    """Say for each table which rows its partitions are; empty where there are none.

    Raises:
        ValidationError: partitions and columns do not go together.

    """
    found = {}
    for table in metadata.tables.values():
        chosen = by(table) if callable(by) else by
        one = partitioning(definition, chosen, f"the ingest of {name_of(table)}")
        if one is None:
            continue
        for column in one.by.values():
            if column.column not in table.columns:
                msg = f"partition_by names the column {column.column}, which {table} has not"
                raise ValidationError(msg, table=str(table), column=column.column)
        found[table] = one
    return found


def refuse_with_partitions(**given: bool) -> None:
    """Refuse options that do not go with partitions, by their names.

    Raises:
        ValidationError: one is given.

    """
    wrong = [name for name, is_given in given.items() if is_given]
    if wrong:
        msg = (
            f"{', '.join(wrong)} cannot be given with partitions: the rows of a partition are "
            f"replaced by those that come, and no watermark is kept"
        )
        raise ValidationError(msg, argument=wrong[0])


def _ingested(
    warehouse: SQLTableStoreResource, ready: PartitionLoad, on_before_visible: Any
) -> IngestResult:
    with connected(warehouse.engine) as conn:
        return ingest_slice(
            conn,
            ready.metadata,
            ready.batches,
            ready.slices,
            on_before_visible=on_before_visible,
        )


def _with_checks(
    event: dg.MaterializeResult[Any], results: Sequence[dg.AssetCheckResult]
) -> dg.MaterializeResult[Any]:
    return dg.MaterializeResult(
        asset_key=event.asset_key,
        metadata=event.metadata,
        data_version=event.data_version,
        check_results=results,
    )


@dataclass
class _Told:
    """What a run tells of the partitions of its tables."""

    context: dg.AssetExecutionContext
    warehouse: SQLTableStoreResource
    key_prefix: tuple[str, ...]
    keys: Sequence[str] = ()
    broken: dict[TableName, TableCounts] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.keys = partition_keys(self.context)
        self.range = RangeEvents(self.context, self.keys)
        self._described: dict[TableName, dict[str, Any]] = {}

    def take(
        self, table: sa.Table, slice_: Slice, key: str, result: IngestResult
    ) -> dg.MaterializeResult[Any] | None:
        """Take a partition that is committed; give the event of all partitions behind the last."""
        name = name_of(table)
        counts = result.tables[str(name)]
        self.broken.setdefault(name, TableCounts()).count_broken(counts.broken_rules)
        asset = asset_key(*self.key_prefix, name.schema, name.name)
        if name not in self._described:
            self._described[name] = described_table(self.warehouse, name, count=False)
        part = part_of(asset, key, table, slice_)
        event = partition_event(self.context.instance, part, self._described[name], counts, result)
        return self.range.take(event, key)


def part_of(asset: dg.AssetKey, key: str, table: sa.Table, slice_: Slice) -> Part:
    """Name a partition of a table, with its rows and the columns that can be NULL."""
    nullable = tuple(name for name in slice_.columns if table.columns[name].nullable)
    return Part(asset, key, str(slice_), nullable)


def partition_event(
    instance: dg.DagsterInstance,
    part: Part,
    described: Mapping[str, Any],
    counts: TableCounts,
    result: IngestResult,
) -> dg.MaterializeResult[Any]:
    """Tell of a partition that is committed; its data version is the run that last changed it."""
    version = result.run_id
    if not (counts.inserted or counts.updated or counts.deleted or counts.replaced_because):
        before = tried(f"the last change of {part}", lambda: _changed_by(instance, part), None)
        version = before or version
    metadata = {
        **described,
        **guarded(f"the counts of {part}", lambda: _counted(counts, result)),
        **part.metadata(),
        _VERSION: version,
    }
    return dg.MaterializeResult[Any](
        asset_key=part.key, metadata=metadata, data_version=dg.DataVersion(version)
    )


def _changed_by(instance: dg.DagsterInstance, part: Part) -> str | None:
    """Find which run was the last to change a partition, as Dagster was told."""
    wanted = dg.AssetRecordsFilter(part.key, asset_partitions=[part.partition or ""])
    for record in instance.fetch_materializations(wanted, limit=1).records:
        told = record.asset_materialization
        value = None if told is None else told.metadata.get(_VERSION)
        return None if value is None else str(value.value)
    return None


def _counted(counts: TableCounts, result: IngestResult) -> dict[str, Any]:
    return {
        "dagster/partition_row_count": counts.slice_rows or 0,
        "ixflow/rows_inserted": counts.inserted,
        "ixflow/rows_updated": counts.updated,
        "ixflow/rows_unchanged": counts.unchanged,
        "ixflow/rows_deleted": counts.deleted,
        "ixflow/rows_quarantined": counts.quarantined,
        "ixflow/seconds": round(result.seconds, 3),
        "ixflow/run_id": result.run_id,
    }
