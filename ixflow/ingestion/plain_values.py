"""Columns of values of one plain Python type, which need no look at each of them.

Most columns are: all integers, all texts, all Decimals. Where Arrow itself infers just the kind of
number or text that the column has, nothing was lost; where it would take something else for one of
the kind, the values' types are looked at first. Whatever is mixed or odd goes the careful way.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["plain_array"]

_EPOCH = dt.datetime(1970, 1, 1)  # noqa: DTZ001 - subtracted from what has no zone either
_EPOCH_DAY = _EPOCH.toordinal()
_EPOCH_UTC = _EPOCH.replace(tzinfo=dt.UTC)

_Make = Callable[[Sequence[Any], pa.DataType], pa.Array | None]


def plain_array(values: Sequence[Any], type_: pa.DataType) -> pa.Array | None:
    """Make an array of values that are all of the type's own Python type, or None.

    Gives None where some are not, and where one does not fit: then somebody has to look.

    >>> plain_array([1, None], pa.int32()).to_pylist()
    [1, None]
    >>> plain_array([1, 2.5], pa.int32()), plain_array([1 << 40], pa.int32())
    (None, None)
    """
    make = next((make for fits, make in _MAKERS if fits(type_)), None)
    if make is None:
        return None
    try:
        return make(values, type_)
    except (pa.ArrowException, OverflowError, TypeError, ValueError):
        return None


def _inferred(kind: pa.DataType) -> _Make:
    """Let Arrow find the type, which is the kind only where all values are of it."""

    def make(values: Sequence[Any], type_: pa.DataType) -> pa.Array | None:
        found = pa.array(values)
        if found.type != kind:
            return None
        return found if type_ == kind else found.cast(type_)

    return make


def _float32(values: Sequence[Any], type_: pa.DataType) -> pa.Array | None:
    """Round; what is infinite then may have been too large before."""
    found = pa.array(values)
    if found.type != pa.float64():
        return None
    rounded = found.cast(type_)
    return None if pc.any(pc.is_inf(rounded)).as_py() else rounded


def _of(kind: type, make: _Make) -> _Make:
    """Make the array if all values are of exactly the kind, or None."""
    kinds = {kind, type(None)}

    def checked(values: Sequence[Any], type_: pa.DataType) -> pa.Array | None:
        return make(values, type_) if set(map(type, values)) <= kinds else None

    return checked


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
    days = [None if value is None else value.toordinal() for value in values]
    # A scalar at import would load pandas, which not everybody needs.
    epoch = pa.scalar(_EPOCH_DAY, pa.int32())
    return pc.subtract(pa.array(days, pa.int32()), epoch).view(type_)


_MAKERS: tuple[tuple[Callable[[pa.DataType], bool], _Make], ...] = (
    (pa.types.is_integer, _inferred(pa.int64())),
    (pa.types.is_float64, _inferred(pa.float64())),
    (pa.types.is_float32, _float32),
    (pa.types.is_string, _inferred(pa.string())),
    (pa.types.is_boolean, _inferred(pa.bool_())),
    # Told the type, Arrow takes whole numbers besides, and nothing that is inexact.
    (pa.types.is_decimal, pa.array),
    (pa.types.is_binary, _of(bytes, pa.array)),
    (pa.types.is_timestamp, _of(dt.datetime, _moments)),
    (pa.types.is_date32, _of(dt.date, _dates)),
)
