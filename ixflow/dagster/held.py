"""Objects that an asset's definition carries within its own process."""

from typing import Any, TypeVar

import dagster as dg

# The one metadata value that carries an object; Dagster's own components use it, but it is not
# exported. The dependency on Dagster is pinned below the next minor release.
from dagster._core.definitions.metadata.metadata_value import ObjectMetadataValue

__all__ = ["held", "object_of"]

T = TypeVar("T")


def held(value: object) -> dg.MetadataValue[Any]:
    """Wrap an object as a metadata value: other processes, and the UI, see its class alone.

    >>> object_of({"ixflow/number": held(7)}, "ixflow/number", int)
    7
    """
    return ObjectMetadataValue(value)


def object_of(metadata: object, name: str, kind: type[T]) -> T | None:
    """Give the object that a definition's metadata holds; None: it holds none of the kind."""
    found = metadata.get(name) if isinstance(metadata, dict) else None
    value = getattr(found, "instance", None)
    return value if isinstance(value, kind) else None
