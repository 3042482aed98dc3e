"""`HighWatermarkIOManager`: what assets return is ingested behind the high watermark.

The rows, a change of the table's definition and the watermark are one transaction a batch, as with
`ixflow.ingest`: an asset that fails, or a process that dies, leaves whole batches.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import dagster as dg
import pyarrow as pa
import sqlalchemy as sa

from ixflow.dagster.asset_slices import is_all
from ixflow.dagster.described import described_table
from ixflow.dagster.failures import failures
from ixflow.dagster.held import held, object_of
from ixflow.dagster.ingest_partitions import part_of, partition_event, refuse_with_partitions
from ixflow.dagster.ingestion import IngestConfig, materialize_ingest
from ixflow.dagster.partitions import By, partitioning
from ixflow.dagster.reading import read_part
from ixflow.dagster.table_store import SQLTableStoreResource
from ixflow.dialects import connected
from ixflow.errors import UnsupportedType, ValidationError
from ixflow.ingestion.by_slice import ingest_slice
from ixflow.ingestion.missing import Missing
from ixflow.ingestion.options import Delete, Upsert
from ixflow.tables.arrow import is_arrow_like
from ixflow.tables.declared import name_of
from ixflow.tables.slices import Slice
from ixflow.values import TableName

__all__ = ["HighWatermarkIOManager", "ingest_into"]

_INTO = "ixflow/ingest_into"
_FORMS = "batches(high_watermark), a frame, or a list of tuples or mappings"


@dataclass(frozen=True)
class _Into:
    """What an asset's metadata says of its ingest."""

    table: sa.Table
    upsert: str
    delete: str | Missing
    prove_arrival: bool
    partition_by: By | None = None


def ingest_into(
    table: sa.Table,
    *,
    upsert: str = Upsert.IF_PRIMARY_KEY,
    delete: str | Missing = Delete.OFF,
    prove_arrival: bool = False,
    partition_by: By | None = None,
) -> dict[str, Any]:
    """Give the metadata of an asset whose output is ingested into a table; see `ixflow.ingest`.

    ``partition_by`` names the column that says in which partition of the asset a row is.

    >>> orders = sa.Table("orders", sa.MetaData(), sa.Column("id", sa.Integer), schema="raw")
    >>> ingest_into(orders)["ixflow/table"]
    'orders'
    """
    name = name_of(table)
    place = {"ixflow/schema": name.schema or "", "ixflow/table": name.name}
    return {**place, _INTO: held(_Into(table, upsert, delete, prove_arrival, partition_by))}


class HighWatermarkIOManager(dg.ConfigurableIOManager):
    """Ingests what assets return into the SQLAlchemy table that `ingest_into` names.

    An asset returns a function ``batches(high_watermark)`` as `ixflow.ingest` takes it, or the rows
    of one batch: a frame (pandas, polars, pyarrow), or a list of tuples or mappings. ``ingest`` is
    an `IngestConfig`, which the Launchpad offers for one run, for all assets of this IO manager.
    Inputs are read as the type that their annotation names.

    Example::

        @dg.asset(metadata=ingest_into(orders), io_manager_key="ingest")
        def raw_orders():
            return incremental_batches(shop_engine, orders, cursor="order_id")

        resources = {"ingest": HighWatermarkIOManager(store=warehouse)}

    """

    store: dg.ResourceDependency[SQLTableStoreResource]
    ingest: IngestConfig = IngestConfig()

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        """Ingest what the asset returned, and record it as `ingest_asset` does; None: nothing."""
        if obj is None:
            return
        with failures():
            into = _into(context.definition_metadata, context.asset_key)
            batches = _batches(into.table, obj)
            if not context.has_asset_partitions and (is_arrow_like(obj) or not callable(obj)):
                _refuse_doubling(into, self.ingest)
        if context.has_asset_partitions:
            with failures():
                self._ingest_partition(context, into, batches)
            return
        # Other tables of the same SQLAlchemy metadata are other assets.
        alone = sa.MetaData()
        into.table.to_metadata(alone)
        (done,) = materialize_ingest(
            self.store,
            alone,
            batches,
            _said(self.ingest, into),
            delete=into.delete,
            prove_arrival=into.prove_arrival,
        )
        context.add_output_metadata(done.metadata or {})
        if done.data_version is not None:
            context.step_context.set_data_version(context.asset_key, done.data_version)

    def _ingest_partition(
        self, context: dg.OutputContext, into: _Into, batches: Callable[[Any], Iterable[Any]]
    ) -> None:
        """Let what the asset returned be the rows of its partition."""
        self.ingest.refuse_with_partitions()
        refuse_with_partitions(
            upsert=into.upsert != Upsert.IF_PRIMARY_KEY,
            delete=into.delete != Delete.OFF,
            prove_arrival=into.prove_arrival,
        )
        (key, slice_), *more = _slices(context, into).items()
        if more:
            msg = (
                f"{context.asset_key.to_user_string()} returned the rows of {len(more) + 1} "
                f"partitions at once; let a run be of one, with BackfillPolicy.multi_run()"
            )
            raise ValidationError(msg, asset=context.asset_key.to_user_string())
        alone = sa.MetaData()
        table = into.table.to_metadata(alone)
        with connected(self.store.engine) as conn:
            result = ingest_slice(conn, alone, batches, slice_)
        name = name_of(table)
        event = partition_event(
            context.step_context.instance,
            part_of(context.asset_key, key, table, slice_),
            described_table(self.store, name, count=False),
            result.tables[str(name)],
            result,
        )
        context.add_output_metadata(event.metadata or {})
        if event.data_version is not None:
            context.step_context.set_data_version(context.asset_key, event.data_version)

    def load_input(self, context: dg.InputContext) -> Any:
        """Read the table as the annotated type; without an annotation as pyarrow.

        An input of some partitions has the rows of those.
        """
        wanted = context.dagster_type.typing_type
        with failures():
            type_ = pa.Table if wanted in (Any, None, type(None)) else wanted
            upstream = context.upstream_output
            known = None if upstream is None else upstream.definition_metadata
            place, store = _place(known, context.asset_key), self.store.store()
            if is_all(context):
                return store.read(place, type_)
            slices = _slices(context, _into(known, context.asset_key))
            return read_part(store, place, type_, None, tuple(slices.values()), whole=False)


def _slices(context: dg.OutputContext | dg.InputContext, into: _Into) -> dict[str, Slice]:
    """Give the rows of each partition that is written or read, by its key.

    Raises:
        ValidationError: nothing says which column tells the partition of a row.

    """
    name = context.asset_key.to_user_string()
    made = partitioning(context.asset_partitions_def, into.partition_by, name)
    return {} if made is None else made.slices(context.asset_partition_keys)


def _into(known: object, key: dg.AssetKey) -> _Into:
    found = object_of(known, _INTO, _Into)
    if found is not None:
        return found
    name = key.to_user_string()
    msg = f"{name} names no table to ingest into; give the asset metadata=ingest_into(table)"
    raise ValidationError(msg, asset=name)


def _place(known: Mapping[str, Any] | None, key: dg.AssetKey) -> TableName:
    """Find the table of an input; `ingest_asset` says where its tables are, too."""
    place = known or {}
    if "ixflow/table" not in place:
        return name_of(_into(place, key).table)
    values = [place["ixflow/table"], place.get("ixflow/schema", "")]
    table, schema = (str(getattr(value, "value", value)) for value in values)
    return TableName(table, schema or None)


def _said(config: IngestConfig, into: _Into) -> IngestConfig:
    """Take what the run says of upserting; where it says nothing, what the asset says."""
    silent = config.upsert == Upsert.IF_PRIMARY_KEY
    return config.model_copy(update={"upsert": into.upsert}) if silent else config


def _batches(table: sa.Table, obj: Any) -> Callable[[Any], Iterable[Any]]:
    """Give the batches function of what an asset returned; rows are one batch."""
    if is_arrow_like(obj):
        return lambda after: [(after, None, [(table, obj)])]
    if callable(obj):
        made: Callable[[Any], Iterable[Any]] = obj
        return made
    if isinstance(obj, Iterable) and not isinstance(obj, (str, bytes, Mapping)):
        return lambda after: [(after, None, ((table, row) for row in obj))]
    kind = type(obj).__name__
    msg = f"{name_of(table)}: a {kind} cannot be ingested; return {_FORMS}"
    raise UnsupportedType(msg, table=str(name_of(table)), type=kind)


def _refuse_doubling(into: _Into, config: IngestConfig) -> None:
    """Refuse rows that a second run would add again without anybody having said so."""
    replaced = Delete.BEFORE_FIRST_BATCH in (into.delete, config.delete)
    appended = Upsert.OFF in (into.upsert, config.upsert)
    if into.table.primary_key.columns or replaced or appended:
        return
    name = str(name_of(into.table))
    msg = (
        f"{name} has no primary key, so the rows of each run would be added to those of the last; "
        f"declare a key, or say what is meant: ingest_into(table, "
        f"delete='{Delete.BEFORE_FIRST_BATCH}') replaces them, upsert='{Upsert.OFF}' adds them"
    )
    raise ValidationError(msg, table=name)
