"""The demo on a Dask cluster of processes, and an instance in PostgreSQL."""

import os
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import distributed
import pytest
import yaml

import ixflow as ix
import ixflow.dagster as ixd
from ixflow.demo.server_process import LOOPBACK, free_port
from ixflow_tests.dagster.machines import RETURNED, Machines, documented, machines_on
from ixflow_tests.servers import PostgresServer

CONFIG = yaml.safe_load(documented("dask.yaml"))["execution"]["config"]


@pytest.fixture(scope="module")
def machines(
    postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Machines]:
    """Give databases, a shop, and a cluster of two processes with one thread each."""
    port = free_port()
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with (
        machines_on(postgres_server, tmp_path_factory.mktemp("dask"), "dask") as made,
        pytest.MonkeyPatch.context() as patch,
    ):
        # The processes of the cluster read the configuration of a run, too.
        patch.setenv("DASK_SCHEDULER_ADDRESS", f"tcp://{LOOPBACK}:{port}")
        with distributed.LocalCluster(host=LOOPBACK, scheduler_port=port, **options):
            yield made


@pytest.fixture(scope="module")
def instance(machines: Machines) -> Iterator[dg.DagsterInstance]:
    """Give the instance that all processes open."""
    with dg.DagsterInstance.from_config(str(machines.home)) as made:
        yield made


def test_a_cluster_makes_the_stages_of_the_rows_in_raw(
    machines: Machines, instance: dg.DagsterInstance
):
    assert machines.run(instance, "here", "stage").success
    before = machines.rows()
    with machines.engine.begin() as conn:
        conn.exec_driver_sql(RETURNED)
    assert not machines.is_of_the_rows_in_raw()
    done = machines.run(instance, "dask", config=CONFIG, stages=("staging", "mart"))
    assert done.success
    assert machines.is_of_the_rows_in_raw()
    after = machines.rows()
    assert after["staging.customers"] == before["staging.customers"]
    assert after["staging.orders"] != before["staging.orders"]


def test_the_planner_lets_a_cluster_read_the_tasks(machines: Machines, tmp_path: Path):
    shop = {"connection_string": machines.urls["shop"]}
    intent = ix.ExtractionIntent("postgresql", shop, "orders", tmp_path)
    planner = ixd.PlannerResource(dask_address=os.environ["DASK_SCHEDULER_ADDRESS"])
    done = dg.materialize([ixd.extraction_asset(intent)], resources={"planner": planner})
    (event,) = done.get_asset_materialization_events()
    assert event.materialization.metadata["dagster/row_count"].value == 500
    found = ix.published(intent)
    assert found is not None
    assert sum(file.rows for file in found.files) == 500
