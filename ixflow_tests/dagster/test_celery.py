"""The demo on two Celery workers, with a broker, and an instance in PostgreSQL."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import pytest
import yaml

from ixflow_tests.dagster.machines import (
    RETURNED,
    ROOT,
    Machines,
    documented,
    machines_on,
    wait_for,
)
from ixflow_tests.redis import RedisServer
from ixflow_tests.servers import PostgresServer

# dagster-celery defines its one task anew for every step that it sends.
pytestmark = pytest.mark.filterwarnings("ignore:Task name 'execute_plan' is already registered")

CONFIG = yaml.safe_load(documented("celery.yaml"))["execution"]["config"]


@pytest.fixture(scope="module")
def machines(
    postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Machines]:
    """Give databases, a shop, and a broker."""
    place = tmp_path_factory.mktemp("celery")
    redis = place / "redis"
    redis.mkdir()
    with (
        machines_on(postgres_server, place, "celery") as made,
        RedisServer(redis) as broker,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("CELERY_BROKER_URL", broker.url)
        yield made


@pytest.fixture(scope="module")
def instance(machines: Machines) -> Iterator[dg.DagsterInstance]:
    """Give the instance that all processes open."""
    with dg.DagsterInstance.from_config(str(machines.home)) as made:
        yield made


class Worker:
    """A worker with one process for steps, started as the documentation says."""

    def __init__(self, name: str, machines: Machines, config: Path) -> None:
        """Start it."""
        command = ["dagster-celery", "worker", "start", "-A", "dagster_celery.app"]
        options = ["-y", str(config), "-n", name, "--", "--concurrency=1"]
        self._log = machines.home / f"{name}.log"
        programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, *options],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PATH": programs, "C_FORCE_ROOT": "1"},
            )

    def is_ready(self) -> bool:
        """Say whether it waits for steps."""
        return "ready." in self.log()

    def log(self) -> str:
        """Give what it said."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def processes(self) -> list[psutil.Process]:
        """Give its processes, the ones that it started last."""
        with contextlib.suppress(psutil.NoSuchProcess):
            me = psutil.Process(self._process.pid)
            return [me, *me.children(recursive=True)]
        return []

    def stop(self) -> None:
        """End all of them."""
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()


@pytest.fixture(scope="module")
def workers(machines: Machines, instance: dg.DagsterInstance) -> Iterator[list[Worker]]:
    """Give two workers that are ready."""
    del instance
    config = machines.home / "celery.yaml"
    config.write_text(documented("celery.yaml"), encoding="utf-8")
    made = [Worker(name, machines, config) for name in ("one", "two")]
    try:
        for worker in made:
            wait_for(worker.is_ready)
        yield made
    finally:
        for worker in made:
            worker.stop()


def has_port(process: psutil.Process, port: int) -> bool:
    """Say whether a connection of a process has this port at its end."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return any(c.laddr.port == port for c in process.net_connections())
    return False


def celery_workers(instance: dg.DagsterInstance, run_id: str) -> set[str]:
    """Name the workers that ran the steps of a run."""
    logged = instance.all_logs(run_id, of_type=dg.DagsterEventType.ENGINE_EVENT)
    told: list[Any] = [log.dagster_event.event_specific_data for log in logged if log.dagster_event]
    found: set[Any] = {
        data.metadata["Celery worker"].value for data in told if "Celery worker" in data.metadata
    }
    return {str(name).partition("@")[0] for name in found}


def test_two_workers_make_the_same_rows_as_one_process(
    machines: Machines, instance: dg.DagsterInstance, workers: list[Worker]
):
    assert machines.run(instance, "here", "stage").success
    expected = machines.rows()
    machines.empty()
    done = machines.run(instance, "celery", config=CONFIG)
    assert done.success, [worker.log()[-3000:] for worker in workers]
    assert machines.rows() == expected
    assert celery_workers(instance, done.run_id) == {"one", "two"}


def test_a_worker_killed_in_a_task_has_published_nothing_and_a_retry_makes_the_rest(
    machines: Machines, instance: dg.DagsterInstance, workers: list[Worker]
):
    machines.run(instance, "here", "stage")
    before = machines.rows()
    waiting = """SELECT client_port FROM pg_stat_activity JOIN pg_locks USING (pid)
        WHERE NOT granted AND relation = 'raw.orders'::regclass"""
    with ThreadPoolExecutor(1) as pool, machines.engine.connect() as conn, conn.begin():
        # Whoever reads the table waits until we commit.
        conn.exec_driver_sql("LOCK TABLE raw.orders IN ACCESS EXCLUSIVE MODE")
        conn.exec_driver_sql(RETURNED)
        running = pool.submit(
            lambda: machines.run(instance, "celery", config=CONFIG, stages=("staging", "mart"))
        )
        port = wait_for(lambda: machines.ask(waiting))
        (killed,) = [p for worker in workers for p in worker.processes() if has_port(p, port)]
        killed.kill()
        failed = running.result()
    assert not failed.success
    after = machines.rows()
    assert {k: v for k, v in after.items() if not k.startswith("raw.")} == {
        k: v for k, v in before.items() if not k.startswith("raw.")
    }
    again = machines.run(instance, "celery", config=CONFIG, retry_of=failed.run_id)
    assert again.success
    assert machines.rows()["staging.orders"] != before["staging.orders"]
    assert machines.is_of_the_rows_in_raw()
