"""The demo on a Dask cluster of processes, and an instance in PostgreSQL."""

from collections.abc import Iterator

import dagster as dg
import distributed
import pytest
import yaml

from ixflow_tests.dagster.machines import Machines, documented, machines_on
from ixflow_tests.servers import PostgresServer

CONFIG = yaml.safe_load(documented("dask.yaml"))["execution"]["config"]


@pytest.fixture(scope="module")
def machines(
    postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Machines]:
    """Give databases, a shop, and a cluster of two processes with one thread each."""
    with (
        machines_on(postgres_server, tmp_path_factory.mktemp("dask"), "dask") as made,
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None, host="127.0.0.1"
        ) as cluster,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("DASK_SCHEDULER_ADDRESS", cluster.scheduler_address)
        yield made


@pytest.fixture(scope="module")
def instance(machines: Machines) -> Iterator[dg.DagsterInstance]:
    """Give the instance that all processes open."""
    with dg.DagsterInstance.from_config(str(machines.home)) as made:
        yield made


def test_a_cluster_makes_the_same_rows_as_one_process(
    machines: Machines, instance: dg.DagsterInstance
):
    assert machines.run(instance, "here", "stage").success
    expected = machines.rows()
    machines.empty()
    done = machines.run(instance, "dask", config=CONFIG)
    assert done.success
    assert machines.rows() == expected
