"""Partitions of extractions: which rows are in the files of each, what is told, what fails."""

import dataclasses
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa

import ixflow.dagster as ixd
from ixflow.errors import ValidationError
from ixflow.extraction import migrations
from ixflow.extraction.api import execute, plan, published
from ixflow.extraction.history import history
from ixflow.extraction.intent import ExtractionIntent
from ixflow.extraction.state import StatePlace
from ixflow_tests.dagster.seen import failure, value
from ixflow_tests.object_stores import BUCKET
from ixflow_tests.sources import extract, intent_for, make

DAYS = dg.DailyPartitionsDefinition(start_date="2024-05-01", end_date="2024-05-04")
COUNTRIES = dg.StaticPartitionsDefinition(["de", "DE", "it's"])
BOTH = dg.MultiPartitionsDefinition({"day": DAYS, "country": COUNTRIES})


@pytest.fixture(params=["postgres", "mariadb", "duckdb", "sqlite"])
def source(request):
    return filled(request.getfixturevalue(f"fresh_{request.param}"))


@pytest.fixture
def one_source(fresh_sqlite):
    return filled(fresh_sqlite)


def filled(engine):
    make(
        engine,
        "CREATE TABLE orders (id integer PRIMARY KEY, placed timestamp NULL, country varchar(9))",
        "INSERT INTO orders VALUES (1, '2024-05-01 00:00:00', 'de')",
        "INSERT INTO orders VALUES (2, '2024-05-01 23:59:59', 'DE')",
        "INSERT INTO orders VALUES (3, '2024-05-02 00:00:00', 'it''s')",
        "INSERT INTO orders VALUES (4, '2024-05-02 12:00:00', 'de')",
        "INSERT INTO orders VALUES (5, NULL, 'de')",
        "INSERT INTO orders VALUES (6, '2024-05-02 12:00:00', NULL)",
    )
    return engine


def run(asset, instance, keys, **options):
    """Materialize partitions, several of them as the range from the first to the last."""
    one = {"partition_key": keys} if isinstance(keys, str) else {"tags": range_of(*keys)}
    return dg.materialize(
        [asset],
        instance=instance,
        resources={"planner": ixd.PlannerResource()},
        raise_on_error=False,
        **one,
        **options,
    )


def range_of(first, last):
    return {
        "dagster/asset_partition_range_start": first,
        "dagster/asset_partition_range_end": last,
    }


def told(result):
    """Give what was told of each partition."""
    events = result.get_asset_materialization_events()
    found = [event.step_materialization_data.materialization for event in events]
    assert len({(one.asset_key, one.partition) for one in found}) == len(found)
    return {one.partition: one for one in found}


def ids(place):
    return sorted(pq.read_table(place)["id"].to_pylist()) if place.exists() else None


# -- which rows -------------------------------------------------------------------------------


def test_a_partition_of_time_has_the_rows_of_its_window_and_no_others(source, instance, tmp_path):
    intent = intent_for(source, "orders", tmp_path)
    asset = ixd.extraction_asset(intent, partitions_def=DAYS, partition_by="placed")
    result = run(asset, instance, "2024-05-01")
    assert result.success
    [(key, one)] = told(result).items()
    assert key == "2024-05-01"
    assert ids(tmp_path / "orders" / key) == [1, 2]
    assert value(one, "dagster/partition_row_count") == 2
    assert "dagster/row_count" not in one.metadata
    assert value(one, "dagster/uri") == (tmp_path / "orders" / key).as_uri()
    rows = "2024-05-01 00:00:00+00:00 <= placed < 2024-05-02 00:00:00+00:00"
    assert value(one, "ixflow/partition") == rows
    assert value(one, "ixflow/in_no_partition") == "rows whose placed is NULL"


def test_a_partition_of_a_key_has_the_rows_with_exactly_that_text(source, instance, tmp_path):
    intent = intent_for(source, "orders", tmp_path, where="id < 6")
    asset = ixd.extraction_asset(intent, partitions_def=COUNTRIES, partition_by="country")
    result = run(asset, instance, ("de", "it's"))
    assert result.success
    counts = {k: value(one, "dagster/partition_row_count") for k, one in told(result).items()}
    assert counts == {"de": 3, "DE": 1, "it's": 1}
    places = sorted(path.name for path in (tmp_path / "orders").iterdir())
    assert len(places) == 4, places
    assert ids(tmp_path / "orders" / "DE") == [2]


def test_a_partition_of_a_day_and_a_country_has_the_rows_of_both(source, instance, tmp_path):
    asset = ixd.extraction_asset(
        intent_for(source, "orders", tmp_path),
        partitions_def=BOTH,
        partition_by={"day": "placed", "country": "country"},
    )
    result = run(asset, instance, dg.MultiPartitionKey({"day": "2024-05-02", "country": "de"}))
    assert result.success
    [one] = told(result).values()
    assert ids(tmp_path / "orders" / "de" / "2024-05-02") == [4]
    assert one.tags["dagster/partition/country"] == "de"


def test_extracting_a_partition_again_replaces_just_that_one(one_source, instance, tmp_path):
    intent = intent_for(one_source, "orders", tmp_path)
    asset = ixd.extraction_asset(intent, partitions_def=DAYS, partition_by="placed")
    before = told(run(asset, instance, ("2024-05-01", "2024-05-02")))
    make(one_source, "DELETE FROM orders WHERE id IN (1, 3)")
    after = told(run(asset, instance, "2024-05-01"))
    assert [value(before[k], "dagster/partition_row_count") for k in sorted(before)] == [2, 3]
    assert [value(one, "dagster/partition_row_count") for one in after.values()] == [1]
    assert ids(tmp_path / "orders" / "2024-05-01") == [2]
    assert ids(tmp_path / "orders" / "2024-05-02") == [3, 4, 6]


def test_the_partitions_of_a_range_are_of_one_moment(source, instance, tmp_path):
    intent = intent_for(source, "orders", tmp_path)
    asset = ixd.extraction_asset(intent, partitions_def=DAYS, partition_by="placed")
    result = run(asset, instance, ("2024-05-01", "2024-05-03"))
    found = told(result)
    assert {k: value(one, "dagster/partition_row_count") for k, one in found.items()} == {
        "2024-05-01": 2,
        "2024-05-02": 3,
        "2024-05-03": 0,
    }
    assert len({value(one, "ixflow/moment") for one in found.values()}) == 1


def test_several_tables_have_their_own_columns_of_time(one_source, instance, tmp_path):
    make(
        one_source,
        "CREATE TABLE visits (id integer PRIMARY KEY, seconds integer NOT NULL)",
        "INSERT INTO visits VALUES (1, 1714521599), (2, 1714521600), (3, 1714607999)",
    )
    columns: dict[str, Any] = {"orders": "placed", "visits": ixd.PartitionBy("seconds", unit="s")}
    assets = ixd.build_extraction_assets(
        [intent_for(one_source, name, tmp_path) for name in columns],
        partitions_def=DAYS,
        partition_by=lambda intent: columns[intent.object_name],
    )
    result = run(assets, instance, "2024-05-01")
    assert result.success
    assert ids(tmp_path / "visits" / "2024-05-01") == [2, 3]
    assert ids(tmp_path / "orders" / "2024-05-01") == [1, 2]


# -- what fails -------------------------------------------------------------------------------


def test_a_partition_that_fails_leaves_the_others_of_its_range_recorded(
    one_source, instance, tmp_path
):
    intent = intent_for(one_source, "orders", tmp_path)
    asset = ixd.extraction_asset(intent, partitions_def=DAYS, partition_by="placed")
    blocked = tmp_path / "orders" / "2024-05-02"
    blocked.mkdir(parents=True)
    result = run(asset, instance, ("2024-05-01", "2024-05-03"))
    assert not result.success
    assert "1 of 3 partitions were not extracted, the others are published" in str(
        failure(result).description
    )
    counts = {k: value(one, "dagster/partition_row_count") for k, one in told(result).items()}
    assert counts == {"2024-05-01": 2, "2024-05-03": 0}
    assert instance.get_materialized_partitions(asset.key) == {"2024-05-01", "2024-05-03"}


def test_a_table_that_cannot_be_partitioned_does_not_stop_the_others(
    one_source, instance, tmp_path
):
    make(one_source, "CREATE TABLE texts (id integer PRIMARY KEY, placed text)")
    names = ("gone", "orders", "texts")
    assets = ixd.build_extraction_assets(
        [intent_for(one_source, name, tmp_path) for name in names],
        partitions_def=DAYS,
        partition_by="placed",
    )
    result = run(assets, instance, ("2024-05-01", "2024-05-02"))
    said = str(failure(result).description)
    assert "4 of 6 partitions were not extracted, the others are published" in said
    assert "there is no table gone" in said
    assert "extracted/texts (2024-05-02): placed is TEXT, which cannot say the partition" in said
    made = [one.asset_key for one in told(result).values()]
    assert made == [dg.AssetKey(["extracted", "orders"])] * 2


def test_a_retry_extracts_only_the_partitions_that_failed(one_source, instance, tmp_path):
    blocked = tmp_path / "orders" / "2024-05-02"
    blocked.mkdir(parents=True)

    @ixd.extraction_assets(
        intents=[intent_for(one_source, "orders", tmp_path)],
        partitions_def=DAYS,
        partition_by="placed",
    )
    def shop(context: dg.AssetExecutionContext) -> Any:
        try:
            yield from ixd.PlannerResource().run(context).fetch_row_count()
        except dg.Failure as error:
            blocked.rmdir()
            raise dg.RetryRequested(max_retries=1) from error

    result = run(shop, instance, ("2024-05-01", "2024-05-03"))
    assert result.success
    events = [
        event.step_materialization_data.materialization
        for event in result.get_asset_materialization_events()
    ]
    again = {one.partition for one in events if "ixflow/published_by" in one.metadata}
    assert again == {"2024-05-01", "2024-05-03"}
    assert ids(blocked) == [3, 4, 6]


@pytest.mark.parametrize(
    ("column", "by", "said"),
    [
        ("placed varchar(30)", "placed", "no window of time is exact in it"),
        ("placed double precision", "placed", "no window of time is exact in it"),
        ("placed integer", "placed", "say what it counts since 1970: PartitionBy"),
        ("placed integer", ixd.PartitionBy("placed", unit="ms"), "so it counts something else"),
        ("placed integer", ixd.PartitionBy("placed", zone="UTC", unit="s"), "counts are in UTC"),
        ("placed timestamptz", ixd.PartitionBy("placed", zone="UTC"), "it knows its time zone"),
        (
            "placed timestamp",
            ixd.PartitionBy("placed", unit="s"),
            "the unit s is for whole numbers",
        ),
        ("placed timestamp", "gone", "partition_by names the column gone, and there are"),
    ],
)
def test_a_column_that_cannot_tell_exactly_is_refused_by_name(  # noqa: PLR0917 - fixtures
    fresh_postgres, instance, tmp_path, column, by, said
):
    make(fresh_postgres, f"CREATE TABLE t (id integer, {column})")
    intent = intent_for(fresh_postgres, "t", tmp_path)
    asset = ixd.extraction_asset(intent, partitions_def=DAYS, partition_by=by)
    result = run(asset, instance, "2024-05-01")
    assert said in str(failure(result).description)
    assert published(intent) is None


def test_an_hour_that_a_clock_shows_twice_is_refused_unless_the_column_knows_its_zone(
    fresh_postgres, instance, tmp_path
):
    make(
        fresh_postgres,
        "CREATE TABLE t (id integer, placed timestamp, zoned timestamptz)",
        "INSERT INTO t VALUES (1, '2024-10-27 02:30', '2024-10-27 02:30+02')",
        "INSERT INTO t VALUES (2, '2024-10-27 02:30', '2024-10-27 02:30+01')",
    )
    hours = dg.HourlyPartitionsDefinition(start_date="2024-10-27-00:00", timezone="Europe/Berlin")
    intent = intent_for(fresh_postgres, "t", tmp_path)
    naive = ixd.extraction_asset(intent, partitions_def=hours, partition_by="placed")
    said = str(failure(run(naive, instance, "2024-10-27-02:00")).description)
    assert "the clock shows 2024-10-27 02:00:00 twice" in said
    zoned = ixd.extraction_asset(intent, partitions_def=hours, partition_by="zoned")
    first, second = "2024-10-27-02:00", "2024-10-27-02:00+0100"
    counts = [
        value(told(run(zoned, instance, key))[key], "dagster/partition_row_count")
        for key in (first, second)
    ]
    assert counts == [1, 1]


def test_all_of_a_table_and_its_partitions_do_not_share_a_place(one_source, instance, tmp_path):
    whole = extract(one_source, "orders", tmp_path).manifest
    intent = intent_for(one_source, "orders", tmp_path)
    asset = ixd.extraction_asset(intent, partitions_def=DAYS, partition_by="placed")
    said = str(failure(run(asset, instance, "2024-05-01")).description)
    assert "is an extraction of all partitions together" in said
    found = published(intent)
    assert found is not None
    assert found.run_id == whole.run_id


# -- what is no definition ---------------------------------------------------------------------


def test_what_does_not_go_together_is_refused_when_it_is_defined(tmp_path):
    intent = ExtractionIntent("sqlite", {"database": "shop.db"}, "orders", tmp_path)
    new = dataclasses.replace(intent, mode="incremental", incremental_key="id")
    refused: list[tuple[Any, str]] = [
        ({"partitions_def": DAYS}, "partitions_def without partition_by"),
        ({"partition_by": "placed"}, "partition_by without partitions_def"),
        ({"partitions_def": DAYS, "partition_by": {"day": "placed"}}, "of one dimension"),
        ({"partitions_def": BOTH, "partition_by": "placed"}, "a column for each of them"),
        ({"partitions_def": BOTH, "partition_by": {"day": "placed"}}, "a column for each of them"),
        (
            {"partitions_def": DAYS, "partition_by": "placed", "check": ixd.plan_check()},
            "leave check out",
        ),
    ]
    for options, said in refused:
        with pytest.raises(ValidationError, match=said):
            ixd.extraction_asset(intent, **options)
    with pytest.raises(ValidationError, match="give mode='full'"):
        ixd.extraction_asset(new, partitions_def=DAYS, partition_by="placed")
    with pytest.raises(ValidationError, match="there is no time zone"):
        ixd.PartitionBy("placed", zone="Mars/Olympus")


def test_a_masked_column_cannot_name_partitions(one_source, instance, tmp_path):
    intent = intent_for(one_source, "orders", tmp_path, mask={"country": "hash"})
    asset = ixd.extraction_asset(intent, partitions_def=COUNTRIES, partition_by="country")
    assert "would be shown as partitions" in str(failure(run(asset, instance, "de")).description)


def test_backfills_of_several_partitions_are_one_run_unless_it_is_said(tmp_path):
    intent = ExtractionIntent("sqlite", {"database": "shop.db"}, "orders", tmp_path)
    single = ixd.extraction_asset(intent, partitions_def=DAYS, partition_by="placed")
    assert single.backfill_policy == dg.BackfillPolicy.single_run()
    several = dg.BackfillPolicy.multi_run()
    asset = ixd.extraction_asset(
        intent, partitions_def=DAYS, partition_by="placed", backfill_policy=several
    )
    assert asset.backfill_policy == several


# -- where they are ----------------------------------------------------------------------------


def test_partitions_have_places_of_their_own_in_a_bucket(
    one_source, s3_server, instance, tmp_path, monkeypatch
):
    monkeypatch.setenv("IXFLOW_STATE_URL", f"sqlite:///{tmp_path}/state.sqlite")
    prefix = f"s3://{BUCKET}/{tmp_path.parent.name}/{tmp_path.name}"
    options: dict[str, Any] = {"storage_options": s3_server.options}
    intent = intent_for(one_source, "orders", Path("unused"), **options)
    intent = dataclasses.replace(intent, output_dir=prefix, output_format="s3")
    asset = ixd.extraction_asset(intent, partitions_def=DAYS, partition_by="placed")
    for keys in (("2024-05-01", "2024-05-02"), "2024-05-01"):
        assert run(asset, instance, keys).success
    found = [published(f"{prefix}/orders/{key}", **options) for key in ("2024-05-01", "2024-05-02")]
    assert [one.total_rows for one in found if one is not None] == [2, 3]
    assert execute(plan(intent)).rows_extracted == 6
    said = str(failure(run(asset, instance, "2024-05-01")).description)
    assert "is an extraction of all partitions together" in said


def test_a_run_that_died_behind_the_publication_of_a_partition_is_a_success(one_source, tmp_path):
    intent = intent_for(one_source, "orders", tmp_path, partition=["de", "2024-05-01"])
    done = execute(plan(intent))
    with StatePlace.of(tmp_path).open() as state, state._engine.begin() as conn:
        this = migrations.runs.c.run_id == done.run_id
        gone = {"process_started": 1, "status": "running", "rows_extracted": None}
        conn.execute(sa.update(migrations.runs).where(this).values(**gone))
    (one,) = history(intent)
    assert (one.status, one.rows) == ("success", 6)


def test_keys_of_any_kind_have_places_of_their_own(one_source, instance, tmp_path):
    keys = ["../up", "a/b", "a_b", ".ixflow", "ä", "x" * 300, "con|pipe"]
    asset = ixd.extraction_asset(
        intent_for(one_source, "orders", tmp_path / "out"),
        partitions_def=dg.StaticPartitionsDefinition(keys),
        partition_by="country",
    )
    assert run(asset, instance, (keys[0], keys[-1])).success
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["out"]
    links = [path for path in (tmp_path / "out" / "orders").iterdir() if path.is_symlink()]
    assert len(links) == len(keys)


def test_the_rows_of_a_query_are_partitioned_too_and_a_stored_plan_is_run_again(
    one_source, instance, tmp_path
):
    query = "SELECT id, placed FROM orders -- all of them"
    intent = intent_for(one_source, "some", tmp_path, query=query)
    asset = ixd.extraction_asset(intent, partitions_def=DAYS, partition_by="placed")
    [one] = told(run(asset, instance, "2024-05-01")).values()
    make(one_source, "INSERT INTO orders VALUES (7, '2024-05-01 08:00:00', 'de')")
    config = {"replay_run_id": value(one, "ixflow/run_id")}
    again = run(asset, instance, "2024-05-01", run_config=config_of(asset, config))
    assert again.success
    assert ids(tmp_path / "some" / "2024-05-01") == [1, 2, 7]
    other = run(asset, instance, "2024-05-02", run_config=config_of(asset, config))
    assert "has another where than the intent" in str(failure(other).description)


def config_of(asset, config):
    return {"ops": {asset.op.name: {"config": config}}}
