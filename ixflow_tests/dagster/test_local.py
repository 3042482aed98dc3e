"""Materializing in one process, as the demo does, and what a killed one left."""

import dagster as dg
import pytest

from ixflow.dagster.local import local_home, materialize_all


@dg.asset
def one():
    return dg.MaterializeResult(metadata={"ixflow/seconds": 1.5})


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("DAGSTER_HOME", "")
    monkeypatch.setenv("DAGSTER_DISABLE_TELEMETRY", "")
    return local_home(tmp_path / "dagster")


def test_every_asset_is_made_and_its_metadata_told(home):
    success, outcomes = materialize_all(dg.Definitions(assets=[one]))
    assert success
    assert [(outcome.key, dict(outcome.metadata)) for outcome in outcomes] == [
        ("one", {"ixflow/seconds": 1.5})
    ]
    with dg.DagsterInstance.get() as instance:
        assert instance.get_latest_materialization_event(dg.AssetKey("one")) is not None
        assert not instance.telemetry_enabled
        assert not instance.nux_enabled


def test_settings_of_the_home_are_not_written_over(home):
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    local_home(home)
    assert (home / "dagster.yaml").read_text() == "telemetry: {enabled: false}\n"


def test_runs_that_a_killed_process_left_are_ended_and_no_others(home):
    job = dg.Definitions(assets=[one]).resolve_implicit_global_asset_job_def()
    started = dg.DagsterRunStatus.STARTED
    with dg.DagsterInstance.get() as instance:
        ours = instance.create_run_for_job(
            job, status=started, tags={"ixflow/run": "in process"}
        ).run_id
        other = instance.create_run_for_job(job, status=started).run_id
    materialize_all(dg.Definitions(assets=[one]))
    with dg.DagsterInstance.get() as instance:
        states = {run.run_id: run.status for run in instance.get_runs()}
    assert states[ours] is dg.DagsterRunStatus.FAILURE
    assert states[other] is started
