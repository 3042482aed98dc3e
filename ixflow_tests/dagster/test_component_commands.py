"""The command ``dg`` finds the components, writes their files and points at a wrong field."""

import pytest

from ixflow_tests.dagster.dg_project import DgProject

WRONG = """\
type: ixflow.dagster.ExtractionComponent

attributes:
  source:
    type: sqlite
    config:
      database: shop.sqlite
    port: 5432
  output_dir: extracted
  tables:
    - name: orders
      wher: id > 3
  options:
    max_workers: 4
    maxworkers: 4
"""


@pytest.fixture
def project(tmp_path):
    return DgProject(tmp_path)


@pytest.mark.slow
def test_components_are_listed_scaffolded_and_fit(project):
    listed = project.dg("list", "components", "--json")
    for name in ("Extraction", "Flow", "Ingest", "TableStore"):
        kind = f"ixflow.dagster.{name}Component"
        assert kind in listed
    project.dg("scaffold", "defs", "ixflow.dagster.ExtractionComponent", "extract")
    options = ("--extraction", "extract", "--cursor", "order_id")
    project.dg("scaffold", "defs", "ixflow.dagster.IngestComponent", "ingest", *options)
    project.dg("scaffold", "defs", "ixflow.dagster.TableStoreComponent", "store")
    assert "order_id" in (project.defs / "ingest" / "defs.yaml").read_text()
    project.dg("check", "yaml")


def test_a_wrong_field_is_told_with_file_line_and_caret(project):
    path = project.write("src/shop/defs/extract/defs.yaml", WRONG)
    said = project.dg("check", "yaml", fails=True).splitlines()
    for field in ("source.port", "tables.0.wher", "options.maxworkers"):
        name = field.split(".")[-1]
        lines = WRONG.splitlines()
        number = next(n for n, line in enumerate(lines, 1) if line.strip().startswith(f"{name}:"))
        head = next(n for n, line in enumerate(said) if f"attributes.{field} " in line)
        assert said[head].startswith(f"{path}:{number} ")
        shown = next(n for n in range(head, len(said)) if said[n].strip().startswith(f"{number} |"))
        assert said[shown].index(f"{name}:") == said[shown + 1].index("^")
