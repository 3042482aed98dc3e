"""A Dask cluster of processes reads the tasks of a run, in the snapshot that we hold."""

from __future__ import annotations

import os
import pickle
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import distributed
import pytest

from ixflow.dialects import run
from ixflow.errors import ExecutionError, OutputNotWritable, SnapshotUnavailable, ValidationError
from ixflow.extraction import cluster
from ixflow.extraction.api import execute, execute_together, plan, published
from ixflow.extraction.cluster_files import files_of_attempt
from ixflow.extraction.cluster_task import Order
from ixflow.extraction.context import RuntimeContext
from ixflow.extraction.limits import RunLimits
from ixflow_tests.behaviour.test_extraction_snapshot import ACCOUNTS, make_accounts
from ixflow_tests.object_stores import ObjectServer
from ixflow_tests.sources import intent_for, make, rows_of

if TYPE_CHECKING:
    import pyarrow as pa
    import sqlalchemy as sa

MB = 1 << 20
_HOLD = 4712
_PATIENCE_SECONDS = 60.0
_WAITING = f"SELECT count(*) FROM pg_locks WHERE objid = {_HOLD} AND NOT granted"


@pytest.fixture(scope="module")
def dask() -> Iterator[distributed.Client]:
    """Give two worker processes, and who can look into them."""
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None, host="127.0.0.1"
        ) as made,
        distributed.Client(made, set_as_default=False) as client,
    ):
        yield client


@pytest.fixture
def far(dask: distributed.Client) -> RuntimeContext:
    """Give the context of a run on two workers of the cluster."""
    dask.wait_for_workers(2, timeout=_PATIENCE_SECONDS)
    return RuntimeContext(min_workers=2, dask_address=str(dask.scheduler_info()["address"]))


def ids(rows: pa.Table) -> list[int]:
    """Give the ids in order."""
    return sorted(rows["id"].to_pylist())


def everything_below(place: Path) -> list[str]:
    """Name every file that is no state and no lock."""
    found = (path.name for path in place.rglob("*") if path.is_file())
    return sorted(name for name in found if not name.startswith("."))


def wait_for(what: Callable[[], Any]) -> None:
    """Wait until something is so."""
    end = time.monotonic() + _PATIENCE_SECONDS
    while not what():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.05)


# -- what it reads ------------------------------------------------------------------------------


def test_a_cluster_reads_the_same_rows_into_the_same_files(fresh_postgres, tmp_path, far):
    make_accounts(fresh_postgres)
    here = execute(plan(intent_for(fresh_postgres, "accounts", tmp_path), RuntimeContext()))
    made = plan(intent_for(fresh_postgres, "accounts", tmp_path / "far"), far)
    assert len(made.plan.tasks) >= 8
    there = execute(made)
    rows = rows_of(there)
    assert rows.schema == rows_of(here).schema
    assert rows.sort_by("id").equals(rows_of(here).sort_by("id"))
    assert there.rows_extracted == ACCOUNTS
    assert there.manifest.consistency == "one snapshot"
    assert len(there.output_files) == len(made.plan.tasks)
    names = [Path(path).name for path in there.output_files]
    assert everything_below(tmp_path / "far") == sorted([*names, "_manifest.json"])


def test_tables_without_rows_and_several_of_one_moment(fresh_postgres, tmp_path, far):
    make_accounts(fresh_postgres)
    make(fresh_postgres, "CREATE TABLE nothing (id int, v text)")
    results = execute_together(
        [plan(intent_for(fresh_postgres, name, tmp_path), far) for name in ("accounts", "nothing")]
    )
    assert [result.rows_extracted for result in results] == [ACCOUNTS, 0]
    assert rows_of(results[1]).column_names == ["id", "v"]
    assert results[0].manifest.moment == results[1].manifest.moment


def test_an_incremental_run_reads_what_is_new(fresh_postgres, tmp_path, far):
    make_accounts(fresh_postgres)
    intent = intent_for(
        fresh_postgres, "accounts", tmp_path, mode="incremental", incremental_key="id"
    )
    assert execute(plan(intent, far)).rows_extracted == ACCOUNTS
    make(fresh_postgres, f"INSERT INTO accounts VALUES ({ACCOUNTS + 1}, 1, 'new')")
    assert execute(plan(intent, far)).rows_extracted == 1


def test_a_bucket_gets_the_files_of_all_workers(
    fresh_postgres, s3_server: ObjectServer, far: RuntimeContext
):
    make_accounts(fresh_postgres)
    intent = replace(
        intent_for(fresh_postgres, "accounts", Path("unused")), **s3_server.place("cluster")
    )
    done = execute(plan(intent, far))
    assert done.rows_extracted == ACCOUNTS
    found = published(intent)
    assert found is not None
    assert len(found.files) == len({file.name for file in found.files}) >= 8


def test_a_worker_holds_no_more_than_the_budget(
    fresh_postgres, tmp_path, dask: distributed.Client, far: RuntimeContext
):
    wide = "SELECT n AS id, repeat(md5(n::text), 150000) AS v FROM generate_series(1, 40) n"
    make(fresh_postgres, f"CREATE TABLE wide AS {wide}", "CREATE TABLE narrow (id int)")
    one = replace(far, min_workers=None)
    execute(plan(intent_for(fresh_postgres, "narrow", tmp_path), one))
    before = dask.run(reset_peak)
    # They are 190 MB.
    intent = intent_for(fresh_postgres, "wide", tmp_path, memory_budget="96MB")
    assert execute(plan(intent, one)).rows_extracted == 40
    peaks = dask.run(peak)
    held = [peaks[worker] - before[worker] for worker in before]
    assert max(held) < 96 * MB
    assert max(held) > MB


def reset_peak() -> int:
    """Forget the most that this process held; give what it holds now."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return peak()


def peak() -> int:
    """Read the most that this process has held, in bytes."""
    text = Path("/proc/self/status").read_text(encoding="ascii")
    (line,) = (line for line in text.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def make_held(engine: sa.Engine) -> None:
    """Make a function that waits for whoever has the lock."""
    make(
        engine,
        f"""CREATE FUNCTION held(n int) RETURNS bool LANGUAGE plpgsql VOLATILE AS $$
        BEGIN PERFORM pg_advisory_lock_shared({_HOLD}); PERFORM pg_advisory_unlock_shared({_HOLD});
        RETURN true; END $$""",
    )


# -- what goes wrong ----------------------------------------------------------------------------


def test_tasks_of_a_killed_worker_are_read_by_another_in_the_same_snapshot(
    fresh_postgres, tmp_path, dask: distributed.Client, far: RuntimeContext
):
    make_accounts(fresh_postgres)
    make_held(fresh_postgres)
    # Every task waits at its 1,000th account, some rows after its first.
    where = "CASE WHEN id % 1000 = 0 THEN held(id) ELSE true END"
    intent = intent_for(fresh_postgres, "accounts", tmp_path, where=where)
    with (
        ThreadPoolExecutor(1) as pool,
        fresh_postgres.connect().execution_options(isolation_level="AUTOCOMMIT") as conn,
    ):
        run(conn, f"SELECT pg_advisory_lock({_HOLD})")
        running = pool.submit(lambda: execute(plan(intent, far)))
        wait_for(lambda: run(conn, _WAITING).scalar_one() == 2)
        run(conn, f"INSERT INTO accounts VALUES ({ACCOUNTS + 1}, 1, 'not of this moment')")
        os.kill(next(iter(dask.run(os.getpid).values())), signal.SIGKILL)
        run(conn, f"SELECT pg_advisory_unlock({_HOLD})")
        done = running.result()
    assert done.rows_extracted == ACCOUNTS
    assert ids(rows_of(done)) == list(range(1, ACCOUNTS + 1))
    names = [Path(path).name for path in done.output_files]
    assert everything_below(tmp_path) == sorted([*names, "_manifest.json"])


def test_a_run_that_fails_stops_what_its_workers_still_read(fresh_postgres, tmp_path, far):
    make_accounts(fresh_postgres)
    make_held(fresh_postgres)
    where = "CASE id WHEN 1000 THEN held(id) WHEN 19000 THEN 1 / (id - 19000) > 0 ELSE true END"
    intent = intent_for(fresh_postgres, "accounts", tmp_path, where=where)
    with fresh_postgres.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
        run(conn, f"SELECT pg_advisory_lock({_HOLD})")
        with pytest.raises(ExecutionError, match="division by zero"):
            execute(plan(intent, far))
        # The lock is held still, and nobody waits for it any more.
        wait_for(lambda: run(conn, _WAITING).scalar_one() == 0)
    assert published(intent) is None


def test_what_fails_on_a_worker_is_told_without_a_credential(
    fresh_postgres, tmp_path, dask: distributed.Client, far: RuntimeContext
):
    make_accounts(fresh_postgres)
    url = fresh_postgres.url.set(password="hunter2hunter2")
    intent = replace(
        intent_for(fresh_postgres, "accounts", tmp_path, where="1 / (id - 15000) < 2"),
        source_config={"connection_string": url.render_as_string(hide_password=False)},
    )
    made = plan(intent, far)
    with pytest.raises(ExecutionError, match="division by zero") as caught:
        execute(made)
    assert "nothing was published" in str(caught.value)
    assert published(intent) is None
    assert everything_below(tmp_path) == []
    logs = f"{dask.get_worker_logs()} {dask.get_scheduler_logs()} {caught.value!r}"
    assert "hunter2" not in logs
    assert "division" not in f"{dask.get_worker_logs()}"


def test_an_order_shows_no_credential(fresh_postgres, tmp_path):
    make_accounts(fresh_postgres)
    url = fresh_postgres.url.set(password="hunter2hunter2")
    intent = replace(
        intent_for(fresh_postgres, "accounts", tmp_path, mask_salt="hunter2-salt"),
        source_config={"connection_string": url.render_as_string(hide_password=False)},
    )
    made = plan(intent).plan
    order = Order(intent, made, "ix-1", "00-1", RunLimits(), str(tmp_path))
    assert repr(order) == "Order('accounts', run_id='ix-1', task='001')"
    again = pickle.loads(pickle.dumps(order))  # noqa: S301 - our own
    assert again == order


@pytest.mark.parametrize("kind", ["duckdb", "sqlite", "mariadb"])
def test_a_source_without_snapshots_to_join_is_refused(kind, tmp_path, request):
    engine: sa.Engine = request.getfixturevalue(f"fresh_{kind}")
    make(engine, "CREATE TABLE t (id int)", "INSERT INTO t VALUES (1)")
    engine.dispose()
    context = RuntimeContext(dask_address="tcp://127.0.0.1:9")
    made = plan(intent_for(engine, "t", tmp_path), context)
    with pytest.raises(SnapshotUnavailable, match="dask_address is given, and"):
        execute(made)
    assert published(made.intent) is None


def test_a_cluster_that_is_not_there_is_named(fresh_postgres, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "_CONNECT_SECONDS", 0.5)
    make(fresh_postgres, "CREATE TABLE t (id int)")
    context = RuntimeContext(dask_address="tcp://127.0.0.1:9")
    with pytest.raises(ExecutionError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:9"):
        execute(plan(intent_for(fresh_postgres, "t", tmp_path), context))
    assert everything_below(tmp_path) == []


def test_a_directory_that_a_worker_does_not_see_is_named(fresh_postgres, tmp_path):
    intent = intent_for(fresh_postgres, "t", tmp_path)
    with pytest.raises(OutputNotWritable, match="give all machines the same disk"):
        files_of_attempt(intent, "ix-1", str(tmp_path / "elsewhere"), "ab12")


def test_an_address_is_a_url():
    with pytest.raises(ValidationError, match="it is an address like"):
        RuntimeContext(dask_address="dask:8786")
