"""Partitions in YAML: Dagster's own fields for them, and the column that tells them."""

from typing import Annotated, Any

import dagster as dg
from dagster.components.resolved.core_models import (
    DailyPartitionsDefinitionModel,
    HourlyPartitionsDefinitionModel,
    MultiRunBackfillPolicyModel,
    SingleRunBackfillPolicyModel,
    StaticPartitionsDefinitionModel,
    TimeWindowPartitionsDefinitionModel,
    WeeklyPartitionsDefinitionModel,
    resolve_backfill_policy,
    resolve_partitions_def,
)

from ixflow.dagster.components.fields import shown
from ixflow.tables.slices import PartitionBy

__all__ = ["Backfills", "PartitionColumn", "Partitions", "by_of"]


class PartitionColumn(dg.Model, dg.Resolvable):
    """The column that says in which partition a row is, where its name does not say enough."""

    column: Annotated[str, shown("its name")]
    unit: Annotated[
        str | None, shown("what a whole number counts since 1970: s, ms, us or days")
    ] = None
    zone: Annotated[
        str | None,
        shown("the time zone of a timestamp without one; default: that of the partitions"),
    ] = None


def by_of(given: str | PartitionColumn | None) -> PartitionBy | None:
    """Give what YAML says of a column.

    >>> by_of(PartitionColumn(column="created", unit="ms"))
    PartitionBy(column='created', unit='ms', zone=None)
    """
    if given is None or isinstance(given, str):
        return None if given is None else PartitionBy(given)
    return PartitionBy(given.column, given.unit, given.zone)


Partitions = Annotated[
    Any,
    dg.Resolver(
        resolve_partitions_def,
        model_field_type=HourlyPartitionsDefinitionModel
        | DailyPartitionsDefinitionModel
        | WeeklyPartitionsDefinitionModel
        | TimeWindowPartitionsDefinitionModel
        | StaticPartitionsDefinitionModel,
        description="the partitions of all tables, as Dagster writes them: type: daily, start_date",
    ),
]
Backfills = Annotated[
    Any,
    dg.Resolver(
        resolve_backfill_policy,
        model_field_type=SingleRunBackfillPolicyModel | MultiRunBackfillPolicyModel,
        description="type: single_run (default) or multi_run, with max_partitions_per_run",
    ),
]
