"""Columns of values of one plain Python type, which need no look at each of them.

Most columns are: all integers, all texts, all Decimals. Arrow then loses nothing when it is told
the type, and refuses what does not fit. Whatever is mixed or odd goes the careful way.
"""

from __future__ import annotations

import datetime as dt
import decimal
import itertools
from collections.abc import Callable, Iterator, Sequence
from operator import itemgetter
from typing import Any

import pyarrow as pa

from ixflow.dialects.moments import is_moments
from ixflow.values import Column

__all__ = ["columnwise", "in_slices", "plain_array"]

_EPOCH = dt.datetime(1970, 1, 1)  # noqa: DTZ001 - subtracted from what has no zone either
_EPOCH_UTC = _EPOCH.replace(tzinfo=dt.UTC)
# The database works on one slice while the next is converted.
_SLICE_ROWS = 2_500

_PLAIN: tuple[tuple[type, Callable[[pa.DataType], bool]], ...] = (
    (int, pa.types.is_integer),
    (float, pa.types.is_float64),
    (str, pa.types.is_string),
    (decimal.Decimal, pa.types.is_decimal),
    (bool, pa.types.is_boolean),
    (bytes, pa.types.is_binary),
    (dt.datetime, pa.types.is_timestamp),
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
        return _moments(values, type_) if kind is dt.datetime else pa.array(values, type_)
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


def columnwise(rows: Sequence[Sequence[Any]], width: int) -> list[list[Any]]:
    """Turn rows of the same width into columns.

    >>> columnwise([(1, "a"), (2, "b")], 2)
    [[1, 2], ['a', 'b']]
    """
    return [list(map(itemgetter(place), rows)) for place in range(width)]


def in_slices(
    rows: Sequence[Sequence[Any]],
    columns: Sequence[Column],
    convert: Callable[[Sequence[Sequence[Any]], int], pa.RecordBatch],
) -> pa.RecordBatchReader:
    """Convert rows while they are read; ``convert`` gets some of them and the number of the first.

    All slices have the same types: moments of which one is a text, and so may be infinite, are
    converted at once.
    """
    size = _SLICE_ROWS
    if any(_has_text(rows, n) for n, column in enumerate(columns) if is_moments(column.type)):
        size = len(rows)
    first = convert(rows[:size], 0)

    def others() -> Iterator[pa.RecordBatch]:
        for start in range(size, len(rows), size):
            yield convert(rows[start : start + size], start)

    return pa.RecordBatchReader.from_batches(first.schema, itertools.chain([first], others()))


def _has_text(rows: Sequence[Sequence[Any]], place: int) -> bool:
    kinds = set(map(type, map(itemgetter(place), rows)))
    return any(issubclass(kind, str) for kind in kinds)
