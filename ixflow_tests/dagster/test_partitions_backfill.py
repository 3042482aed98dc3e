"""A backfill as the daemon runs it: many partitions, one that fails, in one run and in several."""

import logging
import time
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.selector import (
    PartitionRangeSelector,
    PartitionsByAssetSelector,
    PartitionsSelector,
)
from dagster._core.execution.backfill import PartitionBackfill
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import PythonFileTarget
from dagster._daemon.backfill import execute_backfill_iteration

from ixflow_tests.dagster.seen import rows
from ixflow_tests.sources import make

DEFINITIONS = """
import os
import dagster as dg
import sqlalchemy as sa
import ixflow.dagster as ixd
from ixflow.extraction.intent import ExtractionIntent

URL, OUTPUT = os.environ["BACKFILL_URL"], os.environ["BACKFILL_OUTPUT"]
DAYS = dg.DailyPartitionsDefinition(start_date="2024-05-01", end_date="2024-05-11")
BY = {"partitions_def": DAYS, "partition_by": "day"}

orders = ExtractionIntent("postgresql", {"connection_string": URL}, "orders", OUTPUT)
metadata = sa.MetaData()
visits = sa.Table("visits", metadata, sa.Column("day", sa.Date), sa.Column("n", sa.BigInteger))


@ixd.ingest_asset(metadata=metadata, **BY)
def raw_visits(partition: ixd.Slice):
    day = partition.window.start.date()
    if day.day == 7:
        raise ValueError("the seventh is broken")
    yield None, None, [(visits, (day, n)) for n in range(day.day)]


defs = dg.Definitions(
    assets=[
        ixd.extraction_asset(
            orders, backfill_policy=dg.BackfillPolicy.multi_run(max_partitions_per_run=5), **BY
        ),
        raw_visits,
    ],
    resources={
        "planner": ixd.PlannerResource(),
        "warehouse": ixd.SQLTableStoreResource(url=URL),
    },
    executor=dg.in_process_executor,
)
"""
KEYS = [f"2024-05-{day:02}" for day in range(1, 11)]


@pytest.fixture
def workspace(tmp_path, fresh_postgres, monkeypatch):
    """Give a workspace whose runs are processes of their own, as under a daemon."""
    url = fresh_postgres.url.render_as_string(hide_password=False)
    monkeypatch.setenv("BACKFILL_URL", url)
    monkeypatch.setenv("BACKFILL_OUTPUT", str(tmp_path / "files"))
    monkeypatch.setenv("DAGSTER_DISABLE_TELEMETRY", "yes")
    days = ", ".join(f"({n}, '{key}')" for n, key in enumerate(KEYS))
    make(
        fresh_postgres,
        "CREATE TABLE orders (id integer PRIMARY KEY, day date)",
        f"INSERT INTO orders VALUES {days}",
    )
    path = tmp_path / "definitions.py"
    path.write_text(DEFINITIONS)
    immediate = {
        "run_coordinator": {
            "module": "dagster.core.run_coordinator",
            "class": "DefaultRunCoordinator",
        }
    }
    with dg.instance_for_test(temp_dir=str(tmp_path), overrides=immediate) as instance:
        target = PythonFileTarget(str(path), None, None, "shop")
        with WorkspaceProcessContext(instance, target) as found:
            yield found


def backfill(workspace: WorkspaceProcessContext, keys: list[str], assets: list[Any]) -> Any:
    """Let the daemon's own code run a backfill to its end."""
    instance = workspace.instance
    graph = workspace.create_request_context().asset_graph
    wanted = PartitionsSelector(ranges=[PartitionRangeSelector(start=keys[0], end=keys[-1])])
    instance.add_backfill(
        PartitionBackfill.from_partitions_by_assets(
            backfill_id="ten",
            asset_graph=graph,
            backfill_timestamp=time.time(),
            tags={},
            dynamic_partitions_store=instance,
            partitions_by_assets=[
                PartitionsByAssetSelector(asset_key=key, partitions=wanted) for key in assets
            ],
            title=None,
            description=None,
            run_config=None,
        )
    )
    for _ in range(240):
        errors = list(execute_backfill_iteration(workspace, logging.getLogger("backfill")))
        assert not [error for error in errors if error], errors
        found = instance.get_backfill("ten")
        assert found is not None
        if found.status.value not in ("REQUESTED", "FAILING"):
            return found
        time.sleep(0.5)
    pytest.fail("the backfill did not end")


@pytest.mark.timeout(300)
def test_ten_partitions_of_each_kind_are_recorded_but_for_the_one_that_fails(
    workspace, fresh_postgres, tmp_path
):
    files, visits = dg.AssetKey(["extracted", "orders"]), dg.AssetKey(["visits"])
    blocked = Path(tmp_path / "files" / "orders" / "2024-05-04")
    blocked.mkdir(parents=True)
    done = backfill(workspace, KEYS, [files, visits])
    instance = workspace.instance
    assert done.status.value == "COMPLETED_FAILED"
    graph = workspace.create_request_context().asset_graph
    failed = done.get_asset_backfill_data(graph).failed_and_downstream_subset
    assert {(one.asset_key, one.partition_key) for one in failed.iterate_asset_partitions()} == {
        (files, "2024-05-04"),
        (visits, "2024-05-07"),
    }
    for key, broken, number in ((files, "2024-05-04", 1), (visits, "2024-05-07", None)):
        assert instance.get_materialized_partitions(key) == {*KEYS} - {broken}
        records = instance.fetch_materializations(key, limit=30).records
        counts = {
            one.partition_key: one.asset_materialization.metadata["dagster/partition_row_count"]
            for one in records
            if one.asset_materialization is not None
        }
        assert len(records) == len(KEYS) - 1
        for day, count in counts.items():
            assert count.value == (number or int(str(day)[-2:]))
    runs = instance.get_runs()
    assert sorted(len(run.asset_selection or ()) for run in runs) == [1, 1, 1]
    assert len(rows(fresh_postgres, "visits")) == 55 - 7
