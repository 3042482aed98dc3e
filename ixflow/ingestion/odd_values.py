"""Python values that Arrow would change, or does not know: made plain, or refused.

Arrow drops the nanoseconds of a pandas Timestamp and the zone of a time, and knows neither a
`numpy.datetime64` among None nor a text as a time. What pandas calls missing is NULL; NaN is a
number and stays one.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa

from ixflow.dialects.types import is_bytes
from ixflow.values import Column

__all__ = ["plainer", "without_missing"]

_TRUE = ("true", "t", "yes", "y", "on", "1")
_FALSE = ("false", "f", "no", "n", "off", "0")
_ODD = {("numpy", "datetime64"), ("pandas", "Timestamp")}
_MISSING = {("pandas", "NAType"), ("pandas", "NaTType")}


def without_missing(values: Sequence[Any]) -> Sequence[Any]:
    """Put None where pandas says that there is no value.

    >>> import pandas as pd
    >>> without_missing([1, pd.NA, pd.NaT])
    [1, None, None]
    """
    missing = {kind for kind in set(map(type, values)) if _known(kind) in _MISSING}
    return [None if type(v) in missing else v for v in values] if missing else values


def plainer(values: Sequence[Any], column: Column) -> Callable[[Any], Any] | None:
    """Give the function that makes values of the column plain; None where Arrow takes them so.

    The function raises ValueError for what would lose something.

    >>> plainer([True, "no"], Column("b", "boolean", pa.bool_()))("no")
    False
    """
    kinds = set(map(type, values))
    type_ = column.type
    if pa.types.is_boolean(type_) and str in kinds:
        return _boolean
    if is_bytes(type_) and str in kinds:
        return _bytes
    if pa.types.is_time(type_) and kinds & {str, dt.time}:
        return _time
    if pa.types.is_temporal(type_) and any(_known(kind) in _ODD for kind in kinds):
        return _moment
    return None


def _known(kind: type) -> tuple[str, str]:
    return kind.__module__.partition(".")[0], kind.__name__


def _boolean(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    text = value.strip().lower()
    if text not in _TRUE + _FALSE:
        msg = "a boolean as text is true or false, yes or no, on or off, 1 or 0"
        raise ValueError(msg)
    return text in _TRUE


def _bytes(value: Any) -> Any:
    if isinstance(value, str):
        msg = "a text is not bytes; encode it first"
        raise TypeError(msg)
    return value


def _time(value: Any) -> Any:
    found = dt.time.fromisoformat(value.strip()) if isinstance(value, str) else value
    if isinstance(found, dt.time) and found.tzinfo is not None:
        msg = "a time with a zone is not one with no zone"
        raise ValueError(msg)
    return found


def _moment(value: Any) -> Any:
    """Make a datetime of what NumPy and pandas have, if it has no nanoseconds."""
    kind = _known(type(value))
    if kind == ("pandas", "Timestamp"):
        if value.nanosecond:
            msg = "the nanoseconds would be lost"
            raise ValueError(msg)
        return value.to_pydatetime()
    if kind != ("numpy", "datetime64"):
        return value
    micros = value.astype("datetime64[us]")
    if micros != value and value == value:  # noqa: PLR0124 - NaT is not itself
        msg = "it would lose something finer than microseconds, or is beyond them"
        raise ValueError(msg)
    found = micros.item()
    if found is not None and not isinstance(found, dt.datetime):
        msg = "Python has no such date"
        raise ValueError(msg)
    return found
