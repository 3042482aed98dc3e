"""`create_basic_pipedag_config`: a configuration in one call, without a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from ixflow.errors import ValidationError
from ixflow.pipeline.config_merge import ANY
from ixflow.pipeline.pipedag_config import PipedagConfig

__all__ = ["create_basic_pipedag_config"]


def create_basic_pipedag_config(
    engine_url: str | sa.URL,
    blob_directory: str | Path | None = None,
    *,
    name: str = "pipedag",
    instance_id: str = "pipeline",
    network_interface: str = "127.0.0.1",
    kroki_url: str | None = None,
    auto_table: Sequence[str | type] | None = None,
    fail_fast: bool = True,
    disable_stage_locking: bool = False,
    file_locking_directory: str | Path | None = None,
    max_workers: int = 4,
    **store_options: Any,
) -> PipedagConfig:
    """Make a configuration for a database URL; other options go to `SQLTableStore`.

    It can be used as it is, ``with create_basic_pipedag_config(url): flow.run()``, given to
    ``flow.run(config=...)``, or asked for its instance "default". A URL as a text may hold
    placeholders; a brace in it is doubled. ``auto_table`` are the types that tasks may return
    without Table(...), usually all that can be stored.

    On PostgreSQL runs lock the stages that they publish (`DatabaseLockManager`), elsewhere only
    with a ``file_locking_directory``; ``disable_stage_locking`` says that none do. With locks,
    `Result.get` is called within a `StageLockContext`.

    Raises:
        ConfigError: an option is not known or has a wrong value.

    >>> config = create_basic_pipedag_config("duckdb:////tmp/w.duckdb", schema_prefix="dw_")
    >>> config.get("default").table_store.schema("staging")
    'dw_staging'
    """
    if isinstance(engine_url, sa.URL):
        text = engine_url.render_as_string(hide_password=False)
        engine_url = text.replace("{", "{{").replace("}", "}}")
    if disable_stage_locking and file_locking_directory is not None:
        msg = "disable_stage_locking and file_locking_directory exclude each other"
        raise ValidationError(msg)
    section: dict[str, Any] = {
        "instance_id": instance_id,
        "network_interface": network_interface,
        "kroki_url": kroki_url,
        "fail_fast": fail_fast,
        "max_workers": max_workers,
        "table_store": {"class": "SQLTableStore", "args": {"url": engine_url, **store_options}},
    }
    if auto_table is not None:
        section["auto_table"] = [_path_of(one) for one in auto_table]
    if blob_directory is not None:
        args = {"base_path": str(blob_directory)}
        section["blob_store"] = {"class": "FileBlobStore", "args": args}
    if disable_stage_locking:
        section["lock_manager"] = {"class": "NoLockManager"}
    elif file_locking_directory is not None:
        args = {"base_path": str(file_locking_directory)}
        section["lock_manager"] = {"class": "FileLockManager", "args": args}
    elif engine_url.partition(":")[0].partition("+")[0] == "postgresql":
        section["lock_manager"] = {"class": "DatabaseLockManager"}
    return PipedagConfig({"name": name, "instances": {ANY: section, "default": {}}})


def _path_of(type_: str | type) -> str:
    return type_ if isinstance(type_, str) else f"{type_.__module__}.{type_.__qualname__}"
