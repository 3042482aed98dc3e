"""Columns of values of one plain Python type, which need no look at each of them.

Most columns are: all integers, all texts, all Decimals. Arrow then loses nothing when it is told
the type, and refuses what does not fit. Whatever is mixed or odd goes the careful way.
"""

from __future__ import annotations

import datetime as dt
import decimal
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa

__all__ = ["plain_array"]

_EPOCH = dt.datetime(1970, 1, 1)  # noqa: DTZ001 - subtracted from what has no zone either
_EPOCH_DAY = _EPOCH.toordinal()
_EPOCH_UTC = _EPOCH.replace(tzinfo=dt.UTC)

_PLAIN: tuple[tuple[type, Callable[[pa.DataType], bool]], ...] = (
    (int, pa.types.is_integer),
    (float, pa.types.is_float64),
    (str, pa.types.is_string),
    (decimal.Decimal, pa.types.is_decimal),
    (bool, pa.types.is_boolean),
    (bytes, pa.types.is_binary),
    (dt.datetime, pa.types.is_timestamp),
    (dt.date, pa.types.is_date32),
)


def plain_array(values: Sequence[Any], type_: pa.DataType) -> pa.Array | None:
    """Make an array of values that are all of the type's own Python type, or None.

    Gives None where some are not, and where one does not fit: then somebody has to look.

    >>> plain_array([1, None], pa.int32()).to_pylist()
    [1, None]
    >>> plain_array([1, 2.0], pa.int32()), plain_array([1 << 40], pa.int32())
    (None, None)
    """
    kinds = set(map(type, values))
    kinds.discard(type(None))
    if len(kinds) != 1:
        return None
    kind = kinds.pop()
    if not any(kind is known and fits(type_) for known, fits in _PLAIN):
        return None
    try:
        return _MADE.get(kind, pa.array)(values, type_)
    except (pa.ArrowException, OverflowError, TypeError, ValueError):
        return None


def _moments(values: Sequence[Any], type_: pa.DataType) -> pa.Array | None:
    """Subtract the epoch, which also sees to zones: Arrow asks each value for its offset.

    Where some have a zone and some have none, or the type wants the other, that is a TypeError.
    """
    if type_.unit != "us":
        return None
    epoch = _EPOCH if type_.tz is None else _EPOCH_UTC
    since = [None if value is None else value - epoch for value in values]
    return pa.array(since, pa.duration("us")).view(type_)


def _dates(values: Sequence[Any], type_: pa.DataType) -> pa.Array:
    """Count the days, which Arrow does four times as slowly."""
    days = [None if value is None else value.toordinal() - _EPOCH_DAY for value in values]
    return pa.array(days, pa.int32()).view(type_)


_MADE: dict[type, Callable[[Sequence[Any], pa.DataType], pa.Array | None]] = {
    dt.datetime: _moments,
    dt.date: _dates,
}
