"""Components in YAML: what they make of it, what they refuse, and that no database is asked."""

import asyncio
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa
import yaml
from dagster.components.testing import create_defs_folder_sandbox
from dagster.components.testing.utils import DefsFolderSandbox

import ixflow.dagster as ixd
from ixflow.dagster.components.catalogue import object_name, read_catalogue, tables_of
from ixflow.dagster.components.table_options import ExtractionOptions
from ixflow.errors import TableNotFound, ValidationError
from ixflow.extraction.intent import ExtractionIntent
from ixflow.pipeline import Flow, Stage, Table, materialize

pytestmark = [
    # Dagster 1.13 reads YAML by the old name of a function of pydantic,
    pytest.mark.filterwarnings("ignore:`parse_obj_as` is deprecated"),
    # and says which line of it an asset comes from in a way that it calls beta.
    pytest.mark.filterwarnings(
        "ignore:Class `(LocalFileCodeReference|CodeReferencesMetadataValue)`"
    ),
]

PASSWORD = "s3cr3t-of-the-shop"
NOWHERE = {"host": "127.0.0.1", "port": 1, "database": "shop", "user": "reader"}


@materialize
def numbers() -> Table[Any]:
    """One number."""
    return Table(sa.select(sa.literal(1).label("n")))


with Flow("components") as FLOW, Stage("mart"):
    numbers()


@pytest.fixture
def sandbox() -> Iterator[DefsFolderSandbox]:
    """Give an empty project."""
    with create_defs_folder_sandbox() as made:
        yield made


def given(sandbox: DefsFolderSandbox, name: str, kind: str, **attributes: Any) -> Path:
    """Write the YAML of a component; give its folder."""
    folder = sandbox.defs_folder_path / name
    folder.mkdir(exist_ok=True)
    text = yaml.safe_dump({"type": f"ixflow.dagster.{kind}", "attributes": attributes})
    (folder / "defs.yaml").write_text(text)
    return folder


def extraction(sandbox: DefsFolderSandbox, **attributes: Any) -> Path:
    """Write an extraction of a server that nobody can reach."""
    source = {"type": "postgresql", "config": {**NOWHERE, "password": "{{ env.SHOP_PASSWORD }}"}}
    told = {"source": source, "output_dir": "/nowhere/extracted", **attributes}
    return given(sandbox, "extract", "ExtractionComponent", **told)


def loaded(sandbox: DefsFolderSandbox) -> dg.Definitions:
    with sandbox.build_all_defs() as defs:
        return defs


def keys(defs: dg.Definitions) -> list[str]:
    return sorted(spec.key.to_user_string() for spec in defs.resolve_all_asset_specs())


def refusal(sandbox: DefsFolderSandbox) -> str:
    """Load what cannot be loaded; give all that is said of the reason."""
    with pytest.raises(Exception, match=r".") as caught:
        loaded(sandbox)
    told: list[str] = []
    error: BaseException | None = caught.value
    while error is not None:
        told.append(f"{type(error).__name__}: {error}")
        error = error.__cause__ or error.__context__
    return "\n".join(told)


def refresh(sandbox: DefsFolderSandbox, folder: Path) -> None:
    """Do what ``dg utils refresh-defs-state`` does to one component."""
    with sandbox.build_component_tree() as tree:
        component = tree.load_component(folder)
        assert isinstance(component, ixd.ExtractionComponent)
        asyncio.run(component.refresh_state(sandbox.project_root))


def test_listed_tables_become_assets_without_a_connection(sandbox, monkeypatch):
    monkeypatch.delenv("SHOP_PASSWORD", raising=False)
    tables = [{"name": "orders", "cursor": "id"}, {"name": "log.events"}]
    extraction(sandbox, tables=tables, options={"max_workers": 2})
    given(sandbox, "ingest", "IngestComponent", extraction="extract", cursor="id")
    given(sandbox, "store", "TableStoreComponent", url="{{ env.WAREHOUSE_OF_TEST }}")
    assert keys(loaded(sandbox)) == [
        "extracted/events",
        "extracted/orders",
        "raw/events",
        "raw/orders",
        "shop/log/events",
        "shop/orders",
    ]
    assert not list(sandbox.defs_folder_path.glob(".*")), "what is listed needs no catalogue"


def test_the_options_of_a_table_go_before_those_of_the_component(sandbox):
    folder = extraction(
        sandbox,
        tables=[{"name": "orders", "max_workers": 1, "cursor": "id"}, {"name": "events"}],
        options={"max_workers": 4, "compression": "gzip"},
    )
    with sandbox.load_component_and_build_defs(folder) as (component, _):
        assert isinstance(component, ixd.ExtractionComponent)
        orders, events = component.intents
    assert (orders.max_workers, orders.compression, orders.mode) == (1, "gzip", "incremental")
    assert (events.max_workers, events.compression, events.mode) == (4, "gzip", "full")
    assert orders.incremental_key == "id"


def test_every_option_of_an_intent_can_be_said_in_yaml():
    elsewhere = {"source_type", "source_config", "object_name", "output_dir", "storage_options"}
    elsewhere |= {"partition"}  # which Dagster says
    renamed = {"mode", "incremental_key", "mask_salt"}
    offered = set(ExtractionOptions.model_fields) - {"cursor"}
    assert offered == {f.name for f in dataclasses.fields(ExtractionIntent)} - elsewhere - renamed


def test_a_password_stays_the_name_of_its_variable(sandbox, monkeypatch):
    monkeypatch.setenv("SHOP_PASSWORD", PASSWORD)
    monkeypatch.setenv("WAREHOUSE_OF_TEST", f"postgresql+psycopg://app:{PASSWORD}@127.0.0.1:1/w")
    tables = [{"name": "orders", "mask": {"name": "hash"}}]
    folder = extraction(sandbox, tables=tables, mask_salt="{{ env.SHOP_PASSWORD }}")
    given(sandbox, "store", "TableStoreComponent", url="{{ env.WAREHOUSE_OF_TEST }}")
    with sandbox.load_component_and_build_defs(folder) as (component, _):
        assert isinstance(component, ixd.ExtractionComponent)
        password = component.intents[0].source_config["password"]
        assert isinstance(password, dg.EnvVar)
        assert password.env_var_name == "SHOP_PASSWORD"
        assert isinstance(component.intents[0].mask_salt, dg.EnvVar)
        assert PASSWORD not in repr(component)
    defs = loaded(sandbox)
    assert PASSWORD not in repr(defs.resources)
    assert PASSWORD not in repr(defs.resolve_all_asset_specs())


def test_two_sources_are_extracted_and_ingested_with_a_password_of_the_environment(
    fresh_postgres, fresh_sqlite, sandbox, instance, monkeypatch
):
    place = sandbox.project_root
    for engine, table in ((fresh_postgres, "orders"), (fresh_sqlite, "users")):
        with engine.begin() as conn:
            conn.execute(sa.text(f"CREATE TABLE {table} (id int PRIMARY KEY)"))
            conn.execute(sa.text(f"INSERT INTO {table} VALUES (1), (2)"))
    url = fresh_postgres.url
    config = {"host": url.host, "port": url.port, "database": url.database, "user": url.username}
    monkeypatch.setenv("SHOP_PASSWORD", PASSWORD)
    server = {"type": "postgresql", "config": {**config, "password": "{{ env.SHOP_PASSWORD }}"}}
    file = {"type": "sqlite", "config": {"database": str(fresh_sqlite.url.database)}}
    for name, source, table in (("shop", server, "orders"), ("crm", file, "users")):
        told = {"source": source, "output_dir": str(place / name), "tables": [{"name": table}]}
        given(sandbox, name, "ExtractionComponent", **told)
        given(sandbox, f"{name}_in", "IngestComponent", extraction=name, cursor="id")
    given(sandbox, "store", "TableStoreComponent", url=f"duckdb:///{place}/w.duckdb")
    job = loaded(sandbox).resolve_implicit_global_asset_job_def()
    assert job.execute_in_process(instance=instance).success
    warehouse = sa.create_engine(f"duckdb:///{place}/w.duckdb")
    with warehouse.connect() as conn:
        for table in ("orders", "users"):
            assert conn.scalar(sa.text(f"SELECT count(*) FROM raw.{table}")) == 2
    warehouse.dispose()


def test_a_password_in_the_url_of_a_store_is_refused(sandbox):
    given(sandbox, "store", "TableStoreComponent", url=f"postgresql://app:{PASSWORD}@db/shop")
    said = refusal(sandbox)
    assert "url holds a password" in said
    assert "environment variable" in said


@pytest.mark.parametrize("schema", [None, "own"])
def test_a_schema_is_discovered_once_and_loads_without_its_database(
    schema, fresh_postgres, sandbox, monkeypatch
):
    url = fresh_postgres.url
    with fresh_postgres.begin() as conn:
        conn.execute(sa.text("CREATE SCHEMA own"))
        for place in ("public", "own"):
            for name in ("orders", "orders_old", '"odd.name"', "users"):
                conn.execute(sa.text(f"CREATE TABLE {place}.{name} (id int PRIMARY KEY)"))
    monkeypatch.setenv("SHOP_URL_OF_TEST", url.render_as_string(hide_password=False))
    source = {
        "type": "postgresql",
        "config": {"connection_string": "{{ env.SHOP_URL_OF_TEST }}"},
    }
    discover = {"schema": schema, "exclude": ["*_old", "users"]}
    folder = extraction(sandbox, source=source, discover=discover)
    assert "TableNotFound" in (said := refusal(sandbox))
    assert "dg utils refresh-defs-state" in said
    refresh(sandbox, folder)
    monkeypatch.setattr(sa.engine.Engine, "connect", refused)
    with sandbox.load_component_and_build_defs(folder) as (component, _):
        assert isinstance(component, ixd.ExtractionComponent)
        found = [intent.object_name for intent in component.intents]
    prefix = "" if schema is None else "own."
    assert found == [f'{prefix}"odd.name"', f"{prefix}orders"]


def refused(*_: object, **__: object) -> None:
    pytest.fail("a database was contacted while definitions loaded")


@pytest.mark.parametrize("database", ["postgres", "mariadb", "duckdb", "sqlite"])
def test_the_tables_of_the_own_schema_are_discovered(database, request):
    engine = request.getfixturevalue(f"fresh_{database}")
    with engine.begin() as conn:
        conn.execute(sa.text("CREATE TABLE b (id int)"))
        conn.execute(sa.text("CREATE TABLE a (id int)"))
        if database in ("postgres", "duckdb"):
            conn.execute(sa.text("CREATE SCHEMA other"))
            conn.execute(sa.text("CREATE TABLE other.c (id int)"))
    config = {"connection_string": engine.url.render_as_string(hide_password=False)}
    engine.dispose()
    source = ExtractionIntent(engine.dialect.name, config, "x")
    assert tables_of(source, None) == ["a", "b"]


def test_a_schema_without_tables_is_refused_and_the_catalogue_kept(fresh_sqlite, sandbox):
    config = {"database": str(fresh_sqlite.url.database)}
    folder = extraction(sandbox, source={"type": "sqlite", "config": config}, discover={})
    with fresh_sqlite.begin() as conn:
        conn.execute(sa.text("CREATE TABLE orders (id int)"))
    refresh(sandbox, folder)
    with fresh_sqlite.begin() as conn:
        conn.execute(sa.text("DROP TABLE orders"))
    with pytest.raises(TableNotFound, match="check name and grants"):
        refresh(sandbox, folder)
    assert "extracted/orders" in keys(loaded(sandbox))


def test_a_pattern_that_matches_no_table_is_told(fresh_sqlite, sandbox):
    with fresh_sqlite.begin() as conn:
        conn.execute(sa.text("CREATE TABLE orders (id int)"))
    config = {"database": str(fresh_sqlite.url.database)}
    source = {"type": "sqlite", "config": config}
    folder = extraction(sandbox, source=source, discover={"include": ["order"]})
    refresh(sandbox, folder)
    assert "discovers none of the tables orders" in refusal(sandbox)


@pytest.mark.parametrize("text", ["", "{", "[]", json.dumps({"names": []})])
def test_a_damaged_catalogue_is_told(text, tmp_path):
    (tmp_path / "state").write_text(text)
    with pytest.raises(ValidationError, match="refresh-defs-state"):
        read_catalogue(tmp_path / "state")


@pytest.mark.parametrize("name", ["orders", "odd.name", 'say "hi"', "a.b.c"])
def test_a_discovered_name_is_read_back_exactly(name):
    from ixflow.values import TableName

    assert TableName.parse(object_name(None, name)) == TableName(name)
    assert TableName.parse(object_name("s.x", name)) == TableName(name, "s.x")


@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        ({}, "neither tables nor discover"),
        ({"tables": [{"name": "a.t"}, {"name": "b.t"}]}, "would both be the asset extracted/t"),
        ({"tables": [{"name": "t"}], "options": {"resume": "never"}}, "resume is 'never'"),
        ({"tables": [{"name": "t"}], "automation_condition": "eager"}, "say '{{ on_change }}'"),
        ({"tables": [{"name": "t"}], "mask_salt": "pepper"}, "mask_salt is a secret"),
    ],
    ids=["nothing", "twins", "option", "condition", "salt"],
)
def test_what_cannot_work_is_refused_in_words(attributes, said, sandbox):
    extraction(sandbox, **attributes)
    assert said in refusal(sandbox)


def test_on_change_is_known_in_templates(sandbox):
    condition = "{{ on_change }}"
    extraction(sandbox, tables=[{"name": "orders"}], automation_condition=condition)
    (spec,) = [s for s in loaded(sandbox).resolve_all_asset_specs() if s.automation_condition]
    assert spec.automation_condition is not None
    assert spec.automation_condition.get_label() == "ixflow_on_change"


@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        ({"extraction": "store", "cursor": "id"}, "is a TableStoreComponent"),
        ({"extraction": "extract"}, "has no cursor"),
        ({"extraction": "extract", "tables": [{"name": "ordres", "cursor": "id"}]}, "has orders"),
    ],
    ids=["not an extraction", "no cursor", "no table"],
)
def test_an_ingest_says_what_it_cannot_find(attributes, said, sandbox):
    extraction(sandbox, tables=[{"name": "orders"}])
    given(sandbox, "store", "TableStoreComponent", url="duckdb:////nowhere/w.duckdb")
    given(sandbox, "ingest", "IngestComponent", **attributes)
    assert said in refusal(sandbox)


def test_an_ingest_goes_where_its_yaml_says(sandbox):
    extraction(sandbox, tables=[{"name": "orders"}], key_prefix=["lake"])
    orders = {"name": "orders", "cursor": "id", "table": "sales"}
    given(sandbox, "in", "IngestComponent", extraction="extract", tables=[orders], schema="dwh")
    given(sandbox, "store", "TableStoreComponent", url="duckdb:////nowhere/w.duckdb")
    (spec,) = [s for s in loaded(sandbox).resolve_all_asset_specs() if s.group_name == "dwh"]
    assert spec.key == dg.AssetKey(["dwh", "sales"])
    assert [dep.asset_key for dep in spec.deps] == [dg.AssetKey(["lake", "orders"])]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("nowhere_at_all:shop", "cannot be imported"),
        (f"{__name__}:numbers", "not an ixflow.Flow"),
        ("shop", "cannot be imported"),
    ],
    ids=["no module", "no flow", "no dot"],
)
def test_a_path_that_leads_to_no_flow_is_told(path, said, sandbox):
    given(sandbox, "flow", "FlowComponent", flow=path)
    assert said in refusal(sandbox)


def test_a_component_runs_a_flow_in_its_store(warehouse_engine, sandbox, instance, monkeypatch):
    url = warehouse_engine.url.render_as_string(hide_password=False)
    monkeypatch.setenv("WAREHOUSE_OF_TEST", url)
    given(sandbox, "flow", "FlowComponent", flow=f"{__name__}:FLOW", store="lake", retries=1)
    store = {"url": "{{ env.WAREHOUSE_OF_TEST }}", "key": "lake", "schema_prefix": "x_"}
    given(sandbox, "store", "TableStoreComponent", **store, io_manager_key="io_manager")
    job = loaded(sandbox).resolve_job_def("components_flow")
    assert job.execute_in_process(instance=instance).success
    with warehouse_engine.connect() as conn:
        assert conn.scalar(sa.text("SELECT n FROM x_mart.numbers")) == 1


@pytest.mark.parametrize(
    ("component", "options"),
    [
        (ixd.ExtractionComponent, {}),
        (ixd.ExtractionComponent, {"source_type": "postgresql", "discover": "public"}),
        (ixd.IngestComponent, {"extraction": "extract"}),
        (ixd.FlowComponent, {"flow": "shop.flows:shop"}),
        (ixd.TableStoreComponent, {}),
    ],
    ids=["extraction", "discovering", "ingest", "flow", "store"],
)
def test_what_a_scaffolder_writes_fits_the_schema(component, options, sandbox):
    folder = sandbox.scaffold_component(component, scaffold_params=options)
    written = yaml.safe_load((folder / "defs.yaml").read_text())
    fields = component.model().model_validate(written["attributes"])
    assert set(written["attributes"]) <= {*fields.model_fields_set, "schema"}


def test_the_partitions_of_an_extraction_are_those_of_its_ingest(sandbox):
    days = {"type": "daily", "start_date": "2024-05-01", "timezone": "Europe/Berlin"}
    extraction(
        sandbox,
        tables=[
            {"name": "orders"},
            {"name": "visits", "partition_by": {"column": "seconds", "unit": "s"}},
        ],
        partitions_def=days,
        partition_by="day",
        backfill_policy={"type": "multi_run", "max_partitions_per_run": 5},
    )
    given(sandbox, "ingest", "IngestComponent", extraction="extract")
    given(sandbox, "store", "TableStoreComponent", url="duckdb:////nowhere/warehouse.duckdb")
    asset = loaded(sandbox).resolve_assets_def(dg.AssetKey(["raw", "visits"]))
    assert asset.partitions_def == dg.DailyPartitionsDefinition(
        start_date="2024-05-01", timezone="Europe/Berlin"
    )
    assert asset.backfill_policy == dg.BackfillPolicy.multi_run(max_partitions_per_run=5)
