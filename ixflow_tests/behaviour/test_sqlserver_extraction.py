"""Extraction from SQL Server, whole: Microsoft's driver, on a real server or on the stand-in."""

from __future__ import annotations

import datetime as dt
import decimal
import json

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from ixflow.dialects import dialect_named, patience
from ixflow.errors import (
    ExecutionError,
    SnapshotUnavailable,
    SourceUnavailable,
    TableNotFound,
    UnsupportedDatabase,
    ValidationError,
)
from ixflow.extraction.api import execute, explain, plan, profile, published
from ixflow.extraction.context import RuntimeContext
from ixflow.values import TableName
from ixflow_tests.sources import extract, intent_for, make, rows_of

DIALECT = dialect_named("sqlserver")


def columns_of(engine, name):
    with engine.connect() as conn:
        return DIALECT.columns(conn, TableName(name))


# Type, a value as T-SQL, and what must arrive.
VALUES = {
    "bit": ("1", True),
    "tinyint": ("255", 255),
    "smallint": ("-32768", -32768),
    "int": ("-2147483648", -(2**31)),
    "bigint": ("9223372036854775807", 2**63 - 1),
    "decimal(38,10)": (
        "1234567890123456789012345678.0123456789",
        decimal.Decimal("1234567890123456789012345678.0123456789"),
    ),
    "numeric(5,2)": ("-999.99", decimal.Decimal("-999.99")),
    "money": ("922337203685477.5807", decimal.Decimal("922337203685477.5807")),
    "smallmoney": ("-214748.3648", decimal.Decimal("-214748.3648")),
    "real": ("1.5", 1.5),
    "float": ("1.7976931348623157E308", 1.7976931348623157e308),
    "date": ("'9999-12-31'", dt.date(9999, 12, 31)),
    "time(3)": ("'23:59:59.999'", dt.time(23, 59, 59, 999000)),
    "smalldatetime": ("'2079-06-06 23:59:00'", dt.datetime(2079, 6, 6, 23, 59)),  # noqa: DTZ001
    "datetime": ("'1753-01-01 00:00:00.003'", dt.datetime(1753, 1, 1, 0, 0, 0, 3000)),  # noqa: DTZ001
    "datetime2(6)": (
        "'0001-01-01 00:00:00.000001'",
        dt.datetime(1, 1, 1, 0, 0, 0, 1),  # noqa: DTZ001
    ),
    "datetime2(7)": ("'9999-12-31 23:59:59.9999999'", "9999-12-31 23:59:59.9999999"),
    "datetimeoffset(7)": (
        "'2024-02-29 12:00:00.1234567 -03:30'",
        "2024-02-29 12:00:00.1234567 -03:30",
    ),
    "char(5)": ("'ab'", "ab   "),
    "varchar(20)": ("''", ""),
    "varchar(max)": ("'long'", "long"),
    "varchar(10) COLLATE Cyrillic_General_CI_AS": ("N'Привет'", "Привет"),
    "varchar(10) COLLATE Japanese_CI_AS": ("N'日本'", "日本"),
    "varchar(20) COLLATE Latin1_General_100_CI_AS_SC_UTF8": ("N'aß€😀'", "aß€😀"),
    "nchar(3)": ("N'é'", "é  "),
    "nvarchar(20)": ("N'😀 smile'", "😀 smile"),
    "nvarchar(max)": ("N'𝄞'", "𝄞"),
    "text": ("'old'", "old"),
    "ntext": ("N'öld'", "öld"),
    "binary(4)": ("0x01020304", b"\x01\x02\x03\x04"),
    "varbinary(20)": ("0x00FF00", b"\x00\xff\x00"),
    "varbinary(max)": ("CAST('' AS varbinary(max))", b""),
    "image": ("0xFF", b"\xff"),
    "uniqueidentifier": (
        "'6F9619FF-8B86-D011-B42D-00C04FC964FF'",
        "6F9619FF-8B86-D011-B42D-00C04FC964FF",
    ),
}


@pytest.fixture
def every_type(fresh_sqlserver):
    """Give a table with a column of every type: a row of values, a row of NULLs."""
    columns = ", ".join(f"c{place} {type_}" for place, type_ in enumerate(VALUES))
    values = ", ".join(value for value, _ in VALUES.values())
    nothing = ", ".join("NULL" for _ in VALUES)
    make(
        fresh_sqlserver,
        f"CREATE TABLE t (id int NOT NULL PRIMARY KEY, {columns})",
        f"INSERT INTO t VALUES (1, {values})",
        f"INSERT INTO t VALUES (2, {nothing})",
    )
    return fresh_sqlserver


def test_every_type_arrives_exactly_and_so_does_null(every_type, tmp_path):
    some, none = rows_of(extract(every_type, "t", tmp_path / "out")).sort_by("id").to_pylist()
    for place, (type_, (_, expected)) in enumerate(VALUES.items()):
        assert some[f"c{place}"] == expected, type_
        assert none[f"c{place}"] is None, type_


def test_the_files_types_are_those_of_the_catalogue_also_without_rows(every_type, tmp_path):
    columns = columns_of(every_type, "t")
    make(every_type, "DELETE FROM t")
    result = extract(every_type, "t", tmp_path / "out")
    (path,) = result.output_files
    found = pq.read_table(path)
    assert (result.rows_extracted, found.num_rows) == (0, 0)
    assert [(f.name, f.type) for f in found.schema] == [(c.name, c.type) for c in columns]
    declared = ["int", *(type_.partition(" COLLATE")[0] for type_ in VALUES)]
    declared = [type_.replace("numeric", "decimal") for type_ in declared]
    assert [c.sql_type.replace("numeric", "decimal") for c in columns] == declared


def test_every_type_can_be_read_as_text(every_type, tmp_path):
    names = [column.name for column in columns_of(every_type, "t")]
    some, none = rows_of(extract(every_type, "t", tmp_path / "out", as_text=names)).to_pylist()
    assert all(isinstance(value, str) for value in some.values())
    assert all(none[name] is None for name in names if name != "id")
    for place, (type_, (_, expected)) in enumerate(VALUES.items()):
        text = some[f"c{place}"]
        if isinstance(expected, bytes):
            assert bytes.fromhex(text) == expected, type_
        elif isinstance(expected, (float, decimal.Decimal)):
            assert type(expected)(text) == expected, type_
        elif isinstance(expected, dt.datetime):
            # The server shows minutes with or without seconds behind them.
            assert dt.datetime.fromisoformat(text) == expected, type_


def test_a_seventh_digit_of_a_time_is_kept(fresh_sqlserver, tmp_path):
    make(fresh_sqlserver, "CREATE TABLE t (a time(7))", "INSERT INTO t VALUES ('12:00:00.1234567')")
    rows = rows_of(extract(fresh_sqlserver, "t", tmp_path / "out"))
    assert rows["a"].type == pa.time64("ns")
    assert rows["a"].cast(pa.int64()).to_pylist() == [43_200_123_456_700]


def test_every_tick_of_datetime_is_the_millisecond_that_the_server_shows(fresh_sqlserver, tmp_path):
    shown = [f".{round(tick * 10 / 3):03d}" for tick in range(300)]
    values = ", ".join(f"('2024-01-01 00:00:00{part}')" for part in shown)
    make(fresh_sqlserver, "CREATE TABLE t (a datetime)", f"INSERT INTO t VALUES {values}")
    found = rows_of(extract(fresh_sqlserver, "t", tmp_path / "out"))["a"].to_pylist()
    assert sorted(moment.microsecond for moment in found) == [int(p[1:]) * 1000 for p in shown]


def test_a_column_that_numbers_itself_or_its_row_is_read(fresh_sqlserver, tmp_path):
    make(
        fresh_sqlserver,
        "CREATE TABLE t (a int, version rowversion)",
        "INSERT INTO t (a) VALUES (1)",
    )
    (row,) = rows_of(extract(fresh_sqlserver, "t", tmp_path / "out")).to_pylist()
    assert row["a"] == 1
    assert row["version"] is None or len(row["version"]) == 8


@pytest.mark.parametrize(
    "columns",
    ["a int, b int, PRIMARY KEY (b, a)", "a int, b int", "a nvarchar(20) PRIMARY KEY, b int"],
    ids=["composite key", "no key", "text key"],
)
def test_a_table_needs_no_particular_key(fresh_sqlserver, tmp_path, columns):
    rows = ", ".join(f"({n}, {n * 2})" for n in range(500))
    make(fresh_sqlserver, f"CREATE TABLE t ({columns})", f"INSERT INTO t VALUES {rows}")
    found = rows_of(extract(fresh_sqlserver, "t", tmp_path / "out"))
    assert sorted(int(a) for a in found["a"].to_pylist()) == list(range(500))
    assert sum(found["b"].to_pylist()) == 2 * sum(range(500))


def test_the_key_is_known_in_its_own_order(fresh_sqlserver, tmp_path):
    make(fresh_sqlserver, "CREATE TABLE t (a int, b int, c int, PRIMARY KEY (c, a))")
    assert profile(intent_for(fresh_sqlserver, "t", tmp_path)).primary_key == ("c", "a")


def test_odd_names_work(fresh_sqlserver, tmp_path):
    names = ["select", "a:b", "%s", "Größe (m)", "x]y", "order by"]
    listed = ", ".join(f"{DIALECT.quote(name)} int" for name in names)
    table = DIALECT.qualified(TableName("Order] (select", "from"))
    make(fresh_sqlserver, "CREATE SCHEMA [from]", f"CREATE TABLE {table} ({listed})")
    found = extract(fresh_sqlserver, "from.Order] (select", tmp_path / "out")
    assert rows_of(found).schema.names == names


def test_a_name_means_exactly_one_table(fresh_sqlserver, tmp_path):
    make(
        fresh_sqlserver,
        "CREATE SCHEMA shop",
        "CREATE TABLE t (a int)",
        "CREATE TABLE shop.t (b int)",
        "CREATE TABLE shop.u (c int)",
        "CREATE TABLE [v1.orders] (d int)",
    )
    for name, column in (("t", "a"), ("dbo.t", "a"), ("shop.t", "b"), ("v1.orders", "d")):
        seen = profile(intent_for(fresh_sqlserver, name, tmp_path))
        assert [c.name for c in seen.columns] == [column]
    for name in ("u", "T", "shop.T", "SHOP.t", "t ", "sys.objects"):
        with pytest.raises(TableNotFound, match="capitals included"):
            profile(intent_for(fresh_sqlserver, name, tmp_path))


def test_a_view_can_be_extracted(fresh_sqlserver, tmp_path):
    make(fresh_sqlserver, "CREATE TABLE t (a int)", "INSERT INTO t VALUES (1), (2)")
    make(fresh_sqlserver, "CREATE VIEW v AS SELECT a * 10 AS b FROM t")
    rows = rows_of(extract(fresh_sqlserver, "v", tmp_path / "out"))
    assert sorted(rows["b"].to_pylist()) == [10, 20]
    assert profile(intent_for(fresh_sqlserver, "v", tmp_path)).row_count_estimate == -1


def test_a_profile_costs_no_scan_and_knows_the_connections(fresh_sqlserver, tmp_path):
    rows = ", ".join(f"({n})" for n in range(1000))
    make(fresh_sqlserver, "CREATE TABLE t (a int)", f"INSERT INTO t VALUES {rows}")
    seen = profile(intent_for(fresh_sqlserver, "t", tmp_path))
    assert (seen.row_count_estimate, seen.max_connections) == (1000, 32767)
    assert seen.size_bytes >= 8192
    assert seen.active_connections >= 1


def test_hidden_columns_are_left_out_as_select_star_does(fresh_sqlserver):
    make(
        fresh_sqlserver,
        "CREATE TABLE t (a int NOT NULL PRIMARY KEY, "
        "since datetime2(7) GENERATED ALWAYS AS ROW START HIDDEN NOT NULL, "
        "until datetime2(7) GENERATED ALWAYS AS ROW END HIDDEN NOT NULL, "
        "PERIOD FOR SYSTEM_TIME (since, until))",
    )
    assert [column.name for column in columns_of(fresh_sqlserver, "t")] == ["a"]


def test_long_values_travel_in_small_batches(fresh_sqlserver, tmp_path):
    cell = "REPLICATE(CAST(N'0' AS nvarchar(max)), 5000000)"
    inserts = [f"INSERT INTO t SELECT {n}, {cell}" for n in range(6)]
    make(fresh_sqlserver, "CREATE TABLE t (id int, long_value nvarchar(max))", *inserts)
    columns = columns_of(fresh_sqlserver, "t")
    query = DIALECT.select(TableName("t"), columns)
    with DIALECT.reader(fresh_sqlserver.url) as reader, reader.read(query, columns) as batches:
        sizes = [batch.nbytes for batch in batches]
    assert max(sizes) < 32 << 20
    found = rows_of(extract(fresh_sqlserver, "t", tmp_path / "out"))
    assert found.num_rows == 6
    assert pc.unique(pc.utf8_length(found["long_value"])).to_pylist() == [5_000_000]


def test_short_values_in_long_columns_come_in_order_and_complete(fresh_sqlserver, tmp_path):
    make(fresh_sqlserver, "CREATE TABLE t (id int, a nvarchar(max), b varbinary(max))")
    for first in range(0, 3000, 1000):
        rows = ", ".join(f"({n}, N'{n}', NULL)" for n in range(first, first + 1000))
        make(fresh_sqlserver, f"INSERT INTO t VALUES {rows}")
    found = rows_of(extract(fresh_sqlserver, "t", tmp_path / "out")).sort_by("id")
    assert found["a"].to_pylist() == [str(n) for n in range(3000)]
    assert found["b"].null_count == 3000


def test_two_readers_of_one_connection_follow_each_other(fresh_sqlserver):
    make(fresh_sqlserver, "CREATE TABLE t (a int)", "INSERT INTO t VALUES (1), (2)")
    columns = columns_of(fresh_sqlserver, "t")
    query = DIALECT.select(TableName("t"), columns)
    with DIALECT.reader(fresh_sqlserver.url) as reader:
        for _ in range(3):
            assert reader.read(query, columns).read_all().num_rows == 2
        # One that is given up early leaves the connection usable.
        with reader.read(query, columns) as batches:
            batches.read_next_batch()
        assert reader.read(query, columns).read_all().num_rows == 2


def test_what_is_written_meanwhile_is_not_read(fresh_sqlserver):
    make(fresh_sqlserver, "CREATE TABLE t (a int)", "INSERT INTO t VALUES (1), (2)")
    columns = columns_of(fresh_sqlserver, "t")
    query = DIALECT.select(TableName("t"), columns)
    with DIALECT.reader(fresh_sqlserver.url) as reader:
        assert reader.read(query, columns).read_all().num_rows == 2
        make(fresh_sqlserver, "INSERT INTO t VALUES (3)", "DELETE FROM t WHERE a = 1")
        assert sorted(reader.read(query, columns).read_all()["a"].to_pylist()) == [1, 2]
    with DIALECT.reader(fresh_sqlserver.url) as reader:
        assert sorted(reader.read(query, columns).read_all()["a"].to_pylist()) == [2, 3]


def test_a_plan_says_whether_one_snapshot_can_be_had_and_which_setting_helps(
    sqlserver_server, tmp_path
):
    with sqlserver_server.database(snapshots=False) as engine:
        make(engine, "CREATE TABLE t (a int)", "INSERT INTO t VALUES (1)")
        intent = intent_for(engine, "t", tmp_path)
        made = plan(intent)
        assert (made.plan.consistency, made.verdict) == ("per connection", "SAFE WITH WARNINGS")
        assert "SET ALLOW_SNAPSHOT_ISOLATION ON" in str(explain(intent))
        assert execute(made).rows_extracted == 1
        strict = intent_for(engine, "t", tmp_path, require_snapshot=True)
        with pytest.raises(SnapshotUnavailable, match="SET ALLOW_SNAPSHOT_ISOLATION ON"):
            plan(strict)
        sqlserver_server.administer(
            f"ALTER DATABASE [{engine.url.database}] SET ALLOW_SNAPSHOT_ISOLATION ON"
        )
        made = plan(strict)
        assert (made.plan.consistency, made.verdict) == ("one snapshot", "SAFE TO RUN")
        assert execute(made).rows_extracted == 1


def test_a_read_only_database_is_one_snapshot_by_itself(sqlserver_server, tmp_path):
    with sqlserver_server.database(snapshots=False) as engine:
        make(engine, "CREATE TABLE t (a int)", "INSERT INTO t VALUES (1)")
        name = engine.url.database
        sqlserver_server.administer(f"ALTER DATABASE [{name}] SET READ_ONLY")
        made = plan(intent_for(engine, "t", tmp_path, require_snapshot=True))
        assert execute(made).rows_extracted == 1
        sqlserver_server.administer(f"ALTER DATABASE [{name}] SET READ_WRITE")


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("int", "{n}"),
        ("decimal(12,3)", "{n}.125"),
        ("date", "DATEADD(day, {n}, CAST('2000-01-01' AS date))"),
    ],
    ids=["int", "decimal", "date"],
)
def test_a_read_only_database_is_read_by_several_connections(
    column, value, sqlserver_server, tmp_path
):
    with sqlserver_server.database(snapshots=False) as engine:
        make(engine, f"CREATE TABLE t (k {column} NOT NULL, b int NOT NULL, PRIMARY KEY (k, b))")
        rows = ", ".join(f"({value.format(n=n // 3)}, {n})" for n in range(900))
        make(engine, f"INSERT INTO t VALUES {rows}")
        name = engine.url.database
        sqlserver_server.administer(f"ALTER DATABASE [{name}] SET READ_ONLY")
        intent = intent_for(engine, "t", tmp_path, require_snapshot=True)
        made = plan(intent, RuntimeContext(min_workers=2))
        assert made.plan.strategy == "key_ranges"
        assert made.plan.worker_count == 2
        found = rows_of(execute(made))
        assert sorted(found["b"].to_pylist()) == list(range(900))
        sqlserver_server.administer(f"ALTER DATABASE [{name}] SET READ_WRITE")
        assert plan(intent_for(engine, "t", tmp_path)).plan.strategy == "single_pass"


def test_a_snapshot_that_was_planned_and_is_not_allowed_any_more_is_refused(
    sqlserver_server, tmp_path
):
    with sqlserver_server.database() as engine:
        make(engine, "CREATE TABLE t (a int)", "INSERT INTO t VALUES (1)")
        made = plan(intent_for(engine, "t", tmp_path))
        assert made.plan.consistency == "one snapshot"
        sqlserver_server.administer(
            f"ALTER DATABASE [{engine.url.database}] SET ALLOW_SNAPSHOT_ISOLATION OFF"
        )
        with pytest.raises(SnapshotUnavailable, match="can no longer be had"):
            execute(made)
        assert published(intent_for(engine, "t", tmp_path)) is None


def test_two_tables_are_read_at_one_moment(fresh_sqlserver):
    """One connection reads them, since SQL Server's snapshots are not shared."""
    make(fresh_sqlserver, "CREATE TABLE t (a int)", "CREATE TABLE u (a int)")
    tables = [TableName("t"), TableName("u")]
    columns = columns_of(fresh_sqlserver, "t")
    with DIALECT.hold(fresh_sqlserver.url, tables, workers=2) as held:
        assert held.shared
        found = []
        for table in tables:
            with held.open_reader() as reader:
                read = reader.read(DIALECT.select(table, columns), columns)
                found.append(read.read_all().num_rows)
            # Nobody sees the rows that come between the two.
            make(fresh_sqlserver, "INSERT INTO t VALUES (1)", "INSERT INTO u VALUES (1)")
            assert DIALECT.columns(held.conn, table) == columns
    assert found == [0, 0]


def test_a_query_is_extracted_with_the_types_of_its_columns(fresh_sqlserver, tmp_path):
    make(
        fresh_sqlserver,
        "CREATE TABLE t (a int, b datetime2(7), c money)",
        "INSERT INTO t VALUES (1, '2024-01-01 00:00:00.1234567', 2.5), (2, NULL, NULL)",
    )
    query = "SELECT a, b AS at, c FROM t WHERE a < 2"
    (row,) = rows_of(extract(fresh_sqlserver, "some", tmp_path / "out", query=query)).to_pylist()
    assert row == {"a": 1, "at": "2024-01-01 00:00:00.1234567", "c": decimal.Decimal("2.5000")}
    with pytest.raises(ValidationError, match="query"):
        plan(intent_for(fresh_sqlserver, "some", tmp_path, query="SELECT nope FROM t"))


def test_rows_are_filtered_by_the_server(fresh_sqlserver, tmp_path):
    make(fresh_sqlserver, "CREATE TABLE t (a int, [b]]c] nvarchar(9))")
    make(fresh_sqlserver, "INSERT INTO t VALUES (1, N'x'), (2, N'y'), (3, NULL)")
    result = extract(fresh_sqlserver, "t", tmp_path / "out", where="[b]]c] <> N'x' -- not x")
    assert rows_of(result)["a"].to_pylist() == [2]
    with pytest.raises(ValidationError, match="where"):
        plan(intent_for(fresh_sqlserver, "t", tmp_path, where="nope = 1"))


def test_csv_and_chosen_columns(fresh_sqlserver, tmp_path):
    make(fresh_sqlserver, "CREATE TABLE t (a int, b money, c nvarchar(5))")
    make(fresh_sqlserver, "INSERT INTO t VALUES (1, 2.5, N'ü')")
    result = extract(
        fresh_sqlserver, "t", tmp_path / "out", output_format="csv", columns=["c", "b"]
    )
    (path,) = result.output_files
    with open(path, encoding="utf-8", newline="") as file:  # noqa: PTH123 - a text as it is given
        assert file.read().splitlines() == ['"c","b"', '"ü",2.5000']


def test_a_column_that_changed_since_the_plan_stops_the_run(fresh_sqlserver, tmp_path):
    make(fresh_sqlserver, "CREATE TABLE t (a int, b int)")
    made = plan(intent_for(fresh_sqlserver, "t", tmp_path / "out"))
    make(fresh_sqlserver, "ALTER TABLE t ADD d int")
    with pytest.raises(ExecutionError, match="column d is new"):
        execute(made)
    assert not (tmp_path / "out" / "t").exists()


def test_the_password_is_nowhere(every_type, tmp_path, caplog):
    """The stand-in's holds every character that URLs, ODBC and ``%`` formats mean something by."""
    caplog.set_level("DEBUG")
    password = str(every_type.url.password)
    intent = intent_for(every_type, "t", tmp_path / "out")
    result = execute(plan(intent))
    said = [repr(intent), str(explain(intent)), repr(result), caplog.text]
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    written = b"".join(path.read_bytes() for path in files)
    for text in (*said, json.dumps(intent.source())):
        assert password not in text
    assert len(files) >= 2
    assert password.encode() not in written
    assert password.encode("utf-16-le") not in written


def test_a_wrong_password_is_said_without_the_password(fresh_sqlserver, tmp_path):
    wrong = "wr0ng}s3cret;1"
    engine = DIALECT.engine(fresh_sqlserver.url.set(password=wrong))
    with pytest.raises(SourceUnavailable, match="check user and password") as caught:
        plan(intent_for(engine, "t", tmp_path))
    assert wrong not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_database_that_is_not_there_is_named(fresh_sqlserver, tmp_path):
    engine = DIALECT.engine(fresh_sqlserver.url.set(database="nowhere"))
    with pytest.raises(SourceUnavailable, match="check the database name"):
        plan(intent_for(engine, "t", tmp_path))


def test_an_unreachable_host_is_named(tmp_path):
    engine = DIALECT.engine("mssql+mssqlpython://app:s3cret@127.0.0.1:1/shop")
    with (
        patience(1),
        pytest.raises(SourceUnavailable, match=r"127\.0\.0\.1:1.*check host") as caught,
    ):
        plan(intent_for(engine, "t", tmp_path))
    assert "s3cret" not in str(caught.value)


def test_comment_and_tables_are_listed(fresh_sqlserver):
    make(fresh_sqlserver, "CREATE TABLE b (a int)", "CREATE TABLE a (a int)")
    with fresh_sqlserver.connect() as conn:
        assert DIALECT.tables_in(conn, "dbo") == ("a", "b")
        assert DIALECT.tables_in(conn, "nowhere") == ()
        assert DIALECT.comment(conn, TableName("a")) is None
        assert DIALECT.count(conn, TableName("a")) == 0


def test_nothing_is_written_to_it(fresh_sqlserver):
    table, reader = TableName("t"), pa.RecordBatchReader.from_batches(pa.schema([]), [])
    with fresh_sqlserver.connect() as conn:
        attempts = {
            "check_ingests": lambda: DIALECT.check_ingests(conn),
            "sql_type": lambda: DIALECT.sql_type(pa.int32()),
            "indexes": lambda: DIALECT.indexes(conn, table),
            "set_comment": lambda: DIALECT.set_comment(conn, table, "x"),
            "create_schema": lambda: DIALECT.create_schema(conn, "s"),
            "create_table": lambda: DIALECT.create_table(conn, table, []),
            "drop_table": lambda: DIALECT.drop_table(conn, table),
            "load": lambda: DIALECT.load(conn, table, [], reader),
            "merge": lambda: DIALECT.merge(conn, table, table, [], []),
            "swap": lambda: DIALECT.swap(conn, [(table, table)]),
            "publish": lambda: DIALECT.publish(conn, [(TableName("t", "x"), TableName("t", "s"))]),
            "drop_schema": lambda: DIALECT.drop_schema(conn, "s"),
        }
        for attempt in attempts.values():
            with pytest.raises(UnsupportedDatabase, match="SQL Server is a source in this release"):
                attempt()


@pytest.mark.real_sqlserver
def test_values_that_only_the_server_can_write_as_text(fresh_sqlserver, tmp_path):
    make(
        fresh_sqlserver,
        "CREATE TABLE t (x xml, v sql_variant, f sql_variant, h hierarchyid, g geography, "
        "s sysname, c AS (1 + 1))",
        "INSERT INTO t VALUES (N'<a>ü</a>', CAST('2024-01-01 10:00:00.1234567' AS datetime2(7)), "
        "CAST(0.1 AS float), '/1/2/', geography::Point(47.5, -122.25, 4326), 'name')",
    )
    (row,) = rows_of(extract(fresh_sqlserver, "t", tmp_path / "out")).to_pylist()
    assert row["x"] == "<a>ü</a>"
    assert row["v"] == "2024-01-01 10:00:00.1234567"
    assert float(row["f"]) == 0.1
    assert row["h"] == "/1/2/"
    assert row["g"].startswith("SRID=4326;0101000000")
    assert (row["s"], row["c"]) == ("name", 2)


@pytest.mark.real_sqlserver
def test_a_table_that_is_changed_meanwhile_is_refused_by_the_server(fresh_sqlserver):
    make(fresh_sqlserver, "CREATE TABLE t (a int NOT NULL PRIMARY KEY, b int)")
    make(fresh_sqlserver, "INSERT INTO t VALUES (1, 1)")
    columns = columns_of(fresh_sqlserver, "t")
    query = DIALECT.select(TableName("t"), columns)
    with DIALECT.reader(fresh_sqlserver.url) as reader:
        assert reader.read(query, columns).read_all().num_rows == 1
        make(fresh_sqlserver, "ALTER TABLE t ADD d int")
        # 3961: the server refuses to read a table in a snapshot older than its definition.
        with pytest.raises(Exception, match="Snapshot isolation"):
            reader.read(query, columns).read_all()


@pytest.mark.real_sqlserver
def test_a_column_with_a_mask_is_only_read_whole_by_who_may_unmask(fresh_sqlserver, tmp_path):
    make(
        fresh_sqlserver,
        "CREATE TABLE t (a nvarchar(20) MASKED WITH (FUNCTION = 'default()'))",
        "INSERT INTO t VALUES (N'secret')",
    )
    assert rows_of(extract(fresh_sqlserver, "t", tmp_path / "out"))["a"].to_pylist() == ["secret"]
    assert published(intent_for(fresh_sqlserver, "t", tmp_path / "out")) is not None
