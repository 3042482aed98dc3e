"""The page of the components: its project runs through ``dg``, and its YAML fits the schemas."""

from __future__ import annotations

import json
import re
import sqlite3
from pathlib import Path

import duckdb
import pytest
import yaml

import ixflow.dagster as ixd
from ixflow_tests.dagster.dg_project import DgProject

PAGE = (Path(__file__).parents[2] / "docs" / "components.md").read_text(encoding="utf-8")
COMPONENTS = (
    ixd.ExtractionComponent,
    ixd.IngestComponent,
    ixd.FlowComponent,
    ixd.TableStoreComponent,
)


@pytest.fixture
def project(tmp_path: Path) -> DgProject:
    """Write the files of the page, and a shop to extract from."""
    made = DgProject(tmp_path, {"WAREHOUSE_URL": f"duckdb:///{tmp_path}/warehouse.duckdb"})
    file = r"^`(src/\S+)`:[^\n]*\n\n```(?:yaml|python)\n(.*?)^```"
    named = re.findall(file, PAGE, flags=re.MULTILINE | re.DOTALL)
    assert len(named) == 5
    for name, text in named:
        made.write(name, text)
    (tmp_path / "data").mkdir()
    with sqlite3.connect(tmp_path / "data" / "source.sqlite") as shop:
        for table in ("orders", "orders_old"):
            shop.execute(f"CREATE TABLE {table} (id INTEGER PRIMARY KEY, total REAL NOT NULL)")
            shop.execute(f"INSERT INTO {table} VALUES (1, 5), (2, 20), (3, 30)")
    shop.close()
    return made


@pytest.mark.slow
def test_the_project_of_the_page_is_checked_listed_and_launched(project):
    project.dg("check", "yaml")
    project.dg("utils", "refresh-defs-state")
    project.dg("check", "defs")
    listed = json.loads(project.dg("list", "defs", "--json"))
    found = [asset["asset_key"] for asset in listed["assets"]]
    assert sorted(found) == ["extracted/orders", "mart/big_orders", "raw/orders", "source/orders"]
    project.dg("launch", "--assets", "*")
    with duckdb.connect(str(project.root / "warehouse.duckdb"), read_only=True) as conn:
        assert conn.sql("SELECT id, total FROM mart.big_orders ORDER BY id").fetchall() == [
            (2, 20.0),
            (3, 30.0),
        ]
        assert conn.sql("SELECT count(*) FROM raw.orders").fetchone() == (3,)


def test_every_yaml_of_the_page_fits_its_component():
    kinds = {f"ixflow.dagster.{component.__name__}": component for component in COMPONENTS}
    blocks = re.findall(r"^```yaml\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    seen = set()
    for block in blocks:
        told = yaml.safe_load(block)
        kinds[told["type"]].model().model_validate(told["attributes"])
        seen.add(told["type"])
    assert seen == set(kinds)


@pytest.mark.parametrize("component", COMPONENTS, ids=lambda component: component.__name__)
def test_the_page_names_every_field(component):
    section = PAGE.split(f"## `{component.__name__}`")[1].split("\n## ")[0]
    own = set(component.model().model_json_schema()["properties"])
    if component is ixd.TableStoreComponent:
        own -= set(ixd.SQLTableStoreResource.model_fields) - {"url"}
    assert [name for name in sorted(own) if f"`{name}" not in section] == []
