"""Checks, conditions and sensors of the documentation load, and no database is asked for it."""

import pathlib
import re
from typing import Any

import dagster as dg

import ixflow.dagster as ixd
from ixflow.extraction.intent import ExtractionIntent

_DOCS = pathlib.Path(__file__).parents[2] / "docs" / "dagster.md"


def example() -> str:
    """Give the code of the section on checks and automation."""
    section = _DOCS.read_text(encoding="utf-8").split("## Checks and automation", 1)[1]
    found = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert found is not None
    return found[1]


def test_the_example_loads_with_databases_that_are_away():
    config = {"host": "127.0.0.1", "port": 1, "database": "shop", "password": "s3cr3t"}
    names: dict[str, Any] = {"orders": ExtractionIntent("postgresql", config, "orders")}
    exec(example(), names)  # noqa: S102 - the documentation is ours
    defs = dg.Definitions(
        assets=[names["orders_files"], names["raw_orders"]],
        asset_checks=names["checks"],
        sensors=names["sensors"],
        resources={
            "planner": ixd.PlannerResource(),
            "warehouse": ixd.SQLTableStoreResource(url="postgresql+psycopg://u@127.0.0.1:1/w"),
        },
    )
    dg.Definitions.validate_loadable(defs)
    graph = defs.resolve_asset_graph()
    checks = sorted((key.asset_key.to_user_string(), key.name) for key in graph.asset_check_keys)
    assert checks == [
        ("extracted/orders", "plan"),
        ("raw/orders", "reconcile"),
        ("raw/orders", "row_count_drift"),
        ("raw/orders", "schema_contract"),
    ]
    assert "s3cr3t" not in repr([graph.get(key).metadata for key in graph.get_all_asset_keys()])
