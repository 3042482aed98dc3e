"""Flows that run from a configuration file, on every warehouse."""

from __future__ import annotations

import json
import logging
import uuid
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import sqlalchemy as sa

from ixflow import ConfigContext, Flow, PipedagConfig, SQLTableStore, Stage, Table, materialize
from ixflow.errors import SourceUnavailable
from ixflow_tests.stages import objects, rows


@pytest.fixture
def url(warehouse_engine: sa.Engine) -> sa.URL:
    """Give the URL of a fresh warehouse."""
    return warehouse_engine.url


def config_file(directory: Path, url: sa.URL) -> Path:
    """Write a file whose URL needs the environment, and a directory and a prefix an instance."""
    text = (
        url.set(password="P").render_as_string(hide_password=False).replace(":P@", ":{$PW:quote}@")
    )
    class_ = "pydiverse.pipedag.backend.table.SQLTableStore"
    said = {
        "name": "shop",
        "table_store_connections": {"warehouse": {"args": {"url": text}}},
        "instances": {
            "__any__": {
                "fail_fast": True,
                "attrs": {"limit": 3},
                "table_store": {
                    "class": class_,
                    "table_store_connection": "warehouse",
                    "args": {"schema_prefix": "{instance_id}_"},
                },
            },
            "mini": {"instance_id": "mini", "attrs": {"limit": 1}},
        },
        "flows": {"nightly": {"attrs": {"limit": 2}}},
    }
    path = directory / "pipedag.yaml"
    path.write_text(json.dumps(said), encoding="utf-8")
    return path


@materialize(version=None)
def numbers():
    return Table(pl.DataFrame({"x": range(ConfigContext.get().attrs.limit)}), name="numbers")


def flow_named(name: str) -> Flow:
    with Flow(name) as flow, Stage("staging"):
        numbers()
    return flow


def test_a_flow_runs_from_the_file_and_its_tasks_see_the_configuration(url, tmp_path, monkeypatch):
    path = config_file(tmp_path, url)
    monkeypatch.setenv("PW", url.password or "")
    monkeypatch.setenv("PIPEDAG_CONFIG", str(path))
    mini = PipedagConfig(path).get("mini")
    for name, config, prefix, count in (
        ("nightly", None, "pipeline_", 2),
        ("another", None, "pipeline_", 3),
        ("nightly", mini, "mini_", 1),
    ):
        result = flow_named(name).run(config=config)
        assert result.successful
        assert result.config_context is not None
        assert result.config_context.pipedag_name == "shop"
        store = SQLTableStore(url, schema_prefix=prefix)
        assert len(rows(store, "staging", "numbers")) == count
        store.dispose()
    with mini:
        assert flow_named("nightly").run().successful
        assert ConfigContext.get() is mini


def missing(url: sa.URL, directory: Path) -> sa.URL:
    """Name a database that is not there, in a directory that is not there where it is a file."""
    name = f"new {uuid.uuid4().hex}%"
    if url.get_backend_name() == "duckdb":
        return url.set(database=str(directory / "not" / "there" / f"{name}.duckdb"))
    return url.set(database=name)


def drop(url: sa.URL, name: str | None) -> None:
    """Drop a database again where it is not a file."""
    if url.get_backend_name() == "duckdb":
        return
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as conn:
        conn.exec_driver_sql(f'DROP DATABASE IF EXISTS "{name}"'.replace("%", "%%"))
    engine.dispose()


def test_a_database_that_is_not_there_is_created_when_that_is_wanted(url, tmp_path):
    wanted = missing(url, tmp_path)
    with pytest.raises(SourceUnavailable):
        SQLTableStore(wanted).install()
    store = SQLTableStore(wanted, create_database_if_not_exists=True)
    try:
        for _ in range(2):
            store.install()
            store.dispose()
            store = SQLTableStore(wanted, create_database_if_not_exists=True)
        assert objects(store, "ixflow")
    finally:
        store.dispose()
        drop(url, wanted.database)


def test_a_server_that_refuses_us_is_no_missing_database(url):
    if url.get_backend_name() == "duckdb":
        # A file asks nobody; a directory in its place is what cannot be opened.
        refused = url.set(database=str(Path(url.database or "").parent))
    else:
        refused = url.set(username="nobody_of_that_name", password="s3cret")
    store = SQLTableStore(refused, create_database_if_not_exists=True)
    with pytest.raises(SourceUnavailable) as raised:
        store.install()
    store.dispose()
    assert "s3cret" not in str(raised.value)


def messages(caplog: Any) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "ixflow.store"]


@pytest.mark.parametrize(
    ("options", "tables", "statements"),
    [
        ({}, False, False),
        ({"print_materialize": True}, True, False),
        ({"print_sql": True}, False, True),
    ],
)
def test_the_log_tells_of_tables_and_statements_when_wanted(
    url, caplog, options: dict[str, Any], tables, statements
):
    caplog.set_level(logging.INFO, "ixflow.store")
    store = SQLTableStore(url, **options)
    result = flow_named("f").run(config=ConfigContext.of_store(store, attrs={"limit": 2}))
    assert result.successful
    said = messages(caplog)
    assert any(text.endswith(".numbers: 2 rows") for text in said) is tables
    assert any(text.upper().lstrip().startswith("INSERT") for text in said) is statements
    store.dispose()
