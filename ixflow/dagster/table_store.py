"""The warehouse as a resource: where ingests write, stages publish and IO managers read."""

import datetime as dt

import dagster as dg
import sqlalchemy as sa
from pydantic import Field, PrivateAttr

from ixflow.dialects import dialect_of
from ixflow.store.sql_store import SQLTableStore

__all__ = ["SQLTableStoreResource", "key_and_kinds"]


def key_and_kinds(
    warehouse: "str | SQLTableStoreResource", kinds: set[str] | None
) -> tuple[str, set[str]]:
    """Give the resource key, and the icons of the tables, of a key or of the resource itself."""
    if isinstance(warehouse, str):
        return warehouse, kinds or {"table"}
    return "warehouse", kinds or {dialect_of(warehouse.url).kind}


class SQLTableStoreResource(dg.ConfigurableResource):
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
            )
        return self._store

    @property
    def engine(self) -> sa.Engine:
        """Give the SQLAlchemy engine of the warehouse."""
        return self.store().engine

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:
        """Close the pooled connections when a step process ends."""
        del context
        if self._store is not None:
            self._store.dispose()
