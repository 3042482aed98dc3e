"""`TableStoreComponent`: the warehouse as a resource of the project."""

from typing import Annotated, Any

import dagster as dg
from pydantic import Field

from ixflow.dagster.components.fields import SecretUrl, shown
from ixflow.dagster.components.scaffolders import TableStoreScaffolder
from ixflow.dagster.components.schema import PreciseFields
from ixflow.dagster.io_managers import SQLTableStoreIOManager
from ixflow.dagster.table_store import WAREHOUSE, SQLTableStoreResource

__all__ = ["TableStoreComponent"]


@dg.scaffold_with(TableStoreScaffolder)
class TableStoreComponent(dg.Component, PreciseFields, dg.Model):
    """One database as `SQLTableStoreResource`, and on wish as IO manager of plain assets.

    Example::

        type: ixflow.dagster.TableStoreComponent
        attributes: {url: "{{ env.WAREHOUSE_URL }}"}

    """

    url: SecretUrl
    key: Annotated[str, shown("key of the resource")] = WAREHOUSE
    io_manager_key: Annotated[
        str | None, shown("key of a SQLTableStoreIOManager on this database")
    ] = None
    schema_prefix: Annotated[str, shown("put before every stage's schema")] = ""
    schema_suffix: Annotated[str, shown("put behind every stage's schema")] = ""
    metadata_schema: Annotated[str, shown("schema of ixflow's own tables")] = "ixflow"
    gc_after_hours: Annotated[float, shown("how long the work of a failed run is kept")] = 48
    keep_versions: Annotated[int, shown("versions of a stage that a publication keeps")] = 0
    avoid_drop_create_schema: Annotated[bool, shown("work within schemas that exist")] = False
    materialization_details: Annotated[
        dict[str, dict[str, Any] | None], shown("named sets of options of how tables are stored")
    ] = Field(default={})
    default_materialization_details: Annotated[
        str | None, shown("the set of tables that name none")
    ] = None

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """Give the resource; nothing connects before a run uses it."""
        del context
        own = {"key", "io_manager_key"}
        options = {name: value for name, value in self if name not in own}
        store = SQLTableStoreResource(**options)
        resources: dict[str, Any] = {self.key: store}
        if self.io_manager_key is not None:
            resources[self.io_manager_key] = SQLTableStoreIOManager(store=store)
        return dg.Definitions(resources=resources)
