"""A sensor that collects what abandoned transactions of stages left in a warehouse.

A run collects what it finds of its own stages; the sensor also finds stages that nobody runs any
more. A transaction is abandoned when it is older than the table store's ``gc_after``.
"""

import dagster as dg

from ixflow.dagster.table_store import WAREHOUSE, SQLTableStoreResource
from ixflow.dialects import patience
from ixflow.errors import SourceUnavailable
from ixflow.store.collect import collect, is_over
from ixflow.store.sql_store import SQLTableStore
from ixflow.store.waiting import WAITING

__all__ = ["collect_garbage", "collect_garbage_sensor"]

# The daemon gives a tick a minute; a database that is busy now is looked at again later.
_PATIENCE_SECONDS = 3.0


def collect_garbage_sensor(
    warehouse: str = WAREHOUSE,
    *,
    name: str = "collect_garbage",
    minimum_interval_seconds: int = 3600,
    default_status: dg.DefaultSensorStatus = dg.DefaultSensorStatus.STOPPED,
) -> dg.SensorDefinition:
    """Drop the schemas of abandoned transactions from time to time; no run is asked for.

    ``warehouse`` is the key of the `SQLTableStoreResource`, whose ``gc_after_hours`` says when a
    transaction is abandoned. The tick says what was dropped. What another process is working on is
    left alone, and so is everything while the database is away.

    >>> collect_garbage_sensor().name
    'collect_garbage'
    """

    @dg.sensor(
        name=name,
        required_resource_keys={warehouse},
        minimum_interval_seconds=minimum_interval_seconds,
        default_status=default_status,
        description="Drops what abandoned transactions of stages left in the warehouse.",
    )
    def _sensor(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        resource: SQLTableStoreResource = getattr(context.resources, warehouse)
        try:
            with patience(_PATIENCE_SECONDS):
                dropped, remaining = collect_garbage(resource.store())
        except SourceUnavailable as error:
            return dg.SkipReason(str(error))
        for schema, stage in dropped.items():
            context.log.info("dropped %s, left by a transaction of stage %s", schema, stage)
        for schema, stage in remaining.items():
            context.log.warning("%s of stage %s could not be dropped yet", schema, stage)
        return dg.SkipReason(_said(dropped, remaining))

    return _sensor


def collect_garbage(store: SQLTableStore) -> tuple[dict[str, str], dict[str, str]]:
    """Drop what is abandoned in a store: the schemas that went and those that stay, by stage.

    Raises:
        SourceUnavailable: the database cannot be reached.
        UnsupportedState: ixflow's tables were written by a newer release.

    """
    before = _collectable(store)
    for stage in sorted(set(before.values())):
        collect(store, stage, own="")
    after = _collectable(store) if before else {}
    dropped = {schema: stage for schema, stage in before.items() if schema not in after}
    return dropped, {schema: stage for schema, stage in after.items() if schema in before}


def _collectable(store: SQLTableStore) -> dict[str, str]:
    """Give the stage of each schema that an abandoned transaction left; waits for no lock."""
    with store.begin() as conn:
        if not store.metadata.installed(conn):
            return {}
        # What a committed one left, DuckDB may still need: it holds the tables that are published.
        return {
            record.schema: stage
            for stage in store.metadata.stages_with_transactions(conn)
            for record in store.metadata.transactions(conn, stage)
            if record.state in ("open", WAITING) and is_over(store, record, "", committed=False)
        }


def _said(dropped: dict[str, str], remaining: dict[str, str]) -> str:
    if not dropped and not remaining:
        return "nothing to collect"
    texts = [f"dropped {', '.join(sorted(dropped))}"] if dropped else []
    if remaining:
        texts.append(f"could not drop {', '.join(sorted(remaining))} yet; the log says why")
    return "; ".join(texts)
