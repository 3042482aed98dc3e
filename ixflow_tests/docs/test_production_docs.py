"""The files that docs/production.md shows are accepted by whoever is to read them."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from dagster._config import process_config, validate_config
from dagster._core.instance.config import dagster_instance_config
from dagster_celery.cli import get_validated_config

from ixflow.dagster.dask import dask_executor
from ixflow_tests.dagster.machines import documented


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DAGSTER_POSTGRES_URL", "CELERY_BROKER_URL", "DASK_SCHEDULER_ADDRESS"):
        monkeypatch.setenv(name, f"{name.lower()}://")


def test_dagster_accepts_its_file(tmp_path: Path):
    (tmp_path / "dagster.yaml").write_text(documented("dagster.yaml"), encoding="utf-8")
    read, _ = dagster_instance_config(str(tmp_path))
    assert read["concurrency"]["pools"] == {"default_limit": 1, "granularity": "op"}
    assert read["storage"]["postgres"]["postgres_url"] == {"env": "DAGSTER_POSTGRES_URL"}


def test_celery_accepts_its_file(tmp_path: Path):
    path = tmp_path / "celery.yaml"
    path.write_text(documented("celery.yaml"), encoding="utf-8")
    read = get_validated_config(str(path))
    assert read["broker"] == read["backend"] == "celery_broker_url://"
    assert read["config_source"]["task_acks_late"] is True


def test_dask_accepts_its_file():
    config = yaml.safe_load(documented("dask.yaml"))["execution"]["config"]
    read = process_config(dask_executor.config_schema.config_type, config)
    assert read.success
    assert validate_config(dask_executor.config_schema.config_type, {"cluster": 1}).success is False


def test_the_values_of_the_chart_are_yaml():
    read = yaml.safe_load(documented("values.yaml"))
    (deployment,) = read["dagster-user-deployments"]["deployments"]
    assert deployment["includeConfigInLaunchedRuns"] == {"enabled": True}
    assert read["postgresql"]["enabled"] is False
