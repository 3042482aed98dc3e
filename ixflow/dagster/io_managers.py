"""`SQLTableStoreIOManager`: outputs of plain assets become tables, inputs are read from them.

An output replaces its table in one transaction: readers see the old rows or the new ones, and on
PostgreSQL grants, comments and dependent views stay. An input is always the published table, read
as the type that the downstream asset's annotation names.
"""

import uuid
from collections.abc import Mapping
from typing import Any

import dagster as dg
import pyarrow as pa

from ixflow.dagster.failures import failures
from ixflow.dagster.metadata import table_metadata
from ixflow.dagster.table_store import SQLTableStoreResource
from ixflow.dialects import connected, dialect_of
from ixflow.errors import UnsupportedType, ValidationError
from ixflow.store import SQLTableStore
from ixflow.store.frames import TableSpec, frames_for
from ixflow.values import Column, TableName

__all__ = ["SQLTableStoreIOManager"]


class SQLTableStoreIOManager(dg.ConfigurableIOManager):
    """Stores what assets return as tables of the table store's database.

    The last part of the asset key is the table, the part before it the stage or schema (default:
    ``default_schema``). Outputs are pandas, polars or pyarrow frames or SQLAlchemy queries. Asset
    metadata ``ixflow/primary_key`` (a list of columns) gives the table a key.

    Example::

        resources = {"io_manager": SQLTableStoreIOManager(store=warehouse)}

    """

    store: dg.ResourceDependency[SQLTableStoreResource]
    default_schema: str = "assets"

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        """Replace the asset's table by what the asset returned; None writes nothing."""
        if obj is None:
            return
        with failures():
            self._refuse_partitions(context.has_asset_partitions, context.asset_key)
            store = self.store.store()
            table = self._table(store, context.asset_key, context.definition_metadata)
            key = (context.definition_metadata or {}).get("ixflow/primary_key", ())
            rows, columns = _replace(store, table, obj, tuple(key))
        context.add_output_metadata(table_metadata(store.url, table, rows=rows, columns=columns))

    def load_input(self, context: dg.InputContext) -> Any:
        """Read the published table as the annotated type; without an annotation as pyarrow."""
        wanted = context.dagster_type.typing_type
        with failures():
            self._refuse_partitions(context.has_asset_partitions, context.asset_key)
            store = self.store.store()
            type_ = pa.Table if wanted in (Any, None, type(None)) else wanted
            upstream = context.upstream_output
            known = None if upstream is None else upstream.definition_metadata
            return store.read(self._table(store, context.asset_key, known), type_)

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

    def _refuse_partitions(self, partitioned: bool, key: dg.AssetKey) -> None:  # noqa: FBT001
        if partitioned:
            msg = f"{key.to_user_string()} is partitioned; this IO manager stores whole tables"
            raise ValidationError(msg, asset=key.to_user_string())


def _text(value: Any) -> str:
    return str(getattr(value, "value", value))


def _replace(
    store: SQLTableStore, table: TableName, obj: Any, key: tuple[str, ...]
) -> tuple[int, tuple[Column, ...]]:
    """Write a new table and put it in the place of the old one, in one transaction."""
    frames = frames_for(obj)
    if frames is None:
        kind = type(obj).__name__
        msg = f"{table}: a {kind} cannot be stored as a table; return a frame or a query"
        raise UnsupportedType(msg, table=str(table), type=kind)
    new = table.renamed(f"_tmp_{uuid.uuid4().hex}")
    with connected(store.engine) as conn, conn.begin():
        dialect = dialect_of(conn)
        with dialect.advisory_lock(conn, f"table {table}"):
            if table.schema is not None:
                store.create_scope(conn, table.schema)
            written = frames.write(conn, new, obj, TableSpec(new.name, key))
            dialect.swap(conn, [(new, table)])
            dialect.rename_parts(conn, table, new.name)
            return written.rows, dialect.columns(conn, table)
