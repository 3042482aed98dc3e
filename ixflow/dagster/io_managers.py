"""`SQLTableStoreIOManager`: outputs of plain assets become tables, inputs are read from them.

An output is written in one transaction: readers see the old rows or the new ones, and a write that
fails leaves the table as it was. An input is always the published table, or those of its columns
and partitions that are asked for, read as the type that the downstream asset's annotation names.
"""

from collections.abc import Mapping, Sequence
from typing import Any, get_origin

import dagster as dg
import pyarrow as pa

from ixflow.dagster.asset_slices import is_all, slices_of
from ixflow.dagster.failures import failures
from ixflow.dagster.guard import taken, tried
from ixflow.dagster.metadata import table_metadata
from ixflow.dagster.reading import asked_columns, read_part
from ixflow.dagster.stored import Stored, stored_of
from ixflow.dagster.table_store import SQLTableStoreResource
from ixflow.errors import ValidationError
from ixflow.pipeline.containers import Table
from ixflow.secrets import redact
from ixflow.store import SQLTableStore
from ixflow.store.writing import WrittenTable, write_table
from ixflow.tables.slices import Slice
from ixflow.values import TableName

__all__ = ["SQLTableStoreIOManager"]


class SQLTableStoreIOManager(dg.ConfigurableIOManager):
    """Stores what assets return as tables of the table store's database.

    The last part of the asset key is the table, the part before it the stage or schema (default:
    ``default_schema``). Outputs are pandas, polars or pyarrow frames, DuckDB relations or
    SQLAlchemy queries, or an `ixflow.Table` of one of these. Without metadata an output replaces
    the table; `stored` says otherwise. ``AssetIn(metadata={"columns": [...]})`` reads only these
    columns, and of a table with partitions only those are read that the asset depends on.

    Example::

        @dg.asset(metadata=stored("upsert", primary_key="id"))
        def customers() -> pl.DataFrame: ...

        resources = {"io_manager": SQLTableStoreIOManager(store=warehouse)}

    """

    store: dg.ResourceDependency[SQLTableStoreResource]
    default_schema: str = "assets"

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        """Write what the asset returned into its table; None writes nothing."""
        if obj is None:
            return
        name = context.asset_key.to_user_string()
        with failures():
            store, said = self.store.store(), stored_of(context.definition_metadata, name)
            table = self._table(store, context.asset_key, context.definition_metadata)
            wrapped = obj if isinstance(obj, Table) else Table(obj)
            slices = _slices(context, said, name)
            parts = tuple(slices.values()) if slices else None
            how = said.write(wrapped, parts, _run_of(context, name))
            done = write_table(store, table, wrapped.obj, how)
        tried(
            f"what was written to {table}",
            lambda: _tell(context, store, table, done, said, slices or {}),
            None,
            str(store.url.password or ""),
        )

    def load_input(self, context: dg.InputContext) -> Any:
        """Read the published table as the annotated type; without an annotation as pyarrow."""
        wanted = context.dagster_type.typing_type
        name = context.asset_key.to_user_string()
        upstream = context.upstream_output
        known = None if upstream is None else upstream.definition_metadata
        with failures():
            store, said = self.store.store(), stored_of(known, name)
            table = self._table(store, context.asset_key, known)
            type_ = pa.Table if wanted in (Any, None, type(None)) else get_origin(wanted) or wanted
            columns = asked_columns(context.definition_metadata, name)
            slices = _slices(context, said, name)
            whole = slices is None or is_all(context)
            parts = None if slices is None else tuple(slices.values())
            hidden = said.run_column if said.way == "append" else None
            return read_part(store, table, type_, columns, parts, whole=whole, hidden=hidden)

    def _table(
        self, store: SQLTableStore, key: dg.AssetKey, metadata: Mapping[str, Any] | None
    ) -> TableName:
        """Find the table: tables that ixflow itself makes say where they are in their metadata."""
        known = metadata or {}
        name = _text(known.get("ixflow/table", key.path[-1]))
        if "ixflow/schema" in known:
            return TableName(name, _text(known["ixflow/schema"]) or None)
        stage = key.path[-2] if len(key.path) > 1 else self.default_schema
        return TableName(name, store.schema(_text(known.get("ixflow/stage", stage))))


def _text(value: Any) -> str:
    return str(getattr(value, "value", value))


def _slices(
    context: dg.OutputContext | dg.InputContext, said: Stored, name: str
) -> dict[str, Slice] | None:
    """Give the rows of each partition that is written or read; None: it is about all rows.

    Raises:
        ValidationError: nothing says which column tells the partition of a row.

    """
    if not context.has_asset_partitions:
        return None
    expr, writes = said.partition_expr, isinstance(context, dg.OutputContext)
    needless = said.way != "replace" if isinstance(context, dg.OutputContext) else is_all(context)
    if expr is None and needless:
        return None
    if expr is None or (writes and said.way == "replace"):
        msg = (
            f"{name} is partitioned, and nothing says how its partitions share a table; give it "
            f"metadata=stored('partition', partition_expr=<the column that tells them>)"
        )
        raise ValidationError(msg, asset=name)
    return slices_of(context, expr, name)


def _run_of(context: dg.OutputContext, name: str) -> str:
    """Name the run and the asset of rows: a run that is executed again has the name of the first.

    Two assets of one run may append to the same table.
    """
    run = context.step_context.dagster_run
    return f"{run.root_run_id or run.run_id} {name}"


def _tell(  # noqa: PLR0917 - what was written, and what is known of it
    context: dg.OutputContext,
    store: SQLTableStore,
    table: TableName,
    done: WrittenTable,
    said: Stored,
    slices: Mapping[str, Slice],
) -> None:
    """Record what was written; it is committed, so nothing here may fail."""
    rows = done.rows if said.way == "replace" else _count(context, store, table)
    extra: dict[str, Any] = {
        "ixflow/mode": said.way,
        "ixflow/rows_inserted": done.inserted,
        "ixflow/rows_updated": done.updated,
        "ixflow/rows_unchanged": done.unchanged,
    }
    if done.deleted is not None:
        extra["ixflow/rows_deleted"] = done.deleted
    if done.added:
        extra["ixflow/columns_added"] = ", ".join(done.added)
    if done.rebuilt:
        extra["ixflow/rebuilt"] = True
    counts = {key: done.slices.get(one.name, 0) for key, one in slices.items()}
    _tell_partitions(context, counts, extra)
    found = table_metadata(store.url, table, rows=rows, columns=done.columns, extra=extra)
    context.add_output_metadata(taken(f"what was written to {table}", found))


def _tell_partitions(
    context: dg.OutputContext, counts: Mapping[str, int], extra: dict[str, Any]
) -> None:
    keys: Sequence[str] = list(counts)
    if len(keys) == 1:
        extra["dagster/partition_row_count"] = counts[keys[0]]
        return
    for key in keys:
        context.step_context.add_asset_metadata(
            {"dagster/partition_row_count": counts[key]},
            asset_key=context.asset_key,
            partition_key=key,
        )


def _count(context: dg.OutputContext, store: SQLTableStore, table: TableName) -> int | None:
    try:
        with store.begin() as conn:
            return store.dialect.count(conn, table)
    except Exception as error:  # noqa: BLE001 - whatever it is, the write went well
        said = redact(str(error), str(store.url.password or ""))
        context.log.warning("%s is written, but could not be counted: %s", table, said)
        return None
