"""The run configuration of many assets by one schema, which Dagster would derive for each anew.

Deriving it takes a millisecond an asset: more than all else that defining an asset takes.
"""

import functools
from typing import Any, TypeVar

import dagster as dg

# Not exported. The dependency on Dagster is pinned below the next minor release.
from dagster._core.definitions.definition_config_schema import DefinitionConfigSchema

__all__ = ["configured", "schema_of"]

C = TypeVar("C", bound=dg.Config)


class _Schema(dict[str, Any], DefinitionConfigSchema):
    """Fields, which is what assets take, and the schema made of them, which is what ops take."""

    def __init__(self, config: type[dg.Config]) -> None:
        dict.__init__(self, config.to_fields_dict())
        DefinitionConfigSchema.__init__(self, config.to_config_schema().as_field())


@functools.cache
def schema_of(config: type[dg.Config]) -> dict[str, Any]:
    """Give the schema of a class, made once: ``@multi_asset(config_schema=schema_of(...))``.

    >>> class Limits(dg.Config):
    ...     rows: int = 7
    >>> list(schema_of(Limits)), schema_of(Limits) is schema_of(Limits)
    (['rows'], True)
    """
    return _Schema(config)


def configured(context: dg.AssetExecutionContext, config: type[C]) -> C:
    """Give what a run says to an asset that was made with the schema of the class."""
    return config(**context.op_execution_context.op_config)
