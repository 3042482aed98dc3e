"""Assets as Parquet files: in a directory and in a bucket, whole and in partitions."""

import datetime as dt
from decimal import Decimal
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import ixflow.dagster as ixd
from ixflow_tests.dagster.seen import failure, made, value
from ixflow_tests.object_stores import BUCKET, SECRET

ROWS = [{"id": 1, "name": "a"}, {"id": 2, "name": None}]
KEYS = ["de", "it's", 'a"b/..', "100% = ü", "x" * 200]
STATIC = dg.StaticPartitionsDefinition(KEYS)
DAYS = dg.DailyPartitionsDefinition("2026-03-01", end_date="2026-03-11", timezone="Europe/Berlin")
START, END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"


@pytest.fixture(params=["local", "s3"])
def lake(request, tmp_path):
    """Give the IO manager for each kind of place."""
    if request.param == "local":
        return ixd.ParquetIOManager(base_dir=str(tmp_path / "lake"))
    server = request.getfixturevalue("s3_server")
    base = f"s3://{BUCKET}/{tmp_path.parent.name}/{tmp_path.name}"
    return ixd.ParquetIOManager(base_dir=base, storage_options=server.options)


@pytest.fixture
def local(tmp_path):
    return ixd.ParquetIOManager(base_dir=str(tmp_path / "lake"))


def materialize(assets, lake, instance, **options):
    return dg.materialize(
        assets,
        instance=instance,
        resources={"io_manager": lake},
        raise_on_error=False,
        **options,
    )


def returning(obj: Any, **options: Any) -> dg.AssetsDefinition:
    @dg.asset(key=["st", "t"], **options)
    def t(context: dg.AssetExecutionContext):
        return obj(context) if callable(obj) else obj

    return t  # type: ignore[no-any-return]


def reading(seen: dict[str, Any], name: str, kind: Any, partitions: Any = None, **metadata: Any):
    """Make an asset that takes ``st/t`` as a type."""

    @dg.asset(
        name=name,
        ins={"t": dg.AssetIn(key=["st", "t"], metadata=metadata)},
        partitions_def=partitions,
    )
    def fn(t: kind):
        seen[name] = t.read_all() if kind is pa.RecordBatchReader else t

    return fn


def rows_of(frame: Any) -> list[dict[str, Any]]:
    if isinstance(frame, pl.LazyFrame):
        frame = frame.collect()
    table = frame.to_arrow_table() if isinstance(frame, duckdb.DuckDBPyRelation) else frame
    table = pa.table(table) if not isinstance(table, pa.Table) else table
    return list(table.to_pylist())


def read(
    lake, instance, kind: Any = pa.Table, partitions: Any = None, key=None, *, of=None, **metadata
):
    """Read ``st/t`` in a run of its own; what fails is raised."""
    seen: dict[str, Any] = {}
    one = reading(seen, "one", kind, partitions, **metadata)
    up = dg.AssetSpec(["st", "t"], partitions_def=of or partitions)
    result = materialize([up, one], lake, instance, selection=[one], partition_key=key)
    return rows_of(seen["one"]) if result.success else failure(result).description


def frames() -> dict[str, Any]:
    table = pa.Table.from_pylist(ROWS)
    return {
        "pandas": pd.DataFrame(ROWS),
        "polars": pl.DataFrame(ROWS),
        "lazy": pl.LazyFrame(ROWS),
        "arrow": table,
        "reader": table.to_reader(),
        "relation": duckdb.connect().from_arrow(table),
    }


def test_every_kind_of_frame_is_stored_and_read_as_every_other(lake, instance):
    kinds = {
        "pandas": pd.DataFrame,
        "polars": pl.DataFrame,
        "lazy": pl.LazyFrame,
        "arrow": pa.Table,
        "reader": pa.RecordBatchReader,
        "relation": duckdb.DuckDBPyRelation,
        "plain": Any,
    }
    for frame in frames().values():
        result = materialize([returning(frame)], lake, instance)
        assert result.success
        assert value(made(result)["st/t"], "dagster/row_count") == 2
    seen: dict[str, Any] = {}
    down = [reading(seen, name, kind) for name, kind in kinds.items()]
    assert materialize([returning(pl.DataFrame(ROWS)), *down], lake, instance).success
    assert {name: rows_of(frame) for name, frame in seen.items()} == dict.fromkeys(kinds, ROWS)
    assert isinstance(seen["plain"], pa.Table)
    assert isinstance(seen["lazy"], pl.LazyFrame)


def test_a_lazy_frame_is_never_collected(lake, instance, monkeypatch):
    assert materialize([returning(pl.DataFrame({"id": range(9)}))], lake, instance).success

    @dg.asset(key=["st", "u"], ins={"t": dg.AssetIn(key=["st", "t"])})
    def u(t: pl.LazyFrame) -> pl.LazyFrame:
        return t.filter(pl.col("id") > 5)

    def collect(*_: Any, **__: Any):
        raise AssertionError

    with monkeypatch.context() as patch:
        patch.setattr(pl.LazyFrame, "collect", collect)
        up = dg.AssetSpec(["st", "t"])
        assert materialize([up, u], lake, instance, selection=[u]).success


def test_values_of_every_type_come_back_as_they_were(lake, instance):
    table = pa.table(
        {
            "far": pa.array([dt.date(2918, 1, 1), None]),
            "at": pa.array([dt.datetime(1, 1, 1, tzinfo=dt.UTC), None], pa.timestamp("us", "UTC")),
            "exact": pa.array([Decimal("0." + "1" * 38), None], pa.decimal128(38, 38)),
            "long": pa.array([Decimal(10**70), None], pa.decimal256(76, 0)),
            "bytes": pa.array([b"\0\xff", b""]),
            "list": pa.array([["a", None], None]),
            "nested": pa.array([{"a": 1}, None]),
            "word": pa.array(["a", None]).dictionary_encode(),
            "nothing": pa.nulls(2),
        }
    )
    assert materialize([returning(table)], lake, instance).success
    assert read(lake, instance) == table.to_pylist()
    for kind in (pl.LazyFrame, pd.DataFrame):
        odd = pa.table({"n": pa.nulls(1), "d": pa.array([dt.date(2026, 3, 1)], pa.date64())})
        assert materialize([returning(odd)], lake, instance).success
        assert len(read(lake, instance, kind)) == 1
    polars = pl.DataFrame({"c": pl.Series(["a", None], dtype=pl.Categorical), "l": [["x"], []]})
    assert materialize([returning(polars)], lake, instance).success
    assert read(lake, instance, pl.LazyFrame) == [{"c": "a", "l": ["x"]}, {"c": None, "l": []}]


def test_a_query_and_a_list_are_refused_and_none_writes_nothing(local, instance):
    assert materialize([returning(None)], local, instance).success
    assert "materialize st/t first" in read(local, instance)
    result = materialize([returning([1])], local, instance)
    assert "st/t: a list cannot be stored as Parquet; return a frame" in failure(result).description


def test_only_the_columns_that_are_asked_for_are_read(lake, instance):
    frame = pl.DataFrame({"a": [1], "b": [2], "c": [3]})
    assert materialize([returning(frame)], lake, instance).success
    for kind in (pd.DataFrame, pl.LazyFrame, pa.RecordBatchReader):
        assert read(lake, instance, kind, columns=["c", "a"]) == [{"c": 3, "a": 1}]
    assert "st/t has no columns ['x']; it has ['a', 'b', 'c']" in read(
        lake, instance, columns=["x"]
    )


def of_key(context):
    return pl.DataFrame({"part": [context.partition_key] * 2, "run": [context.run.run_id, None]})


def test_a_partition_replaces_its_own_file_and_no_other(lake, instance):
    asset, runs = returning(of_key, partitions_def=STATIC), {}
    for key in [*KEYS, KEYS[1]]:
        result = materialize([asset], lake, instance, partition_key=key)
        one = made(result)["st/t"]
        assert value(one, "dagster/partition_row_count") == 2
        runs[key] = result.run_id
    assert value(one, "dagster/row_count") == 2 * len(KEYS)
    seen = read(lake, instance, of=STATIC)
    assert {row["part"]: row["run"] for row in seen if row["run"]} == runs
    assert len(seen) == 2 * len(KEYS)
    for key in KEYS[:2]:
        assert {row["part"] for row in read(lake, instance, pl.LazyFrame, STATIC, key)} == {key}


def test_tools_that_know_hive_directories_read_every_row_once(local, instance):
    asset = returning(of_key, partitions_def=STATIC)
    for key in (*KEYS[:3], KEYS[0]):
        assert materialize([asset], local, instance, partition_key=key).success
    found = pl.read_parquet(f"{local.base_dir}/st/t/**/*.parquet", hive_partitioning=True)
    assert sorted(found["partition"]) == sorted(2 * KEYS[:3])
    assert found["part"].to_list() == found["partition"].to_list()


def of_days(context):
    window = context.partition_time_window
    days = [window.start + dt.timedelta(n) for n in range((window.end - window.start).days)]
    clocks = [day.replace(tzinfo=None) for day in days]
    return pd.DataFrame({"at": clocks, "run": [context.run.run_id] * len(days)})


def test_several_days_are_written_in_one_run_and_told_one_by_one(lake, instance):
    said = {"partition_expr": "at"}
    asset = returning(of_days, partitions_def=DAYS, metadata=said)
    assert materialize([asset], lake, instance, partition_key="2026-03-02").success
    some = {START: "2026-03-02", END: "2026-03-05"}
    result = materialize([asset], lake, instance, tags=some)
    told = [
        e.step_materialization_data.materialization
        for e in result.get_asset_materialization_events()
    ]
    assert [value(one, "dagster/partition_row_count") for one in told] == [1] * 4
    assert value(told[0], "dagster/row_count") == 4
    found = read(lake, instance, partitions=DAYS, key="2026-03-03")
    assert [(row["at"].day, row["run"]) for row in found] == [(3, result.run_id)]
    unnamed = materialize([returning(of_days, partitions_def=DAYS)], lake, instance, tags=some)
    assert "a run is of 4 partitions of st/t" in failure(unnamed).description


@pytest.mark.parametrize("strange", ["fr", None])
def test_rows_of_another_partition_are_refused_by_name(strange, local, instance):
    frame = pl.DataFrame({"part": ["de", strange]})
    asset = returning(frame, partitions_def=STATIC, metadata={"partition_expr": "part"})
    result = materialize([asset], local, instance, partition_key="de")
    said = f"not of the partition de, such as part = {strange or 'NULL'}"
    assert said in failure(result).description
    assert list(Path(local.base_dir).rglob("*.parquet*")) == []


def test_partitions_of_two_dimensions_have_a_directory_for_each(lake, instance):
    both = dg.MultiPartitionsDefinition({"day": DAYS, "who": dg.StaticPartitionsDefinition("ab")})
    said = {"partition_expr": {"day": "at", "who": "who"}}

    def rows(context):
        keys = [key.keys_by_dimension for key in context.partition_keys]
        days = [dt.date.fromisoformat(key["day"]) for key in keys]
        return pa.table({"at": days, "who": [key["who"] for key in keys]})

    asset = returning(rows, partitions_def=both, metadata=said)
    some = {START: "2026-03-01|a", END: "2026-03-02|b"}
    assert (
        value(made(materialize([asset], lake, instance, tags=some))["st/t"], "dagster/row_count")
        == 4
    )
    seen: dict[str, Any] = {}
    down = reading(seen, "down", pl.DataFrame, DAYS)
    key = "2026-03-02"
    assert materialize([asset, down], lake, instance, selection=[down], partition_key=key).success
    assert sorted(seen["down"].rows()) == [(dt.date(2026, 3, 2), who) for who in "ab"]


def test_missing_partitions_are_named_unless_they_may_be_missing(lake, instance):
    asset = returning(of_key, partitions_def=STATIC)
    assert "have no file" in read(lake, instance, of=STATIC, allow_missing_partitions=True)
    assert materialize([asset], lake, instance, partition_key="de").success
    assert "4 of 5 partitions of st/t have no file: it's" in read(lake, instance, of=STATIC)
    assert len(read(lake, instance, of=STATIC, allow_missing_partitions=True)) == 2


def test_an_input_without_partitions_says_so(local, instance):
    dynamic = dg.DynamicPartitionsDefinition(name="shops")
    assert "st/t has no partitions" in read(local, instance, of=dynamic)


def test_an_hour_that_the_clock_shows_twice_needs_a_zone(local, instance):
    hours = dg.HourlyPartitionsDefinition("2026-10-25-00:00", timezone="Europe/Berlin")
    twice = ["2026-10-25-02:00", "2026-10-25-02:00+0100"]
    moments = [dt.datetime(2026, 10, 25, hour, 30, tzinfo=dt.UTC) for hour in (0, 1)]
    for key, at in zip(twice, moments, strict=True):
        zoned = pl.DataFrame({"at": [at]})
        bare = pl.DataFrame({"at": [at.replace(hour=2, tzinfo=None)]})
        for frame in (bare, zoned):
            said = {"partition_expr": "at"}
            asset = returning(frame, partitions_def=hours, metadata=said)
            result = materialize([asset], local, instance, partition_key=key)
            assert result.success == (frame is zoned)
            if frame is bare:
                assert "twice when it is set back" in failure(result).description


def test_no_rows_without_types_are_a_partition_and_nulls_are_in_none(local, instance):
    said = {"partitions_def": STATIC, "metadata": {"partition_expr": "part"}}
    nothing = returning(pl.DataFrame({"part": []}), **said)
    assert materialize([nothing], local, instance, partition_key="de").success
    nulls = returning(pl.DataFrame({"part": [None]}), **said)
    result = materialize([nulls], local, instance, partition_key="de")
    assert "part = NULL" in failure(result).description


def test_a_column_that_only_some_partitions_have_is_null_in_the_others(lake, instance):
    narrow = pa.table({"part": ["de"], "n": pa.array([1], pa.int32())})
    wider = pa.table({"new": [True], "part": ["it's"], "n": [2**40]})
    for key, frame in (("de", narrow), ("it's", wider)):
        asset = returning(frame, partitions_def=STATIC)
        assert materialize([asset], lake, instance, partition_key=key).success
    wanted = [{"part": "de", "n": 1, "new": None}, {"part": "it's", "n": 2**40, "new": True}]
    said: dict[str, Any] = {"of": STATIC, "allow_missing_partitions": True}
    for kind in (pd.DataFrame, pl.DataFrame, pl.LazyFrame):
        found = read(lake, instance, kind, **said)
        assert sorted(found, key=lambda row: row["part"]) == wanted
    for other in ("text", 1.5):
        again = returning(pa.table({"part": ["x"], "n": [other]}), partitions_def=STATIC)
        assert materialize([again], lake, instance, partition_key=KEYS[-1]).success
        assert "types do not go together" in read(lake, instance, **said)


MOMENT = dt.datetime(2026, 3, 1)  # noqa: DTZ001 - a moment without zone
NESTED = pa.struct([("x", pa.int64()), ("y", pa.string())])


@pytest.mark.parametrize(
    ("types", "value", "seen"),
    [
        ([pa.timestamp("ms"), pa.timestamp("us")], MOMENT, MOMENT),
        ([pa.timestamp("us"), pa.timestamp("ns")], MOMENT, MOMENT),
        ([pa.decimal128(5, 2), pa.decimal128(14, 2)], Decimal("1.25"), Decimal("1.25")),
        ([pa.struct([("x", pa.int64())]), NESTED], {"x": 1}, {"x": 1, "y": None}),
    ],
    ids=["milliseconds", "microseconds", "digits", "fields"],
)
def test_partitions_whose_types_grew_are_read_as_the_wider_type(
    types, value, seen, local, instance
):
    for key, type_ in zip(("de", "it's"), types, strict=True):
        asset = returning(pa.table({"v": pa.array([value], type_)}), partitions_def=STATIC)
        assert materialize([asset], local, instance, partition_key=key).success
    for kind in (pl.DataFrame, pl.LazyFrame):
        found = read(local, instance, kind, of=STATIC, allow_missing_partitions=True)
        assert [row["v"] for row in found] == [seen, seen]


@pytest.mark.parametrize(
    ("one", "other", "kinds"),
    [
        (pa.array([Decimal("1.25")]), pa.array([Decimal("1.125")]), [pl.LazyFrame]),
        (pa.array([2**64 - 1], pa.uint64()), pa.array([-1]), [pa.Table, pl.DataFrame]),
        (pa.array([5]), pa.array([Decimal("1.25")]), [pa.Table, pl.LazyFrame]),
    ],
    ids=["scales", "ranges", "whole and not"],
)
def test_values_that_no_type_of_the_files_holds_are_refused_by_name(
    one, other, kinds, local, instance
):
    for key, values in (("de", one), ("it's", other)):
        asset = returning(pa.table({"v": values}), partitions_def=STATIC)
        assert materialize([asset], local, instance, partition_key=key).success
    for kind in kinds:
        said = read(local, instance, kind, of=STATIC, allow_missing_partitions=True)
        assert "types do not go together" in said


def test_a_partition_without_rows_has_its_columns(lake, instance):
    empty = pl.DataFrame(schema={"part": pl.String, "n": pl.Int64})
    asset = returning(empty, partitions_def=STATIC, metadata={"partition_expr": "part"})
    result = materialize([asset], lake, instance, partition_key="de")
    assert value(made(result)["st/t"], "dagster/partition_row_count") == 0
    assert read(lake, instance, pl.LazyFrame, STATIC, "de") == []


def test_secrets_are_in_no_event_and_no_error(s3_server, instance, monkeypatch, capfd):
    monkeypatch.setenv("BUCKET_SECRET", SECRET)
    options = {**s3_server.options, "secret_access_key": dg.EnvVar("BUCKET_SECRET")}
    good = ixd.ParquetIOManager(base_dir=f"s3://{BUCKET}/secret", storage_options=options)
    result = materialize([returning(pl.DataFrame(ROWS))], good, instance)
    assert result.success
    bad = ixd.ParquetIOManager(base_dir="s3://nowhere/secret", storage_options=options)
    other = materialize([returning(pl.DataFrame(ROWS))], bad, instance)
    assert "make the bucket nowhere first" in failure(other).description
    told = [*result.all_events, *other.all_events]
    assert SECRET not in "".join(map(str, told))
    assert SECRET not in "".join(capfd.readouterr())


def test_files_are_written_to_google_too(gcs_server, instance, tmp_path):
    prefix = f"{tmp_path.parent.name}/{tmp_path.name}"
    lake = ixd.ParquetIOManager(
        base_dir=f"gs://{BUCKET}/{prefix}", storage_options=gcs_server.options
    )
    asset = returning(of_key, partitions_def=STATIC)
    for key in ("de", "it's", "de"):
        assert materialize([asset], lake, instance, partition_key=key).success
    names = [key.removeprefix(f"{prefix}/st/t/") for key in gcs_server.keys(prefix)]
    assert [name.partition("/")[0] for name in names] == [
        "_manifest.json",
        "partition=de",
        "partition=it%27s",
    ]
