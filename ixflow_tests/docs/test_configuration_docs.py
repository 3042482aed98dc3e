"""The page of the configuration: its example is one, and it names everything there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ixflow import PipedagConfig
from ixflow.pipeline.class_names import KNOWN
from ixflow.pipeline.config_keys import ARGS, DEFAULTS, FILE
from ixflow.pipeline.config_schema import Each, Keys

PAGE = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text(encoding="utf-8")


@pytest.fixture
def example(tmp_path, monkeypatch) -> PipedagConfig:
    """Give the file of the page, with the secrets that it names."""
    found = re.search(r"^```yaml\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    assert found is not None
    secrets = tmp_path / ".secrets"
    secrets.mkdir()
    for name in ("shop_shop_full", "shop_pipeline"):
        (secrets / f"{name}.yaml").write_text("user: app\npassword: p@ss\n", encoding="utf-8")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DB_HOST", "db.example")
    path = tmp_path / "pipedag.yaml"
    path.write_text(found[1], encoding="utf-8")
    return PipedagConfig(path)


def test_the_example_is_a_configuration(example):
    full = example.get("full", "nightly")
    args = full.config_dict["table_store"]["args"]
    assert args["url"] == "postgresql://app:p%40ss@db.example/shop_full"
    assert args["schema_suffix"] == "_nightly"
    assert (full.attrs.days, full.attrs.owner) == (3650, "data@example.com")
    assert full.force_task_execution
    mini = example.get("mini")
    assert mini.config_dict["table_store"]["args"]["url"] == "duckdb:////tmp/shop/shop_mini.duckdb"
    assert mini.attrs.days == 30


def test_the_page_names_every_key_class_and_default():
    instance = FILE.known["instances"]
    assert isinstance(instance, Each)
    assert isinstance(instance.item, Keys)
    store = ARGS["SQLTableStore"]
    assert isinstance(store, Keys)
    classes = {name for kind in KNOWN.values() for name in kind}
    for name in {*FILE.known, *instance.item.known, *store.known, *classes}:
        assert name in PAGE, name
    for key, value in DEFAULTS.items():
        if isinstance(value, str):
            assert f"`{value}`" in PAGE, key
