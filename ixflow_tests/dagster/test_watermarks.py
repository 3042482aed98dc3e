"""Source tables whose data version is their high watermark."""

import dagster as dg
import pytest

import ixflow.dagster as ixd
from ixflow.errors import ValidationError
from ixflow.extraction.intent import ExtractionIntent
from ixflow.tables.cursor import Cursor
from ixflow_tests.dagster.seen import failure
from ixflow_tests.sources import intent_for, make


def observe(asset, instance, selection=None):
    """Observe; give the data versions by table, or raise what it raised."""
    job = dg.Definitions([asset]).resolve_implicit_global_asset_job_def()
    done = job.execute_in_process(instance=instance, asset_selection=selection)
    return versions(done)


def versions(done):
    seen = [
        event.asset_observation_data.asset_observation
        for event in done.get_asset_observation_events()
    ]
    return {one.asset_key.path[-1]: one.tags["dagster/data_version"] for one in seen}


@pytest.fixture(params=["postgres", "mariadb", "duckdb", "sqlite"])
def source(request):
    engine = request.getfixturevalue(f"fresh_{request.param}")
    make(
        engine,
        "CREATE TABLE a (id bigint NOT NULL, amount decimal(10,2), stamp timestamp NULL)",
        "CREATE TABLE b (id bigint)",
        "CREATE TABLE c (id bigint)",
        "INSERT INTO a VALUES (9, 1.5, '2026-01-02 03:04:05'), (10, 100, NULL)",
        "INSERT INTO b VALUES (NULL)",
    )
    return engine


def test_the_data_version_is_the_greatest_value_and_says_when_there_is_none(
    source, instance, tmp_path
):
    tables = [intent_for(source, name, tmp_path) for name in "abc"]
    asset = ixd.watermark_source(tables, cursor="id")
    assert observe(asset, instance) == {"a": "10", "b": "only NULLs", "c": "no rows"}
    make(source, "INSERT INTO b VALUES (3), (11), (4)")
    key = ixd.source_asset(tables[1]).key
    assert observe(asset, instance, [key]) == {"b": "11"}


def test_numbers_and_times_are_compared_as_such(source, instance, tmp_path):
    intent = intent_for(source, "a", tmp_path)
    [amount] = observe(ixd.watermark_source(intent, cursor="amount"), instance).values()
    assert float(amount) == 100
    stamp = observe(ixd.watermark_source(intent, cursor="stamp"), instance)["a"]
    assert stamp.startswith("2026-01-02")
    assert "03:04:05" in stamp


def test_only_the_rows_that_the_intent_selects_count(source, instance, tmp_path):
    filtered = intent_for(source, "a", tmp_path, where="amount < 50")
    assert observe(ixd.watermark_source(filtered, cursor="id"), instance) == {"a": "9"}
    query = intent_for(source, "q", tmp_path, query="SELECT id FROM a WHERE amount < 50")
    assert observe(ixd.watermark_source(query, cursor="id"), instance) == {"q": "9"}


def test_rows_that_are_not_settled_yet_do_not_count(fresh_postgres, instance, tmp_path):
    make(
        fresh_postgres,
        "CREATE TABLE t (at timestamptz)",
        "INSERT INTO t VALUES (now() + interval '1 day')",
    )
    asset = ixd.watermark_source(
        intent_for(fresh_postgres, "t", tmp_path), cursor=Cursor("at", semantics="settled")
    )
    assert observe(asset, instance) == {"t": "nothing settled"}
    make(fresh_postgres, "INSERT INTO t VALUES ('2026-01-01 00:00:00+00')")
    assert observe(asset, instance)["t"].startswith("2026-01-01 00:00:00")


def test_a_table_that_is_not_there_fails_by_name_and_the_others_are_observed(
    fresh_sqlite, instance, tmp_path
):
    make(fresh_sqlite, "CREATE TABLE a (id bigint)", "INSERT INTO a VALUES (1)")
    tables = [intent_for(fresh_sqlite, name, tmp_path) for name in ("nope", "a", "neither")]
    asset = ixd.watermark_source(tables, cursor="id")
    job = dg.Definitions([asset]).resolve_implicit_global_asset_job_def()
    done = job.execute_in_process(instance=instance, raise_on_error=False)
    assert versions(done) == {"a": "1"}
    said = failure(done).description
    assert "nope" in said
    assert "neither" in said


def test_a_source_that_is_away_is_a_failure_without_a_password(instance):
    config = {"host": "127.0.0.1", "port": 1, "database": "shop", "password": "s3cr3t"}
    asset = ixd.watermark_source(ExtractionIntent("postgresql", config, "orders"), cursor="id")
    with pytest.raises(dg.Failure, match="check host and port") as caught:
        observe(asset, instance)
    assert "s3cr3t" not in str(caught.value)


def test_assets_downstream_follow_new_rows_and_nothing_else(fresh_sqlite, instance, tmp_path):
    make(fresh_sqlite, "CREATE TABLE a (id bigint)", "INSERT INTO a VALUES (1)")
    intent = intent_for(fresh_sqlite, "a", tmp_path)
    source = ixd.watermark_source(intent, cursor="id")
    extraction = ixd.extraction_asset(intent, automation_condition=ixd.on_change())
    defs = dg.Definitions([source, extraction], resources={"planner": ixd.PlannerResource()})

    def wanted(cursor):
        seen = dg.evaluate_automation_conditions(defs, instance, cursor=cursor)
        return seen.total_requested, seen.cursor

    unseen, cursor = wanted(None)
    assert unseen == 0
    observe(source, instance)
    first, cursor = wanted(cursor)
    assert first == 1
    dg.materialize(
        [extraction, source],
        selection=[extraction.key],
        instance=instance,
        resources={"planner": ixd.PlannerResource()},
    )
    observe(source, instance)
    same, cursor = wanted(cursor)
    assert same == 0
    make(fresh_sqlite, "INSERT INTO a VALUES (2)")
    observe(source, instance)
    assert wanted(cursor)[0] == 1


def test_tables_of_two_databases_and_a_missing_cursor_are_refused():
    def of(database, **options):
        return ExtractionIntent("sqlite", {"database": database}, "orders", **options)

    with pytest.raises(ValidationError, match="tables of one database"):
        ixd.watermark_source([of("a.db"), of("b.db")], cursor="id")
    with pytest.raises(ValidationError, match="orders has no cursor to be watched"):
        ixd.watermark_source(of("a.db"))
    incremental = of("a.db", mode="incremental", incremental_key="id")
    assert ixd.watermark_source(incremental).key.path == ["a", "orders"]
