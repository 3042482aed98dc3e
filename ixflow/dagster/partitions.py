"""From Dagster's partitions to the slices of a table that they are. No I/O."""

import zoneinfo
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg

from ixflow.errors import ValidationError
from ixflow.tables.slices import PartitionBy, RowsOfKey, Slice, TimeWindow

__all__ = ["By", "Partitioning", "backfills", "partition_keys", "partitioning"]

By = str | PartitionBy | Mapping[str, str | PartitionBy]
"""A column, with what its values count; for several dimensions a mapping by their names."""

_ONE = ""


@dataclass(frozen=True)
class Partitioning:
    """Which column says what about the partition of a row, one for each dimension.

    A partition of time has the rows of its window, any other those whose column is its key.
    """

    definition: dg.PartitionsDefinition[Any]
    by: Mapping[str, PartitionBy]

    def slice(self, key: str) -> Slice:
        """Give the rows of a partition.

        >>> days = dg.DailyPartitionsDefinition(start_date="2024-05-01")
        >>> str(partitioning(days, "created_at", "orders").slice("2024-05-02"))
        '2024-05-02 00:00:00+00:00 <= created_at < 2024-05-03 00:00:00+00:00'
        """
        if not isinstance(self.definition, dg.MultiPartitionsDefinition):
            return Slice((key,), (_term(self.definition, self.by[_ONE], key),))
        keys = self.definition.get_partition_key_from_str(key).keys_by_dimension
        dimensions = {one.name: one.partitions_def for one in self.definition.partitions_defs}
        terms = [_term(dimensions[name], self.by[name], keys[name]) for name in dimensions]
        return Slice(tuple(keys[name] for name in dimensions), tuple(terms))

    def expr(self) -> str | dict[str, str] | None:
        """Name the columns as ``partition_expr`` does; None: there is more to say than names."""
        if any(by.unit is not None or by.zone is not None for by in self.by.values()):
            return None
        names = {name: by.column for name, by in self.by.items()}
        return names.get(_ONE, names)

    def slices(self, keys: Iterable[str]) -> dict[str, Slice]:
        """Give the rows of several partitions, by their keys."""
        return {key: self.slice(key) for key in keys}


def partitioning(
    definition: dg.PartitionsDefinition[Any] | None, by: By | None, what: str
) -> Partitioning | None:
    """Join partitions and the columns that tell them; None: there are none. ``what`` has them.

    Raises:
        ValidationError: they do not go together.

    >>> countries = dg.StaticPartitionsDefinition(["de", "fr"])
    >>> str(partitioning(countries, "country", "orders").slice("de"))
    "country = 'de'"
    """
    if definition is None and by is None:
        return None
    if definition is None or by is None:
        given, missing = ("partition_by", "partitions_def")[:: 1 if definition is None else -1]
        msg = f"{what} has {given} without {missing}; give both, or neither"
        raise ValidationError(msg, argument=missing)
    if not isinstance(definition, dg.MultiPartitionsDefinition):
        if isinstance(by, Mapping):
            msg = f"{what} has partitions of one dimension; partition_by is then one column"
            raise ValidationError(msg, argument="partition_by")
        return Partitioning(definition, {_ONE: _named(by)})
    names = sorted(one.name for one in definition.partitions_defs)
    if not isinstance(by, Mapping) or sorted(by) != names:
        msg = f"{what} has the dimensions {names}; partition_by is then a column for each of them"
        raise ValidationError(msg, argument="partition_by", dimensions=names)
    return Partitioning(definition, {name: _named(column) for name, column in by.items()})


def backfills(
    definition: dg.PartitionsDefinition[Any] | None, policy: dg.BackfillPolicy | None
) -> dg.BackfillPolicy | None:
    """Choose how backfills run: all partitions that follow each other in one run."""
    return policy or (None if definition is None else dg.BackfillPolicy.single_run())


def partition_keys(context: dg.AssetExecutionContext) -> Sequence[str]:
    """List the partitions of a run, which is of one or of a range of them.

    Raises:
        ValidationError: the run names no partition.

    """
    if not (context.has_partition_key or context.has_partition_key_range):
        msg = "the run names no partition; materialize one, or a backfill of several"
        raise ValidationError(msg)
    return list(context.partition_keys)


def _named(by: str | PartitionBy) -> PartitionBy:
    return by if isinstance(by, PartitionBy) else PartitionBy(by)


def _term(definition: dg.PartitionsDefinition[Any], by: PartitionBy, key: str) -> Any:
    if not isinstance(definition, dg.TimeWindowPartitionsDefinition):
        return RowsOfKey(by, key)
    window, zone = definition.time_window_for_partition_key(key), _zone_of(definition)
    return TimeWindow(by, window.start.astimezone(zone), window.end.astimezone(zone))


def _zone_of(definition: dg.TimeWindowPartitionsDefinition) -> zoneinfo.ZoneInfo:
    return zoneinfo.ZoneInfo(definition.timezone or "UTC")
