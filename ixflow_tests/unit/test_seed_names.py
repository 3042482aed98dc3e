"""Every public name of the original is importable from `ixflow`, and from the same place below."""

from __future__ import annotations

import importlib

import pytest

import ixflow
from ixflow import (
    DuckDBTableStore,
    IBMDB2TableStore,
    MSSqlTableStore,
    PipedagConfig,
    PostgresTableStore,
    SQLTableStore,
)
from ixflow.errors import ConfigError, UnsupportedDatabase, ValidationError

TOP = [
    "Flow",
    "Stage",
    "materialize",
    "AUTO_VERSION",
    "Table",
    "RawSql",
    "Blob",
    "Result",
    "PipedagConfig",
    "ConfigContext",
    "StageLockContext",
    "PrefectEngine",
    "StageCommitTechnique",
    "create_basic_pipedag_config",
]
PLACES = {
    "backend.table": ["SQLTableStore"],
    "backend.table.sql": ["ExternalTableReference"],
    "backend.table.sql.dialects": [
        "PostgresTableStore",
        "DuckDBTableStore",
        "MSSqlTableStore",
        "IBMDB2TableStore",
    ],
    "backend.table.cache": ["ParquetTableCache"],
    "backend.blob": ["FileBlobStore"],
    "backend.lock": [
        "DatabaseLockManager",
        "ZooKeeperLockManager",
        "FileLockManager",
        "NoLockManager",
    ],
    "engine": ["SequentialEngine", "DaskEngine", "PrefectOneEngine", "PrefectTwoEngine"],
    "engine.prefect": ["PrefectEngine", "PrefectOneEngine", "PrefectTwoEngine"],
    "context": ["ConfigContext", "StageCommitTechnique", "StageLockContext"],
    "core": ["Flow", "Result", "Stage"],
    "core.config": ["PipedagConfig", "create_basic_pipedag_config"],
}


@pytest.mark.parametrize("name", [*TOP, *(name for names in PLACES.values() for name in names)])
def test_every_public_name_of_the_original_is_there(name):
    assert name in ixflow.__all__
    assert getattr(ixflow, name).__doc__


@pytest.mark.parametrize("place", PLACES)
def test_the_paths_of_the_original_are_there_below_ixflow(place):
    module = importlib.import_module(f"ixflow.{place}")
    for name in PLACES[place]:
        assert name in module.__all__
        assert getattr(module, name) is getattr(ixflow, name)


def test_a_store_for_one_database_takes_that_one_only():
    for kind, own, other in (
        (PostgresTableStore, "postgresql+psycopg://db/w", "duckdb:///w.duckdb"),
        (DuckDBTableStore, "duckdb:///w.duckdb", "postgresql+psycopg://db/w"),
    ):
        assert isinstance(kind(own, schema_prefix="p_"), SQLTableStore)
        with pytest.raises(ValidationError, match=f"{kind.__name__} is for .* SQLTableStore takes"):
            kind(other)


@pytest.mark.parametrize("kind", [MSSqlTableStore, IBMDB2TableStore])
def test_stores_that_come_later_say_so(kind):
    with pytest.raises(UnsupportedDatabase, match="comes later"):
        kind("mssql+pyodbc://db/w", disable_pytsql=True)
    section = {"table_store": {"class": kind.__name__, "args": {"url": "mssql+pyodbc://db/w"}}}
    config = PipedagConfig({"instances": {"__any__": section}}).get()
    with pytest.raises(ConfigError, match="comes later"):
        _ = config.table_store
