"""Ranges of a key read every row of a table exactly once, on every database that cuts by keys."""

from __future__ import annotations

import datetime as dt
import itertools
import uuid
from dataclasses import dataclass, replace
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from ixflow.dialects import Dialect, dialect_of, run, splits
from ixflow.dialects.duckdb import split as duckdb_split
from ixflow.dialects.postgres import split as postgres_split
from ixflow.extraction import profile as profiling
from ixflow.extraction.api import execute, plan
from ixflow.extraction.context import RuntimeContext
from ixflow.values import KeyRange, TableName, TablePart
from ixflow_tests.sources import intent_for, rows_of

_names = itertools.count(1)

LETTERS = st.text(st.sampled_from("abAB zZéÉß0_9'\\%日\U0001f600"), max_size=6)
BYTES = st.binary(max_size=5)
FAR_DATES = st.dates(dt.date(1000, 1, 1), dt.date(9999, 12, 31))
MOMENTS = st.datetimes(dt.datetime(1971, 1, 1), dt.datetime(2037, 12, 31))  # noqa: DTZ001 - UTC


@dataclass(frozen=True)
class Key:
    """Columns of a key, how a table is made from them, and values for them."""

    columns: tuple[str, ...]
    index: str
    values: st.SearchStrategy[Any]


def key(index: str, *parts: tuple[str, st.SearchStrategy[Any]]) -> Key:
    """Make a key of columns a, b, ...; ``index`` names them in braces."""
    return Key(tuple(t for t, _ in parts), index, st.tuples(*(s for _, s in parts)))


def ints(low: int, high: int) -> st.SearchStrategy[int]:
    """Give whole numbers, near each other, near the ends, or anywhere."""
    return st.integers(low, high) | st.integers(-3, 3).map(lambda n: max(low, n)) | st.just(high)


DECIMALS = st.decimals(-(10**12), 10**12, places=4).map(str)
NULLS = st.none()
MARIADB = {
    "int": key("PRIMARY KEY (a)", ("int", ints(-(2**31), 2**31 - 1))),
    "bigint": key("PRIMARY KEY (a)", ("bigint unsigned", ints(0, 2**64 - 1))),
    "decimal": key("PRIMARY KEY (a)", ("decimal(20,4)", DECIMALS)),
    "date": key("PRIMARY KEY (a)", ("date", FAR_DATES.map(str))),
    "datetime": key("UNIQUE (a)", ("datetime(6)", MOMENTS.map(str) | NULLS)),
    "timestamp": key("INDEX (a)", ("timestamp(6) NULL", MOMENTS.map(str) | NULLS)),
    "uuid": key("PRIMARY KEY (a)", ("uuid", st.uuids(version=4).map(str))),
    "binary": key("PRIMARY KEY (a)", ("varbinary(20)", BYTES)),
    "fixed": key("PRIMARY KEY (a)", ("binary(5)", BYTES)),
    "nocase": key("INDEX (a)", ("varchar(20) COLLATE utf8mb4_general_ci", LETTERS | NULLS)),
    "unicode": key("INDEX (a)", ("varchar(20) COLLATE utf8mb4_unicode_ci", LETTERS)),
    "bytewise": key("INDEX (a)", ("varchar(20) COLLATE utf8mb4_bin", LETTERS)),
    "nopad": key("INDEX (a)", ("char(20) COLLATE utf8mb4_nopad_bin", LETTERS)),
    "latin1": key(
        "INDEX (a)", ("varchar(20) CHARACTER SET latin1", st.text("abBA'\\ éÉ", max_size=4))
    ),
    "composite": key(
        "PRIMARY KEY (a, b, c)",
        ("tinyint", st.integers(-2, 2)),
        ("varchar(9) COLLATE utf8mb4_bin", LETTERS),
        ("date", FAR_DATES.map(str)),
    ),
    "nullable": key(
        "UNIQUE (a, b)", ("int", st.integers(-3, 3) | NULLS), ("bigint NOT NULL", ints(-9, 10**15))
    ),
    "duplicates": key("INDEX (a)", ("smallint", st.integers(-2, 2) | NULLS)),
}
POSTGRES = {
    "int": key("PRIMARY KEY (a)", ("int8", ints(-(2**63), 2**63 - 1))),
    "numeric": key("UNIQUE (a)", ("numeric", DECIMALS | st.sampled_from(["NaN", "1e-20"]) | NULLS)),
    "date": key("PRIMARY KEY (a)", ("date", FAR_DATES.map(str) | st.just("0044-03-15 BC"))),
    "moment": key("UNIQUE (a)", ("timestamptz", MOMENTS.map(str) | st.just("infinity"))),
    "uuid": key("PRIMARY KEY (a)", ("uuid", st.uuids().map(str))),
    "binary": key("PRIMARY KEY (a)", ("bytea", BYTES)),
    "text": key("UNIQUE (a)", ("text", LETTERS | NULLS)),
    "bytewise": key("UNIQUE (a)", ('varchar(20) COLLATE "C"', LETTERS)),
    "padded": key("PRIMARY KEY (a)", ("char(9)", st.text("abB 'é", max_size=5))),
    "composite": key(
        "PRIMARY KEY (a, b)", ("int2", st.integers(-2, 2)), ("text", LETTERS), ("date", NULLS)
    ),
}
SQLITE = {
    "rowid": key("CHECK (true)", ("blob", BYTES | NULLS)),
    "key": key("PRIMARY KEY (a)", ("INTEGER", ints(-(2**63), 2**63 - 1))),
    "hidden": key("CHECK (true)", ("text", LETTERS), ("int", st.integers(-9, 9))),
    "text": key("PRIMARY KEY (a)) WITHOUT ROWID -- ", ("text COLLATE NOCASE", LETTERS)),
    "mixed": key(
        "PRIMARY KEY (a, b)) WITHOUT ROWID -- ",
        ("int", st.integers(-3, 3) | st.floats(-3, 3) | st.sampled_from(["x", "y"])),
        ("varchar(9)", LETTERS),
    ),
}


@pytest.fixture(autouse=True)
def _refusals_are_failures(monkeypatch):
    """Let a probe that the server refuses fail the test, instead of leaving a table whole."""

    def refused(part: TablePart, error: sa.exc.DBAPIError) -> None:
        raise AssertionError(part) from error

    monkeypatch.setattr(splits, "_refused", refused)


def check(engine: sa.Engine, what: Key, rows: list[tuple[Any, ...]], wanted: int) -> int:
    """Make a table, cut it, and see that its ranges find each row once; give their number."""
    table = TableName(f"t{next(_names)}")
    dialect = dialect_of(engine)
    columns = [f"{name} {type_}" for name, type_ in zip("abcd", what.columns, strict=False)]
    with engine.begin() as conn:
        run(conn, f"CREATE TABLE {table} ({', '.join(columns)}, {what.index})")
        fill(conn, table, what, rows)
    with engine.connect() as conn:
        part = dialect.parts(conn, table)[0]
        cuts = dialect.cut_keys(conn, part, wanted)
        if cuts is None:
            # Nothing that could be cut: the keys are one, or not ordinary values of their type.
            return 0
        assert sum(share for _, share in cuts.ranges(wanted)) == pytest.approx(1)
        found_once(conn, dialect, part, [keys for keys, _ in cuts.ranges(wanted)])
        # As many as there are, however few rows one is thought to have.
        ranges = [keys for keys, _ in replace(cuts, weights=(1.0,) * len(cuts.weights)).ranges(99)]
        found_once(conn, dialect, part, ranges)
        # Between plan and run bounds may be deleted, and rows may come before, behind and between.
        bounds = [keys for keys in ranges if keys.low]
        gone = KeyRange(bounds[0].columns, bounds[0].types, bounds[0].low, None)
        run(conn, f"DELETE FROM {table} WHERE {dialect.keys_condition(gone)}")
        conn.commit()
    with engine.begin() as conn:
        fill(conn, table, what, rows[::2])
        found_once(conn, dialect, part, ranges)
    return len(ranges)


INSERTS = {
    "mysql": "INSERT IGNORE INTO {} VALUES ({})",
    "postgresql": "INSERT INTO {} VALUES ({}) ON CONFLICT DO NOTHING",
    "sqlite": "INSERT OR IGNORE INTO {} VALUES ({})",
}


def fill(conn: sa.Connection, table: TableName, what: Key, rows: list[tuple[Any, ...]]) -> None:
    """Insert rows, but those whose key the database finds equal to one that is there."""
    marks = ", ".join(f":v{n}" for n in range(len(what.columns)))
    insert = INSERTS[conn.dialect.name].format(table, marks)
    if rows:
        values = [{f"v{n}": value for n, value in enumerate(row)} for row in rows]
        conn.execute(sa.text(insert), values)


def found_once(
    conn: sa.Connection, dialect: Dialect, part: TablePart, ranges: list[KeyRange]
) -> None:
    """See that the conditions are disjoint and cover everything."""
    relation = dialect.part_relation(part)
    total = run(conn, f"SELECT count(*) FROM {relation}").scalar_one()
    counted = ", ".join(
        f"sum(CASE WHEN {dialect.keys_condition(keys)} THEN 1 ELSE 0 END)" for keys in ranges
    )
    whens = " + ".join(
        f"CASE WHEN {dialect.keys_condition(keys)} THEN 1 ELSE 0 END" for keys in ranges
    )
    assert sum(n or 0 for n in run(conn, f"SELECT {counted} FROM {relation}").one()) == total
    assert run(conn, f"SELECT count(*) FROM {relation} WHERE {whens} <> 1").scalar_one() == 0


@pytest.mark.parametrize("name", MARIADB)
@settings(max_examples=8, suppress_health_check=list(HealthCheck))
@given(data=st.data(), wanted=st.integers(2, 9))
def test_mariadb_finds_each_row_in_one_range(fresh_mariadb, name, data, wanted):
    what = MARIADB[name]
    rows = data.draw(st.lists(what.values, max_size=25))
    check(fresh_mariadb, what, rows, wanted)


@pytest.mark.parametrize("name", POSTGRES)
@settings(max_examples=8, suppress_health_check=list(HealthCheck))
@given(data=st.data(), wanted=st.integers(2, 9))
def test_postgres_finds_each_row_in_one_range(fresh_postgres, name, data, wanted):
    what = POSTGRES[name]
    rows = data.draw(st.lists(what.values, max_size=25))
    check(fresh_postgres, what, rows, wanted)


@pytest.mark.parametrize("name", SQLITE)
@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(data=st.data(), wanted=st.integers(2, 9))
def test_sqlite_finds_each_row_in_one_range(fresh_sqlite, name, data, wanted):
    what = SQLITE[name]
    rows = data.draw(st.lists(what.values, max_size=25))
    check(fresh_sqlite, what, rows, wanted)


@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(count=st.integers(0, 60), wanted=st.integers(2, 9), gone=st.integers(1, 5))
def test_duckdb_finds_each_row_in_one_range(fresh_duckdb, monkeypatch, count, wanted, gone):
    monkeypatch.setattr(duckdb_split, "_ROW_GROUP", 3)
    table = TableName(f"t{next(_names)}")
    dialect = dialect_of(fresh_duckdb)
    with fresh_duckdb.begin() as conn:
        run(conn, f"CREATE TABLE {table} AS SELECT range AS a FROM range({count})")
        run(conn, f"DELETE FROM {table} WHERE a % {gone} = 1")
        cuts = dialect.cut_keys(conn, TablePart(table), wanted)
        if cuts is not None:
            ranges = [keys for keys, _ in cuts.ranges(wanted)]
            found_once(conn, dialect, TablePart(table), ranges)
            run(conn, f"INSERT INTO {table} SELECT range FROM range(10)")
            found_once(conn, dialect, TablePart(table), ranges)


EXTRACTED = [
    *(("mariadb", name) for name in MARIADB),
    *(("postgres", name) for name in ("int", "uuid", "binary", "text", "padded", "composite")),
    *(("sqlite", name) for name in ("rowid", "key", "hidden", "text")),
]


@pytest.mark.parametrize("which", EXTRACTED, ids="-".join)
@settings(max_examples=3, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_an_extraction_by_ranges_equals_the_table(which, data, request, tmp_path, monkeypatch):
    kind, name = which
    monkeypatch.setattr(profiling, "SMALL_BYTES", 1)
    monkeypatch.setattr(profiling, "SMALL_ROWS", 1)
    monkeypatch.setattr(postgres_split, "_TID_RANGE_SCAN", 10**9)
    engine = request.getfixturevalue(f"fresh_{kind}")
    what = {"mariadb": MARIADB, "postgres": POSTGRES, "sqlite": SQLITE}[kind][name]
    table, dialect = TableName(f"t{next(_names)}"), dialect_of(engine)
    rows = data.draw(st.lists(what.values, min_size=5, max_size=30))
    columns = [f"{name} {type_}" for name, type_ in zip("abcd", what.columns, strict=False)]
    with engine.begin() as conn:
        run(conn, f"CREATE TABLE {table} ({', '.join(columns)}, {what.index})")
        fill(conn, table, what, rows)
        found = dialect.columns(conn, table)
    with dialect.reader(engine.url) as reader:
        whole = reader.read(dialect.select(table, found), found).read_all()
    made = plan(intent_for(engine, table.name, tmp_path), RuntimeContext(min_workers=2))
    result = rows_of(execute(made, force=True))
    event(f"{made.plan.strategy}, {len(made.plan.tasks)} tasks")
    assert result.schema.equals(whole.schema)
    assert sorted(map(repr, result.to_pylist())) == sorted(map(repr, whole.to_pylist()))


MANY = {
    "mariadb": {
        "int": "seq * 1000",
        "bigint unsigned": "18446744073709551615 - seq",
        "decimal(30,10)": "seq / 7",
        "varchar(32)": "md5(seq)",
        "binary(16)": "unhex(md5(seq))",
        "date": "date('1500-01-01') + interval seq day",
        "datetime": "timestamp('1970-01-01') + interval seq hour",
    },
    "postgres": {
        "bigint": "seq * 1000",
        "text": "md5(seq::text)",
        "uuid": "md5(seq::text)::uuid",
        "bytea": "decode(md5(seq::text), 'hex')",
        "timestamptz": "'2000-01-01'::timestamptz + seq * '1 hour'::interval",
    },
    "sqlite": {"INTEGER": "seq * 1000", "int": "seq"},
}
SEQUENCE = {
    "mariadb": "seq_1_to_5000",
    "postgres": "generate_series(1, 5000) seq",
    "sqlite": "(WITH RECURSIVE s(seq) AS (SELECT 1 UNION ALL SELECT seq + 1 FROM s LIMIT 5000) "
    "SELECT * FROM s)",
}


@pytest.mark.parametrize(
    ("kind", "type_"), [(kind, type_) for kind, types in MANY.items() for type_ in types]
)
def test_ranges_are_of_like_size(kind, type_, request):
    engine = request.getfixturevalue(f"fresh_{kind}")
    dialect = dialect_of(engine)
    with engine.begin() as conn:
        run(conn, f"CREATE TABLE t (a {type_} PRIMARY KEY)")
        run(conn, f"INSERT INTO t SELECT {MANY[kind][type_]} FROM {SEQUENCE[kind]}")
        if kind != "sqlite":
            run(conn, "ANALYZE TABLE t" if kind == "mariadb" else "ANALYZE t")
    with engine.connect() as conn:
        (part,) = dialect.parts(conn, TableName("t"))
        cuts = dialect.cut_keys(conn, part, 8)
        assert cuts is not None
        sizes = [
            run(conn, f"SELECT count(*) FROM t WHERE {dialect.keys_condition(keys)}").scalar_one()
            for keys, _ in cuts.ranges(8)
        ]
    assert 4 <= len(sizes) <= 8
    assert sum(sizes) == 5000
    assert max(sizes) < 2 * 5000 / 4


def test_a_uuid_is_cut_as_the_server_orders_it(fresh_mariadb):
    rows = [(str(uuid.UUID(int=(n << 64) | (8 << 60) | n, version=4)),) for n in range(300)]
    assert check(fresh_mariadb, MARIADB["uuid"], rows, 6) >= 4
