"""`IngestComponent`: what an extraction published goes into tables of the warehouse."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import dagster as dg
from pydantic import ConfigDict, Field

from ixflow.dagster.components.catalogue import object_name
from ixflow.dagster.components.checks import Reconciled
from ixflow.dagster.components.extraction import ExtractionComponent, planner_resources
from ixflow.dagster.components.fields import Automation, on_change_scope, retries, shown
from ixflow.dagster.components.scaffolders import IngestScaffolder
from ixflow.dagster.components.schema import PreciseFields
from ixflow.dagster.extracted import ingest_extraction
from ixflow.dagster.table_store import WAREHOUSE
from ixflow.errors import TableNotFound, ValidationError
from ixflow.extraction.intent import ExtractionIntent
from ixflow.values import TableName

__all__ = ["IngestComponent"]


class IngestedTable(dg.Model, dg.Resolvable):
    """One table of the extraction, and where its rows go."""

    name: Annotated[str, shown("the table, as the extraction names it")]
    cursor: Annotated[str | None, shown("the column that says which rows are new")] = None
    table: Annotated[str | None, shown("the table to ingest into; default: the same name")] = None
    primary_key: Annotated[Sequence[str] | None, shown("default: the key of the source")] = None
    overlap: Annotated[Any, shown("how far behind the high watermark to read again")] = None


@dg.scaffold_with(IngestScaffolder)
class IngestComponent(dg.Component, PreciseFields, dg.Model):
    """Tables of the warehouse as assets, from what an `ExtractionComponent` published.

    Where that has partitions, the tables have them too, and no cursor.

    Example::

        type: ixflow.dagster.IngestComponent
        attributes: {extraction: extract, cursor: id, schema: raw}

    """

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    extraction: Annotated[str, shown("the extraction's folder below defs")]
    tables: Annotated[
        Sequence[IngestedTable], shown("the tables; without them all, by the component's cursor")
    ] = ()
    cursor: Annotated[str | None, shown("the cursor of tables that name none")] = None
    schema_: Annotated[str, shown("the schema to ingest into")] = Field(
        default="raw", alias="schema"
    )
    reconcile: Annotated[
        Reconciled | None, shown("check the rows against the source; {} is enough")
    ] = None
    warehouse: Annotated[str, shown("key of the SQLTableStoreResource")] = WAREHOUSE
    planner: Annotated[str | None, shown("key of the project's own PlannerResource")] = None
    io_manager_key: Annotated[str | None, shown("IO manager for downstream assets")] = None
    kinds: Annotated[Sequence[str], shown("icons of the tables")] = ()
    pool: Annotated[str | None, shown("a pool that limits how many run at a time")] = None
    retries: Annotated[int | None, shown("how often a step is tried again")] = None
    automation_condition: Automation = None

    @classmethod
    def get_additional_scope(cls) -> Mapping[str, Any]:
        """Let templates say ``{{ on_change }}``."""
        return on_change_scope()

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """Make an asset of each table."""
        extraction = context.load_component(self.extraction)
        if not isinstance(extraction, ExtractionComponent):
            msg = (
                f"extraction: {self.extraction} is a {type(extraction).__name__}; name the "
                "folder of an ExtractionComponent"
            )
            raise ValidationError(msg, extraction=self.extraction)
        context.build_defs(self.extraction)  # Its intents are known after that.
        intents = {intent.object_name: intent for intent in extraction.intents}
        planner, resources = planner_resources(self.planner)
        wanted = self.tables or [IngestedTable(name=name) for name in intents]
        assets = [
            self._asset(extraction, self._named(intents, table.name), table, planner)
            for table in wanted
        ]
        checks = [
            self.reconcile.check(
                self._named(intents, table.name),
                object_name(self.schema_, table.table or TableName.parse(table.name).name),
                asset=made.key,
                cursor=None if extraction.partitions_def else table.cursor or self.cursor,
                warehouse=self.warehouse,
            )
            for table, made in zip(wanted, assets, strict=True)
            if self.reconcile is not None
        ]
        return dg.Definitions(assets=assets, asset_checks=checks, resources=resources)

    def _named(self, intents: Mapping[str, ExtractionIntent], name: str) -> ExtractionIntent:
        if name not in intents:
            known = ", ".join(sorted(intents)) or "none"
            msg = f"the extraction {self.extraction} has no table {name}; it has {known}"
            raise TableNotFound(msg, table=name)
        return intents[name]

    def _asset(
        self,
        extraction: ExtractionComponent,
        intent: ExtractionIntent,
        table: IngestedTable,
        planner: str,
    ) -> dg.AssetsDefinition:
        cursor = table.cursor or self.cursor
        if cursor is None and extraction.partitions_def is None:
            msg = f"the ingest of {table.name} has no cursor; name the column that says what is new"
            raise ValidationError(msg, table=table.name)
        return ingest_extraction(
            intent,
            cursor=cursor,
            schema=self.schema_,
            table=table.table,
            primary_key=table.primary_key,
            overlap=table.overlap,
            warehouse=self.warehouse,
            planner=planner,
            deps=[extraction.key_of(intent)],
            io_manager_key=self.io_manager_key,
            kinds=set(self.kinds) or None,
            pool=self.pool,
            retry_policy=retries(self.retries),
            automation_condition=self.automation_condition,
            **extraction.partitions_of(intent),
        )
