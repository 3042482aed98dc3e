"""Types that change a value without a word as it is assigned: what they would is refused.

Moments of fewer digits than microseconds are rounded, and blanks at the end of a text that is too
long are cut off.
"""

from __future__ import annotations

import functools
import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ixflow.errors import ValueDoesNotFit
from ixflow.values import Column

__all__ = ["is_limited", "most_characters", "refuse_changed", "smallest_step"]

_COARSE = re.compile(r"^(timestamp|time)\((?P<digits>[0-5])\) with(out)? time zone$")
_SHORT = re.compile(r"^character varying\((?P<length>\d+)\)$")
_DIGITS = 6
_SHOWN = 60


@functools.lru_cache(maxsize=1024)
def smallest_step(sql_type: str) -> int | None:
    """Say how many microseconds lie between two values of a type; None: it holds every one.

    >>> smallest_step("timestamp(3) with time zone"), smallest_step("time without time zone")
    (1000, None)
    """
    found = _COARSE.match(sql_type)
    return None if found is None else int(10 ** (_DIGITS - int(found["digits"])))


@functools.lru_cache(maxsize=1024)
def most_characters(sql_type: str) -> int | None:
    """Say how many characters a type of texts holds; None: any number, or it is no such type.

    >>> most_characters("character varying(20)")
    20
    """
    found = _SHORT.match(sql_type)
    return None if found is None else int(found["length"])


def is_limited(column: Column) -> bool:
    """Say whether `refuse_changed` has anything to look at."""
    return (
        smallest_step(column.sql_type) is not None or most_characters(column.sql_type) is not None
    )


def refuse_changed(array: pa.Array, column: Column, *, table: str, first_row: int = 0) -> pa.Array:
    """Give back an array of the column's Arrow type of which no value would be changed.

    Raises:
        ValueDoesNotFit: naming table, column, row (from 0, counted from first_row) and value.

    """
    step, most = smallest_step(column.sql_type), most_characters(column.sql_type)
    if step is not None and pa.types.is_temporal(array.type):
        counts = pc.fill_null(array.cast(pa.int64()), 0).to_numpy(zero_copy_only=False)
        odd = counts % step != 0
        reason = f"would be rounded by {column.sql_type}; round it, or give the column more digits"
    elif most is not None:
        lengths = pc.fill_null(pc.utf8_length(array), 0).to_numpy(zero_copy_only=False)
        odd = lengths > most
        reason = f"is too long for {column.sql_type}; shorten it, or give the column more room"
    else:
        return array
    if odd.any():
        row = int(np.argmax(odd))
        value = repr(array[row].as_py()) if most is not None else str(array[row])
        shown = value[:_SHOWN]
        msg = f"{table}.{column.name} in row {first_row + row} (value {shown}) {reason}"
        fields = {"table": table, "column": column.name, "row": first_row + row}
        raise ValueDoesNotFit(msg, **fields, value=shown)
    return array
