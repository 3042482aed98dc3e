"""Extraction: the rows of any table of any source arrive in Parquet, exactly, or are refused."""

from __future__ import annotations

import datetime as dt
import decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa

from ixflow.dialects import dialect_of
from ixflow.errors import (
    ExecutionError,
    NotRecommendedError,
    OutputNotWritable,
    SnapshotUnavailable,
    SourceUnavailable,
    TableNotFound,
    ValidationError,
)
from ixflow.events import ChunkExtracted, Event, TablePublished, listen
from ixflow.extraction.api import execute, execute_plan, explain, plan, profile, published
from ixflow.extraction.context import RuntimeContext
from ixflow.extraction.cost import CostConfig
from ixflow.extraction.plan import ExecutionPlan
from ixflow.extraction.writer import ROW_GROUP_BYTES
from ixflow.values import TableName
from ixflow_tests.sources import extract, intent_for, make, quoted, rows_of


@pytest.fixture(params=["postgres", "duckdb", "sqlite", "mariadb"])
def source(request) -> sa.Engine:
    """Give a fresh database of each kind that can be extracted from."""
    engine: sa.Engine = request.getfixturevalue(f"fresh_{request.param}")
    return engine


def test_rows_arrive_with_their_nulls_decimals_and_dates(source, tmp_path):
    make(
        source,
        "CREATE TABLE orders (id integer PRIMARY KEY, name varchar(20), price decimal(12,2), "
        "day date, paid_at timestamp NULL)",
        "INSERT INTO orders VALUES "
        "(1, 'one', 10.10, '2024-02-29', '2024-02-29 12:00:00'), (2, NULL, NULL, NULL, NULL), "
        "(3, '', -0.01, '1999-12-31', '1999-12-31 23:59:59')",
    )
    rows = rows_of(extract(source, "orders", tmp_path / "out")).sort_by("id").to_pydict()
    assert rows["id"] == [1, 2, 3]
    assert rows["name"] == ["one", None, ""]
    assert rows["price"] == [decimal.Decimal("10.10"), None, decimal.Decimal("-0.01")]
    assert rows["day"] == [dt.date(2024, 2, 29), None, dt.date(1999, 12, 31)]
    assert [at and at.replace(tzinfo=None) for at in rows["paid_at"]] == [
        dt.datetime(2024, 2, 29, 12),  # noqa: DTZ001 - the column has no zone everywhere
        None,
        dt.datetime(1999, 12, 31, 23, 59, 59),  # noqa: DTZ001
    ]


def test_an_empty_table_gives_one_file_with_its_columns(source, tmp_path):
    make(source, "CREATE TABLE orders (id integer PRIMARY KEY, name varchar(20))")
    result = extract(source, "orders", tmp_path / "out")
    assert result.rows_extracted == 0
    (path,) = result.output_files
    rows = pq.read_table(path)
    assert rows.num_rows == 0
    assert rows.schema.names == ["id", "name"]
    assert pa.types.is_integer(rows.schema.field("id").type)
    assert rows.schema.field("name").type == pa.string()


@pytest.mark.parametrize(
    "columns",
    [
        "a integer, b integer, PRIMARY KEY (b, a)",
        "a integer, b integer",
        "a varchar(20) PRIMARY KEY, b integer",
    ],
    ids=["composite key", "no key", "text key"],
)
def test_a_table_needs_no_particular_key(source, tmp_path, columns):
    make(
        source,
        f"CREATE TABLE t ({columns})",
        "INSERT INTO t VALUES " + ", ".join(f"({n}, {n * 2})" for n in range(500)),
    )
    rows = rows_of(extract(source, "t", tmp_path / "out"))
    assert sorted(int(a) for a in rows["a"].to_pylist()) == list(range(500))
    assert sum(rows["b"].to_pylist()) == 2 * sum(range(500))


def test_one_row_is_one_row(source, tmp_path):
    make(source, "CREATE TABLE t (a integer)", "INSERT INTO t VALUES (7)")
    result = extract(source, "t", tmp_path / "out")
    assert (result.rows_extracted, rows_of(result).to_pydict()) == (1, {"a": [7]})


def test_odd_names_of_tables_and_columns_work(source, tmp_path):
    table, columns = 'Order "x" select', ["group", "a:b", "%s", "Größe (m)", "select"]
    listed = ", ".join(f"{quoted(source, name)} integer" for name in columns)
    make(
        source,
        f"CREATE TABLE {quoted(source, table)} ({listed})",
        f"INSERT INTO {quoted(source, table)} VALUES (1, 2, 3, 4, 5)",
    )
    # Double quotes in a name are written as SQL writes them.
    name = '"Order ""x"" select"'
    result = extract(source, name, tmp_path / "out")
    assert rows_of(result).to_pydict() == dict(zip(columns, [[1], [2], [3], [4], [5]], strict=True))
    manifest = published(intent_for(source, name, tmp_path / "out"))
    assert manifest is not None
    assert [column.name for column in manifest.columns] == columns


def test_a_table_whose_name_holds_a_dot_is_found(source, tmp_path):
    make(source, f"CREATE TABLE {quoted(source, 'v1.orders')} (a integer)")
    assert extract(source, "v1.orders", tmp_path / "out").rows_extracted == 0


@pytest.mark.parametrize("fixture", ["postgres", "duckdb"])
def test_a_table_of_another_schema_is_found(fixture, request, tmp_path):
    source = request.getfixturevalue(f"fresh_{fixture}")
    make(source, "CREATE SCHEMA shop", "CREATE TABLE shop.t AS SELECT 1 AS a")
    assert extract(source, "shop.t", tmp_path / "out").rows_extracted == 1
    with pytest.raises(TableNotFound, match="t in this"):
        extract(source, "t", tmp_path / "out")


def test_columns_can_be_chosen_and_read_as_text(source, tmp_path):
    make(source, "CREATE TABLE t (a integer, b integer, c integer)", "INSERT INTO t VALUES (1,2,3)")
    rows = rows_of(extract(source, "t", tmp_path / "out", columns=["c", "a"], as_text=["a"]))
    assert rows.to_pydict() == {"c": [3], "a": ["1"]}
    with pytest.raises(ValidationError, match="nope"):
        extract(source, "t", tmp_path / "out", columns=["nope"])


@pytest.mark.parametrize("fixture", ["postgres", "duckdb", "mariadb"])
def test_decimals_keep_every_digit(fixture, request, tmp_path):
    source = request.getfixturevalue(f"fresh_{fixture}")
    value = "1234567890123456789012345678.0123456789"
    make(source, "CREATE TABLE t (n decimal(38,10))", f"INSERT INTO t VALUES ({value}), (-{value})")
    rows = rows_of(extract(source, "t", tmp_path / "out"))
    assert rows.schema.field("n").type == pa.decimal128(38, 10)
    assert {str(n) for n in rows["n"].to_pylist()} == {value, f"-{value}"}


def test_a_decimal_without_scale_is_exact_text(fresh_postgres, tmp_path):
    make(
        fresh_postgres, "CREATE TABLE t (n numeric)", "INSERT INTO t VALUES (1e-30), ('NaN'), (10)"
    )
    result = extract(fresh_postgres, "t", tmp_path / "out")
    assert rows_of(result)["n"].to_pylist() == ["0." + "0" * 29 + "1", "NaN", "10"]
    manifest = published(tmp_path / "out" / "t")
    assert manifest is not None
    assert [(c.sql_type, c.as_text) for c in manifest.columns] == [("numeric", True)]


@pytest.mark.parametrize(
    ("fixture", "column", "value"),
    [
        ("postgres", "timestamp with time zone", "'infinity'"),
        ("postgres", "date", "'-infinity'"),
        ("postgres", "date", "'infinity'"),
        ("duckdb", "timestamp", "'infinity'"),
        ("mariadb", "date", "'0000-00-00'"),
        ("mariadb", "datetime", "'2024-00-01 00:00:00'"),
        ("sqlite", "date", "'yesterday'"),
        ("sqlite", "integer", "'many'"),
    ],
)
def test_a_value_that_its_type_cannot_hold_is_refused_and_can_be_read_as_text(
    fixture, column, value, request, tmp_path
):
    source = request.getfixturevalue(f"fresh_{fixture}")
    relaxed = ["SET sql_mode = ''"] if fixture == "mariadb" else []
    make(source, f"CREATE TABLE t (odd {column})", *relaxed, f"INSERT INTO t VALUES ({value})")
    with pytest.raises(ExecutionError, match="odd") as caught:
        extract(source, "t", tmp_path / "out")
    assert caught.value.table.endswith("t")
    assert caught.value.tasks_done == 0
    assert list(caught.value.errors) == ["001"]
    assert published(intent_for(source, "t", tmp_path / "out")) is None
    rows = rows_of(extract(source, "t", tmp_path / "out", as_text=["odd"]))
    assert rows["odd"].to_pylist() == [value.strip("'")]


@pytest.mark.parametrize("fixture", ["postgres", "sqlite", "mariadb"])
def test_long_values_travel_in_small_batches(fixture, request, tmp_path):
    source = request.getfixturevalue(f"fresh_{fixture}")
    size, kind = 5_000_000, "longtext" if fixture == "mariadb" else "text"
    cell = "hex(zeroblob(2500000))" if fixture == "sqlite" else f"repeat('0', {size})"
    inserts = [f"INSERT INTO t SELECT {n}, {cell}" for n in range(20)]
    make(source, f"CREATE TABLE t (id integer, long_value {kind})", *inserts)
    intent = intent_for(source, "t", tmp_path / "out")
    dialect = dialect_of(source)
    with source.connect() as conn:
        columns = dialect.columns(conn, TableName("t"))
    with dialect.reader(intent.url()) as reader:
        batches = reader.read(dialect.select(TableName("t"), columns), columns)
        assert max(batch.nbytes for batch in batches) < 32 << 20
    (path,) = execute(plan(intent)).output_files
    with pq.ParquetFile(path) as file:
        groups = [file.metadata.row_group(n) for n in range(file.num_row_groups)]
        assert file.metadata.num_rows == 20
    assert len(groups) >= 3
    assert max(group.num_rows for group in groups) * size < 2 * ROW_GROUP_BYTES


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("ALTER TABLE t DROP COLUMN b", "column b is gone"),
        ("ALTER TABLE t ADD COLUMN d integer", "column d is new"),
        ("ALTER TABLE t RENAME COLUMN b TO e", "column b is gone"),
    ],
)
def test_a_column_that_changed_since_the_plan_stops_the_run(source, tmp_path, change, said):
    make(source, "CREATE TABLE t (a integer, b integer)", "INSERT INTO t VALUES (1, 2)")
    made = plan(intent_for(source, "t", tmp_path / "out"))
    make(source, change)
    with pytest.raises(ExecutionError, match=said):
        execute(made)
    assert not (tmp_path / "out" / "t").exists()


def test_a_table_that_went_since_the_plan_is_not_found(source, tmp_path):
    make(source, "CREATE TABLE t (a integer)")
    made = plan(intent_for(source, "t", tmp_path / "out"))
    make(source, "DROP TABLE t")
    with pytest.raises(TableNotFound, match="t"):
        execute(made)


def test_a_missing_table_is_named(source, tmp_path):
    make(source, "CREATE TABLE orders (a integer)")
    with pytest.raises(TableNotFound, match="orderz"):
        profile(intent_for(source, "orderz", tmp_path))


def test_a_view_can_be_extracted(source, tmp_path):
    make(
        source,
        "CREATE TABLE t (a integer)",
        "INSERT INTO t VALUES (1), (2)",
        "CREATE VIEW v AS SELECT a * 10 AS b FROM t",
    )
    rows = rows_of(extract(source, "v", tmp_path / "out"))
    assert sorted(int(b) for b in rows["b"].to_pylist()) == [10, 20]


def test_a_stored_plan_is_executed_without_planning(source, tmp_path):
    make(source, "CREATE TABLE t (a integer)", "INSERT INTO t VALUES (1)")
    intent = intent_for(source, "t", tmp_path / "out")
    stored = ExecutionPlan.from_dict(plan(intent).plan.to_dict())
    assert execute_plan(stored, intent).rows_extracted == 1
    with pytest.raises(ValidationError, match="the intent u"):
        execute_plan(stored, intent_for(source, "u", tmp_path / "out"))


def test_what_happened_is_told(source, tmp_path):
    make(source, "CREATE TABLE t (a integer)", "INSERT INTO t VALUES (1), (2)")
    heard: list[Event] = []
    with listen(heard.append):
        result = extract(source, "t", tmp_path / "out")
    chunk, told = heard
    assert isinstance(chunk, ChunkExtracted)
    assert (chunk.run_id, chunk.chunk_id, chunk.rows) == (result.run_id, "001", 2)
    assert told == TablePublished(result.run_id, "t", 2, 1)


def test_the_result_says_what_was_done(source, tmp_path):
    make(source, "CREATE TABLE t (a integer)", "INSERT INTO t VALUES (1), (2)")
    result = extract(source, "t", tmp_path / "out")
    assert result.status == "success"
    assert result.duration_seconds > 0
    assert result.throughput_rows_sec == pytest.approx(2 / result.duration_seconds)
    assert result.bytes_written == sum(Path(f).stat().st_size for f in result.output_files)
    assert Path(result.manifest_path).is_file()
    assert result.effective_workers == 1


def test_the_last_plan_of_an_intent_is_explained(source, tmp_path):
    make(source, "CREATE TABLE t (a integer)")
    intent = intent_for(source, "t", tmp_path)
    with pytest.raises(ValidationError, match="plan"):
        explain(intent)
    plan(intent, RuntimeContext(target_duration_seconds=5), CostConfig(compute_rate=1))
    said = str(explain(intent))
    for words in ("Plan: t", "Workers: 1", "Consistency: one snapshot", "001: ", "Verdict: SAFE"):
        assert words in said


def test_an_unsafe_plan_runs_only_by_force(source, tmp_path):
    make(source, "CREATE TABLE t (a integer)", "INSERT INTO t VALUES (1)")
    intent = intent_for(source, "t", tmp_path / "out")
    made = plan(intent, RuntimeContext(min_workers=64))
    assert (made.is_not_recommended, made.is_safe) == (True, False)
    assert made.verdict == "NOT RECOMMENDED"
    with pytest.raises(NotRecommendedError, match="min_workers 64"):
        execute(made)
    assert execute(made, force=True).rows_extracted == 1


@pytest.mark.parametrize(("option", "value"), [("runtime_context", {}), ("cost_config", 0.5)])
def test_an_argument_of_the_wrong_kind_is_named(option, value, tmp_path, fresh_sqlite):
    with pytest.raises(ValidationError, match=option):
        plan(intent_for(fresh_sqlite, "t", tmp_path), **{option: value})


def test_planning_makes_nothing_but_its_memory(source, tmp_path):
    make(source, "CREATE TABLE t (a integer)")
    plan(intent_for(source, "t", tmp_path / "a" / "b"))
    made = [path for path in (tmp_path / "a").rglob("*") if path.is_file()]
    assert made == [tmp_path / "a" / "b" / ".ixflow" / ".state.sqlite"]


def test_a_missing_database_file_is_not_made(tmp_path):
    for kind in ("sqlite", "duckdb"):
        path = tmp_path / "none.db"
        engine = sa.create_engine(f"{kind}:///{path}")
        with pytest.raises(SourceUnavailable, match=r"none\.db"):
            plan(intent_for(engine, "t", tmp_path))
        assert not path.exists()


def test_a_wrong_password_is_said_without_the_password(fresh_mariadb, tmp_path):
    make(
        fresh_mariadb,
        "CREATE OR REPLACE USER reader IDENTIFIED BY 'right'",
        f"GRANT SELECT ON {fresh_mariadb.url.database}.* TO reader",
        "CREATE TABLE t (a integer)",
    )
    url = fresh_mariadb.url.set(username="reader", password="wr0ng-s3cret")
    engine = sa.create_engine(url)
    with pytest.raises(SourceUnavailable, match="password") as caught:
        plan(intent_for(engine, "t", tmp_path))
    assert "wr0ng-s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_role_that_is_not_there_is_refused(fresh_postgres, tmp_path):
    engine = sa.create_engine(fresh_postgres.url.set(username="nobody", password="s3cret"))
    with pytest.raises(SourceUnavailable, match="nobody") as caught:
        plan(intent_for(engine, "t", tmp_path))
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("kind", ["postgresql+psycopg", "mysql+pymysql"])
def test_an_unreachable_host_is_named(kind, tmp_path):
    engine = sa.create_engine(f"{kind}://app:s3cret@127.0.0.1:1/shop")
    with pytest.raises(SourceUnavailable, match=r"127\.0\.0\.1:1") as caught:
        plan(intent_for(engine, "t", tmp_path))
    assert "s3cret" not in str(caught.value)


def test_an_output_that_cannot_be_written_is_named(source, tmp_path):
    make(source, "CREATE TABLE t (a integer)")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputNotWritable, match=r"file/deeper"):
        extract(source, "t", tmp_path / "file" / "deeper")


def test_a_table_without_row_versions_has_no_snapshot(fresh_mariadb, tmp_path):
    make(fresh_mariadb, "CREATE TABLE t (a integer) ENGINE = MyISAM", "INSERT INTO t VALUES (1)")
    made = plan(intent_for(fresh_mariadb, "t", tmp_path))
    assert (made.plan.consistency, made.verdict) == ("per connection", "SAFE WITH WARNINGS")
    assert execute(made).rows_extracted == 1
    with pytest.raises(SnapshotUnavailable, match="t"):
        plan(intent_for(fresh_mariadb, "t", tmp_path, require_snapshot=True))


def test_mariadb_types_arrive_exactly(fresh_mariadb, tmp_path):
    make(
        fresh_mariadb,
        "CREATE TABLE t (u bigint unsigned, f float, d double, dt datetime(6), ts timestamp(6), "
        "b bit(3), e enum('x','y'), s set('p','q'), j json, ti time(6), bl blob, y year)",
        "SET time_zone = '+02:00'",
        "INSERT INTO t VALUES (18446744073709551615, 0.1, 0.1, '1000-01-01 00:00:00.000001', "
        "'2024-01-02 03:04:05.000006', b'101', 'y', 'p,q', '{\"a\": 1}', '838:59:59.5', "
        "x'00ff', 2155)",
    )
    (row,) = rows_of(extract(fresh_mariadb, "t", tmp_path / "out")).to_pylist()
    assert (row["u"], row["d"], row["y"], row["bl"]) == (2**64 - 1, 0.1, 2155, b"\x00\xff")
    assert row["f"] == pa.scalar(0.1, pa.float32()).as_py()
    assert row["dt"] == dt.datetime(1000, 1, 1, 0, 0, 0, 1)  # noqa: DTZ001 - it has no zone
    assert row["ts"] == dt.datetime(2024, 1, 2, 1, 4, 5, 6, dt.UTC)
    assert (row["b"], row["e"], row["s"], row["ti"]) == ("101", "y", "p,q", "838:59:59.500000")


@pytest.mark.parametrize("fixture", ["postgres", "duckdb", "sqlite", "mariadb"])
def test_a_profile_tells_size_and_key_without_reading_the_rows(fixture, request, tmp_path):
    source = request.getfixturevalue(f"fresh_{fixture}")
    make(
        source,
        "CREATE TABLE t (b integer, a integer, PRIMARY KEY (a, b))",
        "INSERT INTO t VALUES " + ", ".join(f"({n}, {n})" for n in range(1000)),
    )
    if fixture in ("postgres", "mariadb"):
        make(source, "ANALYZE t" if fixture == "postgres" else "ANALYZE TABLE t")
    seen = profile(intent_for(source, "t", tmp_path))
    assert 500 <= seen.row_count_estimate <= 2000
    assert seen.primary_key == ("a", "b")
    assert [column.name for column in seen.columns] == ["b", "a"]
    assert seen.cv < 0.2
    assert seen.latency_p50_ms <= seen.latency_p95_ms
