"""SQLite's values as Arrow, and Arrow's as what SQLite stores and gives back the same."""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import math
import sqlite3
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ixflow.dialects.cast import whole_numbers
from ixflow.dialects.rows import rows_reader
from ixflow.errors import ValueDoesNotFit
from ixflow.values import Column

__all__ = ["SHA256", "SQLiteReader", "sha256", "stored"]

SHA256 = "ixflow_sha256"
"""The name of `sha256` in SQL."""


class SQLiteReader:
    """One sqlite3 connection in a transaction, which reads one snapshot."""

    def __init__(self, raw: Any) -> None:
        """Take an open sqlite3 connection whose transaction has begun."""
        self._raw = raw

    def read(self, sql: str, columns: Sequence[Column]) -> pa.RecordBatchReader:
        """Run a query made by `Dialect.select` and stream its rows with the columns' types."""
        cursor = self._raw.cursor()
        cursor.execute(sql)

        def close() -> None:
            # A reader that was left half-read outlives its connection, which closed the cursor.
            with contextlib.suppress(sqlite3.ProgrammingError):
                cursor.close()

        return rows_reader(cursor.fetchmany, columns, _to_array, close=close)

    def cancel(self) -> None:
        """Stop the running query from another thread."""
        self._raw.interrupt()


def sha256(value: str | None) -> str | None:
    """Hash a text, which SQLite cannot.

    >>> sha256("a")[:8]
    'ca978112'
    """
    return None if value is None else hashlib.sha256(value.encode()).hexdigest()


def _to_array(values: Sequence[Any], column: Column) -> pa.Array:
    type_ = column.type
    if pa.types.is_decimal(type_):
        # The shortest text of a float is what was written; Arrow refuses what the scale cuts off.
        return pa.array([None if v is None else str(v) for v in values], pa.string())
    if pa.types.is_boolean(type_):
        return pa.array([None if v is None else _boolean(v) for v in values], type_)
    if pa.types.is_temporal(type_):
        return pa.array([None if v is None else _moment(v, type_) for v in values], type_)
    if pa.types.is_string(type_) and column.as_text:
        return pa.array([v if v is None or isinstance(v, str) else str(v) for v in values])
    return whole_numbers(values) if pa.types.is_integer(type_) else pa.array(values, type_)


def _boolean(value: Any) -> bool:
    if value in (0, 1):
        return bool(value)
    msg = "a boolean is 0 or 1"
    raise ValueError(msg)


def _moment(value: Any, type_: pa.DataType) -> Any:
    if not isinstance(value, str):
        msg = "dates and times are read from ISO 8601 text"
        raise TypeError(msg)
    if pa.types.is_date(type_):
        return dt.date.fromisoformat(value)
    if pa.types.is_time(type_):
        return dt.time.fromisoformat(value)
    moment = dt.datetime.fromisoformat(value)
    if type_.tz is None and moment.tzinfo is not None:
        msg = "the value has a zone, the declared type has none"
        raise ValueError(msg)
    if type_.tz is not None and moment.tzinfo is None:
        msg = "the value has no zone, the declared type wants one"
        raise ValueError(msg)
    return moment


def stored(array: pa.Array, column: Column) -> list[Any]:
    """Turn an Arrow array into values that SQLite stores and that read back the same.

    Raises:
        ValueDoesNotFit: SQLite would store another value.

    """
    type_ = array.type
    if pa.types.is_floating(type_) and pc.any(pc.is_nan(array)).as_py():
        row = next(i for i, v in enumerate(array.to_pylist()) if v is not None and math.isnan(v))
        msg = (
            f"{column.name} in row {row} (value nan): SQLite would store NaN as NULL; "
            f"write NULL yourself"
        )
        raise ValueDoesNotFit(msg, column=column.name, row=row, value="nan")
    values = _python_values(array, column)
    if pa.types.is_timestamp(type_):
        return [None if v is None else v.isoformat(" ") for v in values]
    if pa.types.is_time(type_) or pa.types.is_date(type_):
        return [None if v is None else v.isoformat() for v in values]
    if pa.types.is_decimal(type_):
        return [None if v is None else f"{v:f}" for v in values]
    return values


def _python_values(array: pa.Array, column: Column) -> list[Any]:
    try:
        found: list[Any] = array.to_pylist()
    except (OverflowError, ValueError) as error:
        msg = f"{column.name}: SQLite keeps {array.type} as ISO 8601 text, years 1 to 9999: {error}"
        raise ValueDoesNotFit(msg, column=column.name) from None
    return found
