"""The warehouse as a resource: where ingests write, stages publish and IO managers read."""

import datetime as dt
from collections.abc import Iterator
from typing import Any

import dagster as dg
import sqlalchemy as sa
from pydantic import Field, PrivateAttr

from ixflow.dagster.metadata import place_metadata
from ixflow.dialects import dialect_of
from ixflow.errors import IxflowError
from ixflow.secrets import redact_url
from ixflow.store.sql_store import SQLTableStore
from ixflow.values import TableName

__all__ = ["WAREHOUSE", "SQLTableStoreResource", "key_and_kinds", "storage"]

WAREHOUSE = "warehouse"


def key_and_kinds(
    warehouse: "str | SQLTableStoreResource", kinds: set[str] | None
) -> tuple[str, set[str]]:
    """Give the resource key, and the icons of the tables, of a key or of the resource itself."""
    if isinstance(warehouse, str):
        return warehouse, kinds or {"table"}
    url = _url_now(warehouse)
    return WAREHOUSE, kinds or {"table" if url is None else dialect_of(url).kind}


def storage(
    warehouse: "str | SQLTableStoreResource", table: TableName, *, stage: bool = False
) -> dict[str, Any]:
    """Give the metadata for the Storage section of an asset's page, as far as it is known now.

    ``stage`` says that the schema is a stage, which the resource may give a prefix and a suffix.
    """
    url = None if isinstance(warehouse, str) else _url_now(warehouse)
    if url is None or isinstance(warehouse, str):
        return {}
    if stage:
        around = [_now(warehouse.schema_prefix), _now(warehouse.schema_suffix)]
        if None in around:
            return {}
        table = TableName(table.name, f"{around[0]}{table.schema}{around[1]}")
    return place_metadata(url, table)


def _url_now(warehouse: "SQLTableStoreResource") -> sa.URL | None:
    """Read the URL while definitions load; None where an environment variable is not set yet."""
    known = _now(warehouse.url)
    try:
        return None if not known else dialect_of(known).engine(known).url
    except (IxflowError, ImportError):
        return None


def _now(text: str) -> str | None:
    return text.get_value() if isinstance(text, dg.EnvVar) else text


class SQLTableStoreResource(dg.ConfigurableResource[Any]):
    """One database whose schemas are the stages of flows.

    Give the URL with `dagster.EnvVar` where it holds a password: neither the UI nor a log shows it
    then.

    >>> SQLTableStoreResource(url="duckdb:////tmp/warehouse.duckdb").store().schema("staging")
    'staging'
    """

    url: str = Field(description="SQLAlchemy URL with its driver, as postgresql+psycopg://...")
    schema_prefix: str = Field(default="", description="put before every stage's schema")
    schema_suffix: str = Field(default="", description="put behind every stage's schema")
    metadata_schema: str = Field(default="ixflow", description="schema of ixflow's own tables")
    gc_after_hours: float = Field(
        default=48, description="how long the work of a failed run is kept for its retry"
    )
    keep_versions: int = Field(
        default=0, description="how many versions of a stage a publication keeps before it"
    )
    avoid_drop_create_schema: bool = Field(
        default=False, description="work within schemas that an administrator has created"
    )
    materialization_details: dict[str, dict[str, Any] | None] = Field(
        default={}, description="named sets of options of how tables are stored"
    )
    default_materialization_details: str | None = Field(
        default=None, description="the set of tables that name none"
    )
    _store: SQLTableStore | None = PrivateAttr(default=None)

    def store(self) -> SQLTableStore:
        """Give the table store; the same one within this resource."""
        if self._store is None:
            self._store = SQLTableStore(
                self.url,
                schema_prefix=self.schema_prefix,
                schema_suffix=self.schema_suffix,
                metadata_schema=self.metadata_schema,
                gc_after=dt.timedelta(hours=self.gc_after_hours),
                keep_versions=self.keep_versions,
                avoid_drop_create_schema=self.avoid_drop_create_schema,
                materialization_details=self.materialization_details,
                default_materialization_details=self.default_materialization_details,
            )
        return self._store

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """Show the fields without a password in the URL."""
        for name, value in super().__repr_args__():
            secret = name == "url" and not isinstance(value, dg.EnvVar)
            yield name, redact_url(value) if secret else value

    @property
    def engine(self) -> sa.Engine:
        """Give the SQLAlchemy engine of the warehouse."""
        return self.store().engine

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:
        """Close the pooled connections when a step process ends."""
        del context
        if self._store is not None:
            self._store.dispose()
