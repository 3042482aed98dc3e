"""Filters, queries, dropped and masked columns: chosen in the source, shown, and kept to."""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import json
from typing import Any

import pyarrow as pa
import pytest
import sqlalchemy as sa

from ixflow.errors import ExecutionError, ValidationError
from ixflow.extraction.api import execute, execute_plan, explain, plan, published
from ixflow.extraction.context import RuntimeContext
from ixflow.extraction.history import history
from ixflow.extraction.intent import ExtractionIntent
from ixflow.extraction.manifest import MANIFEST_NAME, Manifest
from ixflow.extraction.plan import ExecutionPlan
from ixflow.extraction.replay import replay
from ixflow_tests.sources import extract, intent_for, make, quoted, rows_of

SALT = "a salt of some length"


@pytest.fixture(params=["postgres", "duckdb", "sqlite", "mariadb"])
def source(request):
    """Give a fresh database of each kind, with some people in it."""
    engine = request.getfixturevalue(f"fresh_{request.param}")
    make(
        engine,
        "CREATE TABLE people (id integer PRIMARY KEY, email varchar(60), country varchar(2), "
        "born date, seen_at timestamp NULL, iban varchar(34), score decimal(8,2))",
        "INSERT INTO people VALUES "
        "(1, 'ada@example.com', 'DE', '1990-05-17', '2024-02-29 12:30:00', 'DE89370400', 1.50), "
        "(2, 'zoë@example.com', 'FR', '1985-12-31', '2023-12-31 23:59:59', 'FR14', 2.25), "
        "(3, NULL, 'DE', NULL, NULL, NULL, NULL), "
        "(4, '', 'AT', '2000-01-01', '2000-01-01 00:00:00', 'x', -3.00)",
    )
    return engine


def sha256(text: str) -> str:
    """Hash as Python does."""
    return hashlib.sha256(text.encode()).hexdigest()


def by_id(result) -> dict[int, dict[str, Any]]:
    """Give the rows of a result by their id."""
    return {row["id"]: row for row in rows_of(result).to_pylist()}


# -- filters ----------------------------------------------------------------------------------


def test_a_filter_chooses_rows_in_the_source(source, tmp_path):
    result = extract(source, "people", tmp_path, where="country = 'DE' -- ours")
    assert sorted(by_id(result)) == [1, 3]
    manifest = published(intent_for(source, "people", tmp_path))
    assert manifest is not None
    assert manifest.where == "country = 'DE' -- ours"


def test_a_filter_may_call_the_table_by_its_name(source, tmp_path):
    result = extract(source, "people", tmp_path, where="people.country = 'DE' OR people.id = 2")
    assert sorted(by_id(result)) == [1, 2, 3]


@pytest.mark.parametrize("where", ["country = ", "nowhere = 1", "nonsense(id)", "id = 1 UNION"])
def test_a_filter_that_the_server_refuses_is_an_error_of_the_plan(source, tmp_path, where):
    with pytest.raises(ValidationError, match="where of people is refused"):
        plan(intent_for(source, "people", tmp_path, where=where))
    assert not (tmp_path / "people").exists()


def test_a_filter_cannot_leave_its_parentheses(source, tmp_path):
    with pytest.raises(ValidationError, match="parenthesis"):
        intent_for(source, "people", tmp_path, where="1=1) OR (1=1")


def test_a_filter_is_part_of_plan_explanation_and_identity(source, tmp_path):
    plain = intent_for(source, "people", tmp_path)
    some = dataclasses.replace(plain, where="id > 1")
    assert some.identity() != plain.identity()
    assert plain.identity() == dataclasses.replace(plain, drop=["iban"]).identity()
    made = plan(some).plan
    assert made.where == "id > 1"
    assert made.fingerprint != plan(plain).plan.fingerprint
    assert "Filter: id > 1" in str(explain(some))
    assert "Filter" not in str(explain(plain))
    assert ExecutionPlan.from_dict(made.to_dict()) == made
    execute(plan(some))
    assert (len(history(some)), len(history(plain))) == (1, 0)


def test_a_plan_is_not_run_for_an_intent_that_selects_otherwise(source, tmp_path):
    plain = intent_for(source, "people", tmp_path)
    made = plan(plain).plan
    for other in (
        {"where": "id = 1"},
        {"drop": ["email"]},
        {"mask": {"email": "hash"}},
        {"mask_salt": SALT},
        {"query": "SELECT 1 AS id"},
        {"mode": "incremental", "incremental_key": "id"},
    ):
        with pytest.raises(ValidationError, match="than the intent"):
            execute_plan(made, dataclasses.replace(plain, **other))


def test_a_filter_holds_for_every_task_of_a_partitioned_table(fresh_postgres, tmp_path):
    make(
        fresh_postgres,
        "CREATE TABLE t (id int, k int) PARTITION BY LIST (k)",
        "CREATE TABLE t_1 PARTITION OF t FOR VALUES IN (1)",
        "CREATE TABLE t_2 PARTITION OF t FOR VALUES IN (2)",
        "INSERT INTO t SELECT n, 1 + n % 2 FROM generate_series(1, 20000) n",
        "ANALYZE t",
    )
    planned = plan(
        intent_for(fresh_postgres, "t", tmp_path, where="t.id % 10 = 0 AND t.k > 0"),
        RuntimeContext(min_workers=2),
    )
    assert len(planned.plan.tasks) > 1
    rows = rows_of(execute(planned))
    assert sorted(rows["id"].to_pylist()) == list(range(10, 20001, 10))


# -- queries ----------------------------------------------------------------------------------


def test_a_query_is_extracted_as_an_object(source, tmp_path):
    query = "SELECT id, country, score FROM people WHERE id < 3 -- few\n;"
    intent = intent_for(source, "few_people", tmp_path, query=query)
    planned = plan(intent)
    assert len(planned.plan.tasks) == 1
    result = execute(planned)
    assert by_id(result)[2]["country"] == "FR"
    table = rows_of(result)
    assert pa.types.is_decimal(table.schema.field("score").type)
    assert "Query: SELECT id" in str(explain(intent))
    again = replay(result.run_id, intent)
    assert rows_of(again).sort_by("id") == table.sort_by("id")


def test_a_query_takes_filter_masks_and_csv(source, tmp_path):
    query = "SELECT p.id, p.email AS mail FROM people p JOIN people q ON p.id = q.id"
    options = {"where": "id < 2", "mask": {"mail": "hash"}, "output_format": "csv"}
    result = extract(source, "mails", tmp_path, query=query, **options)
    (path,) = result.output_files
    with open(path, encoding="utf-8") as file:  # noqa: PTH123 - a text
        assert file.read().splitlines()[1] == f'1,"{sha256("ada@example.com")}"'


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("SELECT id, country AS id FROM people", "id|more than once"),
        ("SELECT nothing FROM people", "nothing"),
        ("SELECT id FROM nowhere", "nowhere"),
        ("SELECT id FRM people", "query"),
    ],
)
def test_a_query_that_cannot_be_read_is_an_error_of_the_plan(source, tmp_path, query, said):
    with pytest.raises(ValidationError, match=said):
        plan(intent_for(source, "q", tmp_path, query=query))


def test_a_query_never_writes(source, tmp_path):
    for query in ("DELETE FROM people", "WITH d AS (DELETE FROM people RETURNING 1) SELECT 1 AS a"):
        with pytest.raises(ValidationError):
            plan(intent_for(source, "q", tmp_path, query=query))
    assert extract(source, "people", tmp_path).rows_extracted == 4


def test_a_query_whose_columns_changed_since_the_plan_is_refused(source, tmp_path):
    intent = intent_for(source, "q", tmp_path, query="SELECT * FROM people")
    planned = plan(intent)
    make(source, "ALTER TABLE people ADD COLUMN more integer")
    with pytest.raises(ExecutionError, match="column more is new"):
        execute(planned)


def test_types_of_a_query_are_found_without_running_it(fresh_postgres, tmp_path):
    make(
        fresh_postgres,
        "CREATE DOMAIN money2 AS numeric(12,2)",
        "CREATE TABLE t (a money2, b varchar(7), c timestamptz(3), d numeric, e int[])",
        "INSERT INTO t VALUES (1.25, 'x', '2024-01-01 00:00:00+00', 1e30, '{1,2}')",
        "CREATE FUNCTION boom() RETURNS int LANGUAGE plpgsql AS 'BEGIN RAISE ''ran''; END'",
    )
    planned = plan(intent_for(fresh_postgres, "q", tmp_path, query="SELECT t.*, boom() FROM t"))
    assert [column.sql_type for column in planned.plan.columns] == [
        "numeric(12,2)",
        "character varying(7)",
        "timestamp(3) with time zone",
        "numeric",
        "integer[]",
        "integer",
    ]
    query = "SELECT a, a * 2 AS twice, 'x' AS k, now() AS at, c::date AS day FROM t"
    row = rows_of(extract(fresh_postgres, "q2", tmp_path, query=query)).to_pylist()[0]
    assert (str(row["a"]), row["twice"], row["k"], row["day"]) == (
        "1.25",
        "2.50",
        "x",
        dt.date(2024, 1, 1),
    )


def test_types_of_a_mariadb_query_are_exact(fresh_mariadb, tmp_path):
    make(
        fresh_mariadb,
        "CREATE TABLE t (a bigint unsigned, b decimal(20,5), c varbinary(4), d enum('x','y'), "
        "e datetime(6), f float, g year, h bit(3), i decimal(5) unsigned, j mediumint unsigned)",
        "INSERT INTO t VALUES (18446744073709551615, 123456789012345.12345, x'00ff', 'y', "
        "'2024-01-01 00:00:00.000001', 1.5, 2024, b'101', 99999, 16777215)",
    )
    table = rows_of(extract(fresh_mariadb, "q", tmp_path, query="SELECT *, a + 0 AS k FROM t"))
    plain = rows_of(extract(fresh_mariadb, "t", tmp_path))
    assert table.select(plain.schema.names).to_pydict() == plain.to_pydict()
    assert table.select(plain.schema.names).schema.equals(plain.schema)


# -- dropped and masked columns ----------------------------------------------------------------

MASKS = {
    "email": "hash",
    "country": "null",
    "born": "year",
    "seen_at": "year",
    "iban": "last4",
    "score": "redact",
}


def test_masks_are_the_same_on_every_database(source, tmp_path):
    rows = by_id(extract(source, "people", tmp_path, mask=MASKS))
    assert [rows[n]["email"] for n in (1, 2, 3, 4)] == [
        sha256("ada@example.com"),
        sha256("zoë@example.com"),
        None,
        sha256(""),
    ]
    assert [rows[n]["country"] for n in (1, 2, 3, 4)] == [None] * 4
    assert [rows[n]["born"] for n in (1, 2, 3, 4)] == [
        dt.date(1990, 1, 1),
        dt.date(1985, 1, 1),
        None,
        dt.date(2000, 1, 1),
    ]
    assert rows[1]["seen_at"].replace(tzinfo=None) == dt.datetime(2024, 1, 1)  # noqa: DTZ001
    assert [rows[n]["iban"] for n in (1, 2, 3, 4)] == ["***0400", "***", None, "***"]
    assert [rows[n]["score"] for n in (1, 2, 3, 4)] == ["***", "***", None, "***"]


def test_a_salt_changes_hashes_and_the_plan_and_appears_nowhere(source, tmp_path):
    options = {"mask": {"email": "hash", "id": "first1"}, "mask_salt": SALT}
    intent = intent_for(source, "people", tmp_path, **options)
    planned = plan(intent)
    result = execute(planned)
    hashed = {row["email"] for row in rows_of(result).to_pylist()}
    assert sha256(f"{SALT}ada@example.com") in hashed
    other = dataclasses.replace(intent, mask_salt="another salt, as long")
    assert plan(other).plan.fingerprint != planned.plan.fingerprint
    with pytest.raises(ValidationError, match="mask_salt"):
        execute_plan(planned.plan, other)
    written = [repr(intent), str(explain(intent)), json.dumps(planned.plan.to_dict())]
    written += [str(planned), str(result)]
    state = (tmp_path / ".ixflow" / ".state.sqlite").read_bytes()
    assert not any(SALT in text for text in written)
    assert SALT.encode() not in state
    assert not any(SALT.encode() in p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())


def test_a_short_salt_is_refused(source, tmp_path):
    with pytest.raises(ValidationError, match="at least 8"):
        plan(intent_for(source, "people", tmp_path, mask={"email": "hash"}, mask_salt="x"))


def test_masks_and_drops_are_shown_but_not_what_they_hide(source, tmp_path):
    out = tmp_path / "out"
    intent = intent_for(source, "people", out, drop=["iban"], mask={"email": "hash"})
    result = execute(plan(intent))
    assert "iban" not in rows_of(result).schema.names
    assert "Dropped: iban" in str(explain(intent))
    assert "Masked: email (hash)" in str(explain(intent))
    masks = {column.name: column.mask for column in result.manifest.columns}
    assert masks == {"id": None, "email": "hash"} | dict.fromkeys(
        ("country", "born", "seen_at", "score")
    )
    written = [path for path in out.rglob("*") if path.is_file()]
    assert len(written) > 2
    assert not any(b"ada@example.com" in path.read_bytes() for path in written)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"drop": ["nope"]}, "nope.*it has"),
        ({"mask": {"nope": "hash"}}, "nope.*it has"),
        ({"mask": {"email": "rot13"}}, "hash, null, redact"),
        ({"mask": {"email": "year"}}, "dates and timestamps"),
        ({"drop": ["id", "email", "country", "born", "seen_at", "iban", "score"]}, "no column"),
    ],
)
def test_what_cannot_be_dropped_or_masked_is_named(source, tmp_path, options, said):
    with pytest.raises(ValidationError, match=said):
        plan(intent_for(source, "people", tmp_path, **options))


def test_columns_and_drop_are_not_given_together(tmp_path):
    with pytest.raises(ValidationError, match="one of them"):
        ExtractionIntent("sqlite", {"database": "a"}, "t", tmp_path, columns=["a"], drop=["b"])


def test_a_new_column_beside_a_dropped_one_stops_the_run(source, tmp_path):
    planned = plan(intent_for(source, "people", tmp_path, drop=["iban"]))
    make(source, "ALTER TABLE people ADD COLUMN more integer")
    with pytest.raises(ExecutionError, match="column more is new"):
        execute(planned)


def test_hidden_values_are_not_quoted_by_errors(fresh_postgres, tmp_path):
    make(fresh_postgres, "CREATE TABLE t (a text)", "INSERT INTO t VALUES ('a secret')")
    for options in ({"drop": ["a"], "query": "SELECT a, 1 AS b FROM t"}, {"mask": {"a": "null"}}):
        with pytest.raises(ExecutionError) as caught:
            extract(fresh_postgres, "t", tmp_path, where="a::int > 0", **options)
        assert "a secret" not in f"{caught.value} {caught.value.fields} {caught.value.__cause__}"
    with pytest.raises(ExecutionError, match="a secret"):
        extract(fresh_postgres, "t", tmp_path, where="a::int > 0")


def test_manifests_of_earlier_releases_are_read(source, tmp_path):
    extract(source, "people", tmp_path)
    path = (tmp_path / "people" / MANIFEST_NAME).resolve()
    given = json.loads(path.read_text())
    for name in ("where", "query", "salt_digest", "window", "base_run_id"):
        del given[name]
    for column in given["columns"]:
        del column["mask"]
    for file in given["files"]:
        del file["run_id"]
    path.write_text(json.dumps(given))
    manifest = Manifest.read(path.parent)
    assert manifest is not None
    assert (manifest.where, manifest.window, manifest.columns[0].mask) == (None, None, None)


def test_odd_names_can_be_masked_and_filtered(source, tmp_path):
    name = quoted(source, 'a "b" %s')
    make(source, f"CREATE TABLE odd ({name} varchar(9))", "INSERT INTO odd VALUES ('100%:x')")
    options = {"mask": {'a "b" %s': "hash"}, "where": f"{name} = '100%:x'"}
    rows = rows_of(extract(source, "odd", tmp_path, **options)).to_pydict()
    assert rows == {'a "b" %s': [sha256("100%:x")]}


# Column types, and one value of each.
TYPES = {
    "postgres": {
        "bigint": "9223372036854775807",
        "numeric": "'1e-20'",
        "numeric(12,2)": "1.50",
        "double precision": "0.1",
        "bytea": r"'\x00ff'",
        "jsonb": """'{"a": [1]}'""",
        "uuid": "'00000000-0000-4000-8000-000000000001'",
        "timestamptz": "'2024-01-01 00:30:00+01'",
        "time": "'23:59:59.000001'",
        "interval": "'1 mon -3 days'",
        "int[]": "'{1,NULL}'",
        "oid": "7",
        "char(5)": "'ab'",
        "inet": "'10.0.0.1/8'",
    },
    "duckdb": {
        "hugeint": "170141183460469231731687303715884105727",
        "decimal(12,2)": "1.50",
        "blob": r"'\x00\xFF'",
        "json": """'{"a": [1]}'""",
        "uuid": "'00000000-0000-4000-8000-000000000001'",
        "timestamptz": "'2024-01-01 00:30:00+01'",
        "struct(a integer)": "{'a': 1}",
        "integer[]": "[1, NULL]",
        "interval": "INTERVAL 3 DAY",
    },
    "mariadb": {
        "bigint unsigned": "18446744073709551615",
        "decimal(12,2)": "1.50",
        "varbinary(4)": "x'00ff'",
        "datetime(6)": "'2024-01-01 00:00:00.000001'",
        "timestamp(6) NULL": "'2024-01-01 00:00:00.000001'",
        "time": "'-100:00:00'",
        "enum('x','y')": "'y'",
        "bit(3)": "b'101'",
        "varchar(9) CHARACTER SET latin1": "'ä'",
        "json": """'{"a": 1}'""",
    },
    "sqlite": {
        "integer": "9223372036854775807",
        "decimal(12,2)": "1.5",
        "blob": "x'61'",
        "datetime": "'2024-01-01 00:30:00'",
        "anything": "'x'",
    },
}


@pytest.mark.parametrize("kind", TYPES)
def test_every_type_can_be_hidden(request, tmp_path, kind):
    engine = request.getfixturevalue(f"fresh_{kind}")
    names = {f"c{n}": sql_type for n, sql_type in enumerate(TYPES[kind])}
    columns = ", ".join(f"{name} {sql_type}" for name, sql_type in names.items())
    make(
        engine,
        f"CREATE TABLE t (id integer, {columns})",
        f"INSERT INTO t VALUES (1, {', '.join(TYPES[kind].values())})",
        "INSERT INTO t (id) VALUES (2)",
    )
    plain = rows_of(extract(engine, "t", tmp_path / "plain"))
    texts = by_id(extract(engine, "t", tmp_path / "text", as_text=list(names)))
    nulls = rows_of(extract(engine, "t", tmp_path / "null", mask=dict.fromkeys(names, "null")))
    assert nulls.schema.types == plain.schema.types
    assert all(nulls[name].null_count == 2 for name in names)
    hashed = by_id(extract(engine, "t", tmp_path / "hash", mask=dict.fromkeys(names, "hash")))
    for name, sql_type in names.items():
        assert hashed[1][name] == sha256(texts[1][name]), sql_type
        assert hashed[2][name] is None


@pytest.mark.parametrize("kind", ["postgres", "duckdb"])
def test_years_of_moments_with_a_zone_are_those_of_utc(request, tmp_path, kind):
    engine = request.getfixturevalue(f"fresh_{kind}")
    make(
        engine,
        "CREATE TABLE t (id integer, ts timestamptz)",
        "INSERT INTO t VALUES (1, '2024-01-01 00:30:00+01'), (2, '2023-12-31 23:30:00-01')",
    )
    rows = by_id(extract(engine, "t", tmp_path, mask={"ts": "year"}))
    assert rows[1]["ts"] == dt.datetime(2023, 1, 1, tzinfo=dt.UTC)
    assert rows[2]["ts"] == dt.datetime(2024, 1, 1, tzinfo=dt.UTC)


def test_a_filter_holds_for_every_range_of_keys(fresh_mariadb, tmp_path):
    make(
        fresh_mariadb,
        "CREATE TABLE t (id integer PRIMARY KEY, pad varchar(200))",
        "INSERT INTO t SELECT seq, repeat('x', 200) FROM seq_1_to_20000",
        "ANALYZE TABLE t",
    )
    where = "id % 10 = 0 OR id < 0 -- all of them"
    planned = plan(
        intent_for(fresh_mariadb, "t", tmp_path, where=where), RuntimeContext(min_workers=2)
    )
    assert any(task.keys for task in planned.plan.tasks)
    assert sorted(rows_of(execute(planned))["id"].to_pylist()) == list(range(10, 20001, 10))


def test_a_hidden_key_cuts_no_table(fresh_mariadb, tmp_path):
    make(
        fresh_mariadb,
        "CREATE TABLE t (id integer PRIMARY KEY, pad varchar(200))",
        "INSERT INTO t SELECT seq, repeat('x', 200) FROM seq_1_to_20000",
        "ANALYZE TABLE t",
    )
    for options in ({"drop": ["id"]}, {"mask": {"id": "hash"}}):
        intent = intent_for(fresh_mariadb, "t", tmp_path, **options)
        made = plan(intent, RuntimeContext(min_workers=2)).plan
        assert [task.keys for task in made.tasks] == [None]


def test_not_even_a_histogram_of_a_hidden_key_is_asked_for(fresh_postgres, tmp_path):
    make(
        fresh_postgres,
        "CREATE TABLE t (id integer PRIMARY KEY, v integer)",
        "INSERT INTO t SELECT n, n FROM generate_series(1, 5000) n",
        "ANALYZE t",
    )
    asked = []

    def heard(conn, cursor, statement, *rest):
        asked.append((statement, rest[0]))

    sa.event.listen(sa.Engine, "before_cursor_execute", heard)
    try:
        plan(intent_for(fresh_postgres, "t", tmp_path))
        plain, asked = asked, []
        plan(intent_for(fresh_postgres, "t", tmp_path, mask={"id": "null"}))
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", heard)
    assert any("histogram" in statement for statement, _ in plain)
    assert asked
    assert not any("histogram" in statement for statement, _ in asked)
