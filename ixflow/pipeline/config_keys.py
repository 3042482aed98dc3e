"""The keys of a configuration file: what each section may hold, and the defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ixflow.pipeline.config_schema import (
    ANYTHING,
    FLAG,
    MAPPING,
    PATH,
    SECONDS,
    TEXT,
    Choice,
    Each,
    Keys,
    ListOf,
    Node,
    Number,
)

__all__ = ["ARGS", "DEFAULTS", "FILE"]

DEFAULTS: Mapping[str, Any] = {
    "instance_id": "pipeline",
    "stage_commit_technique": "SCHEMA_SWAP",
    "per_user_template": "{id}_{username}",
    "network_interface": "127.0.0.1",
    "kroki_url": "https://kroki.io",
    "auto_blob": [],
    "fail_fast": False,
    "strict_result_get_locking": True,
    "ignore_task_version": False,
    "max_workers": 4,
    "attrs": {},
    "visualization": {},
}

_LATER = "is something that ixflow does not have yet; remove it"

_CHECKS = "sets how annotations are checked, which ixflow does not do; audit the stage instead"

_COLOURS = ("always", "any_failure", "none_cache_valid", "any_cache_valid")
_STYLE = Keys(
    {
        **dict.fromkeys(("hide_box", "hide_content", "hide_label"), FLAG),
        **{f"box_color_{when}": TEXT for when in (*_COLOURS, "all_cache_valid", "all_skipped")},
    }
)
_GROUP = Keys({"label": TEXT, "style_tag": TEXT, "tasks": ListOf(TEXT), "stages": ListOf(TEXT)})

_CLASS = Keys({"class": TEXT, "args": MAPPING})

_LOCAL_CACHE = _CLASS.plus(
    **dict.fromkeys(("store_input", "store_output", "use_stored_input_as_cache"), FLAG)
)

_TABLE_STORE = Keys(
    {
        **_CLASS.known,
        "hook_args": Keys(
            {"pandas": Keys({"dtype_backend": Choice(("numpy", "arrow"))})},
            dict.fromkeys(("polars", "sql"), _CHECKS),
        ),
        "local_table_cache": _LOCAL_CACHE,
    },
    {"metadata_table_store": _LATER},
)

_CACHE_VALIDATION = Keys(
    {
        "mode": Choice(("NORMAL", "FORCE_CACHE_INVALID")),
        "disable_cache_function": FLAG,
        "ignore_task_version": FLAG,
    }
)

_SETUP = Keys(
    {
        "instance_id": TEXT,
        "stage_commit_technique": Choice(("SCHEMA_SWAP", "READ_VIEWS")),
        "per_user_template": TEXT,
        "network_interface": TEXT,
        "disable_kroki": FLAG,
        "kroki_url": TEXT,
        "auto_table": ListOf(TEXT),
        "auto_blob": ListOf(TEXT),
        "fail_fast": FLAG,
        "strict_result_get_locking": FLAG,
        "ignore_task_version": FLAG,
        "cache_validation": _CACHE_VALIDATION,
        "max_workers": Number(1),
        "attrs": MAPPING,
        "table_store": _TABLE_STORE.plus(table_store_connection=TEXT),
        "blob_store": _CLASS.plus(blob_store_connection=TEXT),
        "lock_manager": _CLASS,
        "orchestration": _CLASS,
        "visualization": Each(Keys({"styles": Each(_STYLE), "group_nodes": Each(_GROUP)})),
    }
)
_SECTION = _SETUP.plus(technical_setup=TEXT)

FILE = Keys(
    {
        "name": TEXT,
        "strict_instance_lookup": FLAG,
        "table_store_connections": Each(_TABLE_STORE, empty=True),
        "blob_store_connections": Each(_CLASS, empty=True),
        "technical_setups": Each(_SETUP, empty=True),
        "instances": Each(_SECTION, empty=True),
        "flows": Each(_SECTION.plus(instances=Each(_SECTION, empty=True)), empty=True),
    }
)

_SQL_STORE = Keys(
    {
        "url": TEXT,
        "url_attrs_file": TEXT,
        "create_database_if_not_exists": FLAG,
        "schema_prefix": TEXT,
        "schema_suffix": TEXT,
        "avoid_drop_create_schema": FLAG,
        "print_materialize": FLAG,
        "print_sql": FLAG,
        "no_db_locking": FLAG,
        "strict_materialization_details": FLAG,
        "materialization_details": Each(MAPPING, empty=True),
        "default_materialization_details": TEXT,
        "metadata_schema": TEXT,
        "gc_after": SECONDS,
        "keep_versions": Number(0),
    }
)
_BASE_PATH = Keys({"base_path": PATH})
_NO_ARGS = Keys({})

# The arguments of ixflow's own classes; those that are not here pass theirs on to a library.
ARGS: Mapping[str, Node] = {
    "SQLTableStore": _SQL_STORE,
    "PostgresTableStore": _SQL_STORE,
    "DuckDBTableStore": _SQL_STORE,
    "IBMDB2TableStore": _SQL_STORE,
    "MSSqlTableStore": _SQL_STORE.plus(
        disable_pytsql=FLAG, pytsql_isolate_top_level_statements=FLAG
    ),
    "ParquetTableCache": _BASE_PATH,
    "FileBlobStore": _BASE_PATH,
    "NoBlobStore": _NO_ARGS,
    "DatabaseLockManager": Keys(
        {"lock_schema": TEXT, "create_lock_schema": FLAG, "lock_timeout": SECONDS}
    ),
    "FileLockManager": _BASE_PATH.plus(lock_timeout=SECONDS),
    "NoLockManager": _NO_ARGS,
    "SequentialEngine": _NO_ARGS,
    "ThreadedEngine": Keys({"max_workers": Number(1)}),
    "PrefectEngine": Keys({"flow_kwargs": MAPPING}),
    "PrefectOneEngine": Keys({"flow_kwargs": MAPPING}),
    "PrefectTwoEngine": Keys({"flow_kwargs": MAPPING}),
    "ZooKeeperLockManager": ANYTHING,
    "DaskEngine": ANYTHING,
}
