"""The demo's `definitions.py`: it loads, its lineage is whole, and no password is in it."""

import importlib.util
import os
import subprocess
import sys
import warnings
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.remote_representation.external_data import RepositorySnap

import ixflow.dagster as ixd
from ixflow_tests.dagster.seen import made
from ixflow_tests.dagster.shop import Shop

ROOT = Path(__file__).parents[2]
TABLES = ("customers", "products", "orders", "order_items")


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("IXFLOW_HOME", str(tmp_path))
    monkeypatch.delenv("SHOP_URL", raising=False)
    monkeypatch.setenv("WAREHOUSE_URL", f"duckdb:///{tmp_path}/warehouse.duckdb")
    return tmp_path


def loaded() -> dg.Definitions:
    """Execute the file anew, with the environment as it is."""
    spec = importlib.util.spec_from_file_location("demo_definitions", ROOT / "definitions.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made = module.defs()
    assert isinstance(made, dg.Definitions)
    return made


def text(key: dg.AssetKey) -> str:
    return key.to_user_string()


def test_the_lineage_is_whole_from_the_source_to_the_mart(home):
    graph = loaded().resolve_asset_graph()
    edges = {
        (text(parent), text(key))
        for key in graph.get_all_asset_keys()
        for parent in graph.get(key).parent_keys
    }
    expected = {(f"shop/{table}", f"extracted/{table}") for table in TABLES}
    expected |= {(f"extracted/{table}", f"raw/{table}") for table in TABLES}
    expected |= {(f"raw/{table}", f"staging/{table}") for table in ("orders", "customers")}
    expected |= {
        (f"staging/{table}", "mart/revenue_by_country") for table in ("orders", "customers")
    }
    assert edges == expected
    external = {text(key) for key in graph.external_asset_keys}
    assert external == {f"shop/{table}" for table in TABLES}


def test_every_asset_has_a_group_a_kind_and_a_description(home):
    specs = loaded().resolve_all_asset_specs()
    groups = {text(spec.key): spec.group_name for spec in specs}
    assert {key.split("/")[0]: group for key, group in groups.items()} == {
        "shop": "sources",
        "extracted": "extracted",
        "raw": "raw",
        "staging": "staging",
        "mart": "mart",
    }
    assert [text(spec.key) for spec in specs if not spec.description or not spec.kinds] == []
    kinds = {text(spec.key): spec.kinds for spec in specs}
    assert kinds["shop/orders"] == {"sqlite"}
    assert kinds["extracted/orders"] == {"sqlite", "parquet"}
    assert kinds["raw/orders"] == kinds["mart/revenue_by_country"] == {"duckdb"}


def test_there_are_a_schedule_a_sensor_a_check_and_an_automation_condition(home):
    repository = loaded().get_repository_def()
    assert [schedule.name for schedule in repository.schedule_defs] == ["everything_schedule"]
    assert "new_orders" in {sensor.name for sensor in repository.sensor_defs}
    graph = loaded().resolve_asset_graph()
    assert {check.name for check in graph.asset_check_keys} == {"no_negative_totals"}
    conditions = [graph.get(key).automation_condition for key in graph.get_all_asset_keys()]
    labels = {condition.get_label() for condition in conditions if condition is not None}
    assert labels == {"ixflow_on_change"}


@pytest.mark.parametrize(
    "command",
    [
        ["dagster", "definitions", "validate", "-w", "workspace.yaml"],
        ["dg", "check", "defs"],
    ],
    ids=" ".join,
)
def test_the_command_line_accepts_the_definitions(command, home):
    program = Path(sys.executable).parent / command[0]
    environment = os.environ | {
        "DAGSTER_HOME": str(home),
        "DAGSTER_DISABLE_TELEMETRY": "yes",
        "PATH": os.pathsep.join([str(program.parent), os.environ["PATH"]]),
    }
    done = subprocess.run(
        [str(program), *command[1:]],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not list(home.glob("*.duckdb"))


def test_no_password_of_a_url_is_in_what_the_definitions_show(home, monkeypatch):
    secret = "s3cr3t-of-both"
    url = f"postgresql+psycopg://app:{secret}@127.0.0.1:1"
    monkeypatch.setenv("SHOP_URL", f"{url}/shop")
    monkeypatch.setenv("WAREHOUSE_URL", f"{url}/warehouse")
    definitions = loaded()
    for spec in definitions.resolve_all_asset_specs():
        assert secret not in repr(spec)
        assert spec.kinds <= {"postgres", "parquet"}
    snapshot = definitions.get_repository_def()
    assert secret not in repr(definitions.resources)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        shown = dg.serialize_value(RepositorySnap.from_def(snapshot))
    assert secret not in shown
    assert "staging" in shown


def test_a_flow_takes_a_resource_whose_url_is_in_the_environment(
    warehouse_engine, instance, monkeypatch
):
    monkeypatch.delenv("FLOW_WAREHOUSE", raising=False)
    resource = ixd.SQLTableStoreResource(url=dg.EnvVar("FLOW_WAREHOUSE"))
    shop = Shop()
    unknown = shop.flow.to_definitions(table_store=resource)
    assert {frozenset(spec.kinds) for spec in unknown.resolve_all_asset_specs()} == {
        frozenset({"table"})
    }
    monkeypatch.setenv("FLOW_WAREHOUSE", warehouse_engine.url.render_as_string(hide_password=False))
    result = unknown.resolve_job_def("shop_flow").execute_in_process(instance=instance)
    assert sorted(made(result)) == ["st/t1", "st/t2", "st/t3"]
