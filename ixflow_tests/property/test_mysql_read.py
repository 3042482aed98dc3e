"""Whatever MariaDB's tables hold arrives in Arrow as the driver itself would give it."""

from __future__ import annotations

import datetime as dt
import decimal
import itertools
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ixflow.dialects import dialect_named
from ixflow.values import Column, TableName

if TYPE_CHECKING:
    import sqlalchemy as sa

_numbers = itertools.count()
_dialect = dialect_named("mysql")

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.sampled_from(
    ["", " ", "NULL", "\\N", "\x00", "😀", "ü", "x" * 250, "x" * 251, "😀" * 63, "x" * 300]
)
BYTES = st.binary(max_size=20) | st.sampled_from([b"", b"\x00", b"\xff", b"\xfb", b"\xfe" * 9])


def whole(bits: int, *, signed: bool) -> st.SearchStrategy[int]:
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    return st.integers(low, high) | st.sampled_from([low, high, 0])


def digits(precision: int, scale: int) -> st.SearchStrategy[decimal.Decimal]:
    most = 10**precision - 1
    unscaled = st.integers(-most, most) | st.sampled_from([0, most, -most, 1, -1])
    with decimal.localcontext(prec=80):
        return unscaled.map(lambda n: decimal.Decimal(n).scaleb(-scale, decimal.Context(prec=80)))


DAYS = st.dates(dt.date(1000, 1, 1))
MOMENTS = st.datetimes(dt.datetime(1000, 1, 1))  # noqa: DTZ001 - the type has no zone
STAMPS = st.datetimes(dt.datetime(1970, 1, 2), dt.datetime(2038, 1, 18))  # noqa: DTZ001
HOURS = dt.timedelta(hours=838, minutes=59, seconds=59)
TYPES: dict[str, st.SearchStrategy[Any]] = {
    **{
        f"{name}{'' if signed else ' unsigned'}": whole(bits, signed=signed)
        for name, bits in (
            ("tinyint", 8),
            ("smallint", 16),
            ("mediumint", 24),
            ("int", 32),
            ("bigint", 64),
        )
        for signed in (True, False)
    },
    "int(9) zerofill": st.integers(0, 2**32 - 1),
    "float": st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=False),
    "double": st.floats(allow_nan=False, allow_infinity=False, allow_subnormal=False),
    "decimal(9,2)": digits(9, 2),
    "decimal(38,38)": digits(38, 38),
    "decimal(65,0)": digits(65, 0),
    "decimal(65,30)": digits(65, 30),
    "date": DAYS,
    "datetime": MOMENTS.map(lambda moment: moment.replace(microsecond=0)),
    "datetime(6)": MOMENTS,
    "timestamp(6) null": STAMPS,
    "time(6)": st.timedeltas(-HOURS, HOURS),
    "year": st.integers(1901, 2155),
    "char(20)": TEXT.map(lambda text: text.rstrip(" ")[:20]),
    "varchar(400)": TEXT,
    "longtext": TEXT,
    "varchar(40) character set latin1": st.text("abcäöüß é€", max_size=20),
    "binary(4)": st.binary(min_size=4, max_size=4),
    "varbinary(40)": BYTES,
    "longblob": BYTES,
    "enum('x','ü','')": st.sampled_from(["x", "ü", ""]),
    "set('p','q','r')": st.sampled_from(["", "p", "p,q", "p,q,r"]),
    "bit(13)": whole(13, signed=False),
    "json": st.sampled_from(['{"a": 1}', "[]", '"😀"', "null"]),
    "uuid": st.uuids(version=4).map(str),
    "inet6": st.ip_addresses(v=6).map(str),
}
ROWS = st.lists(st.tuples(*(st.none() | values for values in TYPES.values())), max_size=8)


@given(rows=ROWS)
@example(rows=[])
@example(rows=[(None,) * len(TYPES)])
@example(rows=[(None,) * len(TYPES)] * 300)
@settings(max_examples=60)
def test_arrow_holds_what_the_driver_gives(fresh_mariadb, rows):
    table = TableName(f"t{next(_numbers)}")
    names = [f"c{n}" for n in range(len(TYPES))]
    declared = ", ".join(f"{name} {kind}" for name, kind in zip(names, TYPES, strict=True))
    with fresh_mariadb.connect() as conn:
        raw: Any = conn.connection.driver_connection
        with raw.cursor() as cursor:
            cursor.execute("SET time_zone = '+00:00'")
            cursor.execute(f"CREATE TABLE {table} ({declared})")
            marks = ", ".join(["%s"] * len(names))
            cursor.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)
            raw.commit()
            columns = _dialect.columns(conn, table)
            sql = f"SELECT {', '.join(map(_dialect.select_item, columns))} FROM {table}"
            cursor.execute(sql)
            expected = cursor.fetchall()
    found = read(fresh_mariadb, sql, columns)
    assert [column.type for column in columns] == found.schema.types
    for values, column in zip(found.columns, columns, strict=True):
        values.validate(full=True)
        place = columns.index(column)
        assert values.to_pylist() == [as_arrow(row[place], column) for row in expected], column
    assert found.num_rows == len(rows)


def read(engine: sa.Engine, sql: str, columns: tuple[Column, ...]) -> pa.Table:
    with _dialect.reader(engine.url) as reader:
        return reader.read(sql, columns).read_all()


def as_arrow(value: Any, column: Column) -> Any:
    """Give a value of the driver the form that Arrow gives to Python."""
    if value is None:
        return None
    if pa.types.is_timestamp(column.type) and column.type.tz is not None:
        return value.replace(tzinfo=dt.UTC)
    if column.type == pa.float32():
        return pa.scalar(value, pa.float32()).as_py()
    return value
