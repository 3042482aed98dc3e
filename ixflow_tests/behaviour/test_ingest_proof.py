"""What was sent is what is there: proved for every type, and refused where it is not so."""

from __future__ import annotations

import datetime as dt
import decimal
import uuid
from typing import Any

import polars as pl
import psycopg.sql
import pyarrow as pa
import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from ixflow.dialects import dialect_of, run
from ixflow.errors import ArrivalDiffers, IngestError
from ixflow.ingestion.checks import RowCheck
from ixflow.ingestion.ingest import ingest
from ixflow.ingestion.missing import Missing
from ixflow.ingestion.options import Arrival, Delete, HighWatermark, Upsert
from ixflow.tables.declared import name_of
from ixflow_tests.behaviour.ingesting import batches, comment, ingested, people, relations, rows
from ixflow_tests.behaviour.test_ingest_values import VALUES


@pytest.fixture(params=["psycopg", "psycopg2"])
def postgres(request, fresh_postgres):
    made = sa.create_engine(fresh_postgres.url.set(drivername=f"postgresql+{request.param}"))
    with made.begin() as conn:
        run(conn, "CREATE EXTENSION IF NOT EXISTS hstore")
        run(conn, "CREATE SCHEMA app")
    yield made
    made.dispose()


def proved(engine: sa.Engine, table: sa.Table, *given: Any, **options: Any) -> Arrival:
    """Ingest batches with proof, and give what was proved of the table."""
    result = ingested(engine, table, *given, prove_arrival=True, **options)
    arrival = result.tables[str(name_of(table))].arrival
    assert arrival is not None
    assert arrival.rows_sent == arrival.rows_there + arrival.repeated + arrival.put_aside
    assert arrival.checksum.rows == arrival.rows_there
    return arrival


# -- every type -----------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [True, False])
def test_every_type_of_postgres_is_proved(postgres, key):
    # An enumeration can be in one table only of those that are made anew.
    values = [(type_, value) for type_, value, _ in VALUES]
    table = sa.Table(
        "wide",
        sa.MetaData(),
        sa.Column("id", sa.INTEGER, primary_key=key, autoincrement=False),
        *(sa.Column(f"v{number}", type_) for number, (type_, _) in enumerate(values)),
        schema="app",
    )
    row = [value for _, value in values]
    for first in (1, 11):
        arrival = proved(postgres, table, [(first, *row), (first + 1, *[None] * len(row))])
        assert (arrival.rows_there, arrival.not_compared) == (2, ())


NOON = dt.datetime(2024, 1, 1, 12, 30, 0, 123456)  # noqa: DTZ001 - a naive one is meant
EXACT: dict[str, tuple[Any, pa.DataType, list[Any]]] = {
    "flag": (sa.BOOLEAN, pa.bool_(), [True, False, None]),
    "small": (sa.SMALLINT, pa.int16(), [-(2**15), 5, None]),
    "big": (sa.BIGINT, pa.int64(), [2**63 - 1, -(2**63), None]),
    "single": (sa.REAL, pa.float32(), [-0.0, float("nan"), None]),
    "double": (sa.DOUBLE_PRECISION, pa.float64(), [float("-inf"), 1e-300, None]),
    "price": (sa.NUMERIC(12, 8), pa.decimal128(12, 8), ["0.00000001", "-9999.99999999", None]),
    "name": (sa.TEXT, pa.string(), ["a|b", "é😀\\N", None]),
    "word": (sa.VARCHAR(9), pa.large_string(), ["", " ", None]),
    "data": (sa.LargeBinary, pa.binary(), [b"", b"\x00\xff", None]),
    "day": (sa.DATE, pa.date32(), [dt.date.min, dt.date.max, None]),
    "at": (sa.TIMESTAMP, pa.timestamp("us"), [NOON, NOON.replace(year=1), None]),
    "zoned": (
        sa.TIMESTAMP(timezone=True),
        pa.timestamp("us", "UTC"),
        [NOON.replace(tzinfo=dt.UTC), None, None],
    ),
    "clock": (sa.TIME, pa.time64("us"), [dt.time.min, dt.time.max, None]),
    "code": (sa.Uuid, pa.string(), [str(uuid.UUID(int=5)).upper(), str(uuid.UUID(int=2)), None]),
}
FRAMES = {"arrow": lambda t: t, "polars": pl.from_arrow, "pandas": lambda t: t.to_pandas()}


def exact_table(*, key: bool) -> sa.Table:
    return sa.Table(
        "exact",
        sa.MetaData(),
        sa.Column("id", sa.INTEGER, primary_key=key, autoincrement=False),
        *(sa.Column(name, type_) for name, (type_, _, _) in EXACT.items()),
        schema="app",
    )


def exact_rows(first: int) -> pa.Table:
    columns = {
        name: pa.array([decimal.Decimal(v) if v else v for v in some], type_)
        if pa.types.is_decimal(type_)
        else pa.array(some, type_)
        for name, (_, type_, some) in EXACT.items()
    }
    return pa.table({"id": pa.array(range(first, first + 3), pa.int32())} | columns)


@pytest.mark.parametrize("key", [True, False])
def test_frames_and_tuples_of_every_exact_type_are_proved(warehouse_engine, key):
    table = exact_table(key=key)
    for number, (kind, made) in enumerate(FRAMES.items()):
        # Neither pandas has the years 1 and 9999, nor has it whole numbers beside NULL.
        names = ["id", "name", "data", "clock", "price"] if kind == "pandas" else None
        data = exact_rows(10 * number)
        given = made(data.select(names) if names else data)
        assert proved(warehouse_engine, table, [given]).rows_there == 3
    tuples = [tuple(row.values()) for row in exact_rows(100).to_pylist()]
    assert proved(warehouse_engine, table, tuples).rows_there == 3
    assert len(rows(warehouse_engine, table)) == 12


def test_the_same_rows_have_the_same_checksum_in_any_order_and_database(
    fresh_postgres, fresh_duckdb
):
    found = {
        proved(engine, exact_table(key=key), [exact_rows(1).take(order)]).checksum
        for engine in (fresh_postgres, fresh_duckdb)
        for key, order in ((True, [0, 1, 2]), (False, [2, 0, 1]))
        if engine is fresh_duckdb or key
    }
    assert len(found) == 1


def test_types_that_duckdb_spells_its_own_way_are_proved(fresh_duckdb):
    with fresh_duckdb.begin() as conn:
        run(conn, "CREATE TABLE odd (id INTEGER, span INTERVAL, list INTEGER[], ats TIMESTAMPTZ[])")
        columns = dialect_of(conn).columns(conn, name_of(sa.Table("odd", sa.MetaData())))
    kinds = {c.name: c.sql_type for c in columns}

    def kind(name: str) -> Any:
        class Kind(sa.types.UserDefinedType[Any]):
            cache_ok = True

            def get_col_spec(self, **_: Any) -> str:
                return kinds[name]

        return Kind()

    names = ("span", "list", "ats")
    odd = sa.Table(
        "odd",
        sa.MetaData(),
        sa.Column("id", sa.INTEGER),
        *(sa.Column(name, kind(name)) for name in names),
    )
    row = (1, "90 minutes", "[1,2,NULL]", "['2024-01-01 00:00:00+05']")
    arrival = proved(fresh_duckdb, odd, [row, (2, None, None, None)])
    assert (arrival.rows_there, arrival.not_compared) == (2, ())


# -- every way into a table -----------------------------------------------------------------------


def test_of_rows_with_one_key_the_last_is_there_and_the_others_are_counted(warehouse_engine):
    table = people()
    first = proved(warehouse_engine, table, [(1, "a"), (2, "b"), (1, "c")])
    assert (first.rows_there, first.repeated) == (2, 1)
    again = proved(warehouse_engine, table, [(1, "d"), (1, "d"), (3, None)], [(3, "e"), (3, "f")])
    assert (again.rows_there, again.repeated) == (3, 2)
    assert rows(warehouse_engine, table) == [(1, "d"), (2, "b"), (3, "f")]


def test_nothing_is_left_behind(warehouse_engine):
    table = people(key=False)
    proved(warehouse_engine, table, [(1, "a")], [(1, "b")])
    before = relations(warehouse_engine)
    proved(warehouse_engine, table, [(1, "a")], [(1, "b")])
    assert relations(warehouse_engine) == before


@pytest.mark.parametrize("key", [True, False])
def test_a_batch_without_rows_and_one_in_the_same_order_are_proved(warehouse_engine, key):
    table = people(key=key)
    assert proved(warehouse_engine, table, []).rows_there == 0
    assert proved(warehouse_engine, table, [(1, "a"), (2, None)], []).rows_there == 2
    changed = people(sa.Column("more", sa.INTEGER), key=key)
    assert proved(warehouse_engine, changed, [(3, "c", 4)]).rows_there == 1
    whole = proved(warehouse_engine, changed, [(4, "d", 5)], delete=Delete.BEFORE_FIRST_BATCH)
    assert whole.rows_there == 1
    assert len(rows(warehouse_engine, changed)) == 1


def test_inserted_rows_are_proved_without_an_upsert(warehouse_engine):
    table = people()
    assert (
        proved(warehouse_engine, table, [(1, "a")], [(2, "b")], upsert=Upsert.OFF).rows_there == 2
    )


@pytest.mark.parametrize("key", [True, False])
def test_rows_that_the_server_finds_are_compared_from_then_on(fresh_postgres, key):
    table = people(key=key)
    statement = psycopg.sql.SQL("SELECT 2, 'found'")
    for _ in range(2):
        arrival = proved(fresh_postgres, table, [(1, "a"), statement, (2, "b"), (3, "c")])
        assert arrival.rows_sent == 4
        assert arrival.repeated == (1 if key else 0)


@pytest.mark.parametrize("key", [True, False])
def test_rows_that_a_check_puts_aside_are_counted(warehouse_engine, key):
    named = RowCheck("has a name", "name IS NOT NULL", on_fail="quarantine")
    table = people(key=key)
    for first in (1, 11):
        given = [(first, "a"), (first + 1, None), (first + 2, "c")]
        arrival = proved(warehouse_engine, table, given, on_before_visible=named)
        assert (arrival.rows_there, arrival.put_aside) == (2, 1)


def test_without_asking_nothing_is_proved(warehouse_engine):
    assert ingested(warehouse_engine, people(), [(1, "a")]).tables["app.people"].arrival is None


# -- tampering ------------------------------------------------------------------------------------

CHANGES = "BEGIN NEW.name = NEW.name || '!'; RETURN NEW; END"
DROPS = "BEGIN IF NEW.id = 3 THEN RETURN NULL; END IF; RETURN NEW; END"
AFTERWARDS = """BEGIN IF NEW.name NOT LIKE '%!' THEN
    UPDATE app.people SET name = name || '!' WHERE id = NEW.id; END IF; RETURN NULL; END"""
TRIGGERS = {
    "changes a value": (CHANGES, "CREATE TRIGGER t BEFORE INSERT OR UPDATE ON app.people"),
    "drops a row": (DROPS, "CREATE TRIGGER t BEFORE INSERT OR UPDATE ON app.people"),
    "changes a row later": (AFTERWARDS, "CREATE TRIGGER t AFTER INSERT OR UPDATE ON app.people"),
    "changes a row at the commit": (
        AFTERWARDS,
        """CREATE CONSTRAINT TRIGGER t AFTER INSERT OR UPDATE ON app.people
           DEFERRABLE INITIALLY DEFERRED""",
    ),
}


@pytest.mark.parametrize("key", [True, False])
@pytest.mark.parametrize("trigger", TRIGGERS)
def test_a_trigger_that_tampers_is_caught_and_nothing_committed(fresh_postgres, trigger, key):
    table = people(key=key)
    proved(fresh_postgres, table, [(1, "a")])
    body, when = TRIGGERS[trigger]
    with fresh_postgres.begin() as conn:
        run(conn, f"CREATE FUNCTION app.f() RETURNS trigger LANGUAGE plpgsql AS $${body}$$")
        run(conn, f"{when} FOR EACH ROW EXECUTE FUNCTION app.f()")
    known = comment(fresh_postgres, table)
    with pytest.raises(ArrivalDiffers, match=r"app\.people: .*rows, checksum") as caught:
        proved(fresh_postgres, table, [(2, "b"), (3, "c")])
    assert caught.value.table == "app.people"
    assert caught.value.checksum_sent != caught.value.checksum_there
    assert caught.value.rows_sent == 2
    gone = trigger == "drops a row" or (not key and trigger.startswith("changes a row"))
    assert (caught.value.rows_there == 2) is not gone
    if not gone:
        assert caught.value.columns == ["name"]
    assert rows(fresh_postgres, table) == [(1, "a")]
    assert comment(fresh_postgres, table) == known


@pytest.mark.parametrize("key", [True, False])
def test_a_rule_that_swallows_rows_commits_nothing(fresh_postgres, key):
    table = people(key=key)
    proved(fresh_postgres, table, [(1, "a")])
    with fresh_postgres.begin() as conn:
        run(conn, "CREATE RULE r AS ON INSERT TO app.people WHERE new.id = 3 DO INSTEAD NOTHING")
    known = comment(fresh_postgres, table)
    with pytest.raises(IngestError):
        proved(fresh_postgres, table, [(2, "b"), (3, "c")])
    assert rows(fresh_postgres, table) == [(1, "a")]
    assert comment(fresh_postgres, table) == known


@pytest.mark.parametrize("key", [True, False])
@pytest.mark.parametrize("change", ["UPDATE {} SET name = 'x' WHERE id = 2", "DELETE FROM {}"])
def test_a_callback_that_changes_rows_is_caught(warehouse_engine, change, key):
    def tamper(conn, table, _):
        run(conn, change.format(dialect_of(conn).qualified(name_of(table))))

    for table in (people(key=key), people(sa.Column("more", sa.INTEGER), key=key)):
        given = [(number, "b", *[None] * (len(table.columns) - 2)) for number in (1, 2, 3)]
        with pytest.raises(ArrivalDiffers):
            proved(warehouse_engine, table, given, on_before_visible=tamper)
        proved(warehouse_engine, table, given)
        with pytest.raises(ArrivalDiffers):
            proved(warehouse_engine, table, given, on_before_visible=tamper)


def test_elements_that_are_too_long_are_refused_and_not_cut(fresh_postgres):
    kind = pg.ARRAY(sa.VARCHAR(3))
    table = sa.Table("cut", sa.MetaData(), sa.Column("v", kind), schema="app")
    with pytest.raises(IngestError, match=r"too long for type character varying\(3\)"):
        proved(fresh_postgres, table, [(["abcdef"],)])


def test_missing_rows_that_a_trigger_keeps_are_caught(fresh_postgres):
    table = people()
    everything = {"high_watermark": HighWatermark.EARLIEST, "delete": Missing(refuse_above=1)}
    proved(fresh_postgres, table, [(1, "a"), (2, "b")], **everything)
    proved(fresh_postgres, table, [(2, "b"), (3, "c")], **everything)
    assert rows(fresh_postgres, table) == [(2, "b"), (3, "c")]
    keep = "BEGIN RETURN NULL; END"
    with fresh_postgres.begin() as conn:
        run(conn, f"CREATE FUNCTION app.f() RETURNS trigger LANGUAGE plpgsql AS $${keep}$$")
        run(
            conn,
            "CREATE TRIGGER t BEFORE DELETE ON app.people FOR EACH ROW EXECUTE FUNCTION app.f()",
        )
    with pytest.raises(ArrivalDiffers, match="1 rows are there that were not given, and 0"):
        proved(fresh_postgres, table, [(3, "c")], **everything)


def test_the_result_tells_the_seconds_that_the_proof_took(fresh_duckdb):
    table = people()
    with fresh_duckdb.connect() as conn:
        result = ingest(conn, table.metadata, batches(table, [(1, "a")]), prove_arrival=True)
    assert result.phases["prove"] > 0


def test_added_rows_are_fetched_from_their_places(fresh_postgres):
    table = people(key=False)
    proved(fresh_postgres, table, [(1, "a")])
    with fresh_postgres.begin() as conn:
        dialect, name = dialect_of(conn), name_of(table)
        mark = dialect.mark_additions(conn, name)
        explain = f"EXPLAIN SELECT t.* FROM {dialect.additions(name, mark)}"
        with dialect.by_place(conn, name):
            plan = "\n".join(run(conn, explain).scalars())
        assert "Tid Scan" in plan
        assert run(conn, "SHOW enable_hashjoin").scalar() == "on"
