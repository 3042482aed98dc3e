"""PostgreSQL rounds what is assigned to a coarser type without a word; `ingest` does not let it."""

from __future__ import annotations

import datetime as dt
import decimal
from typing import Any

import pyarrow as pa
import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from ixflow.errors import ValueDoesNotFit
from ixflow_tests.behaviour.ingesting import ingested, rows

MOMENT = dt.datetime(2024, 2, 3, 4, 5, 6, 789_000)  # noqa: DTZ001 - for columns without a zone
FINE = MOMENT.replace(microsecond=789_001)
ZONED, FINE_ZONED = MOMENT.replace(tzinfo=dt.UTC), FINE.replace(tzinfo=dt.UTC)
CASES: dict[str, tuple[Any, Any, Any]] = {
    "timestamp(3)": (pg.TIMESTAMP(precision=3), MOMENT, FINE),
    "timestamptz(3)": (pg.TIMESTAMP(timezone=True, precision=3), ZONED, FINE_ZONED),
    "time(3)": (pg.TIME(precision=3), MOMENT.time(), FINE.time()),
    "timetz(0)": (pg.TIME(timezone=True, precision=0), "04:05:06+01", "04:05:06.5+01"),
    "timestamp(0)[]": (pg.ARRAY(pg.TIMESTAMP(precision=0)), "{2024-01-01}", "{2024-01-01 0:0:0.5}"),
    "interval(3)": (pg.INTERVAL(precision=3), "1.234 s", "1.2345 s"),
    "interval year to month": (pg.INTERVAL(fields="YEAR TO MONTH"), "1 year", "1 year 3 days"),
    "interval day to second(0)": (
        pg.INTERVAL(fields="DAY TO SECOND", precision=0), "1 day 1 s", "1 day 1.4 s",
    ),
    "numeric(5,2)[]": (pg.ARRAY(sa.NUMERIC(5, 2)), "{1.5,NULL,-2.25}", "{1.5,2.251}"),
    "numeric(100,2)": (sa.NUMERIC(100, 2), decimal.Decimal("1.25"), decimal.Decimal("1.251")),
    "varchar(2)": (sa.VARCHAR(2), "äb", "äb "),
    "numeric(3,-2)": (sa.NUMERIC(3, -2), "1200", "1201"),
}  # fmt: skip


def declared(type_: Any, *, key: bool) -> sa.Table:
    """Declare a table of an id and a value."""
    return sa.Table(
        "round",
        sa.MetaData(schema="app"),
        sa.Column("id", sa.INTEGER, primary_key=key, autoincrement=False),
        sa.Column("v", type_),
    )


def framed(values: list[Any]) -> pa.Table:
    texts = [str(v) if isinstance(v, decimal.Decimal) else v for v in values]
    return pa.table({"id": pa.array(range(len(values)), pa.int32()), "v": texts})


@pytest.mark.parametrize("key", [True, False], ids=["key", "no key"])
@pytest.mark.parametrize("name", CASES)
def test_what_would_be_rounded_is_refused_by_row_and_value(fresh_postgres, name, key):
    type_, fits, rounded = CASES[name]
    table = declared(type_, key=key)
    ingested(fresh_postgres, table, [(0, fits), (1, None)])
    before = rows(fresh_postgres, table)
    bad = [fits, None, rounded, fits]
    for given in (list(enumerate(bad)), [framed(bad)]):
        with pytest.raises(
            ValueDoesNotFit, match=r"app\.round\.v in row 2 .*(round|long)"
        ) as caught:
            ingested(fresh_postgres, table, given)
        assert caught.value.fields["row"] == 2
        assert rows(fresh_postgres, table) == before
    ingested(fresh_postgres, table, [framed([fits, None, fits])])
    assert len(rows(fresh_postgres, table)) == (3 if key else 5)


def test_the_row_is_counted_over_all_tuples(fresh_postgres):
    table = declared(pg.TIMESTAMP(precision=0), key=True)
    given = [(n, FINE if n == 27 else MOMENT.replace(microsecond=0)) for n in range(30)]
    with pytest.raises(ValueDoesNotFit, match=r"app\.round\.v in row 27 .*06\.789001"):
        ingested(fresh_postgres, table, given, max_rows_per_table_buffer=10)
