"""Checks and steps of components in YAML: what they make, and where ``dg`` points when wrong."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa
import yaml
from dagster.components.testing import create_defs_folder_sandbox
from dagster.components.testing.utils import DefsFolderSandbox

from ixflow.dagster.components.catalogue import tables_of
from ixflow.extraction.intent import ExtractionIntent
from ixflow_tests.dagster.dg_project import DgProject
from ixflow_tests.dagster.seen import checks, made

pytestmark = [
    pytest.mark.filterwarnings("ignore:`parse_obj_as` is deprecated"),
    pytest.mark.filterwarnings(
        "ignore:Class `(LocalFileCodeReference|CodeReferencesMetadataValue)`"
    ),
]

WRONG = """\
type: ixflow.dagster.ExtractionComponent

attributes:
  source: {type: sqlite, config: {database: shop.sqlite}}
  output_dir: extracted
  plan_check:
    rates:
      egres_rate: 0.1
  tables: [{name: orders}]
"""


@pytest.fixture
def sandbox() -> Iterator[DefsFolderSandbox]:
    """Give an empty project."""
    with create_defs_folder_sandbox() as made:
        yield made


@pytest.fixture
def shop(fresh_duckdb) -> dict[str, Any]:
    """Give the source of two tables, as YAML says it."""
    with fresh_duckdb.begin() as conn:
        for name in ("orders", "users"):
            conn.execute(sa.text(f"CREATE TABLE {name} (id int PRIMARY KEY)"))
            conn.execute(sa.text(f"INSERT INTO {name} VALUES (1), (2)"))
    return {"type": "duckdb", "config": {"database": str(fresh_duckdb.url.database)}}


def given(sandbox: DefsFolderSandbox, name: str, kind: str, **attributes: Any) -> None:
    folder = sandbox.defs_folder_path / name
    folder.mkdir()
    text = yaml.safe_dump({"type": f"ixflow.dagster.{kind}", "attributes": attributes})
    (folder / "defs.yaml").write_text(text)


def project(sandbox: DefsFolderSandbox, shop: dict[str, Any], place: Path, **options: Any) -> Any:
    """Load a project whose warehouse is a file, with these options of its extraction."""
    told = {"tables": [{"name": "orders"}, {"name": "users"}], **options}
    output = str(place / "extracted")
    given(sandbox, "shop", "ExtractionComponent", source=shop, output_dir=output, **told)
    rows = {"extraction": "shop", "cursor": "id", "reconcile": {"blocking": True}}
    given(sandbox, "rows", "IngestComponent", **rows)
    given(sandbox, "store", "TableStoreComponent", url=f"duckdb:///{place}/w.duckdb")
    with sandbox.build_all_defs() as loaded:
        return loaded


def ran(loaded: dg.Definitions, instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    return loaded.resolve_implicit_global_asset_job_def().execute_in_process(instance=instance)


def test_plans_are_judged_and_rows_compared_as_yaml_asks(sandbox, shop, tmp_path, instance):
    rates = {"plan_check": {"rates": {"egress_rate": 0.09}}}
    loaded = project(sandbox, shop, tmp_path, **rates)
    result = ran(loaded, instance)
    assert checks(result) == {"plan": True, "reconcile": True}
    found = {
        (one.check_name, one.asset_key.to_user_string())
        for one in result.get_asset_check_evaluations()
    }
    assert found == {
        *(("plan", f"extracted/{name}") for name in ("orders", "users")),
        *(("reconcile", f"raw/{name}") for name in ("orders", "users")),
    }


def test_one_step_extracts_all_tables_in_one_moment(sandbox, shop, tmp_path, instance):
    loaded = project(sandbox, shop, tmp_path, one_step=True, plan_check={})
    result = ran(loaded, instance)
    events = made(result)
    moments = {str(events[f"extracted/{n}"].metadata["ixflow/moment"]) for n in ("orders", "users")}
    assert len(moments) == 1
    assert "shop" in {event.node_name for event in result.get_step_success_events()}
    assert checks(result) == {"plan": True, "reconcile": True}


def test_one_step_takes_partitions(sandbox, shop, tmp_path):
    parts = {"type": "static", "partition_keys": ["1", "2"]}
    given(
        sandbox,
        "shop",
        "ExtractionComponent",
        source=shop,
        output_dir=str(tmp_path),
        tables=[{"name": "orders"}],
        one_step=True,
        partitions_def=parts,
        partition_by="id",
    )
    with sandbox.build_all_defs() as loaded:
        (spec,) = [s for s in loaded.resolve_all_asset_specs() if s.group_name == "extracted"]
    assert spec.partitions_def is not None
    assert list(spec.partitions_def.get_partition_keys()) == ["1", "2"]


def test_partitions_of_a_table_are_no_tables_of_their_own(fresh_postgres):
    with fresh_postgres.begin() as conn:
        for place in ("public", "own"):
            conn.execute(sa.text(f"CREATE SCHEMA IF NOT EXISTS {place}"))
            conn.execute(
                sa.text(f"CREATE TABLE {place}.events (id int, at date) PARTITION BY RANGE (at)")
            )
            conn.execute(
                sa.text(
                    f"CREATE TABLE {place}.events_2026 PARTITION OF {place}.events "
                    "FOR VALUES FROM ('2026-01-01') TO ('2027-01-01') PARTITION BY LIST (id)"
                )
            )
            conn.execute(
                sa.text(
                    f"CREATE TABLE {place}.events_2026_1 PARTITION OF {place}.events_2026 "
                    "FOR VALUES IN (1)"
                )
            )
            conn.execute(sa.text(f"CREATE TABLE {place}.orders (id int)"))
    config = {"connection_string": fresh_postgres.url.render_as_string(hide_password=False)}
    source = ExtractionIntent("postgresql", config, "x")
    assert tables_of(source, None) == ["events", "orders"]
    assert tables_of(source, "own") == ["events", "orders"]


def test_a_wrong_field_of_a_check_is_told_with_line_and_caret(tmp_path):
    project = DgProject(tmp_path)
    path = project.write("src/shop/defs/extract/defs.yaml", WRONG)
    wrong = "extraction: shop\n  cursor: id\n  reconcile: {chekcsum: false}"
    text = f"type: ixflow.dagster.IngestComponent\n\nattributes:\n  {wrong}\n"
    other = project.write("src/shop/defs/ingest/defs.yaml", text)
    said = project.dg("check", "yaml", fails=True).splitlines()
    for file, field in (
        (path, "plan_check.rates.egres_rate"),
        (other, "reconcile.chekcsum"),
    ):
        name = field.split(".")[-1]
        lines = file.read_text().splitlines()
        number = next(n for n, line in enumerate(lines, 1) if f"{name}:" in line)
        head = next(n for n, line in enumerate(said) if f"attributes.{field} " in line)
        assert said[head].startswith(f"{file}:{number} ")
        shown = next(n for n in range(head, len(said)) if said[n].strip().startswith(f"{number} |"))
        assert "^" in said[shown + 1]
