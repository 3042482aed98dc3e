"""What is told of a stage's tables: by its step, or by a job that publishes by hand."""

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import dagster as dg
import pyarrow as pa

from ixflow.dagster.diff_picture import diff_metadata, stage_changes, stage_diff
from ixflow.dagster.guard import guarded, tried
from ixflow.dagster.metadata import column_lineage, table_metadata
from ixflow.dagster.stage_specs import table_key
from ixflow.dagster.table_store import SQLTableStoreResource
from ixflow.dagster.timeline import Bar, timeline
from ixflow.pipeline.result import StageResult, TableResult, TaskState
from ixflow.pipeline.stage import Stage
from ixflow.values import Column, TableName

__all__ = ["StageTold", "as_materialization"]

# Above this number of tables only the first one has the pictures, and the others a link to it.
_MOST_PICTURES = 8


class StageTold:
    """The events of one result of a stage; whatever cannot be told is left out of them.

    ``bars`` say when the stage's tasks ran, ``names`` of which tables to tell.
    """

    def __init__(
        self,
        stage: Stage,
        resource: SQLTableStoreResource,
        result: StageResult,
        names: Collection[str],
        bars: Sequence[Bar] = (),
    ) -> None:
        self._stage = stage
        self._resource = resource
        self._result = result
        self._bars = bars
        self.tables = [table for table in result.tables if table.name in names]
        changes = tried("the diff", lambda: stage_changes(result), ())
        self._changes = {change.table: change for change in changes}

    def events(
        self, names: Collection[str] | None = None, more: Mapping[str, Any] | None = None
    ) -> list[dg.MaterializeResult[Any]]:
        """Tell of the tables, or of some, that each is published; ``more`` is told of all."""
        return [
            dg.MaterializeResult(
                asset_key=table_key(self._stage, table.name),
                metadata={**self.metadata(table), **(more or {})},
                data_version=dg.DataVersion(table.data_version),
                tags={"ixflow/cache": "hit"} if table.state is TaskState.CACHE_VALID else None,
            )
            for table in self.tables
            if names is None or table.name in names
        ]

    def metadata(self, table: TableResult) -> dict[str, Any]:
        """Describe one table and how it came to be."""
        of, password = f"{self._stage.name}.{table.name}", None
        url = tried("the warehouse", lambda: self._resource.engine.url, None)
        if url is not None:
            password = str(url.password or "")
        found: dict[str, Any] = {}
        for piece, make in _PIECES.items():
            found |= guarded(f"{piece} of {of}", functools.partial(make, self, table), password)
        return found

    def described(self, table: TableResult) -> dict[str, Any]:
        """Give place, rows and columns."""
        place = TableName(table.name, self._result.schema)
        columns = [Column(c.name, c.type, pa.null(), c.nullable) for c in table.columns]
        url = self._resource.engine.url
        return table_metadata(url, place, rows=table.rows, columns=columns)

    def state(self, table: TableResult) -> dict[str, Any]:
        """Say what became of its task."""
        found: dict[str, Any] = {
            "ixflow/stage_version": self._result.version,
            "ixflow/state": str(table.state),
            "ixflow/cache_hits": int(table.state is TaskState.CACHE_VALID),
            "ixflow/seconds": round(table.seconds, 3),
        }
        if table.reason:
            found["ixflow/reason"] = table.reason
        return found

    def lineage(self, table: TableResult) -> dict[str, Any]:
        """Say which columns feed its columns, where that is known."""
        store, flow = self._resource.store(), self._stage.flow
        names = [self._stage.name, *([] if flow is None else flow.stages)]
        lineage = column_lineage(table.lineage, {store.schema(name): name for name in names})
        return {} if lineage is None else {"dagster/column_lineage": lineage}

    def diff(self, table: TableResult) -> dict[str, Any]:
        """Say how it differs from what was published before."""
        change = self._changes.get(table.name)
        return {} if change is None else diff_metadata(change)

    def pictures(self, table: TableResult) -> dict[str, Any]:
        """Show the diff of the stage and when its tasks ran."""
        first = self.tables[0]
        if len(self.tables) > _MOST_PICTURES and table is not first:
            return {"ixflow/pictures": dg.MetadataValue.asset(table_key(self._stage, first.name))}
        found: dict[str, Any] = {}
        if self._changes:
            found["ixflow/stage_diff"] = stage_diff(list(self._changes.values()))
        if self._bars:
            found["ixflow/timeline"] = timeline(self._bars)
        return found


_PIECES: Mapping[str, Callable[[StageTold, TableResult], Mapping[str, Any]]] = {
    "place, rows and columns": StageTold.described,
    "the state": StageTold.state,
    "the column lineage": StageTold.lineage,
    "the diff": StageTold.diff,
    "the pictures": StageTold.pictures,
}


def as_materialization(
    event: dg.MaterializeResult[Any], tags: Mapping[str, str] | None = None
) -> dg.AssetMaterialization:
    """Give an event as an op can log it that is no asset's own.

    >>> one = dg.MaterializeResult(asset_key="orders", data_version=dg.DataVersion("7"))
    >>> as_materialization(one).tags["dagster/data_version"]
    '7'
    """
    assert event.asset_key is not None  # noqa: S101 - ours always name their asset
    own: dict[str, str] = {}
    if event.data_version is not None:
        own = {
            "dagster/data_version": event.data_version.value,
            "dagster/data_version_is_user_provided": "true",
        }
    return dg.AssetMaterialization(
        asset_key=event.asset_key,
        metadata=event.metadata,
        tags={**(tags or {}), **own, **(event.tags or {})},
    )
