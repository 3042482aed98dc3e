"""Materializing everything in this process, with the events in a Dagster instance."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg

__all__ = ["AssetOutcome", "local_home", "materialize_all"]

# No telemetry, no first-visit dialog; one run at a time, since DuckDB has one writer.
_SETTINGS = """\
telemetry:
  enabled: false
nux:
  enabled: false
concurrency:
  runs:
    max_concurrent_runs: 1
"""


# Says which runs are ours, so that nobody else's are taken for abandoned.
_IN_PROCESS = {"ixflow/run": "in process"}


@dataclass(frozen=True, slots=True)
class AssetOutcome:
    """One asset that was materialized: its key as text, and its metadata as plain values."""

    key: str
    metadata: Mapping[str, Any]


def local_home(place: Path) -> Path:
    """Make a DAGSTER_HOME with settings for one machine, unless it is there, and use it."""
    place.mkdir(parents=True, exist_ok=True)
    settings = place / "dagster.yaml"
    if not settings.exists():
        settings.write_text(_SETTINGS)
    os.environ["DAGSTER_HOME"] = str(place)
    os.environ["DAGSTER_DISABLE_TELEMETRY"] = "yes"
    return place


def materialize_all(definitions: dg.Definitions) -> tuple[bool, list[AssetOutcome]]:
    """Materialize every asset in this process; say whether all went well, and what was made.

    Runs that an earlier process left behind when it was killed are marked as failed, so only one
    process at a time may do this with a DAGSTER_HOME.
    """
    with dg.DagsterInstance.get() as instance:
        _end_abandoned_runs(instance)
        job = definitions.resolve_implicit_global_asset_job_def()
        result = job.execute_in_process(
            instance=instance,
            raise_on_error=False,
            tags=_IN_PROCESS,
            run_config={"loggers": {"console": {"config": {"log_level": "ERROR"}}}},
        )
        outcomes = []
        for event in result.get_asset_materialization_events():
            made = event.step_materialization_data.materialization
            values = {name: value.value for name, value in made.metadata.items()}
            outcomes.append(AssetOutcome(made.asset_key.to_user_string(), values))
        return result.success, outcomes


def _end_abandoned_runs(instance: dg.DagsterInstance) -> None:
    statuses = [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.NOT_STARTED]
    unfinished = dg.RunsFilter(statuses=statuses, tags=_IN_PROCESS)
    for run in instance.get_runs(filters=unfinished):
        instance.report_run_failed(run, "its process was killed")
