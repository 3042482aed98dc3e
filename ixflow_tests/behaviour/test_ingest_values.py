"""Python values of every PostgreSQL type arrive, with and without a key, through both drivers."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import ipaddress
import itertools
import uuid
from typing import Any

import numpy as np
import psycopg2.extras
import pytest
import sqlalchemy as sa
from psycopg.types.multirange import Multirange
from psycopg.types.range import Range
from sqlalchemy.dialects import postgresql as pg

from ixflow.dialects import run
from ixflow.errors import ValueDoesNotFit
from ixflow_tests.behaviour.ingesting import ingested

_numbers = itertools.count()


class Mood(enum.Enum):
    SAD = "sad face"
    GLAD = "glad"


def labels(members: Any) -> list[str]:
    return [member.value for member in members]


class Doubled(sa.TypeDecorator[int]):
    """A type of a user's own."""

    impl = sa.Integer
    cache_ok = True

    def process_bind_param(self, value, dialect):
        return None if value is None else value * 2


class Vector(sa.types.UserDefinedType[Any]):
    cache_ok = True

    def get_col_spec(self, **_):
        return "vector(3)"


NOON = dt.datetime.fromisoformat("2024-01-01T12:00:00")
OBJECTS = [{"a": 1}, 'x"y', None, [1]]

# Type, value, and what the server then writes.
VALUES: list[tuple[Any, Any, str | None]] = [
    (pg.ARRAY(sa.Integer), [1, None, 3], "{1,NULL,3}"),
    (pg.ARRAY(sa.Integer), (), "{}"),
    (pg.ARRAY(sa.Integer), np.array([[1, 2], [3, 4]]), "{{1,2},{3,4}}"),
    (pg.ARRAY(sa.Integer, dimensions=3), [[[1], [None]]], "{{{1},{NULL}}}"),
    (pg.ARRAY(sa.TEXT), ["a,b", 'q"\\', "NULL", "", None], '{"a,b","q\\"\\\\","NULL","",NULL}'),
    (pg.ARRAY(pg.BYTEA), [b"\x00\xff", None, b""], '{"\\\\x00ff",NULL,"\\\\x"}'),
    (pg.ARRAY(pg.JSON), OBJECTS, '{"{\\"a\\": 1}","\\"x\\\\\\"y\\"",NULL,[1]}'),
    (pg.ARRAY(pg.JSONB), OBJECTS, '{"{\\"a\\": 1}","\\"x\\\\\\"y\\"",NULL,[1]}'),
    (pg.ARRAY(sa.DATE), [dt.date(2024, 1, 1), None], "{2024-01-01,NULL}"),
    (pg.ARRAY(sa.Float), [1.5, float("nan"), float("inf")], "{1.5,NaN,Infinity}"),
    (pg.ARRAY(pg.UUID), [uuid.UUID(int=5)], "{00000000-0000-0000-0000-000000000005}"),
    (pg.ARRAY(pg.INT4RANGE), [Range(1, 5), None], '{"[1,5)",NULL}'),
    (pg.INT4RANGE, Range(1, 5, "[]"), "[1,6)"),
    (pg.INT4RANGE, Range(None, 5), "(,5)"),
    (pg.INT4RANGE, Range(empty=True), "empty"),
    (pg.INT4RANGE, pg.Range(1, None), "[1,)"),
    (pg.INT4RANGE, pg.Range(empty=True), "empty"),
    (pg.INT4RANGE, psycopg2.extras.NumericRange(1, 5), "[1,5)"),
    (pg.TSRANGE, Range(NOON, None), '["2024-01-01 12:00:00",)'),
    (pg.TSTZRANGE, pg.Range(NOON.replace(tzinfo=dt.UTC), None), '["2024-01-01 12:00:00+00",)'),
    (pg.INT4MULTIRANGE, "{[1,5),[7,9)}", "{[1,5),[7,9)}"),
    (pg.INT4MULTIRANGE, [Range(1, 5), pg.Range(7, 9)], "{[1,5),[7,9)}"),
    (pg.INT4MULTIRANGE, Multirange([Range(1, 5)]), "{[1,5)}"),
    (pg.HSTORE, {"a": "1", "b": None, 'q"': "x\\"}, '"a"=>"1", "b"=>NULL, "q\\""=>"x\\\\"'),
    (sa.Enum(Mood, name="mood", values_callable=labels), Mood.SAD, "sad face"),
    (sa.Enum(Mood, name="mood_name"), Mood.GLAD, "GLAD"),
    (sa.Enum("p", "q", name="letters"), "q", "q"),
    (Doubled(), 21, "42"),
    (sa.Numeric, decimal.Decimal("123456789012345678901234567890.1230"), None),
    (sa.Numeric, decimal.Decimal("-Infinity"), "-Infinity"),
    (sa.Numeric, decimal.Decimal("NaN"), "NaN"),
    (sa.Numeric(100, 50), decimal.Decimal("0." + "3" * 50), None),
    (pg.INTERVAL, dt.timedelta(days=-1, seconds=5), "-1 days +00:00:05"),
    (pg.INET, ipaddress.ip_network("10.0.0.0/8"), "10.0.0.0/8"),
    (pg.CIDR, ipaddress.ip_network("10.0.0.0/8"), "10.0.0.0/8"),
    (pg.BIT(3), "101", "101"),
    (pg.OID, 4_000_000_000, "4000000000"),
    (pg.TSVECTOR, "'a':1 'b':2", "'a':1 'b':2"),
    (pg.TIME(timezone=True), dt.time(1, 2, 3, tzinfo=dt.UTC), "01:02:03+00"),
    (pg.JSON, "text", '"text"'),
    (pg.JSONB, {"a": [None, 1.5]}, '{"a": [null, 1.5]}'),
    (pg.BYTEA, memoryview(b"\x80\x00"), "\\x8000"),
    (sa.Uuid, uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
]


@pytest.fixture(scope="module", params=["psycopg", "psycopg2"])
def engine(request, postgres_server):
    url = sa.make_url(postgres_server.url).set(drivername=f"postgresql+{request.param}")
    made = sa.create_engine(url)
    with made.begin() as conn:
        run(conn, "CREATE EXTENSION IF NOT EXISTS hstore")
    yield made
    made.dispose()


def arrived(engine, type_, value, *, key):
    """Ingest a value twice, and give what the server says it is."""
    table = sa.Table(
        f"value_{next(_numbers)}",
        sa.MetaData(),
        sa.Column("id", sa.INTEGER, primary_key=key, autoincrement=False),
        sa.Column("v", type_),
        schema="val",
    )
    for number in (1, 2):
        ingested(engine, table, [(number, value), (number + 2, None)])
    with engine.connect() as conn:
        found = run(conn, f"SELECT v::text FROM val.{table.name} ORDER BY id").scalars().all()
    assert found[2:].count(None) == 2 or found.count(None) == 2
    return found[0]


@pytest.mark.parametrize("key", [False, True])
@pytest.mark.parametrize(("type_", "value", "text"), VALUES)
def test_a_value_arrives_as_itself(engine, type_, value, text, key):
    assert arrived(engine, type_, value, key=key) == (str(value) if text is None else text)


def test_a_label_that_the_enumeration_lacks_is_named(engine):
    with pytest.raises(ValueDoesNotFit, match=r"val\.value_\d+\.v: the column's type refuses"):
        arrived(engine, sa.Enum(Mood, name="mood_name"), 5, key=False)


@pytest.mark.parametrize("value", [[1, 2, 3.5], (1, 2, 3.5), np.array([1, 2, 3.5]), "[1,2,3.5]"])
def test_vectors_arrive(vector_server, value):
    made = sa.create_engine(vector_server.url)
    with made.begin() as conn:
        run(conn, "CREATE EXTENSION IF NOT EXISTS vector")
    assert arrived(made, Vector(), value, key=True) == "[1,2,3.5]"
    made.dispose()
