"""Going back to an earlier version of a stage, as a job that a person starts in the UI."""

from collections.abc import Iterator, Mapping
from typing import Any

import dagster as dg
from pydantic import Field

from ixflow.dagster.failures import failures
from ixflow.dagster.guard import tried
from ixflow.dagster.metadata import word
from ixflow.dagster.provenance import recorded_before
from ixflow.dagster.stage_description import StageTold, as_materialization
from ixflow.dagster.stage_specs import table_key
from ixflow.dagster.table_store import WAREHOUSE, SQLTableStoreResource
from ixflow.errors import StageError
from ixflow.events import StagePublished, emit
from ixflow.pipeline.by_hand import published_result
from ixflow.pipeline.result import TableResult
from ixflow.pipeline.stage import Stage
from ixflow.store.versions import Rollback, rollback

__all__ = ["RollbackConfig", "keeps_versions", "rollback_job"]

_PREVIOUS = "previous"


class RollbackConfig(dg.Config):
    """What the Launchpad offers for a rollback."""

    version: Any = Field(
        default=_PREVIOUS,
        description="previous, or the number of a version that is kept (ixflow/stage_version)",
    )

    def number(self, stage: str) -> int | None:
        """Give the number of the version; None: the one before the published one.

        Raises:
            StageError: it is no number.

        >>> RollbackConfig(version=7).number("mart")
        7
        """
        if self.version == _PREVIOUS:
            return None
        text = str(self.version).strip()
        if text.isdecimal():
            return int(text)
        msg = f"version is {text!r}; give the number of a version of stage {stage}, or previous"
        raise StageError(msg, stage=stage, version=text)


def rollback_job(
    stage: Stage, *, table_store: str | SQLTableStoreResource = WAREHOUSE
) -> dg.JobDefinition:
    """Make the job ``rollback_<stage>``, which publishes a kept version of a stage again.

    The tables that it brings back are recorded as materializations with the data versions that
    they had, and ``ixflow/rolled_back_to``. It fails if the version is not kept: the stage or the
    table store says with ``keep_versions`` how many are. Nothing is computed.

    >>> rollback_job(Stage("mart", keep_versions=3)).name
    'rollback_mart'
    """
    key = table_store if isinstance(table_store, str) else WAREHOUSE
    name = f"rollback_{word(stage.name)}"
    what = "Publishes an earlier version of the stage again; what is published is kept."

    @dg.op(
        name=f"restore_{word(stage.name)}",
        out={},
        required_resource_keys={key},
        description=what,
    )
    def _rollback(context: dg.OpExecutionContext, config: RollbackConfig) -> Any:
        resource: SQLTableStoreResource = getattr(context.resources, key)
        store = resource.store()
        with failures(), store.held_open():
            number = config.number(stage.name)
            # A retry of a run that was killed before it could tell must not go back further.
            by = context.run.root_run_id or context.run.run_id
            done = rollback(store, stage.name, number, keep=stage.keep_versions, by=by)
        emit(StagePublished(stage.name, done.version, done.published))
        yield from _told(context, stage, resource, done)

    # One step needs no process of its own.
    @dg.job(name=name, description=what, executor_def=dg.in_process_executor)
    def _job() -> None:
        _rollback()

    return _job


def keeps_versions(stage: Stage, table_store: str | SQLTableStoreResource) -> bool:
    """Say whether a stage may have versions to go back to; where that is not known, it may.

    >>> keeps_versions(Stage("mart", keep_versions=0), "warehouse")
    False
    """
    if stage.keep_versions is not None:
        return stage.keep_versions > 0
    kept = None if isinstance(table_store, str) else table_store.keep_versions
    return kept != 0


def _told(
    context: Any, stage: Stage, resource: SQLTableStoreResource, done: Rollback
) -> Iterator[dg.AssetMaterialization]:
    context.log.info(
        "stage %s is at version %d, which is version %d again",
        stage.name,
        done.version,
        done.restored,
    )
    # What the code makes no longer is published again, but is no asset.
    known = set(stage.output_names)
    for name in sorted({*done.published, *done.dropped} - known):
        context.log.info(
            "table %s is no asset of stage %s, so it is not recorded", name, stage.name
        )
    result = published_result(
        stage,
        resource.store(),
        done.state,
        done.published,
        dropped=done.dropped,
        before=done.before,
        transaction_schema="",
    )
    told = StageTold(stage, resource, result, set(done.published) & known)
    for table, event in zip(
        told.tables, told.events(more={"ixflow/rolled_back_to": done.restored}), strict=True
    ):
        yield as_materialization(event, _made_of(context, table_key(stage, table.name), table))


def _made_of(context: Any, key: dg.AssetKey, table: TableResult) -> Mapping[str, str]:
    """Find what the table was made of when it was made."""
    nothing: dict[str, str] = {}
    return tried(
        f"what {key.to_user_string()} was made of",
        lambda: recorded_before(context.instance, key, table.data_version),
        nothing,
    )
