"""What a materialization was made of, as the tags that say so, for events that come later.

Dagster adds these tags when an asset's own step records its materialization. What is published by
hand, or rolled back, is recorded by another job, at another time: these are then its tags.
"""

from collections.abc import Mapping, Sequence

import dagster as dg

from ixflow.dagster.stage_specs import table_key
from ixflow.pipeline.result import StageResult
from ixflow.pipeline.stage import Stage

__all__ = ["inputs_now", "provenance", "recorded_before"]

_CODE = "dagster/code_version"
_VERSION = "dagster/data_version"
_INPUT = "dagster/input_data_version/"
_POINTER = "dagster/input_event_pointer/"
_NEVER, _NO_EVENT = "INITIAL", "NULL"
_LOOKED_AT = 50

Tags = Mapping[str, str]


def inputs_now(instance: dg.DagsterInstance, keys: Sequence[dg.AssetKey]) -> dict[str, Tags]:
    """Give the tags that name what is recorded of some assets now, by the assets' names."""
    found: dict[str, Tags] = {}
    for key in dict.fromkeys(keys):
        records = instance.fetch_materializations(key, limit=1).records
        records = records or instance.fetch_observations(key, limit=1).records
        version, pointer = _NEVER, _NO_EVENT
        if records:
            one = records[0]
            told = one.asset_materialization or one.event_log_entry.asset_observation
            version = ((told.tags or {}) if told else {}).get(_VERSION, _NEVER)
            pointer = str(one.storage_id)
        name = key.to_user_string()
        found[name] = {_INPUT + name: version, _POINTER + name: pointer}
    return found


def provenance(
    stage: Stage,
    result: StageResult,
    deps: Mapping[str, Sequence[dg.AssetKey]],
    inputs: Mapping[str, Tags],
    codes: Mapping[str, str],
) -> dict[str, Tags]:
    """Give the tags of each table of a result; tables of the same result are as they were made.

    ``deps`` are the assets that each table is made of, ``inputs`` what was recorded of them before
    they were read, ``codes`` the code versions.
    """
    made = {
        table_key(stage, table.name).to_user_string(): table.data_version for table in result.tables
    }
    found: dict[str, Tags] = {}
    for table in result.tables:
        tags = {_CODE: codes[table.name]} if table.name in codes else {}
        for key in deps.get(table.name, ()):
            name = key.to_user_string()
            own = {_INPUT + name: made[name], _POINTER + name: _NO_EVENT} if name in made else None
            tags.update(own or inputs.get(name, {}))
        found[table.name] = tags
    return found


def recorded_before(instance: dg.DagsterInstance, key: dg.AssetKey, version: str) -> Tags:
    """Give the tags of the last materialization of a data version, among those of late."""
    for one in instance.fetch_materializations(key, limit=_LOOKED_AT).records:
        told = one.asset_materialization
        tags = (told.tags or {}) if told else {}
        if tags.get(_VERSION) == version:
            return {name: text for name, text in tags.items() if name.startswith(_OWN)}
    return {}


_OWN = (_CODE, _INPUT, _POINTER)
