"""`ExtractionComponent`: tables of one database as extraction assets, listed or discovered."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import dagster as dg
from dagster.components import DefsStateConfig, DefsStateConfigArgs
from pydantic import ConfigDict, Field, PrivateAttr

from ixflow.dagster.components.catalogue import (
    chosen,
    object_name,
    read_catalogue,
    tables_of,
    write_catalogue,
)
from ixflow.dagster.components.checks import PlanChecked
from ixflow.dagster.components.fields import (
    Automation,
    BucketOptions,
    Connection,
    SecretText,
    on_change_scope,
    retries,
    shown,
)
from ixflow.dagster.components.partition_fields import (
    Backfills,
    PartitionColumn,
    Partitions,
    by_of,
)
from ixflow.dagster.components.scaffolders import ExtractionScaffolder
from ixflow.dagster.components.schema import PreciseFields
from ixflow.dagster.components.table_options import ExtractedTable, ExtractionOptions, intent_of
from ixflow.dagster.extraction import (
    PlannerResource,
    extraction_asset,
    resolved,
    source_asset,
)
from ixflow.dagster.extraction_assets import build_extraction_assets
from ixflow.dagster.metadata import asset_key, word
from ixflow.errors import TableNotFound, ValidationError
from ixflow.extraction.intent import ExtractionIntent
from ixflow.values import TableName

__all__ = ["ExtractionComponent", "planner_resources"]

_OWN_PLANNER = "ixflow_planner"
# Definitions are merged by identity, so all components share this one.
_PLANNER = PlannerResource()


def planner_resources(key: str | None) -> tuple[str, Mapping[str, Any]]:
    """Give the key of the planner, and the resource where the project does not define its own."""
    return (_OWN_PLANNER, {_OWN_PLANNER: _PLANNER}) if key is None else (key, {})


class Discover(dg.Model, dg.Resolvable):
    """All tables of a schema, from a catalogue that ``dg utils refresh-defs-state`` reads."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    schema_: Annotated[str | None, shown("the schema; default: that of the connection")] = Field(
        default=None, alias="schema"
    )
    include: Annotated[Sequence[str], shown("patterns of tables, as order*")] = ("*",)
    exclude: Annotated[Sequence[str], shown("patterns of tables to leave out")] = ()
    state: Annotated[
        Literal["LOCAL_FILESYSTEM", "VERSIONED_STATE_STORAGE"],
        shown("where Dagster keeps the catalogue: beside the code, or in its state storage"),
    ] = "LOCAL_FILESYSTEM"
    key: Annotated[
        str | None, shown("the catalogue's name; default: after the database and the schema")
    ] = None


class Source(dg.Model, dg.Resolvable):
    """The database to read from."""

    type: Annotated[str, shown("postgresql, mysql, sqlite, duckdb or sqlserver")]
    config: Connection = Field(repr=False)


@dg.scaffold_with(ExtractionScaffolder)
class ExtractionComponent(dg.StateBackedComponent, PreciseFields, dg.Model):
    """Tables of one database as assets: each is a published set of Parquet files.

    ``tables`` lists them; ``discover`` makes an asset of every table of a schema, from a catalogue
    that ``dg utils refresh-defs-state`` reads. No database is contacted while definitions load.

    Example::

        type: ixflow.dagster.ExtractionComponent
        attributes:
          source: {type: sqlite, config: {database: /data/shop.sqlite}}
          output_dir: /data/extracted
          tables: [{name: orders}]

    """

    source: Annotated[Source, shown("the database to read from")]
    output_dir: Annotated[str, shown("where the files go: a directory, s3://... or gs://...")]
    tables: Annotated[Sequence[ExtractedTable], shown("the tables, each with its own options")] = ()
    discover: Annotated[Discover | None, shown("all tables of a schema")] = None
    options: Annotated[ExtractionOptions, shown("options of all tables")] = ExtractionOptions()
    storage_options: BucketOptions = Field(default={}, repr=False)
    mask_salt: SecretText = Field(default=None, repr=False)
    key_prefix: Annotated[Sequence[str], shown("put before the table in the asset's key")] = (
        "extracted",
    )
    group_name: Annotated[str, shown("the group of the assets")] = "extracted"
    one_step: Annotated[
        bool, shown("one step for all tables, which are read on threads; else a step each")
    ] = False
    one_moment: Annotated[bool, shown("with one_step: all rows are of one moment")] = True
    plan_check: Annotated[
        PlanChecked | None, shown("judge each table's plan before it is read; {} is enough")
    ] = None
    planner: Annotated[str | None, shown("key of the project's own PlannerResource")] = None
    pool: Annotated[str | None, shown("default: source_<host>")] = None
    retries: Annotated[int | None, shown("how often a step is tried again")] = None
    automation_condition: Automation = None
    partitions_def: Partitions = None
    partition_by: Annotated[
        str | PartitionColumn | None, shown("the column that says the partition of a row")
    ] = None
    backfill_policy: Backfills = None
    _intents: list[ExtractionIntent] | None = PrivateAttr(default=None)

    @classmethod
    def get_additional_scope(cls) -> Mapping[str, Any]:
        """Let templates say ``{{ on_change }}``."""
        return on_change_scope()

    @property
    def defs_state_config(self) -> DefsStateConfig:
        """Name the catalogue; Dagster never refreshes it while definitions load."""
        found = self.discover or Discover()
        beside = found.state == "LOCAL_FILESYSTEM"
        kept = "listed" if self.discover is None else found.schema_ or "default"
        parts = [str(value) for value in self._source().source().values() if value]
        args = (
            DefsStateConfigArgs.local_filesystem()
            if beside
            else DefsStateConfigArgs.versioned_state_storage()
        )
        return DefsStateConfig(
            key=found.key or f"ixflow[{','.join([*parts, kept])}]",
            management_type=args.management_type,
            refresh_if_dev=False,
        )

    def write_state_to_path(self, state_path: Path) -> None:
        """Read the catalogue of the source, if tables are to be discovered."""
        names: list[str] = []
        if self.discover is not None:
            names = tables_of(resolved(self._source()), self.discover.schema_)
        write_catalogue(state_path, names)

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """Make the assets; where nothing is discovered no catalogue is looked for."""
        if self.discover is None:
            return self.build_defs_from_state(context, None)
        return super().build_defs(context)

    def build_defs_from_state(
        self, context: dg.ComponentLoadContext, state_path: Path | None
    ) -> dg.Definitions:
        """Make the assets of the listed tables, and of those that the catalogue names."""
        self._intents = self._all_intents(context.path, state_path)
        planner, resources = planner_resources(self.planner)
        assets = self._assets(self._intents, planner, word(context.path.name))
        sources = [source_asset(intent) for intent in self._intents]
        return dg.Definitions(assets=[*sources, *assets], resources=resources)

    def _assets(
        self, intents: list[ExtractionIntent], planner: str, name: str
    ) -> list[dg.AssetsDefinition]:
        options: dict[str, Any] = {
            "planner": planner,
            "group_name": self.group_name,
            "automation_condition": self.automation_condition,
            "retry_policy": retries(self.retries),
            "pool": self.pool,
            "check": None if self.plan_check is None else self.plan_check.check(),
            "one_moment": self.one_moment,
        }
        if not self.one_step:
            return [
                extraction_asset(one, key=self.key_of(one), **options, **self.partitions_of(one))
                for one in intents
            ]
        options |= self.partitions_of(intents[0])
        options["partition_by"] = lambda intent: self.partitions_of(intent)["partition_by"]
        return [build_extraction_assets(intents, name=name, key=self.key_of, **options)]

    @property
    def intents(self) -> list[ExtractionIntent]:
        """Give what is extracted; known once the definitions are built."""
        return self._intents or []

    def key_of(self, intent: ExtractionIntent) -> dg.AssetKey:
        """Give the asset key of one of the tables."""
        return asset_key(*self.key_prefix, TableName.parse(intent.object_name).name)

    def partitions_of(self, intent: ExtractionIntent) -> dict[str, Any]:
        """Give the partitions of one of the tables, and the column that tells them."""
        own = {table.name: table.partition_by for table in self.tables}
        return {
            "partitions_def": self.partitions_def,
            "partition_by": by_of(own.get(intent.object_name) or self.partition_by),
            "backfill_policy": self.backfill_policy,
        }

    def _source(self) -> ExtractionIntent:
        """Give an intent that stands for the source; which table it names is no matter."""
        return ExtractionIntent(
            self.source.type,
            self.source.config,
            "catalogue",
            self.output_dir,
            storage_options=self.storage_options,
            mask_salt=self.mask_salt,
        )

    def _all_intents(self, place: Path, state_path: Path | None) -> list[ExtractionIntent]:
        if not self.tables and self.discover is None:
            msg = f"the component in {place} has neither tables nor discover; give one of them"
            raise ValidationError(msg, path=str(place))
        listed = {table.name: table for table in self.tables}
        for name in self._discovered(place, state_path):
            listed.setdefault(name, ExtractedTable(name=name))
        source = self._source()
        made = [intent_of(source, table, self.options) for table in listed.values()]
        self._refuse_twins(made)
        return made

    def _discovered(self, place: Path, state_path: Path | None) -> list[str]:
        if self.discover is None:
            return []
        if state_path is None:
            msg = (
                f"the component in {place} discovers its tables, and no catalogue of them is "
                f"here yet; run: dg utils refresh-defs-state"
            )
            raise TableNotFound(msg, path=str(place))
        schema, found = self.discover.schema_, read_catalogue(state_path)
        names = chosen(found, self.discover.include, self.discover.exclude)
        if not names:
            msg = f"the component in {place} discovers none of the tables {', '.join(found)}"
            raise TableNotFound(msg, path=str(place))
        return [object_name(schema, name) for name in names]

    def _refuse_twins(self, intents: list[ExtractionIntent]) -> None:
        """Refuse two tables of one asset key, as those of the same name in two schemas."""
        seen: dict[dg.AssetKey, str] = {}
        for intent in intents:
            key = self.key_of(intent)
            if key in seen:
                msg = (
                    f"{seen[key]} and {intent.object_name} would both be the asset "
                    f"{key.to_user_string()}; give each schema a component with its key_prefix"
                )
                raise ValidationError(msg, table=intent.object_name)
            seen[key] = intent.object_name
