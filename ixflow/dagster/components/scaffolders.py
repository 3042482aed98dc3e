"""What ``dg scaffold defs`` writes for each component: a file to fill in, which already loads."""

from typing import Any

import dagster as dg
from pydantic import BaseModel, Field

__all__ = [
    "ExtractionScaffolder",
    "FlowScaffolder",
    "IngestScaffolder",
    "TableStoreScaffolder",
]


class ExtractionParams(BaseModel):
    """What the command line may say about an extraction."""

    source_type: str = Field(default="sqlite", description="postgresql, mysql, sqlite, ...")
    table: str = Field(default="orders", description="the first table")
    discover: str | None = Field(default=None, description="a schema whose tables are all wanted")


class ExtractionScaffolder(dg.Scaffolder[ExtractionParams]):
    """Writes an extraction of one table, or of the tables of a schema."""

    @classmethod
    def get_scaffold_params(cls) -> type[ExtractionParams]:
        """Name the options of the command."""
        return ExtractionParams

    def scaffold(self, request: dg.ScaffoldRequest[ExtractionParams]) -> None:
        """Write ``defs.yaml``."""
        params = request.params
        tables: dict[str, Any] = {"tables": [{"name": params.table}]}
        if params.discover is not None:
            tables = {"discover": {"schema": params.discover}}
        attributes = {
            "source": {"type": params.source_type, "config": _connection(params.source_type)},
            "output_dir": "{{ context.project_root }}/data/extracted",
            **tables,
        }
        dg.scaffold_component(request, attributes)


def _connection(source_type: str) -> dict[str, Any]:
    if source_type in ("sqlite", "duckdb"):
        return {"database": "{{ context.project_root }}/data/source." + source_type}
    return {
        "host": "localhost",
        "database": "shop",
        "user": "reader",
        "password": "{{ env.SOURCE_PASSWORD }}",
    }


class IngestParams(BaseModel):
    """What the command line may say about an ingest."""

    extraction: str = Field(description="the extraction's folder below defs")
    cursor: str = Field(default="id", description="the column that says which rows are new")


class IngestScaffolder(dg.Scaffolder[IngestParams]):
    """Writes an ingest of all tables of an extraction."""

    @classmethod
    def get_scaffold_params(cls) -> type[IngestParams]:
        """Name the options of the command."""
        return IngestParams

    def scaffold(self, request: dg.ScaffoldRequest[IngestParams]) -> None:
        """Write ``defs.yaml``."""
        params = request.params
        attributes = {"extraction": params.extraction, "cursor": params.cursor, "schema": "raw"}
        dg.scaffold_component(request, attributes)


class FlowParams(BaseModel):
    """What the command line may say about a flow."""

    flow: str = Field(description="the flow, as package.module:name")


class FlowScaffolder(dg.Scaffolder[FlowParams]):
    """Writes the assets of a flow."""

    @classmethod
    def get_scaffold_params(cls) -> type[FlowParams]:
        """Name the options of the command."""
        return FlowParams

    def scaffold(self, request: dg.ScaffoldRequest[FlowParams]) -> None:
        """Write ``defs.yaml``."""
        dg.scaffold_component(request, {"flow": request.params.flow, "store": "warehouse"})


class TableStoreParams(BaseModel):
    """What the command line may say about a table store."""

    url: str = Field(default="{{ env.WAREHOUSE_URL }}", description="its SQLAlchemy URL")


class TableStoreScaffolder(dg.Scaffolder[TableStoreParams]):
    """Writes the table store ``warehouse``."""

    @classmethod
    def get_scaffold_params(cls) -> type[TableStoreParams]:
        """Name the options of the command."""
        return TableStoreParams

    def scaffold(self, request: dg.ScaffoldRequest[TableStoreParams]) -> None:
        """Write ``defs.yaml``."""
        dg.scaffold_component(request, {"url": request.params.url, "key": "warehouse"})
