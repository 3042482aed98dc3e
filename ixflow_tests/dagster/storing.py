"""Assets of the IO manager for tables, and running them."""

from typing import Any

import dagster as dg

import ixflow.dagster as ixd

__all__ = ["materialize", "returning"]


def materialize(assets, warehouse, instance, **options) -> dg.ExecuteInProcessResult:
    """Materialize with the IO manager for every output; failures are in the result."""
    manager = ixd.SQLTableStoreIOManager(store=warehouse)
    resources = {"warehouse": warehouse, "io_manager": manager}
    return dg.materialize(
        assets, instance=instance, resources=resources, raise_on_error=False, **options
    )


def returning(obj: Any, **options: Any) -> dg.AssetsDefinition:
    """Make an asset ``st/t`` that returns the object, or what it gives when it is called."""

    @dg.asset(key=["st", "t"], **options)
    def t(context: dg.AssetExecutionContext):
        return obj(context) if callable(obj) else obj

    made: dg.AssetsDefinition = t
    return made
