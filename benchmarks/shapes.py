"""The rows that the ingest cases load: a key, and behind it one of a few thousand tails.

A row is made of its key and the tail whose number is (key + shift) modulo `TAILS`, so that any
number of rows costs little to give, and the server can tell for each row whether it arrived whole.
Another shift changes every row. Only the standard library is imported here before a table of Arrow
is asked for: peers load the same rows from environments of their own.
"""

from __future__ import annotations

import datetime as dt
import decimal
import functools
import hashlib
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["SHAPES", "TAILS", "arrow_batches", "arrow_table", "sqlalchemy_table", "tails", "tuples"]

TAILS = 20_000
_PIECE = 64_000

_START = dt.datetime(2020, 1, 1)  # noqa: DTZ001 - a timestamp without zone is measured
_WORDS = ("new", "paid", "packed", "shipped", "returned")


def _digest(number: int, size: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()[:size]


def _moment(number: int) -> dt.datetime:
    return _START + dt.timedelta(microseconds=number * 17_000_013)


def _money(number: int, scale: int) -> decimal.Decimal:
    return decimal.Decimal(number * 7_919_000_003 % 20_000_000_000 - 10**10).scaleb(-scale)


def _sometimes(value: Callable[[int], Any], every: int) -> Callable[[int], Any]:
    return lambda number: None if number % every == 1 else value(number)


_Maker = Callable[[int], Any]
SHAPES: dict[str, dict[str, tuple[str, _Maker]]] = {
    "narrow": {
        "id": ("integer", int),
        "name": ("text", lambda n: f"customer {_digest(n, 8)} of {n}"),
        "at": ("timestamp", _moment),
        "amount": ("numeric(12,2)", lambda n: _money(n, 2)),
    },
    "mixed": {
        "id": ("bigint", int),
        "branch": ("smallint", lambda n: n % 300),
        "customer": ("integer", lambda n: n * 31),
        "parent": ("bigint", _sometimes(lambda n: n * 10**9, 3)),
        "quantity": ("integer", _sometimes(lambda n: n % 50, 10)),
        "price": ("numeric(12,2)", lambda n: _money(n, 2)),
        "tax": ("numeric(20,6)", _sometimes(lambda n: _money(n, 6), 7)),
        "weight": ("double precision", lambda n: n / 3),
        "ratio": ("real", lambda n: n / 8),
        "paid": ("boolean", lambda n: n % 2 == 0),
        "shipped": ("boolean", _sometimes(lambda n: n % 3 == 0, 5)),
        "status": ("text", lambda n: _WORDS[n % 5]),
        "title": ("text", lambda n: f"{_digest(n, 32)} {n}"),
        "city": ("text", lambda n: f"Zürich {n % 1000}"),
        "note": ("text", _sometimes(lambda n: "a\tb\\ " * (n % 16), 4)),
        "token": ("bytea", lambda n: hashlib.md5(str(n).encode()).digest()),  # noqa: S324
        "ordered": ("date", lambda n: _START.date() + dt.timedelta(days=n % 4000)),
        "due": ("date", _sometimes(lambda n: _START.date() + dt.timedelta(days=n % 5000), 6)),
        "created": ("timestamp", _moment),
        "changed": ("timestamptz", _sometimes(lambda n: _moment(n).replace(tzinfo=dt.UTC), 9)),
    },
}
"""By shape: the columns, the key first, with their SQL type and what makes a value of a number."""


@functools.cache
def tails(shape: str) -> list[tuple[Any, ...]]:
    """Make the tails of all rows of a shape."""
    makers = [maker for _, maker in list(SHAPES[shape].values())[1:]]
    return [tuple(make(number) for make in makers) for number in range(TAILS)]


def tuples(shape: str, rows: int, shift: int = 0) -> Iterator[tuple[Any, ...]]:
    """Give the rows in the order of their keys, from 1.

    >>> [row[0] for row in tuples("narrow", 3)]
    [1, 2, 3]
    """
    known = tails(shape)
    for key in range(1, rows + 1):
        yield (key, *known[(key + shift) % TAILS])


def arrow_batches(shape: str, rows: int, shift: int = 0) -> Iterator[Any]:
    """Give the rows as Arrow record batches that are made while they are read."""
    import numpy as np
    import pyarrow as pa

    schema = _arrow_schema(shape)
    known = pa.RecordBatch.from_arrays(
        [
            pa.array(v, t)
            for v, t in zip(zip(*tails(shape), strict=True), schema.types[1:], strict=True)
        ],
        schema.names[1:],
    )
    for start in range(1, rows + 1, _PIECE):
        keys = np.arange(start, min(start + _PIECE, rows + 1))
        arrays = known.take(pa.array((keys + shift) % TAILS)).columns
        yield pa.RecordBatch.from_arrays([pa.array(keys, schema.types[0]), *arrays], schema=schema)


def arrow_table(shape: str, rows: int, shift: int = 0) -> Any:
    """Give the rows as one Arrow table."""
    import pyarrow as pa

    return pa.Table.from_batches(arrow_batches(shape, rows, shift), _arrow_schema(shape))


def _arrow_schema(shape: str) -> Any:
    import pyarrow as pa

    types = {
        "smallint": pa.int16(),
        "integer": pa.int32(),
        "bigint": pa.int64(),
        "real": pa.float32(),
        "double precision": pa.float64(),
        "numeric(12,2)": pa.decimal128(12, 2),
        "numeric(20,6)": pa.decimal128(20, 6),
        "boolean": pa.bool_(),
        "text": pa.string(),
        "bytea": pa.binary(),
        "date": pa.date32(),
        "timestamp": pa.timestamp("us"),
        "timestamptz": pa.timestamp("us", "UTC"),
    }
    return pa.schema([(name, types[sql]) for name, (sql, _) in SHAPES[shape].items()])


def sqlalchemy_table(shape: str, name: str, metadata: Any, *, key: bool) -> Any:
    """Describe the table as a user of ixflow or of pg-bulk-ingest does.

    The types are spelt as SQLAlchemy reflects them: pg-bulk-ingest replaces a table whose types
    are spelt otherwise, which is not what is measured.
    """
    import sqlalchemy as sa
    from sqlalchemy.dialects import postgresql

    types: dict[str, Any] = {
        "smallint": sa.SMALLINT(),
        "integer": sa.INTEGER(),
        "bigint": sa.BIGINT(),
        "real": sa.REAL(),
        "double precision": sa.DOUBLE_PRECISION(precision=53),
        "numeric(12,2)": sa.NUMERIC(precision=12, scale=2),
        "numeric(20,6)": sa.NUMERIC(precision=20, scale=6),
        "boolean": sa.BOOLEAN(),
        "text": sa.TEXT(),
        "bytea": postgresql.BYTEA(),
        "date": sa.DATE(),
        "timestamp": sa.TIMESTAMP(),
        "timestamptz": sa.TIMESTAMP(timezone=True),
    }
    first, *others = SHAPES[shape].items()
    columns: list[Any] = [sa.Column(column, types[sql]) for column, (sql, _) in others]
    number: Any = sa.Column(
        first[0], types[first[1][0]], primary_key=key, autoincrement=False, nullable=not key
    )
    return sa.Table(name, metadata, number, *columns, schema="public")
