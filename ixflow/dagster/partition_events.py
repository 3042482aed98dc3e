"""What a run tells of partitions: one event for each, also where a run is of a range of them.

Dagster takes one event of an asset from a step. In a run of a range that is told when the last of
the range is done, with the metadata of each; where some failed, each of the others is told alone.
"""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import dagster as dg

__all__ = ["RangeEvents"]

_VERSION, _GIVEN = "dagster/data_version", "dagster/data_version_is_user_provided"


class RangeEvents:
    """Gathers the events of a range of partitions, asset by asset."""

    def __init__(self, context: dg.AssetExecutionContext, keys: Sequence[str]) -> None:
        """Take the step's context, and the partitions of the run."""
        self._context, self._keys = context, list(keys)
        self._told: dict[dg.AssetKey, dict[str, dg.MaterializeResult[Any]]] = {}

    def take(
        self, event: dg.MaterializeResult[Any], partition: str
    ) -> dg.MaterializeResult[Any] | None:
        """Take the event of one partition; give the one of the range if it is complete now."""
        if len(self._keys) == 1:
            return event
        key = dg.AssetKey.from_coercible(event.asset_key or self._context.asset_key)
        told = self._told.setdefault(key, {})
        told[partition] = event
        if len(told) < len(self._keys):
            return None
        for one, found in self._told.pop(key).items():
            self._context.add_asset_metadata(found.metadata or {}, key, one)
        return dg.MaterializeResult(asset_key=key, data_version=_joined(told))

    def rest(self) -> Iterator[dg.AssetMaterialization]:
        """Tell of the partitions that are done, in a run that cannot do all of them."""
        told, self._told = self._told, {}
        for key, events in told.items():
            for partition, event in events.items():
                version = event.data_version
                tags = {} if version is None else {_VERSION: version.value, _GIVEN: "true"}
                metadata = dict(event.metadata or {})
                yield dg.AssetMaterialization(
                    key, metadata=metadata, partition=partition, tags=tags
                )


def _joined(told: dict[str, dg.MaterializeResult[Any]]) -> dg.DataVersion | None:
    """Make one version of several: Dagster takes one for the whole range."""
    versions = [told[key].data_version for key in sorted(told)]
    if None in versions:
        return None
    texts = "\n".join(version.value for version in versions if version is not None)
    return dg.DataVersion(hashlib.sha256(texts.encode()).hexdigest()[:32])
