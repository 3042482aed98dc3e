"""What assets tell beside the standard keys: where they are defined, whose they are, numbers."""

import datetime as dt
import inspect
import json
import logging
import time
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree as ET

import dagster as dg
import polars as pl
import pytest
import sqlalchemy as sa
from dagster.components.testing import create_defs_folder_sandbox

import ixflow.dagster as ixd
from ixflow.dagster.diff_picture import stage_diff
from ixflow.dagster.metadata import lag_metadata
from ixflow.dagster.timeline import Bar, Recorder, timeline
from ixflow.events import ChunkExtracted, TaskFinished
from ixflow.extraction.intent import ExtractionIntent
from ixflow.pipeline import Flow, Stage, Table, materialize
from ixflow.store.diff import TableDiff
from ixflow_tests.dagster.seen import made, value
from ixflow_tests.dagster.shop import Shop

PASSWORD = "s3cr3t-0f-the-warehouse"


def where(asset: Any, key: str) -> tuple[str, int]:
    """Give file and line that an asset's definition leads to."""
    [found] = [spec for spec in asset.specs if spec.key.to_user_string() == key]
    value: Any = found.metadata["dagster/code_references"]
    [one] = value.code_references
    return Path(one.file_path).name, one.line_number


def markdown(made: dg.MetadataValue[Any]) -> str:
    """Give the text of a value."""
    return str(made.value)


def line_of(fn: Any) -> int:
    return inspect.getsourcelines(fn)[1]


def intent_of(tmp_path: Path) -> ExtractionIntent:
    return ExtractionIntent("sqlite", {"database": str(tmp_path / "shop.db")}, "orders")


# -- code references --------------------------------------------------------------------------


def test_a_table_of_a_stage_leads_to_the_function_of_its_task():
    @materialize
    def numbers() -> Table[Any]:
        return Table(pl.DataFrame({"x": [1]}))

    with Flow("f") as flow, Stage("st") as stage:
        numbers()
    found = where(ixd.stage_assets(stage), "st/numbers")
    assert found == ("test_metadata_extras.py", line_of(flow["st"]["numbers"].fn))


def test_an_extraction_leads_to_the_line_that_makes_it(tmp_path):
    asset = ixd.extraction_asset(intent_of(tmp_path))
    line = line_of(test_an_extraction_leads_to_the_line_that_makes_it) + 1
    assert where(asset, "extracted/orders") == ("test_metadata_extras.py", line)


def test_an_ingest_leads_to_its_batches_function():
    metadata = sa.MetaData()
    sa.Table("orders", metadata, sa.Column("id", sa.Integer, primary_key=True), schema="raw")

    def raw_orders(high_watermark: Any) -> Any:
        yield 1, None, []

    asset = ixd.ingest_asset(metadata=metadata)(raw_orders)
    assert where(asset, "raw/orders") == ("test_metadata_extras.py", line_of(raw_orders))


FLOW = Flow("of_a_component")


@materialize
def one_number() -> Table[Any]:
    """One number."""
    return Table(pl.DataFrame({"x": [1]}), name="number")


with FLOW, Stage("mart"):
    one_number()


@pytest.mark.filterwarnings("ignore:`parse_obj_as` is deprecated")
@pytest.mark.filterwarnings("ignore:Class `(LocalFileCodeReference|CodeReferencesMetadataValue)`")
def test_a_component_leads_to_its_yaml_and_to_the_function():
    with create_defs_folder_sandbox() as sandbox:
        flow = {"flow": f"{__name__}:FLOW", "owners": ["team:data"], "publish": "manual"}
        store = {"url": "duckdb:///warehouse.duckdb"}
        for kind, given in {"FlowComponent": flow, "TableStoreComponent": store}.items():
            (sandbox.defs_folder_path / kind).mkdir()
            text = json.dumps({"type": f"ixflow.dagster.{kind}", "attributes": given})
            (sandbox.defs_folder_path / kind / "defs.yaml").write_text(text)
        with sandbox.build_all_defs() as defs:
            [spec] = defs.resolve_all_asset_specs()
            jobs = [job.name for job in defs.jobs or []]
    value: Any = spec.metadata["dagster/code_references"]
    files = [Path(one.file_path).name for one in value.code_references]
    assert files == ["test_metadata_extras.py", "defs.yaml"]
    assert list(spec.owners) == ["team:data"]
    assert "approve_mart" in jobs


# -- whose they are ---------------------------------------------------------------------------


def test_owners_and_tags_are_those_of_every_table():
    assets = Shop().assets(owners=["team:data"], tags={"domain": "shop"})
    for spec in assets[0].specs:
        assert list(spec.owners) == ["team:data"]
        assert spec.tags["domain"] == "shop"


def test_a_task_has_owners_and_tags_of_its_own():
    @materialize(owners=["team:sales"], tags={"tier": "gold"})
    def numbers() -> Table[Any]:
        return Table(pl.DataFrame({"x": [1]}))

    with Flow("f") as flow, Stage("st"):
        numbers()
    [asset] = (
        flow.to_definitions(owners=["team:data"], tags={"tier": "none", "a": "b"}).assets or []
    )
    [spec] = asset.specs
    assert list(spec.owners) == ["team:data", "team:sales"]
    assert {name: spec.tags[name] for name in ("tier", "a")} == {"tier": "gold", "a": "b"}


def test_an_extraction_takes_what_an_asset_takes(tmp_path):
    asset = ixd.extraction_asset(
        intent_of(tmp_path),
        description="mine",
        metadata={"priority": 1},
        kinds={"csv"},
        code_version="7",
    )
    [spec] = asset.specs
    assert (spec.description, spec.code_version) == ("mine", "7")
    assert spec.metadata["priority"] == 1
    assert "ixflow/intent" in spec.metadata
    assert {"csv", "sqlite"} <= spec.kinds


def test_an_ingest_takes_what_an_asset_takes():
    metadata = sa.MetaData()
    sa.Table("orders", metadata, sa.Column("id", sa.Integer, primary_key=True), schema="raw")

    @ixd.ingest_asset(metadata=metadata, code_version="3", description="mine")
    def raw_orders(high_watermark: Any) -> Any:
        yield 1, None, []

    [spec] = raw_orders.specs
    assert (spec.code_version, spec.description) == ("3", "mine")


def test_a_misspelt_argument_is_refused(tmp_path):
    with pytest.raises(TypeError, match="descriptoin"):
        ixd.extraction_asset(intent_of(tmp_path), descriptoin="mine")


# -- numbers over time ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("watermark", "seconds"),
    [
        ("2026-03-01T10:00:00", 300.0),
        ("2026-03-01 10:00:00+00:00", 300.0),
        ("2026-03-01 11:00:00+01", 300.0),
        ("2026-03-01", 36_300.0),
        (dt.date(2026, 3, 1), 36_300.0),
        (dt.datetime(2026, 3, 1, 10, tzinfo=dt.UTC), 300.0),
    ],
)
def test_a_watermark_that_is_a_moment_has_a_lag(watermark, seconds):
    now = dt.datetime(2026, 3, 1, 10, 5, tzinfo=dt.UTC)
    assert lag_metadata(watermark, now) == {"ixflow/lag_seconds": seconds}


@pytest.mark.parametrize("watermark", [None, 42, "42", "20260301", "infinity", "2026-13-01", [1]])
def test_any_other_watermark_has_none(watermark):
    assert lag_metadata(watermark) == {}


def test_an_ingest_by_a_moment_plots_its_lag(fresh_sqlite, duckdb_warehouse, instance):
    with fresh_sqlite.begin() as conn:
        conn.exec_driver_sql("CREATE TABLE o (id integer PRIMARY KEY, at text)")
        conn.exec_driver_sql("INSERT INTO o VALUES (1, '2026-01-01 00:00:00')")
    metadata = sa.MetaData()
    table = sa.Table(
        "o", metadata, sa.Column("id", sa.BigInteger, primary_key=True), sa.Column("at", sa.Text)
    )

    @ixd.ingest_asset(metadata=metadata)
    def ingested(high_watermark: Any) -> Any:
        yield "2026-01-01 00:00:00", None, [(table, (1, "2026-01-01 00:00:00"))]

    resources = {"warehouse": duckdb_warehouse}
    result = dg.materialize([ingested], instance=instance, resources=resources)
    assert value(made(result)["o"], "ixflow/lag_seconds") > 0


def test_the_series_of_a_stage_are_in_every_event(duckdb_warehouse, instance):
    shop = Shop(version="1")
    series = ("ixflow/cache_hits", "ixflow/seconds", "dagster/row_count", "ixflow/rows_more")
    for hits in (0, 1):
        told = made(shop.run(duckdb_warehouse, instance))
        for one in told.values():
            assert value(one, "ixflow/cache_hits") == hits
            assert all(isinstance(value(one, key), (int, float)) for key in series)


# -- pictures ---------------------------------------------------------------------------------


def test_the_diff_of_a_stage_tells_rows_columns_and_types(duckdb_warehouse, instance):
    Shop(version="1").run(duckdb_warehouse, instance)
    shop = Shop(version="2")
    shop._table = lambda name, number: Table(  # type: ignore[method-assign] # other columns
        pl.DataFrame({"x": [str(number)] * 2, "y": [1] * 2})
        if name == "t3"
        else pl.DataFrame({"x": [number]})
    )
    told = made(shop.run(duckdb_warehouse, instance))["st/t3"]
    assert value(told, "ixflow/rows_before") == 1
    assert value(told, "ixflow/rows_more") == 1
    assert value(told, "ixflow/columns_added") == 1
    assert value(told, "ixflow/columns_retyped") == 1
    assert "| type of x | BIGINT to VARCHAR |" in value(told, "ixflow/diff")
    assert value(told, "ixflow/stage_diff").startswith("![diff](<data:image/svg+xml,")
    assert value(told, "ixflow/timeline").startswith("![timeline](<data:image/svg+xml,")


def test_a_stage_of_many_tables_has_its_pictures_once(duckdb_warehouse, instance):
    @materialize(version="1", nout=9, outputs=[f"t{number}" for number in range(9)])
    def many() -> Any:
        return [Table(pl.DataFrame({"x": [1]}), name=f"t{number}") for number in range(9)]

    with Flow("many") as flow, Stage("wide"):
        many()
    assets = list(flow.to_definitions().assets or [])
    resources = {"warehouse": duckdb_warehouse}
    told = made(dg.materialize(assets, instance=instance, resources=resources))
    assert "ixflow/timeline" in told["wide/t0"].metadata
    assert "ixflow/timeline" not in told["wide/t1"].metadata
    assert told["wide/t1"].metadata["ixflow/pictures"].value == dg.AssetKey(["wide", "t0"])


def test_chunks_that_follow_each_other_share_a_worker():
    seen = Recorder()
    for seconds in (0.0, 0.0):
        seen(ChunkExtracted("run", "001", 10, 100, seconds))
    seen(TaskFinished("st", "orders", "completed", 0.0))
    assert [bar.name for bar in seen.bars][:2] == ["001", "001"]
    bars = [Bar("a", 0, 2), Bar("b", 1, 2), Bar("c", 2.5, 1)]
    shown = markdown(timeline(bars, lanes=True))
    assert "worker 1: 2 chunks" in shown
    assert "worker 3" not in shown


@pytest.mark.parametrize("name", ["a<b>&c", "](x)", "tab\tle", "naïve", '"quoted"', "100%", "\\"])
def test_a_picture_shows_any_name_and_stays_one_image(name):
    text = markdown(timeline([Bar(name, 0, 1)]))
    assert text.startswith("![timeline](<data:image/svg+xml,")
    inner = text.removeprefix("![timeline](<data:image/svg+xml,").removesuffix(">)")
    assert not set("<>\n\\&#") & set(inner)
    drawn = ET.fromstring(unquote(inner))  # noqa: S314 - our own text
    shown = "".join(node.text or "" for node in drawn.iter())
    assert "".join(char for char in name if char.isprintable()) in shown


def test_pictures_are_small_and_cheap():
    few = markdown(timeline([Bar(f"task_{number}", number, 1) for number in range(8)]))
    assert len(few) < 1000, "the asset page shows it where it stands"
    many = [Bar(f"a_task_with_a_long_name_{number}", number, 1) for number in range(500)]
    changes = [TableDiff(f"t{number}", "changed", number, 2 * number) for number in range(500)]
    begun = time.process_time()
    shown = [markdown(timeline(many)), markdown(stage_diff(changes))]
    assert time.process_time() - begun < 2
    assert max(map(len, shown)) < 5_000


# -- secrets ----------------------------------------------------------------------------------


def kinds_of_assets(
    engine: sa.Engine, tmp_path: Path
) -> tuple[ixd.SQLTableStoreResource, dg.Definitions]:
    """Define an asset of each kind, all on one database whose URL has a password."""
    with engine.begin() as conn:
        conn.exec_driver_sql("CREATE TABLE orders (id bigint PRIMARY KEY, at timestamptz)")
        conn.exec_driver_sql("INSERT INTO orders VALUES (1, now()), (2, now())")
    url = engine.url.set(username=engine.url.username or "postgres", password=PASSWORD)
    text = url.render_as_string(hide_password=False)
    intent = ExtractionIntent(
        "postgresql", {"connection_string": text}, "public.orders", tmp_path / "out"
    )
    warehouse = ixd.SQLTableStoreResource(url=text)
    metadata = sa.MetaData()
    orders = sa.Table(
        "ingested", metadata, sa.Column("id", sa.BigInteger, primary_key=True), schema="raw"
    )
    plain = sa.Table(
        "plain", sa.MetaData(), sa.Column("id", sa.BigInteger, primary_key=True), schema="raw"
    )

    @ixd.ingest_asset(metadata=metadata, warehouse=warehouse)
    def ingested(high_watermark: Any) -> Any:
        yield 1, None, [(orders, (1,))]

    @dg.asset(metadata=ixd.ingest_into(plain), io_manager_key="ingest", key_prefix="raw")
    def plain_rows() -> Any:
        return [(1,)]

    @dg.asset(io_manager_key="tables", key_prefix="plain")
    def frame() -> pl.DataFrame:
        return pl.DataFrame({"x": [1]})

    extraction = ixd.extraction_asset(intent, check=ixd.plan_check())
    made = dg.Definitions(
        assets=[
            extraction,
            ixd.ingest_extraction(intent, cursor="id", table="copied", warehouse=warehouse),
            ingested,
            plain_rows,
            frame,
            ixd.watermark_source(intent, cursor="id"),
        ],
        asset_checks=[ixd.reconcile(source=intent, target="raw.copied")],
        resources={
            "planner": ixd.PlannerResource(),
            "ingest": ixd.HighWatermarkIOManager(store=warehouse),
            "tables": ixd.SQLTableStoreIOManager(store=warehouse),
        },
        jobs=[dg.define_asset_job("everything", dg.AssetSelection.all())],
    )
    flow = Shop(version="1").flow.to_definitions(table_store=warehouse, publish="manual")
    return warehouse, dg.Definitions.merge(made, flow)


def test_no_kind_of_asset_tells_a_password(fresh_postgres, instance, tmp_path, caplog, capfd):
    """Run each kind with a role whose password is known, and look through all that is left."""
    caplog.set_level(logging.DEBUG)
    warehouse, defs = kinds_of_assets(fresh_postgres, tmp_path)
    result = defs.resolve_job_def("everything").execute_in_process(
        instance=instance, raise_on_error=False
    )
    approved = defs.resolve_job_def("approve_st").execute_in_process(
        instance=instance, raise_on_error=False
    )
    assert result.success
    assert approved.success
    logs = [log for run in (result, approved) for log in instance.all_logs(run.run_id)]
    seen = [str(log) + repr(log.dagster_event) for log in logs]
    seen += [caplog.text, *capfd.readouterr(), repr(defs), repr(warehouse), str(warehouse)]
    seen += [repr(spec) for spec in defs.resolve_all_asset_specs()]
    seen += [str(run) for run in instance.get_runs()]
    assert len(seen) > 40
    for text in seen:
        assert PASSWORD not in text


def test_a_failure_tells_no_password(instance, monkeypatch):
    monkeypatch.setenv("WAREHOUSE_URL", f"postgresql+psycopg://app:{PASSWORD}@127.0.0.1:1/shop")
    warehouse = ixd.SQLTableStoreResource(url=dg.EnvVar("WAREHOUSE_URL"))
    result = Shop().run(warehouse, instance)
    assert not result.success
    text = "".join(json.dumps(str(log)) for log in instance.all_logs(result.run_id))
    assert PASSWORD not in text
