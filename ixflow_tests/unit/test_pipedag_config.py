"""`PipedagConfig`: what a file says of an instance and a flow, and what it refuses."""

from __future__ import annotations

import logging
from typing import Any

import pandas as pd
import pytest

from ixflow import ConfigContext, PipedagConfig, create_basic_pipedag_config
from ixflow.errors import ConfigError, ValidationError
from ixflow.pipeline import StageCommitTechnique
from ixflow.pipeline.class_names import KNOWN, class_named, types_named
from ixflow.pipeline.config_keys import ARGS
from ixflow.pipeline.config_schema import Place

URL = "postgresql://app:s3cret@db/{instance_id}"

WHOLE = f"""
name: shop
strict_instance_lookup: true
table_store_connections:
  postgres: {{args: {{url: "{URL}", schema_suffix: _pg}}}}
  duck: {{args: {{url: "duckdb:///{{name}}_{{instance_id}}.duckdb"}}}}
blob_store_connections:
  disk: {{args: {{base_path: /blobs}}}}
technical_setups:
  default:
    fail_fast: true
    blob_store: {{class: FileBlobStore, blob_store_connection: disk}}
    lock_manager: {{class: ZooKeeperLockManager, args: {{hosts: "localhost:2181"}}}}
    orchestration: {{class: pydiverse.pipedag.engine.DaskEngine, args: {{num_workers: 2}}}}
instances:
  __any__:
    technical_setup: default
    per_user_template: "{{id}}-of-{{username}}"
    attrs: {{limit: 10, tags: [a, b], deep: {{x: 1}}}}
    table_store:
      class: pydiverse.pipedag.backend.table.SQLTableStore
      table_store_connection: postgres
      hook_args: {{pandas: {{dtype_backend: arrow}}}}
      local_table_cache:
        class: ParquetTableCache
        store_output: true
        args: {{base_path: /cache}}
  full: {{instance_id: shop_full}}
  mini:
    instance_id: shop_mini
    kroki_url: null
    attrs: {{limit: 1, tags: [c], deep: {{y: 2}}}}
    table_store: {{table_store_connection: duck}}
flows:
  __any__: {{stage_commit_technique: read_views}}
  nightly:
    fail_fast: false
    instances:
      full: {{attrs: {{limit: null}}, cache_validation: {{mode: force_cache_invalid}}}}
      only_nightly: {{instance_id: night}}
"""


@pytest.fixture
def whole(tmp_path) -> PipedagConfig:
    """Give a file with something of everything."""
    path = tmp_path / "pipedag.yaml"
    path.write_text(WHOLE, encoding="utf-8")
    return PipedagConfig(path)


def minimal(**more: Any) -> dict[str, Any]:
    store = {"class": "SQLTableStore", "args": {"url": "duckdb:///w.duckdb"}}
    return {"instances": {"__any__": {"table_store": store, **more}}}


def args_of(config: ConfigContext) -> dict[str, Any]:
    return dict(config.config_dict["table_store"]["args"])


def test_an_instance_inherits_from_any(whole):
    config = whole.get("full")
    assert (config.pipedag_name, config.flow_name, config.instance_name) == ("shop", None, "full")
    assert config.instance_id == "shop_full"
    assert config.fail_fast
    assert config.attrs.deep.x == 1
    assert config.table_hook_args.pandas.dtype_backend == "arrow"
    assert config.stage_commit_technique is StageCommitTechnique.READ_VIEWS
    assert config.kroki_url == "https://kroki.io"
    assert (config.network_interface, config.strict_result_get_locking) == ("127.0.0.1", True)
    url = "postgresql://app:s3cret@db/shop_full"
    assert args_of(config) == {"url": url, "schema_suffix": "_pg"}


def test_mappings_are_merged_and_all_else_is_replaced(whole):
    config = whole.get("mini")
    assert config.attrs == {"limit": 1, "tags": ("c",), "deep": {"x": 1, "y": 2}}
    assert config.kroki_url is None
    # The connection of __any__ is not taken away, the one of mini is laid over it.
    assert args_of(config) == {"url": "duckdb:///shop_shop_mini.duckdb", "schema_suffix": "_pg"}


def test_a_flow_and_its_instances_have_the_last_word(whole):
    config = whole.get("full", "nightly")
    assert not config.fail_fast
    assert config.force_task_execution
    assert "limit" not in config.attrs
    assert whole.get("full", "another").fail_fast


def test_an_instance_that_no_section_mentions_is_refused(whole):
    assert whole.get("only_nightly", "nightly").instance_id == "night"
    with pytest.raises(ConfigError, match=r"no instance 'ful' .did you mean 'full'") as raised:
        whole.get("ful")
    assert raised.value.allowed == ["__any__", "full", "mini", "only_nightly"]
    free = PipedagConfig({**minimal(), "strict_instance_lookup": False})
    assert free.get("whatever").instance_name == "whatever"


def test_per_user_gives_each_user_an_instance_of_their_own(whole, monkeypatch):
    monkeypatch.setenv("LOGNAME", "ada")
    config = whole.get("full", per_user=True)
    assert config.instance_id == "shop_full-of-ada"
    assert args_of(config)["url"].endswith("/shop_full-of-ada")


def test_the_environment_and_a_file_fill_in_the_url(tmp_path, monkeypatch):
    monkeypatch.setenv("DB_HOST", "db.example")
    monkeypatch.setenv("SECRETS", "secrets_{instance_id}.yaml")
    (tmp_path / "secrets_one.yaml").write_text("password: 0123\nuser: app_{name}")
    args = {
        "url": "postgresql://{user}:{password:quote}@{$DB_HOST}/{instance_id}",
        "url_attrs_file": "{$SECRETS}",
        "schema_prefix": "{instance_id}_",
        "schema_suffix": "_{username}",
    }
    monkeypatch.setenv("LOGNAME", "ada")
    section = {"instance_id": "one", "table_store": {"class": "SQLTableStore", "args": args}}
    path = tmp_path / "pipedag.yaml"
    import json

    path.write_text(json.dumps({"name": "shop", "instances": {"__any__": section}}))
    found = args_of(PipedagConfig(path).get())
    url = "postgresql://app_shop:0123@db.example/one"
    assert found == {"url": url, "schema_prefix": "one_", "schema_suffix": "_ada"}


def test_a_block_that_is_named_wins_over_the_section_and_the_log_says_so(caplog):
    said = minimal(technical_setup="default", fail_fast=True, attrs={"a": 1, "b": 2})
    said["technical_setups"] = {"default": {"fail_fast": False, "attrs": {"a": 3}}}
    with caplog.at_level(logging.WARNING, "ixflow.pipeline"):
        config = PipedagConfig(said).get()
    assert not config.fail_fast
    assert config.attrs == {"a": 3, "b": 2}
    assert {record.message.split(": ")[1].split(" ")[0] for record in caplog.records} == {
        "instances.__any__.fail_fast",
        "instances.__any__.attrs.a",
    }


WRONG = [
    ({"instancs": {}}, "instancs is an unknown key .did you mean 'instances'"),
    (minimal(fail_fats=True), "instances.__any__.fail_fats is an unknown key"),
    (minimal(fail_fast="yes"), "__any__.fail_fast is 'yes'; it must be true or false"),
    (minimal(instance_id=2026), "instance_id is 2026 .int.; it must be a text"),
    (minimal(max_workers=0), "max_workers is 0 .int.; it must be a whole number, at least 1"),
    (minimal(max_workers=True), "max_workers is True"),
    (minimal(auto_table="pandas.DataFrame"), "auto_table is 'pandas.DataFrame'; it must be a list"),
    (minimal(stage_commit_technique="SWAP"), "must be one of SCHEMA_SWAP, READ_VIEWS"),
    (minimal(cache_validation={"mode": "x"}), "must be one of NORMAL, FORCE_CACHE_INVALID"),
    (minimal(table_store={"metadata_table_store": {}}), "does not have yet"),
    (minimal(table_store={"hook_args": {"pandas": {"dtype_backend": 1}}}), "numpy, arrow"),
    (
        minimal(table_store={"hook_args": {"sql": {"cleanup_annotation_action_on_success": True}}}),
        "hook_args.sql sets how annotations are checked, which ixflow does not do",
    ),
    (minimal(table_store={"hook_args": {"dask": {}}}), "dask is an unknown key"),
    (minimal(visualization={"default": {"style": {}}}), "did you mean 'styles'"),
    ({"instances": {1: {}}}, "instances has the name 1, which is no text"),
    ({"instances": []}, "instances is a list; it must be a mapping"),
    ({"flows": {"f": {"instances": {"full": {"atrs": {}}}}}}, "flows.f.instances.full.atrs"),
    ({"technical_setups": {"a": {"technical_setup": "b"}}}, "technical_setups.a.technical_setup"),
]


@pytest.mark.parametrize(("said", "error"), WRONG)
def test_a_wrong_key_or_value_is_named_when_the_file_is_read(said, error):
    with pytest.raises(ConfigError, match=error):
        PipedagConfig(said)


WRONG_TOGETHER = [
    (minimal(technical_setup="x"), "technical_setup is 'x', but technical_setups has only: none"),
    (minimal(table_store={"table_store_connection": "pg"}), "but table_store_connections has only"),
    (minimal(table_store={}), "instances.__any__.table_store.class is missing"),
    ({"instances": {}}, "table_store is missing"),
    (minimal(table_store={"class": "SQLTableStore"}), "table_store.args.url is missing"),
    (minimal(blob_store={"class": "FileBlobStor"}), "did you mean 'FileBlobStore'"),
    (minimal(blob_store={"class": "SQLTableStore"}), "allowed are FileBlobStore, NoBlobStore"),
    (
        minimal(blob_store={"class": "FileBlobStore", "args": {"path": "x"}}),
        "instances.__any__.blob_store.args.path is an unknown key .did you mean 'base_path'",
    ),
    (
        {**minimal(), "flows": {"__any__": {"table_store": {"args": {"schema_prefix": 1}}}}},
        "flows.__any__.table_store.args.schema_prefix is 1",
    ),
    (
        {**minimal(attrs={"a": 1}), "flows": {"__any__": {"attrs": {"a": {"b": 1}}}}},
        "flows.__any__.attrs.a is a mapping, but what it would replace is a number",
    ),
    (
        minimal(table_store={"class": "SQLTableStore", "args": {"url": "duckdb:///{nme}"}}),
        "table_store.args.url has the placeholder {nme}.*did you mean 'name'",
    ),
]


@pytest.mark.parametrize(("said", "error"), WRONG_TOGETHER)
def test_what_does_not_go_together_is_named_with_its_place(said, error):
    config = PipedagConfig(said)
    with pytest.raises(ConfigError, match=error):
        config.get()


def test_a_wrong_value_that_may_be_a_password_is_not_shown():
    for said in (
        minimal(fail_fast="postgresql://u:s3cret@h/x"),
        minimal(table_store={"class": {"password": "s3cret"}}),
        minimal(auto_table=[{"password": "s3cret"}]),
    ):
        with pytest.raises(ConfigError) as raised:
            PipedagConfig(said)
        assert "s3cret" not in str(raised.value)


def test_nothing_that_is_printed_shows_a_password(whole):
    config = whole.get("full")
    for thing in (whole, whole.raw_config, config, config.config_dict, config.backends.place):
        assert "s3cret" not in repr(thing)
    assert "s3cret" in str(args_of(config))


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("SQLTableStore", "SQLTableStore"),
        ("ixflow.SQLTableStore", "SQLTableStore"),
        ("ixflow.store.sql_store.SQLTableStore", "SQLTableStore"),
        ("pydiverse.pipedag.backend.table.SQLTableStore", "SQLTableStore"),
        ("pydiverse.pipedag.backend.table.sql.dialects.DuckDBTableStore", "DuckDBTableStore"),
    ],
)
def test_a_class_has_a_short_name_our_path_and_the_path_of_the_original(name, short):
    found = class_named("table_store", name, Place("f"))
    assert (found.short, found.path, found.known) == (short, f"ixflow.{short}", True)


def test_every_known_class_has_its_arguments_described():
    assert {name for kind in KNOWN.values() for name in kind} == set(ARGS)


def test_types_may_be_named_by_any_path(caplog):
    names = ["pandas.DataFrame", "not_there.Frame", "pydiverse.pipedag.Stage"]
    with caplog.at_level(logging.WARNING, "ixflow.pipeline"):
        found = types_named(names, Place("f") / "auto_table")
    assert [kind.__name__ for kind in found] == ["DataFrame", "Stage"]
    assert "auto_table.1 names not_there.Frame, which is not installed" in caplog.text
    with pytest.raises(ConfigError, match=r"auto_table.0 names .*no DataFram"):
        types_named(["pandas.DataFram"], Place("f") / "auto_table")
    with pytest.raises(ConfigError, match="which is no type"):
        types_named(["pandas.concat"], Place("f"))


def test_a_configuration_of_one_call_has_the_options_of_the_original(tmp_path):
    config = create_basic_pipedag_config(
        "duckdb:///{instance_id}.duckdb",
        tmp_path,
        name="n",
        instance_id="one",
        kroki_url="https://kroki.example",
        auto_table=[pd.DataFrame],
        fail_fast=False,
        file_locking_directory=tmp_path,
        schema_prefix="x_",
    ).get("default")
    assert (config.pipedag_name, config.instance_name, config.instance_id) == (
        "n",
        "default",
        "one",
    )
    assert (config.kroki_url, config.fail_fast) == ("https://kroki.example", False)
    assert config.auto_table == (pd.DataFrame,)
    assert args_of(config) == {"url": "duckdb:///one.duckdb", "schema_prefix": "x_"}
    assert config.config_dict["blob_store"]["args"] == {"base_path": str(tmp_path)}
    assert config.config_dict["lock_manager"]["class"] == "FileLockManager"
    unlocked = create_basic_pipedag_config("duckdb://", disable_stage_locking=True).get()
    assert unlocked.config_dict["lock_manager"] == {"class": "NoLockManager"}
    with pytest.raises(ValidationError, match="exclude each other"):
        create_basic_pipedag_config(
            "duckdb://", disable_stage_locking=True, file_locking_directory=tmp_path
        )
    with pytest.raises(ConfigError, match=r"args.schema_prefx is an unknown key"):
        create_basic_pipedag_config("duckdb://", schema_prefx="x").get()


def test_a_url_object_is_taken_as_it_is():
    import sqlalchemy as sa

    url = sa.URL.create("postgresql", "app", "a{name}}@/:%", "db", database="x")
    config = create_basic_pipedag_config(url).get()
    assert sa.make_url(args_of(config)["url"]) == url


@pytest.mark.parametrize(
    ("url", "locks"),
    [
        ("postgresql+psycopg://{$USER}@host:{$PORT}/{name}", {"class": "DatabaseLockManager"}),
        ("postgresql://host/db", {"class": "DatabaseLockManager"}),
        ("duckdb:///w.duckdb", None),
    ],
)
def test_a_configuration_of_one_call_locks_where_the_database_can(url, locks, monkeypatch):
    monkeypatch.setenv("USER", "app")
    monkeypatch.setenv("PORT", "5432")
    assert create_basic_pipedag_config(url).get().config_dict.get("lock_manager") == locks
    free = create_basic_pipedag_config(url, disable_stage_locking=True).get()
    assert free.config_dict["lock_manager"] == {"class": "NoLockManager"}
