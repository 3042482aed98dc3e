"""What the partitions of an IO manager's context are: rows of a table, and paths of directories."""

from collections.abc import Mapping

import dagster as dg

from ixflow.dagster.partitions import partitioning
from ixflow.errors import ValidationError
from ixflow.tables.slices import Slice

__all__ = ["is_all", "partition_paths", "slices_of"]

Context = dg.OutputContext | dg.InputContext


def slices_of(context: Context, expr: str | Mapping[str, str], asset: str) -> dict[str, Slice]:
    """Give the rows of each partition that is written or read, by its key.

    Raises:
        ValidationError: the columns do not go with the dimensions of the partitions.

    """
    definition = context.asset_partitions_def
    if isinstance(definition, dg.MultiPartitionsDefinition):
        names = sorted(one.name for one in definition.partitions_defs)
        if isinstance(expr, str) or sorted(expr) != names:
            msg = f"partition_expr of {asset} must name a column for each of the dimensions {names}"
            raise ValidationError(msg, asset=asset, dimensions=names)
    elif not isinstance(expr, str):
        msg = f"partition_expr of {asset} must be one column: its partitions have one dimension"
        raise ValidationError(msg, asset=asset)
    made = partitioning(definition, expr, asset)
    return {} if made is None else made.slices(context.asset_partition_keys)


def partition_paths(context: Context) -> dict[str, dict[str, str]]:
    """Give the values of each partition by dimension; there is one called ``partition`` if any."""
    definition, found = context.asset_partitions_def, {}
    for key in context.asset_partition_keys:
        if isinstance(definition, dg.MultiPartitionsDefinition):
            parts = definition.get_partition_key_from_str(key).keys_by_dimension
            found[key] = {name: parts[name] for name in sorted(parts)}
        else:
            found[key] = {"partition": key}
    return found


def is_all(context: dg.InputContext) -> bool:
    """Say whether an input is all partitions that there are, or has none."""
    if not context.has_asset_partitions:
        return True
    found = context.asset_partitions_def.get_partition_keys(
        dynamic_partitions_store=context.instance
    )
    return set(found) == set(context.asset_partition_keys)
