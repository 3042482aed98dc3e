"""Runs flows on Prefect in a process of its own, whose logging and threads are Prefect's then.

Prints what came of them as JSON.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from ixflow import Flow, PipedagConfig, PrefectEngine
from ixflow_tests.behaviour import engine_flows

__all__ = ["config_for"]


def config_for(url: str, **args: Any) -> PipedagConfig:
    """Configure a store without an engine."""
    store = {"class": "SQLTableStore", "args": {"url": url, **args}}
    section = {"table_store": store, "attrs": {"limit": 2}, "max_workers": 2, "kroki_url": None}
    return PipedagConfig({"name": "engines", "instances": {"__any__": section}})


def told(
    flow: Flow, config: PipedagConfig, engine: PrefectEngine, **options: Any
) -> dict[str, Any]:
    """Run a flow and tell what came of it, also as Prefect has it."""
    from prefect.client.orchestration import get_client

    result = flow.run(config=config, orchestration_engine=engine, fail_fast=False, **options)
    run = result.underlying.state_details.flow_run_id
    with get_client(sync_client=True) as client:
        steps = [step for step in client.read_task_runs() if step.flow_run_id == run]
    return {
        "error": None if result.exception is None else str(result.exception),
        "states": {f"{t.stage.name}.{t.name}": str(s) for t, s in result.task_states.items()},
        "stages": sorted(result.stages),
        "steps": {step.name: step.state_name for step in steps},
        "flow": result.underlying.type.value,
    }


def main(duckdb: str, postgres: str, directory: str) -> None:
    """Run everything on one server."""
    from prefect.task_runners import ProcessPoolTaskRunner
    from prefect.testing.utilities import prefect_test_harness

    config = config_for(duckdb)
    found: dict[str, Any] = {"pid": os.getpid()}
    places = {name: Path(directory) / name for name in ("shop", "failing", "elsewhere")}
    for place in places.values():
        place.mkdir()
    with prefect_test_harness():
        engine = PrefectEngine({"log_prints": False})
        found["first"] = told(engine_flows.shop(places["shop"]), config, engine)
        found["again"] = told(engine_flows.shop(places["shop"]), config, engine)
        flow = engine_flows.failing(places["failing"], "raise")
        found["failing"] = told(flow, config, engine, transaction_id="nightly")
        flow = engine_flows.failing(places["failing"], "mended")
        found["resumed"] = told(flow, config, engine, transaction_id="nightly")
        server = config_for(postgres, schema_prefix="prefect_", metadata_schema="prefect_ixflow")
        engine = PrefectEngine({"name": "elsewhere", "task_runner": ProcessPoolTaskRunner(1)})
        flow = engine_flows.failing(places["elsewhere"], "raise")
        found["elsewhere"] = told(flow, server, engine)
    found["calls"] = {
        name: [path.name.split()[::2] for path in place.iterdir()] for name, place in places.items()
    }
    print(json.dumps(found), flush=True)  # noqa: T201 - for the test


if __name__ == "__main__":
    main(*sys.argv[1:])
