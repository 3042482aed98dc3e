"""Definitions load without any database: every way to connect raises while they do."""

import socket
import warnings
from collections.abc import Iterator
from typing import Any

import dagster as dg
import polars as pl
import pytest
import sqlalchemy as sa
import yaml
from dagster.components.testing import create_defs_folder_sandbox

import ixflow as ix
import ixflow.dagster as ixd

DRIVERS = (
    ("psycopg.Connection", "connect"),
    ("psycopg", "connect"),
    ("psycopg2", "connect"),
    ("adbc_driver_postgresql.dbapi", "connect"),
    ("pymysql", "connect"),
    ("pymysql.connections.Connection", "connect"),
    ("mssql_python", "connect"),
    ("sqlite3", "connect"),
    ("duckdb", "connect"),
)
SOURCES = {
    "postgresql": {"host": "db.example", "database": "shop", "user": "reader", "password": "x"},
    "mysql": {"host": "db.example", "database": "shop", "user": "reader", "password": "x"},
    "sqlserver": {"host": "db.example", "database": "shop", "user": "reader", "password": "x"},
    "sqlite": {"database": "/nowhere/shop.sqlite"},
    "duckdb": {"database": "/nowhere/shop.duckdb"},
}
URLS = ("duckdb:////nowhere/w.duckdb", "postgresql+psycopg://app:x@db.example/w")
DAYS = dg.DailyPartitionsDefinition(start_date="2026-01-01")
DECLARED = sa.MetaData()
EVENTS = sa.Table("events", DECLARED, sa.Column("id", sa.Integer, primary_key=True), schema="raw")


class Contacted(BaseException):
    """A database was contacted; no handler of errors takes it for one of its own."""


@pytest.fixture
def unreachable(monkeypatch) -> None:
    """Make every driver and engine raise instead of connecting."""

    def refuse(*_: object, **__: object) -> None:
        raise Contacted

    for owner, name in DRIVERS:
        monkeypatch.setattr(f"{owner}.{name}", refuse)
    for name in ("connect", "raw_connection", "begin"):
        monkeypatch.setattr(sa.engine.Engine, name, refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


def table(kind: str, name: str = "orders", **options: Any) -> ix.ExtractionIntent:
    return ix.ExtractionIntent(kind, SOURCES[kind], name, "/nowhere/extracted", **options)


@ix.materialize
def numbers() -> ix.Table[Any]:
    """One number."""
    return ix.Table(sa.select(sa.literal(1).label("n")))


@ix.materialize(input_type=pl.DataFrame)
def doubled(numbers: pl.DataFrame) -> ix.Table[Any]:
    """Twice the number."""
    return ix.Table(numbers * 2)


with ix.Flow("loading") as FLOW:
    with ix.Stage("staging") as STAGING:
        made = numbers()
    with ix.Stage("mart"):
        doubled(made)


@ix.audit(STAGING)
def has_numbers(numbers: pl.DataFrame) -> bool:
    """Judge."""
    return numbers.height > 0


def of_a_source(kind: str) -> Iterator[Any]:
    """Give an asset of every kind that reads a database."""
    orders, items = table(kind), table(kind, "items")
    yield ixd.extraction_asset(orders, check=ixd.plan_check(), retry_policy=dg.RetryPolicy())
    parted = table(kind, "visits")
    days: dict[str, Any] = {"partitions_def": DAYS, "partition_by": "at"}
    yield ixd.extraction_asset(parted, **days)
    yield ixd.ingest_extraction(parted, **days)
    yield ixd.build_extraction_assets([items, table(kind, "lines")], name="several")
    yield ixd.watermark_source([orders, items], cursor="id")
    yield ixd.source_asset(parted)
    yield ixd.ingest_extraction(orders, cursor="id", automation_condition=ixd.on_change())


def nothing() -> pl.DataFrame:
    """Give no rows."""
    return pl.DataFrame()


def of_the_warehouse() -> Iterator[Any]:
    """Give an ingest, and assets of each IO manager."""

    @ixd.ingest_asset(metadata=DECLARED, on_before_visible=[ix.RowCheck("positive", "id > 0")])
    def events(high_watermark: Any) -> Iterator[Any]:
        yield high_watermark, None, []

    yield events
    into: dict[str, Any] = {"io_manager_key": "ingest", "metadata": ixd.ingest_into(EVENTS)}
    for name, options in (("table", {}), ("ingested", into), ("file", {"io_manager_key": "files"})):
        yield dg.asset(name=name, key_prefix="plain", **options)(nothing)


def checks_and_sensors(orders: ix.ExtractionIntent) -> dict[str, Any]:
    raw = dg.AssetKey(["raw", "orders"])
    return {
        "asset_checks": [
            ixd.reconcile(source=orders, target="raw.orders", cursor="id"),
            ixd.row_count_drift(raw, at_most="20%"),
            ixd.schema_contract(raw, {"id": "bigint"}),
        ],
        "sensors": [
            ixd.collect_garbage_sensor(),
            ixd.high_watermark_sensor(name="new", intent=orders, cursor="id"),
        ],
    }


@pytest.mark.usefixtures("unreachable")
@pytest.mark.parametrize("execution", ["stage", "graph"])
@pytest.mark.parametrize("url", URLS, ids=["duckdb", "postgres"])
@pytest.mark.parametrize("kind", SOURCES)
def test_no_database_is_contacted_while_definitions_load(kind, url, execution):
    store = ixd.SQLTableStoreResource(url=url, keep_versions=2)
    flow = FLOW.to_definitions(
        table_store=store, publish="manual", io_manager_key="io_manager", execution=execution
    )
    resources = {
        "planner": ixd.PlannerResource(),
        "io_manager": ixd.SQLTableStoreIOManager(store=store),
        "ingest": ixd.HighWatermarkIOManager(store=store),
        "files": ixd.ParquetIOManager(base_dir="/nowhere/files"),
    }
    loaded = dg.Definitions.merge(
        flow,
        dg.Definitions(
            assets=[*of_a_source(kind), *of_the_warehouse()],
            resources=resources,
            **checks_and_sensors(table(kind)),
        ),
    )
    dg.Definitions.validate_loadable(loaded)
    repository = loaded.get_repository_def()
    keys = {key.to_user_string() for key in repository.asset_graph.get_all_asset_keys()}
    assert {"extracted/orders", "raw/events", "raw/visits", "staging/numbers"} <= keys
    assert {"plain/file", "mart/doubled", "extracted/lines"} <= keys
    assert {job.name for job in repository.get_all_jobs()} >= {"approve_mart", "rollback_mart"}


@pytest.mark.usefixtures("unreachable")
@pytest.mark.filterwarnings("ignore:`parse_obj_as` is deprecated")
@pytest.mark.filterwarnings("ignore:Class `(LocalFileCodeReference|CodeReferencesMetadataValue)`")
def test_no_database_is_contacted_while_components_load(monkeypatch):
    monkeypatch.setenv("WAREHOUSE_OF_TEST", URLS[1])
    source = {"type": "postgresql", "config": SOURCES["postgresql"]}
    given = {
        "Extraction": {"source": source, "output_dir": "/nowhere", "tables": [{"name": "orders"}]},
        "Ingest": {"extraction": "Extraction", "cursor": "id"},
        "Flow": {"flow": f"{__name__}:FLOW"},
        "TableStore": {"url": "{{ env.WAREHOUSE_OF_TEST }}", "io_manager_key": "io_manager"},
    }
    with create_defs_folder_sandbox() as sandbox:
        for name, attributes in given.items():
            folder = sandbox.defs_folder_path / name
            folder.mkdir()
            told = {"type": f"ixflow.dagster.{name}Component", "attributes": attributes}
            (folder / "defs.yaml").write_text(yaml.safe_dump(told))
        with sandbox.build_all_defs() as loaded:
            keys = {spec.key.to_user_string() for spec in loaded.resolve_all_asset_specs()}
    assert {"extracted/orders", "raw/orders", "mart/doubled"} <= keys


@pytest.mark.usefixtures("unreachable")
@pytest.mark.parametrize("kind", SOURCES)
def test_a_plan_would_have_been_noticed(kind, tmp_path, monkeypatch):
    if "host" not in SOURCES[kind]:
        (tmp_path / "shop").touch()
        monkeypatch.setitem(SOURCES, kind, {"database": str(tmp_path / "shop")})
    with pytest.raises(Contacted):
        ix.plan(table(kind))


def test_assets_are_defined_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert all(ixd.extraction_asset(table("sqlite", name)).keys for name in ("a", "b"))
